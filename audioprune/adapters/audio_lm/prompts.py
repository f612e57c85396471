"""Positions of the sounds in a prompt, and prompts without some of their tokens."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Run:
    """Consecutive placeholders of one clip: `row` of the batch, first position `start`, number `count`."""

    row: int
    start: int
    count: int


def find_runs(input_ids: Tensor, audio_token: int) -> list[Run]:
    """Runs of placeholders in a batch of prompts, (batch, length), row by row."""
    runs = []
    for row, ids in enumerate((input_ids == audio_token).int().cpu()):
        steps = torch.diff(torch.nn.functional.pad(ids, (1, 1)))
        starts, ends = (steps == 1).nonzero()[:, 0], (steps == -1).nonzero()[:, 0]
        runs += [Run(row, int(a), int(b - a)) for a, b in zip(starts, ends, strict=True)]
    return runs


class Layout:
    """Positions of each prompt that stay, and the side on which shorter rows are padded.

    The old padding of the batch is removed. New padding goes to the same side, or to the left if there was none.

    stays: (batch, length), mask of the positions that stay. mask: (batch, length), 0 for padding, or None.
    """

    def __init__(self, stays: Tensor, mask: Tensor | None) -> None:
        real = torch.ones_like(stays) if mask is None else mask.bool()
        self._left = mask is None or not bool((~real[:, -1]).any()) or bool((~real[:, 0]).any())
        self.unpadded = mask is None
        counts = (stays & real).sum(dim=1)
        self.length = int(counts.max())
        places = torch.arange(self.length, device=stays.device)
        rank = places - (self.length - counts)[:, None] if self._left else places.expand(len(stays), -1)
        self.filler = (rank < 0) | (rank >= counts[:, None])
        order = (~(stays & real)).to(torch.uint8).argsort(dim=1, stable=True)
        self._source = order.gather(1, rank.clamp(0, order.shape[1] - 1))
        # The number of dropped tokens before a kept token: renumbering moves it by so much.
        self._gone = (real & ~stays).long().cumsum(dim=1)

    @property
    def mask(self) -> Tensor:
        """Attention mask, (batch, shorter), 0 for padding."""
        return (~self.filler).long()

    def take(self, values: Tensor, blank: float = 0) -> Tensor:
        """Values of the positions that stay: (batch, length, …) → (batch, shorter, …), `blank` in padding."""
        source = self._source.to(values.device)
        index = source.reshape(*source.shape, *[1] * (values.ndim - 2)).expand(-1, -1, *values.shape[2:])
        filler = self.filler.to(values.device).reshape(*source.shape, *[1] * (values.ndim - 2))
        return values.gather(1, index).masked_fill(filler, blank)

    def positions(self, original: Tensor, renumber: bool) -> Tensor:
        """Position ids of the tokens that stay: the original ones, or renumbered without gaps.

        original: (batch, length) or (axes, batch, length)."""
        if original.ndim == 3:
            return torch.stack([self.positions(axis, renumber) for axis in original])
        kept = original - self._gone.to(original) if renumber else original
        return self.take(kept.expand(len(self._source), -1))
