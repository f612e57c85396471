"""LTBM: similar tokens are merged if they are near in time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..core import ops
from ..core.tokens import Evidence, Reduction, Tokens
from .base import Method
from .fates import merged_into


@dataclass(frozen=True)
class LTBM(Method):
    """Local Temporal Bipartite Merging (Luo et al., arXiv 2605.25179): bipartite matching under a window in time.

    Tokens are split into even and odd ones. Each even one proposes to the most similar odd one that is at most
    `window` away, and the best pairs become size-weighted means, pass after pass until K tokens are left. Without a
    window this is the paper's controlled variant, Global Merge.

    We know the abstract alone. The split, the cosine of hidden states and the means are those of ToMe; the width of the
    window is ours. If a pass finds too few pairs within the window, the nearest tokens beyond it are merged, so that
    exactly K are left.

    window: greatest distance of a pair, in columns of time (40 ms in Qwen2-Audio); None for any.
    metric: what is compared, the "hidden" states or the attention "keys" (mean over heads).
    proportional: add log(size) to the logits of attention.
    """

    choices: ClassVar = {"metric": ("keys", "hidden")}

    window: int | None = 8
    metric: str = "hidden"
    proportional: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.window is not None and (type(self.window) is not int or self.window < 0):
            raise ValueError(f"window is {self.window!r}; it is a number of time columns, 0 or more, or None for any")

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"keys"} if self.metric == "keys" else ())

    def reduce(self, tokens: Tokens, evidence: Evidence, keep_rate: float) -> Reduction:
        compared = tokens.hidden if self.metric == "hidden" else evidence.keys
        assert compared is not None
        k = ops.budget(keep_rate, tokens.count)
        match = ops.bipartite_passes(compared.detach(), tokens.size, k, evidence.column, self.window)
        return merged_into(tokens, *match)
