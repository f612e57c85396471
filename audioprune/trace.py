"""trace(model): which patches a pruned model kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from .adapters.base import TokenPass
from .pruning import handle
from .tokens import Grid


class Trace:
    """What was kept in the latest forward; each forward replaces the last.

    layers: 0-based blocks that pruned. kept[i]: (batch, K_i) input patches kept at stage i, in the model's own
    numbering and in ascending order, −1 where rows differ in length. scores[i]: (batch, n_i) scores by which
    they were chosen, over `candidates[i]`: (batch, n_i) patches, −1 for a fused token.
    """

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self.layers: tuple[int, ...] = ()
        self.kept: tuple[Tensor, ...] = ()
        self.scores: tuple[Tensor, ...] = ()
        self.candidates: tuple[Tensor, ...] = ()

    @property
    def grid(self) -> tuple[int, int]:
        """Patches along (time, frequency)."""
        return self._grid.time, self._grid.frequency

    def mask(self, stage: int) -> Tensor:
        """(batch, time, frequency) booleans: the patches kept at a stage."""
        ones = torch.ones_like(self.kept[stage], dtype=torch.float32)
        return self._spread(self.kept[stage], ones, 0.0) > 0

    def score_map(self, stage: int) -> Tensor:
        """(batch, time, frequency) scores at a stage, NaN where a patch was gone before it."""
        return self._spread(self.candidates[stage], self.scores[stage].float(), float("nan"))

    def _spread(self, patch: Tensor, values: Tensor, blank: float) -> Tensor:
        # One spare cell takes what stands for no patch.
        table = torch.full((patch.shape[0], self._grid.patches + 1), blank, device=patch.device)
        table = table.scatter(1, torch.where(patch < 0, self._grid.patches, patch), values)
        return self._grid.to_map(table[:, :-1])

    def _record(self, token_pass: TokenPass) -> None:
        layers = sorted(token_pass.stages)
        stages = [token_pass.stages[layer] for layer in layers]
        self.layers = tuple(layers)
        # A fused token stands for no patch: as filler it goes last.
        self.kept = tuple(_fillers_last(stage.kept) for stage in stages)
        self.scores = tuple(stage.scores.detach() for stage in stages)
        self.candidates = tuple(token_pass.entering[layer].patch for layer in layers)


def _fillers_last(kept: Tensor) -> Tensor:
    order = (kept < 0).to(torch.uint8).argsort(dim=1, stable=True)
    return kept.gather(1, order)


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
