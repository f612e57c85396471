"""PaddingMerge: the padding after a clip becomes a few stand-ins that count for all of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ..core import ops
from ..core.tokens import Evidence, Reduction, Tokens
from .base import Method
from .fates import join_ragged


@dataclass(frozen=True)
class PaddingMerge(Method):
    """Merge the padding after a clip: every 25th of its tokens stays, and counts for 25.

    Models of a fixed length pad each clip to it (Whisper: 30 s) and compute on the padding. Cutting the padding off
    changes what attention sees: Whisper's decoder then may not find the end of the sound. A stand-in keeps its place
    and its share of attention (log(size) is added to the logits of its key), so that little changes. Stand-ins are
    picked, not averaged, because a mean would blur their positions. The sound itself is left alone: a full window is
    not faster.

    keep_rate: share of the padding that stays; 0.04 is every 25th token.
    margin: tokens of padding after the clip that all stay, in steps of the model's grid in time (Whisper: 20 ms).
    layers: the block before which it happens, the first by default.
    """

    keep_rate: float = 0.04
    layers: tuple[int, ...] | Literal["all"] | None = (0,)
    margin: int = 25

    before: ClassVar[bool] = True
    static: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if type(self.margin) is not int or self.margin < 0:
            raise ValueError(f"margin is {self.margin!r}; it is a number of tokens after the clip that stay, 0 or more")

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"padding"})

    def count_after(self, n: int, keep_rate: float) -> int:
        return n  # a clip may fill the model's length

    def reduce(self, tokens: Tokens, evidence: Evidence, keep_rate: float) -> Reduction:
        assert evidence.padding is not None
        order = ops.time_order(evidence.row, evidence.column, evidence.columns)
        padding, row = evidence.padding.gather(1, order), evidence.row.gather(1, order)
        # No token is better than another here: what a trace shows is that each counts as often as it was merged.
        scores = torch.zeros_like(tokens.patch, dtype=torch.float32)
        begins = self._begins(padding, row, keep_rate)
        if bool(begins.all()):  # as if it were not there, where there is no padding
            return Reduction(tokens, torch.arange(tokens.count, device=order.device).expand_as(order), scores)
        stays = torch.zeros_like(begins).scatter(1, order, begins)
        holder = torch.zeros_like(order).scatter(1, order, order.gather(1, ops.last_true(begins)))
        return join_ragged(tokens, stays, holder, scores, mean=False)

    def _begins(self, padding: Tensor, row: Tensor, keep_rate: float) -> Tensor:
        """(batch, n) booleans, in time order, row by row: whether a token stays; those after it join it.

        padding: (batch, n) booleans. row: (batch, n).
        """
        place = ops.place_in_run(padding, row) - self.margin
        length = (ops.length_of_run(padding, row) - self.margin).clamp_min(1)
        # Of m tokens of padding, ceil(keep_rate · m) stay, and the runs that they stand for are as even as can be.
        budgets = [0, *(ops.budget(keep_rate, m) for m in range(1, padding.shape[1] + 1))]
        stay = torch.tensor(budgets, device=padding.device)[length]
        return ~padding | (place <= 0) | (place * stay // length != (place - 1) * stay // length)
