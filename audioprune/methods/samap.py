"""SA-MAP: runs of similar tokens are merged by attention, and a diverse choice of the merged stays."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real
from typing import ClassVar

import torch
from torch import Tensor

from ..core import neighbours, ops
from ..core.tokens import Evidence, Reduction, Tokens
from .base import Method
from .selection import in_order_of_choice


@dataclass(frozen=True)
class SAMAP(Method):
    """SA-MAP (its code: the branch SA-MAP of github.com/Tencent/AngelSlim, 2026): merging, then pruning.

    Along time, a token joins the run before it if its mean cosine with all tokens of that run is at least `threshold`.
    A run becomes the mean of its tokens, weighted by the attention that they received. Of the runs, K are chosen by
    greedy MAP of a determinantal point process, Lᵢⱼ = rᵢ · cosᵢⱼ · rⱼ, and the others are forgotten. r is the mean
    relevance of a run's tokens.

    The official code differs in three points. It weighs by the maximum of the map over heads, and then the mean over
    queries; here it is the other way round. Its relevance is what a token attends to itself; here it is attention
    received, which is known without the map. It fails if there are fewer than K runs; here the least similar joins are
    undone. A trace shows K for the run that was chosen first, down to 1 for the last, and 0 for the others.

    threshold: least mean cosine, from −1 to 1. The official setting is 0.85.
    proportional: add log(size) to the logits of attention.
    """

    threshold: float = 0.85
    proportional: bool = True

    sequential: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.threshold, Real) or not -1 <= self.threshold <= 1:
            raise ValueError(f"threshold is {self.threshold!r}; it is a cosine, from -1 to 1")

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"attention", "attention_heads"})

    def reduce(self, tokens: Tokens, evidence: Evidence, keep_rate: float) -> Reduction:
        assert evidence.attention is not None
        assert evidence.attention_heads is not None
        n, k = tokens.count, ops.budget(keep_rate, tokens.count)
        if k == n:
            alone = torch.arange(n, device=tokens.patch.device).expand_as(tokens.patch)
            return Reduction(tokens, alone, torch.zeros_like(alone, dtype=torch.float32))
        holder = _holders(tokens.hidden.detach(), evidence, k, self.threshold)
        merged, size = _merged(tokens, evidence.attention_heads.detach().amax(dim=1), holder)
        relevance = _relevance(ops.wide(evidence.attention.detach()), holder)
        order = ops.greedy_dpp(_kernel(merged.detach(), relevance), relevance, k)
        kept, scores = in_order_of_choice(order, n)
        left = Tokens(ops.gather_tokens(merged, kept), tokens.patch.gather(1, kept), size.gather(1, kept))
        destination = torch.full_like(holder, -1).scatter(1, kept, torch.arange(k, device=kept.device).expand_as(kept))
        return Reduction(left, kept, scores, destination.gather(1, holder))


def _holders(hidden: Tensor, evidence: Evidence, k: int, threshold: float) -> Tensor:
    """The first token of each token's run, (batch, n) positions; there are at least k runs."""
    order = neighbours.time_order(evidence.row, evidence.column, evidence.columns)
    unit = torch.nn.functional.normalize(ops.gather_tokens(ops.wide(hidden), order), dim=-1)
    similarity = neighbours.run_similarity(unit, evidence.row.gather(1, order), threshold)
    n = similarity.shape[1] + 1
    # Of the joins, the n − k most similar.
    best = torch.zeros_like(similarity, dtype=torch.bool).scatter(1, ops.top_k(similarity, n - k), True)
    begins = torch.nn.functional.pad(~(best & (similarity >= threshold)), (1, 0), value=True)
    return torch.zeros_like(order).scatter(1, order, order.gather(1, neighbours.last_true(begins)))


def _merged(tokens: Tokens, importance: Tensor, holder: Tensor) -> tuple[Tensor, Tensor]:
    """Each run's weighted mean and its size, in the place of its first token; elsewhere what is there is not read."""
    size = ops.wide(torch.ones_like(importance) if tokens.size is None else tokens.size)
    weight = ops.wide(importance).clamp_min(torch.finfo(size.dtype).tiny) * size
    into = holder[..., None].expand_as(tokens.hidden)
    hidden = ops.wide(tokens.hidden)
    sums = torch.zeros_like(hidden).scatter_add(1, into, hidden * weight[..., None])
    total = torch.zeros_like(weight).scatter_add(1, holder, weight)
    mean = sums / torch.where(total > 0, total, 1.0)[..., None]
    return mean.to(tokens.hidden.dtype), torch.zeros_like(size).scatter_add(1, holder, size)


def _relevance(attention: Tensor, holder: Tensor) -> Tensor:
    """Mean attention of each run, in the place of its first token, and −1 elsewhere."""
    total = torch.zeros_like(attention).scatter_add(1, holder, attention)
    count = torch.zeros_like(attention).scatter_add(1, holder, torch.ones_like(attention))
    return torch.where(count > 0, total / count.clamp_min(1), -1.0)


def _kernel(merged: Tensor, relevance: Tensor) -> Tensor:
    """(batch, n, n), 0 for what is no run."""
    strength = relevance.clamp_min(0)
    cosines = ops.cosines(ops.widest(merged))
    strength = strength.to(cosines.dtype)
    return strength[:, :, None] * cosines * strength[:, None, :]
