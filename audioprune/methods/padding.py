"""PaddingMerge: the padding after a clip becomes a few stand-ins that count for all of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ..core import neighbours, ops
from ..core.tokens import Evidence, Reduction, Tokens
from .base import BUDGETS, LATER, Method
from .fates import join_ragged

EDGE = 2
"""Tokens at the end of the padding that stay: where a model convolves, they see the end of its input."""
LONGEST = 25
"""Patches of padding in a stand-in, at most, however small the budget of the clip (on average)."""
TOWARDS_MEAN = 0.5
"""How far a stand-in lies between the token in the middle of its run and the run's mean: what changed the answers of
Whisper's decoder least on tiny.en, and no more than the middle token on base (`benchmarks/stand_ins.py`)."""


@dataclass(frozen=True)
class PaddingMerge(Method):
    """Merge the padding after a clip: every 25 of its tokens become one stand-in, which counts for 25.

    Models of a fixed length pad each clip to it (Whisper: 30 s) and compute on the padding. Cutting the padding off
    changes what attention sees: Whisper's decoder then may not find the end of the sound. A stand-in has the place of
    the token in the middle of its run and the whole run's share of attention (log(size) is added to the logits of its
    key), so that little changes. It lies half way between that token and the mean of the run. Attention sinks in the
    padding, which all other tokens attend to, stay apart: only neighbouring ones become one. The sound itself is left
    alone: a full window is not faster.

    keep_rate: share of the padding that stays; 0.04 is one token of 25.
    budget: with "clip", keep_rate is the share of the clip's tokens that stays, as far as there is padding to merge:
        the more sound there is, the more of the padding goes, up to 24 of 25. See `Method.budget`.
    margin: tokens of padding after the clip that all stay, in steps of the model's grid in time (Whisper: 20 ms).
    layers: the block before which it happens, the first by default.
    """

    keep_rate: float = 0.04
    layers: tuple[int, ...] | Literal["all"] | None = (0,)
    margin: int = 10
    budget: str = field(default="layer", metadata={LATER: True})

    choices: ClassVar = {"budget": BUDGETS}
    before = True
    static: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if type(self.margin) is not int or self.margin < 0:
            raise ValueError(f"margin is {self.margin!r}; it is a number of tokens after the clip that stay, 0 or more")

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"padding", "sinks"})

    def count_after(self, n: int, keep_rate: float) -> int:
        return n  # a clip may fill the model's length

    def reduce(self, tokens: Tokens, evidence: Evidence, keep_rate: float) -> Reduction:
        order, begins = self._runs(tokens, evidence, keep_rate)
        places = torch.arange(tokens.count, device=order.device).expand_as(order)
        # No token is better than another here: what a trace shows is that each counts as often as it was merged.
        scores = torch.zeros_like(tokens.patch, dtype=torch.float32)
        if bool(begins.all()):  # as if it were not there, where there is no padding
            return Reduction(tokens, places, scores)
        middle = neighbours.middle_of_run(begins)
        stays = torch.zeros_like(begins).scatter(1, order, middle == places)
        holder = torch.zeros_like(order).scatter(1, order, order.gather(1, middle))
        return join_ragged(tokens, stays, holder, scores, share=TOWARDS_MEAN)

    def _runs(self, tokens: Tokens, evidence: Evidence, keep_rate: float) -> tuple[Tensor, Tensor]:
        """An order of the tokens in which those of a run are neighbours, and whether a run begins: (batch, n) each.

        Row by row, first those that stay and the sinks, then what is merged between them, both in time.
        """
        assert evidence.padding is not None
        assert evidence.sinks is not None
        order = neighbours.time_order(evidence.row, evidence.column, evidence.columns)
        padding, sinks, row = (x.gather(1, order) for x in (evidence.padding, evidence.sinks, evidence.row))
        place, length = neighbours.place_in_run(padding, row), neighbours.length_of_run(padding, row)
        is_inner = padding & (place >= self.margin) & (place < length - EDGE)
        is_sink, is_merged = is_inner & sinks, is_inner & ~sinks
        follows = neighbours.place_in_run(is_sink, row) > 0
        last = (2 * row + is_merged).argsort(dim=1, stable=True)
        is_merged, row, follows = (x.gather(1, last) for x in (is_merged, row, follows))
        order, length = order.gather(1, last), neighbours.length_of_run(is_merged, row).clamp_min(1)
        if self.budget == "layer":
            stay = _share(keep_rate, length)
        else:
            size = torch.ones_like(order) if tokens.size is None else tokens.size.round().long().gather(1, order)
            stay = self._stay(tokens.count - self.clip_budget(evidence), size * is_merged, is_merged, length)
        return order, ~follows & self._begins(is_merged, row, length, stay)

    @staticmethod
    def _stay(surplus: int, size: Tensor, is_merged: Tensor, length: Tensor) -> Tensor:
        """How many of the tokens that are merged stay in each row, when the clip has a surplus: rows share it by their
        lengths. size: of those tokens, 0 for the others. All (batch, n)."""
        merged = is_merged.sum(dim=1, keepdim=True).clamp_min(1)
        least = -(-size.sum(dim=1, keepdim=True) * length // (LONGEST * merged))
        return (length - max(surplus, 0) * length // merged).maximum(least.minimum(length))

    @staticmethod
    def _begins(is_merged: Tensor, row: Tensor, length: Tensor, stay: Tensor) -> Tensor:
        """(batch, n) booleans: whether a run begins, maybe one of its own. Of the `length` tokens that are merged in a
        row, `stay` runs are made, as even as can be. All (batch, n), row by row."""
        place = neighbours.place_in_run(is_merged, row)
        return ~is_merged | (place == 0) | (place * stay // length != (place - 1) * stay // length)


def _share(keep_rate: float, length: Tensor) -> Tensor:
    """ceil(keep_rate · length), of each length."""
    budgets = [0, *(ops.budget(keep_rate, m) for m in range(1, int(length.max()) + 1))]
    return torch.tensor(budgets, device=length.device)[length]
