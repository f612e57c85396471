"""What every method must beat. Random, intensity and variation are scores of `TopK`."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .. import ops
from ..tokens import Evidence, Reduction, Tokens
from .base import Method
from .fates import join, keep


@dataclass(frozen=True)
class UniformStride(Method):
    """Keep tokens at even distances, in the model's own order: it looks at nothing and costs nothing."""

    @property
    def needs(self) -> frozenset[str]:
        return frozenset()

    def reduce(self, tokens: Tokens, evidence: Evidence, keep_rate: float) -> Reduction:
        n, k = tokens.count, ops.budget(keep_rate, tokens.count)
        kept = (torch.arange(k, device=tokens.patch.device) * n // k).expand(tokens.patch.shape[0], -1)
        return Reduction(keep(tokens, kept), kept, torch.zeros_like(tokens.patch, dtype=torch.float32))


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
        kept, dropped, target = ops.runs((evidence.row * evidence.columns + evidence.column).argsort(dim=1), k)
        scores = torch.zeros_like(tokens.patch, dtype=torch.float32)
        if k == tokens.count:
            return Reduction(tokens, kept, scores)
        return Reduction(join(tokens, kept, dropped, target), kept, scores, ops.destination(kept, dropped, target))
