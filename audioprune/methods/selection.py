"""What methods share that choose K tokens and leave those as they are: the fate of the others."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..core import ops
from ..core.tokens import Evidence, Reduction, Tokens
from .base import Method
from .fates import FATES


@dataclass(frozen=True)
class Selection(Method):
    """Exactly K = ceil(keep_rate · n) tokens, by a choice that is no ranking of scores; `TopK` is for those that are.

    dropped: "discard" the others, or "merge" each into the kept one of highest key cosine, with sizes carried on.
    proportional: whether later attention counts a merged token as often as it stands for patches.
    """

    choices: ClassVar[Mapping[str, Collection[str]]] = {"dropped": ("discard", "merge")}

    dropped: str = "discard"
    proportional: bool = True

    @property
    def needs(self) -> frozenset[str]:
        return FATES[self.dropped].needs

    @abstractmethod
    def select(self, tokens: Tokens, evidence: Evidence, k: int) -> tuple[Tensor, Tensor]:
        """The k positions to keep, (batch, k), ascending, and the scores that a trace shows, (batch, n)."""

    def reduce(self, tokens: Tokens, evidence: Evidence, keep_rate: float) -> Reduction:
        k = ops.budget(keep_rate, tokens.count)
        kept, scores = self.select(tokens, evidence, k)
        if k == tokens.count:
            return Reduction(tokens, kept, scores)
        left, destination = FATES[self.dropped].apply(tokens, evidence, kept, scores)
        return Reduction(left, kept, scores, destination)


def in_order_of_choice(order: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """From the order of choice, (batch, k): the positions, ascending, and scores (batch, n) that tell the order."""
    k = order.shape[1]
    rank = torch.arange(k, 0, -1, device=order.device, dtype=torch.float32).expand_as(order)
    return order.sort(dim=1).values, rank.new_zeros(order.shape[0], n).scatter(1, order, rank)
