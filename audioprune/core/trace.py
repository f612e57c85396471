"""trace(model): which patches a pruned model kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..adapters.audio_lm.shortening import PromptPass
from ..adapters.blocks.token_pass import TokenPass
from ..adapters.observers import observing
from .pruning import handle
from .stages import Stage, holders
from .tokens import NO_PATCH, Grid, Place


class Trace:
    """What was kept in the latest forward; each forward replaces the last.

    layers: 0-based blocks that pruned. kept[i]: (batch, K_i) input patches kept at stage i, in the model's own
    numbering and in ascending order, −1 where rows differ in length. scores[i]: (batch, n_i) scores by which
    they were chosen, over `candidates[i]`: (batch, n_i) patches, −1 for a fused token. holders[i]: (batch, patches),
    the token after stage i that each input patch went into, by merging or as itself; −1 where it was forgotten.
    `sources` lists the same the other way round.
    """

    def __init__(self, grid: Grid | None) -> None:
        self._grid = grid
        self._places: tuple[Place, ...] = ()
        self._bounds: list[Tensor] | None = None
        self.layers: tuple[int, ...] = ()
        self.kept: tuple[Tensor, ...] = _NotYet()
        self.scores: tuple[Tensor, ...] = _NotYet()
        self.candidates: tuple[Tensor, ...] = _NotYet()
        self.holders: tuple[Tensor, ...] = _NotYet()

    def place(self, stage: int) -> str:
        """Where a stage is, in words; blocks are 0-based in code and counted from 1 in the papers."""
        if self._bounds is not None:
            return "between the encoder and the language model"
        place = self._places[stage]
        return f"after the attention of block {place.layer + 1}" if place.after else f"before block {place.layer + 1}"

    def sources(self, stage: int, clip: int = 0) -> list[list[int]]:
        """The input patches that went into each token after a stage, of one clip of the batch, in token order."""
        holder = self.holders[stage][clip].tolist()
        found: list[list[int]] = [[] for _ in range(max(holder) + 1)]
        for patch, token in enumerate(holder):
            if token >= 0:
                found[token].append(patch)
        return found

    def seconds(self, clip: int = 0) -> Tensor:
        """(K, 2), when each kept token of a clip begins and ends, in seconds of that clip; what was merged into it may
        lie elsewhere, as `sources` tells. For an audio-language model, whose tokens are moments: clips count through
        the prompts of the batch."""
        kept = self.kept[0][clip]
        return self.all_seconds(clip)[kept[kept >= 0].cpu()]

    def all_seconds(self, clip: int = 0) -> Tensor:
        """(n, 2), as `seconds`, of every token that there was."""
        if self._bounds is None:
            raise RuntimeError("seconds are of audio-language models; here see `mask`, `grid` and `sources`")
        return self._bounds[clip]

    @property
    def _known(self) -> Grid:
        if self._grid is None:
            raise RuntimeError("this model's clips differ in length: run it first, then the grid is known")
        return self._grid

    @property
    def grid(self) -> tuple[int, int]:
        """Patches along (time, frequency)."""
        return self._known.time, self._known.frequency

    def mask(self, stage: int) -> Tensor:
        """(batch, time, frequency) booleans: the patches kept at a stage."""
        ones = torch.ones_like(self.kept[stage], dtype=torch.float32)
        return self._spread(self.kept[stage], ones, 0.0) > 0

    def score_map(self, stage: int) -> Tensor:
        """(batch, time, frequency) scores at a stage, NaN where a patch was gone before it."""
        return self._spread(self.candidates[stage], self.scores[stage].float(), float("nan"))

    def holder_map(self, stage: int) -> Tensor:
        """(batch, time, frequency), `holders` laid out as the input is."""
        return self._known.to_map(self.holders[stage])

    def size_map(self, stage: int) -> Tensor:
        """(batch, time, frequency), how many input patches are in the token that holds each, 0 where it was
        forgotten."""
        holder = self.holders[stage]
        known = holder >= 0
        counts = torch.zeros(holder.shape[0], holder.shape[1] + 1, dtype=torch.long, device=holder.device)
        counts = counts.scatter_add(1, holder.clamp_min(0), known.long())
        return self._known.to_map(counts.gather(1, holder.clamp_min(0)) * known)

    def _spread(self, patch: Tensor, values: Tensor, blank: float) -> Tensor:
        # One spare cell takes what stands for no patch.
        patches = self._known.patches
        table = torch.full((patch.shape[0], patches + 1), blank, device=patch.device)
        table = table.scatter(1, torch.where(patch < 0, patches, patch), values)
        return self._known.to_map(table[:, :-1])

    def _record(self, token_pass: TokenPass | PromptPass) -> None:
        self._grid = token_pass.grid or self._grid
        self._bounds = getattr(token_pass, "bounds", None)
        self._places = tuple(sorted(token_pass.stages))
        stages = [token_pass.stages[place] for place in self._places]
        self.layers = tuple(place.layer for place in self._places)
        # A fused token stands for no patch: as filler it goes last.
        self.kept = tuple(_fillers_last(_patches(stage)) for stage in stages)
        self.scores = tuple(stage.scores.detach() for stage in stages)
        self.candidates = tuple(stage.candidates for stage in stages)
        self.holders = tuple(holders(stages, self._known.patches)) if stages else ()


class _NotYet(tuple[Tensor, ...]):
    """The stages of a model that has not run: none, and asked for one it says so."""

    def __getitem__(self, stage: Any) -> Any:
        if isinstance(stage, slice):
            return self
        raise IndexError("nothing is traced yet: run the model within `with trace(model) as t`, then look at t")


def _patches(stage: Stage) -> Tensor:
    """(batch, K) patches kept at a stage, `NO_PATCH` for filler."""
    kept = stage.candidates.gather(1, stage.kept.clamp_min(0))
    return torch.where(stage.kept < 0, NO_PATCH, kept)


def _fillers_last(kept: Tensor) -> Tensor:
    order = (kept < 0).to(torch.uint8).argsort(dim=1, stable=True)
    return kept.gather(1, order)


@contextmanager
def trace(model: nn.Module) -> Iterator[Trace]:
    """Watch a pruned model: `with trace(model) as t: model(input_values)`, then `t.kept`, `t.scores`, `t.grid`.

    It sees the forwards that are made within it, in this thread or task (and where its context is copied to, as
    `asyncio.to_thread` does), and not those of others that use the model meanwhile.
    Under `torch.compile`, open it around the call as usual: the graph is compiled once more with the trace in it.
    Raises `RuntimeError` where the model is not pruned.
    """
    pruned = handle(model)
    if pruned is None:
        raise RuntimeError("this model is not pruned, so nothing is dropped that a trace could show; prune it first")
    attachment = pruned.attachment
    record = Trace(pruned.adapter.grid)
    with observing(attachment, record._record):
        yield record
