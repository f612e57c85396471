"""DivPrune and DPP: tokens that differ from each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..core import ops
from ..core.tokens import Evidence, Tokens
from .fates import FATES
from .scores import SCORES
from .selection import Selection, in_order_of_choice

FLOOR = 1e-6
"""Relevance of a clip's least relevant token, as in CDPruner."""


@dataclass(frozen=True)
class DivPrune(Selection):
    """Keep tokens that are far apart: the smallest distance between any two of them is to be great.

    DivPrune (Alvar et al., arXiv 2503.02175), as its official code: farthest-point selection with 1 − cosine of hidden
    states as distance; see `ops.farthest_points`. A trace shows K for the first that was chosen, down to 1 for the
    last, and 0 for the others.
    """

    sequential: ClassVar[bool] = True

    def select(self, tokens: Tokens, evidence: Evidence, k: int) -> tuple[Tensor, Tensor]:
        return in_order_of_choice(ops.farthest_points(tokens.hidden.detach(), k), tokens.count)


@dataclass(frozen=True)
class DPP(Selection):
    """Keep tokens that matter and differ: greedy MAP of a determinantal point process, Lᵢⱼ = rᵢ · cosᵢⱼ · rⱼ.

    After CDPruner (Zhang et al., arXiv 2506.10967), where relevance r is to a question that was asked; here it is
    attention received, from a clip's least (0.000001) to its most (1). cos is that of hidden states. See
    `ops.greedy_dpp`. A trace shows K for the first that was chosen, down to 1 for the last, and 0 for the others.

    If K is more than the rank of L, the chosen tokens span all others at some point. Then the most relevant come next,
    where the official code goes on by what rounding left over.

    score: "attention", or "none": r = 1, diversity alone.
    """

    sequential: ClassVar[bool] = True
    choices: ClassVar = {**Selection.choices, "score": ("attention", "none")}

    score: str = "attention"

    @property
    def needs(self) -> frozenset[str]:
        # Not by super(): torch.compile does not follow it into a property.
        return FATES[self.dropped].needs | (SCORES["attention"].needs if self.score == "attention" else frozenset())

    def select(self, tokens: Tokens, evidence: Evidence, k: int) -> tuple[Tensor, Tensor]:
        # Where tokens are nearly parallel, what float32 rounds away decides which is next.
        cosines = ops.cosines(ops.widest(tokens.hidden.detach()))
        relevance = torch.ones_like(cosines[:, 0])
        if self.score == "attention":
            relevance = _relevance(SCORES["attention"].compute(evidence, 0).detach()).to(cosines.dtype)
        kernel = relevance[:, :, None] * cosines * relevance[:, None, :]
        return in_order_of_choice(ops.greedy_dpp(kernel, relevance, k), tokens.count)


def _relevance(scores: Tensor) -> Tensor:
    """(batch, n), each clip's scores stretched to (0, 1]; all alike where they are."""
    scores = ops.wide(scores)
    above = scores - scores.amin(dim=1, keepdim=True)
    return (above / above.amax(dim=1, keepdim=True).clamp_min(torch.finfo(above.dtype).tiny)).clamp_min(FLOOR)
