"""VisionZip: the tokens that matter as they are, and a few that stand for the rest."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real
from typing import ClassVar

import torch
from torch import Tensor

from ..core import neighbours, ops
from ..core.tokens import Evidence, Reduction, Tokens
from .base import Method
from .fates import join, keep
from .scores import SCORES


@dataclass(frozen=True)
class VisionZip(Method):
    """VisionZip (Yang et al., arXiv 2412.04467): K tokens, most of them dominant, the others contextual.

    Dominant tokens are those of highest attention; they stay as they are. Of the rest, in time order (frequency row by
    frequency row), evenly spaced ones are targets, and every other one joins the target of highest key cosine. Targets
    are 0, s, 2s, … with s = ⌊rest / contextual⌋, as in the official code.

    A contextual token is the size-weighted mean of its target and what joined it, as the paper says ("averaged"); the
    official code adds the target to the mean of what joined. Sizes are carried on.

    contextual: share of K that is contextual; round(contextual · K), at most K − 1. The paper's are 54 + 10 of 64. With
    none the rest is forgotten.
    score: "attention" received, or "cls" attention.
    proportional: add log(size) to the logits of attention.
    """

    choices: ClassVar = {"score": ("attention", "cls")}

    contextual: float = 10 / 64
    score: str = "attention"
    proportional: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.contextual, Real) or not 0 <= self.contextual <= 1:
            raise ValueError(f"contextual is {self.contextual!r}; it is the share of K that is contextual, from 0 to 1")

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({self.score, "keys"})

    def reduce(self, tokens: Tokens, evidence: Evidence, keep_rate: float) -> Reduction:
        k = ops.budget(keep_rate, tokens.count)
        scores = SCORES[self.score].compute(evidence, 0)
        if k == tokens.count:
            return Reduction(tokens, ops.top_k(scores.detach(), k), scores)
        contextual = min(round(self.contextual * k), k - 1)
        dominant = ops.top_k(scores.detach(), k - contextual)
        if contextual == 0:
            return Reduction(keep(tokens, dominant), dominant, scores)
        kept, dropped, target = _gather_rest(dominant, contextual, evidence, tokens.count)
        return Reduction(join(tokens, kept, dropped, target), kept, scores, ops.destination(kept, dropped, target))


def _gather_rest(dominant: Tensor, contextual: int, evidence: Evidence, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """kept, dropped and target, as `ops.bipartite_match` has them: what is not dominant is a target or joins one."""
    assert evidence.keys is not None
    targets = _evenly_spaced(dominant, contextual, evidence, n)
    kept = torch.cat((dominant, targets), dim=1).sort(dim=1).values
    dropped = ops.complement(kept, n)
    nearest = ops.nearest(evidence.keys.detach(), targets, dropped)
    return kept, dropped, ops.place_in(kept, targets.gather(1, nearest), n)


def _evenly_spaced(dominant: Tensor, contextual: int, evidence: Evidence, n: int) -> Tensor:
    """(batch, contextual) positions, every s-th of those that are not dominant, in time order."""
    order = neighbours.time_order(evidence.row, evidence.column, evidence.columns)
    is_dominant = torch.zeros_like(order).scatter(1, dominant, 1)
    # Stable: the rest first, in time order.
    rest = order.gather(1, is_dominant.gather(1, order).argsort(dim=1, stable=True))
    step = (n - dominant.shape[1]) // contextual
    return rest[:, : step * contextual : step]
