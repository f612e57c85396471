"""A model and clips, as the search and the choice see them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from transformers import PreTrainedModel

from ..adapters.blocks.adapter import BlockAdapter
from ..methods import Method
from .costs import Costs
from .disagreement import ClipSet, Disagreement, Hearing
from .ledger import Ledger
from .space import families, kind, ladder

Stage = Callable[[str, int], Callable[[int], Any]]
"""Begins a part of the work, by its name and how many steps it may take; gives what is called with steps done."""
WHOLE = "All parts together, about"
"""Name of the part that lasts to the end, beside the others."""


class ModelCalibrator:
    """A model and clips, as the search and the choice see them (`choose.Calibrator`)."""

    def __init__(
        self,
        model: PreTrainedModel,
        clips: ClipSet,
        order: Sequence[int],
        searching: int,
        batch_size: int,
        ledger: Ledger,
        stage: Stage,
    ) -> None:
        self.clips, self.confirming = searching, len(order) - searching
        self._stage, self._advance = stage, stage("Hearing the unpruned model", len(order))
        self._whole: Callable[[int], Any] = lambda heard: None
        self._hearing = Hearing(model, clips, order, batch_size, ledger, self._count)
        self._costs = Costs(model, clips, order[:searching], batch_size)
        self._ledger, self._seconds = ledger, 0.0
        self._ladders: dict[Method, list[Method]] = {}
        self.heard: dict[Method, Disagreement] = {}
        """Every setting of the search, on the most clips that it was heard on."""

    def enter(self, methods: Sequence[str], adapter: BlockAdapter, seconds: float) -> None:
        """Settle what is searched, and time its kinds. seconds: of timing each finalist."""
        self._seconds = seconds
        for family in families(self._costs.depth, adapter.has_cls, methods, pads=adapter.pads):
            steps = ladder(family, self._costs.depth)
            if steps:
                self._ladders[family] = steps
        advance = self._stage("Timing kinds of settings", 1 + len({kind(family) for family in self.families}))
        self._costs.time_kinds(self.families, self._ledger, lambda: advance(1))

    def _count(self, heard: int) -> None:
        self._advance(heard)
        self._whole(heard)

    def expect(self, clips: int) -> None:
        """Tell how many clips the search and the tests may hear in all."""
        self._whole = self._stage(WHOLE, clips)

    @property
    def families(self) -> list[Method]:
        return list(self._ladders)

    @property
    def batch_size(self) -> int:
        """Clips of the batch that is timed."""
        return self._costs.batch_size

    @property
    def top_speed(self) -> float:
        return max(self.speed(steps[-1]) for steps in self._ladders.values())

    @property
    def settings(self) -> int:
        """How many settings there are to choose from."""
        return sum(map(len, self._ladders.values()))

    def speed(self, method: Method) -> float:
        return self._costs.speed(method)

    def at(self, family: Method, speed: float) -> Method | None:
        steps = self._ladders[family]
        place = bisect_left(steps, speed, key=self.speed)
        return steps[place] if place < len(steps) else None

    def stage(self, name: str, clips: int) -> None:
        self._advance = self._stage(f"Hearing {name}", clips)

    def hear(self, method: Method, clips: int) -> Disagreement:
        found = self._hearing.hear(method, 0, clips)
        if method not in self.heard or self.heard[method].clips < clips:
            self.heard[method] = found
        return found

    def confirm(self, method: Method) -> Disagreement:
        self._advance = self._stage("Testing a setting", self.confirming)
        return self._hearing.hear(method, self.clips, self.clips + self.confirming)

    def measure(self, methods: Sequence[Method]) -> Sequence[float]:
        advance = self._stage(f"Measuring {len(methods)} settings", 1 + len(methods))
        return self._costs.measure(methods, self._seconds, lambda: advance(1))

    def correct(self, speeds: Mapping[Method, float]) -> bool:
        return self._costs.correct(speeds)

    def ratios(self, methods: Sequence[Method]) -> dict[Method, float]:
        """How many times fewer multiply-accumulates than unpruned, counted."""
        return {method: self._costs.unpruned / self._costs.macs(method) for method in methods}
