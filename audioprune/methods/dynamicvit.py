"""DynamicViT: small predictors that learn which tokens to keep."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core import ops
from ..core.tokens import Evidence, LossInputs, ModelShape, Reduction, Tokens
from .fates import keep
from .learned import LearnedMethod, everywhere, one_at_least, policy_of, straight_through


class Predictor(nn.Module):
    """Log-probabilities of keep and drop, (batch, n, 2), from half a token's own features and half the mean's
    (eqs. 1–5)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.enter = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU())
        sizes = (2 * (width // 2), width // 2, max(1, width // 4), 2)
        self.leave = nn.Sequential(
            nn.Linear(sizes[0], sizes[1]),
            nn.GELU(),
            nn.Linear(sizes[1], sizes[2]),
            nn.GELU(),
            nn.Linear(sizes[2], sizes[3]),
        )

    def forward(self, hidden: Tensor, policy: Tensor) -> Tensor:
        """hidden: (batch, n, width). policy: (batch, n), which tokens the mean is over."""
        own, shared = self.enter(hidden).split((hidden.shape[2] // 2, (hidden.shape[2] + 1) // 2), dim=2)
        shared = shared[..., : own.shape[2]]
        weight = policy.to(hidden.dtype)[..., None]
        mean = (shared * weight).sum(dim=1, keepdim=True) / weight.sum(dim=1, keepdim=True).clamp_min(1e-6)
        return ops.wide(self.leave(torch.cat((own, mean.expand_as(own)), dim=2))).log_softmax(dim=-1)


@dataclass(frozen=True)
class DynamicViT(LearnedMethod):
    """DynamicViT (Rao et al., arXiv 2106.02034): before each pruned block a predictor scores the tokens, and the
    ceil(keep_rate · n) best go on.

    In training a Gumbel draw decides for each token, given-up tokens are masked from attention and carried along, and
    the loss gains  ratio · Σ (share kept − target)² / stages  +  distillation · (KL(logits ‖ teacher's) + mean squared
    distance of the kept tokens from the teacher's).
    """

    ratio: float = 2.0
    distillation: float = 0.5

    before = True
    needs_teacher: ClassVar[bool] = True

    @property
    def needs(self) -> frozenset[str]:
        return frozenset()

    def parts(self, shape: ModelShape) -> dict[int, nn.Module]:
        return {layer: Predictor(shape.width) for layer in self.schedule(shape.depth)}

    def choose(self, part: Predictor, tokens: Tokens, evidence: Evidence, keep_rate: float) -> Reduction:
        policy = policy_of(tokens)
        log_probability = part(tokens.hidden, policy)
        scores = log_probability[..., 0]
        if evidence.training:
            policy = one_at_least(straight_through(log_probability) * policy, policy, scores)
            share = {"share": policy.sum(dim=1) / evidence.patches}
            return Reduction(replace(tokens, policy=policy), everywhere(tokens), scores, notes=share)
        kept = ops.top_k(scores, ops.budget(keep_rate, tokens.count))
        return Reduction(keep(tokens, kept), kept, scores)

    def loss(self, learning: LossInputs) -> Tensor:
        distance = distance_from_teacher(learning) + distance_of_tokens(learning)
        return self.ratio * ratio_loss(learning) + self.distillation * distance


def ratio_loss(learning: LossInputs) -> Tensor:
    """Mean over stages and clips of (share kept − product of the keep rates so far)² (eq. 15)."""
    target, losses = 1.0, []
    for layer, rate in learning.rates.items():
        target *= rate
        losses.append((learning.notes[layer]["share"] - target).square().mean())
    return torch.stack(losses).mean()


def distance_from_teacher(learning: LossInputs) -> Tensor:
    """KL(teacher ‖ model) over the classes, mean over clips (eq. 14)."""
    assert learning.teacher_logits is not None
    model, teacher = (logits.float().log_softmax(dim=1) for logits in (learning.logits, learning.teacher_logits))
    return F.kl_div(model, teacher, reduction="batchmean", log_target=True)


def distance_of_tokens(learning: LossInputs) -> Tensor:
    """Mean squared distance of the tokens still kept from the teacher's, over all their features (eq. 13)."""
    assert learning.teacher_tokens is not None
    assert learning.policy is not None
    squared = (learning.tokens.float() - learning.teacher_tokens.float()).square().mean(dim=2)
    kept = (learning.policy.detach() > 0.5).float()
    return (squared * kept).sum() / kept.sum().clamp_min(1)
