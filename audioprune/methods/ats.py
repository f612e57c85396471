"""ATS: as many tokens as the sound needs, sampled by their significance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..core import ops
from ..core.tokens import Evidence, Reduction, Tokens
from .base import Method
from .fates import keep_ragged
from .scores import SCORES


@dataclass(frozen=True)
class ATS(Method):
    """Adaptive Token Sampling (Fayyaz et al., arXiv 2111.15667): at most K tokens, fewer where few matter.

    A token's significance is its CLS attention times the norm of its value (of all heads). K = ceil(keep_rate · n)
    evenly spaced quantiles of their distribution, tokens laid out by ascending significance, each choose a token;
    where several choose the same, it is kept once. So clips of a batch differ in how many tokens they keep.

    Unlike the official code, a quantile takes the token in whose share it falls, as in the paper. There, the least
    cumulative value is subtracted first, and a quantile takes the token whose cumulative value is nearest.

    score: "cls", or "attention" received for models that have no CLS token.
    """

    static: ClassVar[bool] = False
    choices: ClassVar = {"score": ("cls", "attention")}

    score: str = "cls"

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({self.score, "values"})

    def reduce(self, tokens: Tokens, evidence: Evidence, keep_rate: float) -> Reduction:
        assert evidence.values is not None
        attention = SCORES[self.score].compute(evidence, 0)
        scores = attention * evidence.values.detach().to(attention.dtype).norm(dim=-1)
        k = ops.budget(keep_rate, tokens.count)
        kept, lengths = ops.positions(ops.inverse_transform_sample(scores.detach(), k))
        return Reduction(keep_ragged(tokens, kept), kept, scores, lengths=lengths)
