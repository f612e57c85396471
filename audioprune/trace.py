"""trace(model): which patches a pruned model kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from .adapters.token_pass import TokenPass
from .pruning import handle
from .tokens import NO_PATCH, Grid, Stage


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
        self.layers: tuple[int, ...] = ()
        self.kept: tuple[Tensor, ...] = ()
        self.scores: tuple[Tensor, ...] = ()
        self.candidates: tuple[Tensor, ...] = ()
        self.holders: tuple[Tensor, ...] = ()

    def sources(self, stage: int, clip: int = 0) -> list[list[int]]:
        """The input patches that went into each token after a stage, of one clip of the batch, in token order."""
        holder = self.holders[stage][clip].tolist()
        found: list[list[int]] = [[] for _ in range(max(holder) + 1)]
        for patch, token in enumerate(holder):
            if token >= 0:
                found[token].append(patch)
        return found

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

    def _spread(self, patch: Tensor, values: Tensor, blank: float) -> Tensor:
        # One spare cell takes what stands for no patch.
        patches = self._known.patches
        table = torch.full((patch.shape[0], patches + 1), blank, device=patch.device)
        table = table.scatter(1, torch.where(patch < 0, patches, patch), values)
        return self._known.to_map(table[:, :-1])

    def _record(self, token_pass: TokenPass) -> None:
        self._grid = token_pass.grid
        layers = sorted(token_pass.stages)
        stages = [token_pass.stages[layer] for layer in layers]
        self.layers = tuple(layers)
        # A fused token stands for no patch: as filler it goes last.
        self.kept = tuple(_fillers_last(_patches(stage)) for stage in stages)
        self.scores = tuple(stage.scores.detach() for stage in stages)
        self.candidates = tuple(stage.candidates for stage in stages)
        self.holders = tuple(_holders(stages, token_pass.grid.patches))


def _patches(stage: Stage) -> Tensor:
    """(batch, K) patches kept at a stage, `NO_PATCH` for filler."""
    kept = stage.candidates.gather(1, stage.kept.clamp_min(0))
    return torch.where(stage.kept < 0, NO_PATCH, kept)


def _fillers_last(kept: Tensor) -> Tensor:
    order = (kept < 0).to(torch.uint8).argsort(dim=1, stable=True)
    return kept.gather(1, order)


def _holders(stages: list[Stage], patches: int) -> Iterator[Tensor]:
    """(batch, patches) for each stage: the token that holds each input patch after it, -1 where it was forgotten."""
    holder = None
    for stage in stages:
        if holder is None:
            # The tokens before the first stage are the patches themselves, but for those that were padding.
            count = stage.candidates.shape[1]
            holder = torch.arange(patches, device=stage.kept.device).expand(len(stage.kept), -1)
            holder = torch.where(pad(stage.candidates, (0, patches - count), value=NO_PATCH) < 0, -1, holder)
        destination = _destination(stage)
        holder = torch.where(holder < 0, -1, destination.gather(1, holder.clamp_min(0)))
        yield holder


def _destination(stage: Stage) -> Tensor:
    if stage.destination is not None:
        return stage.destination
    batch, n = stage.candidates.shape
    places = torch.arange(stage.kept.shape[1], device=stage.kept.device).expand(batch, -1)
    # One spare place takes the filler.
    table = torch.full((batch, n + 1), -1, device=stage.kept.device)
    return table.scatter(1, torch.where(stage.kept < 0, n, stage.kept), places)[:, :-1]


@contextmanager
def trace(model: nn.Module) -> Iterator[Trace]:
    """Watch a pruned model: `with trace(model) as t: model(input_values)`, then `t.kept`, `t.scores`, `t.grid`.

    Under `torch.compile`, open it around the call as usual: the graph is compiled once more with the trace in it.
    Raises `RuntimeError` where the model is not pruned.
    """
    pruned = handle(model)
    if pruned is None:
        raise RuntimeError("this model is not pruned, so nothing is dropped that a trace could show; prune it first")
    attachment = pruned.attachment
    record = Trace(attachment.adapter.grid)
    attachment.sinks.append(record._record)
    try:
        yield record
    finally:
        attachment.sinks.remove(record._record)
