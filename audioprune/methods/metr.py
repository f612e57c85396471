"""METR: early exits teach CLS to know early what matters."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.tokens import Evidence, LossInputs, ModelShape, Reduction, Tokens
from .evit import EViT


@dataclass(frozen=True)
class METR(EViT):
    """Multi-Exit Token Reduction (Liu et al., ICLR 2024): EViT's choice by CLS attention, and in training a head on
    the CLS token at each pruned block, so that CLS has a reason to look at the right tokens by then.

    The loss gains  weight · Σ (CE(exit, labels) + KL(final ‖ exit)) / exits; the final answer is not moved by it.
    The heads are for training alone: afterwards the model chooses as EViT does. A model without a CLS token is read
    by the mean of its tokens there (with score="attention").
    """

    learns: ClassVar[bool] = True

    weight: float = 1.0

    def build(self, shape: ModelShape) -> nn.Module | None:
        if shape.labels is None:
            return None
        exits = {
            str(layer): nn.Sequential(nn.LayerNorm(shape.width), nn.Linear(shape.width, shape.labels))
            for layer in self.schedule(shape.depth)
        }
        return nn.ModuleDict(exits)

    def reduce(self, tokens: Tokens, evidence: Evidence, keep_rate: float) -> Reduction:
        reduction = super().reduce(tokens, evidence, keep_rate)
        if not evidence.training or not isinstance(evidence.learned, nn.ModuleDict):
            return reduction
        read = evidence.special[:, 0] if evidence.special.shape[1] else tokens.hidden.mean(dim=1)
        return replace(reduction, notes={"exit": evidence.learned[str(evidence.layer)](read)})

    def loss(self, learning: LossInputs) -> Tensor | None:
        exits = [notes["exit"].float().log_softmax(dim=1) for notes in learning.notes.values() if "exit" in notes]
        if not exits:
            return None
        share = learning.labels / learning.labels.sum(dim=1, keepdim=True).clamp_min(1e-6)
        final = learning.logits.detach().float().log_softmax(dim=1)
        each = [
            -(share * exit).sum(dim=1).mean() + F.kl_div(exit, final, reduction="batchmean", log_target=True)
            for exit in exits
        ]
        return self.weight * torch.stack(each).mean()
