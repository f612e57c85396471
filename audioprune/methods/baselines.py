"""What every method must beat. Random, intensity and variation are scores of `TopK`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..core import neighbours, ops
from ..core.tokens import Evidence, Reduction, Tokens
from .base import Method
from .fates import join
from .selection import Selection


@dataclass(frozen=True)
class UniformStride(Selection):
    """Keep tokens at even distances, in the model's own order: it looks at nothing and costs nothing."""

    def select(self, tokens: Tokens, evidence: Evidence, k: int) -> tuple[Tensor, Tensor]:
        places = torch.arange(k, device=tokens.patch.device) * tokens.count // k
        return places.expand(tokens.patch.shape[0], -1), torch.zeros_like(tokens.patch, dtype=torch.float32)


@dataclass(frozen=True)
class AveragePooling(Method):
    """Average neighbours in time: along each frequency row, K runs as even in length as can be.

    Sizes are carried on, as in merging, so that a mean over tokens stays a mean over patches.

    proportional: add log(size) to the logits of attention.
    """

    proportional: bool = True

    @property
    def needs(self) -> frozenset[str]:
        return frozenset()

    def reduce(self, tokens: Tokens, evidence: Evidence, keep_rate: float) -> Reduction:
        k = ops.budget(keep_rate, tokens.count)
        kept, dropped, target = neighbours.runs(
            neighbours.time_order(evidence.row, evidence.column, evidence.columns), k
        )
        scores = torch.zeros_like(tokens.patch, dtype=torch.float32)
        if k == tokens.count:
            return Reduction(tokens, kept, scores)
        return Reduction(join(tokens, kept, dropped, target), kept, scores, ops.destination(kept, dropped, target))
