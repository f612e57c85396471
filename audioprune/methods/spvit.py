"""SPViT: soft pruning. What is dropped leaves a package token behind."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..core import ops
from ..core.tokens import NO_PATCH, Evidence, LossInputs, ModelShape, Reduction, Tokens
from .dynamicvit import Predictor, distance_from_teacher, ratio_loss
from .fates import keep_ragged
from .learned import LearnedMethod, everywhere, policy_of, straight_through


class HeadwisePredictor(nn.Module):
    """A predictor for each head's share of the features, and a gate that weighs the heads for each token."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.predictors = nn.ModuleList([Predictor(width // heads) for _ in range(heads)])
        narrow = max(1, heads // 2)
        self.gate = nn.Sequential(nn.Linear(heads, narrow), nn.GELU(), nn.Linear(narrow, heads), nn.Sigmoid())

    def forward(self, hidden: Tensor, policy: Tensor) -> Tensor:
        """(batch, n, width), (batch, n) → (batch, n, 2) log-probabilities of keep and drop, averaged over heads."""
        parts = hidden.unflatten(2, (self.heads, -1))
        weight = ops.wide(self.gate(parts.mean(dim=3)))
        scores = torch.stack([predict(parts[:, :, i], policy) for i, predict in enumerate(self.predictors)], dim=2)
        mean = (scores * weight[..., None]).sum(dim=2) / weight.sum(dim=2, keepdim=True)
        return mean.log_softmax(dim=-1)


@dataclass(frozen=True)
class SPViT(LearnedMethod):
    """SPViT (Kong et al., arXiv 2112.13890): before each pruned block every token is kept or dropped on its own
    account, and those dropped become one package token, Σ pᵢ·xᵢ / Σ pᵢ with pᵢ the probability of keeping token i.

    Unlike the official code, the package is normalised, as in the paper (there, Σ pᵢ·xᵢ), and the decisions in
    inference are certain (there, Gumbel noise is drawn in inference too).

    How many are kept depends on the sound; keep_rate is the share that training aims at. Package tokens are never
    dropped. In training as DynamicViT, without the distance of tokens:
    ratio · Σ (share kept − target)² / stages + distillation · KL(logits ‖ teacher's).
    """

    ratio: float = 2.0
    distillation: float = 0.5

    before = True
    static: ClassVar[bool] = False
    needs_teacher: ClassVar[bool] = True

    @property
    def needs(self) -> frozenset[str]:
        return frozenset()

    def parts(self, shape: ModelShape) -> dict[int, nn.Module]:
        return {layer: HeadwisePredictor(shape.width, shape.heads) for layer in self.schedule(shape.depth)}

    @property
    def appends(self) -> bool:
        return True

    def count_after(self, n: int, keep_rate: float) -> int:
        return n if keep_rate == 1 else n + 1  # all may stay, or all but one and their package

    def choose(self, part: HeadwisePredictor, tokens: Tokens, evidence: Evidence, keep_rate: float) -> Reduction:
        policy, package = policy_of(tokens), tokens.patch < 0
        log_probability = part(tokens.hidden, policy)
        scores = log_probability[..., 0]
        if evidence.training:
            kept = torch.where(package, policy, straight_through(log_probability) * policy)
            return self._carry(tokens, kept, policy - kept, scores, evidence)
        mask = (scores >= log_probability[..., 1]) | package
        best = torch.zeros_like(mask).scatter(1, scores.argmax(dim=1, keepdim=True), True)
        mask = torch.where(mask.any(dim=1, keepdim=True), mask, best)
        return self._drop(tokens, mask, scores)

    @staticmethod
    def _carry(tokens: Tokens, kept: Tensor, given_up: Tensor, scores: Tensor, evidence: Evidence) -> Reduction:
        """In training: all tokens go on under a policy, and a package token with them."""
        package = _package(tokens.hidden, given_up, scores)
        # Where nothing was given up there is no package.
        there = (given_up.detach().sum(dim=1, keepdim=True) > 0.5).to(kept.dtype)
        share = (kept * (tokens.patch >= 0)).sum(dim=1) / evidence.patches
        left = Tokens(
            torch.cat((tokens.hidden, package), dim=1),
            torch.cat((tokens.patch, torch.full_like(tokens.patch[:, :1], NO_PATCH)), dim=1),
            policy=torch.cat((kept, there), dim=1),
        )
        return Reduction(left, everywhere(tokens), scores, notes={"share": share})

    @staticmethod
    def _drop(tokens: Tokens, mask: Tensor, scores: Tensor) -> Reduction:
        """At inference: dropped tokens go, and where there are any their package stays."""
        package = _package(tokens.hidden, (~mask).to(scores.dtype), scores)
        n, any_dropped = tokens.count, ~mask.all(dim=1, keepdim=True)
        with_package = replace(
            tokens,
            hidden=torch.cat((tokens.hidden, package), dim=1),
            patch=torch.cat((tokens.patch, torch.full_like(tokens.patch[:, :1], NO_PATCH)), dim=1),
        )
        going_on, lengths = ops.positions(torch.cat((mask, any_dropped), dim=1))
        kept, _ = ops.positions(mask)
        # Kept tokens come first and the package after them; what is dropped goes into it.
        place = torch.where(mask, mask.cumsum(dim=1) - 1, mask.sum(dim=1, keepdim=True).expand(-1, n))
        return Reduction(keep_ragged(with_package, going_on), kept, scores, place, lengths)

    def loss(self, learning: LossInputs) -> Tensor:
        return self.ratio * ratio_loss(learning) + self.distillation * distance_from_teacher(learning)


def _package(hidden: Tensor, given_up: Tensor, scores: Tensor) -> Tensor:
    """(batch, 1, width), the mean of the tokens given up, weighted by exp(scores); zeros where there are none.

    given_up: (batch, n) zeros and ones, with gradients through them.
    """
    ranked = scores.detach().masked_fill(given_up.detach() < 0.5, float("-inf"))
    # Relative to the greatest, so that a predictor that is sure of itself leaves no package of zeros.
    highest = ranked.amax(dim=1, keepdim=True).clamp_min(torch.finfo(scores.dtype).min)
    weight = given_up * (scores - highest).clamp_max(0).exp()
    total = weight.sum(dim=1, keepdim=True).clamp_min(1e-6)
    return ((weight / total)[..., None] * ops.wide(hidden)).sum(dim=1, keepdim=True).to(hidden.dtype)
