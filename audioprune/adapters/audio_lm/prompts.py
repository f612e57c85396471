"""Where the sounds are in a prompt, and prompts with some of their tokens taken out."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Run:
    """Neighbouring placeholders of one clip: `row` of the batch, from `start` on, `count` of them."""

    row: int
    start: int
    count: int


def find_runs(input_ids: Tensor, audio_token: int) -> list[Run]:
    """The clips of a batch of prompts, (batch, length), row by row."""
    runs = []
    for row, ids in enumerate((input_ids == audio_token).int().cpu()):
        steps = torch.diff(torch.nn.functional.pad(ids, (1, 1)))
        starts, ends = (steps == 1).nonzero()[:, 0], (steps == -1).nonzero()[:, 0]
        runs += [Run(row, int(a), int(b - a)) for a, b in zip(starts, ends, strict=True)]
    return runs


class Layout:
    """Which positions of each prompt stay, and on which side the shorter rows are padded anew.

    stays: (batch, length) booleans. mask: (batch, length), 0 for padding, or None. Padding that the batch had goes;
    what is needed comes back on the side where it was, on the left where there was none.
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
        # A kept token's number among all real ones less its number among the kept: how far renumbering moves it.
        self._gone = (real & ~stays).long().cumsum(dim=1)

    @property
    def mask(self) -> Tensor:
        """(batch, shorter), 0 for padding."""
        return (~self.filler).long()

    def take(self, values: Tensor, blank: float = 0) -> Tensor:
        """(batch, length, …) → (batch, shorter, …), `blank` in padding."""
        source = self._source.to(values.device)
        index = source.reshape(*source.shape, *[1] * (values.ndim - 2)).expand(-1, -1, *values.shape[2:])
        filler = self.filler.to(values.device).reshape(*source.shape, *[1] * (values.ndim - 2))
        return values.gather(1, index).masked_fill(filler, blank)

    def positions(self, original: Tensor, renumber: bool) -> Tensor:
        """Position ids, (batch, length) or (axes, batch, length), of what stays: the original ones, or closed up
        over the gaps."""
        if original.ndim == 3:
            return torch.stack([self.positions(axis, renumber) for axis in original])
        kept = original - self._gone.to(original) if renumber else original
        return self.take(kept.expand(len(self._source), -1))
