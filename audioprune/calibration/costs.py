"""What settings cost: predicted for those that the search thinks of, measured for those that it chooses from."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from ..adapters.blocks.adapter import find_blocks
from ..compare.benchmark import in_turn
from ..core.cost import macs
from ..core.pruning import handle, prune
from ..core.tokens import Place
from ..core.trace import trace
from ..methods import Method, TopK
from ..timing import Ratio
from .disagreement import ClipSet
from .ledger import Ledger
from .space import kind, ladder, scored_by_attention

KIND_SECONDS = 0.4
"""Of timing each kind of settings, from which speeds are predicted."""
FAR_OFF = 0.2
"""A prediction that is wrong by more than this share is corrected, and the search repeated by it."""
COUNTED = 8
"""Clips on which the multiply-accumulates of a method are counted that lets the sound decide."""


class Costs:
    """Multiply-accumulates and speed of one model's settings on batches of its clips.

    The prediction: the blocks' multiply-accumulates by the number of tokens in each, and what a setting of the same
    kind was slower than they say, timed once. One count on the meta device takes as long as hearing several clips,
    so that the search goes by the prediction alone.
    """

    def __init__(self, model: PreTrainedModel, clips: ClipSet, order: Sequence[int], batch_size: int) -> None:
        self.model, self.clips, self.order = model, clips, list(order)
        count = min(batch_size, len(self.order))
        # Clips of different lengths make several batches: the largest is timed.
        batches = (inputs for _, inputs in clips.batches(model, self.order[:count], batch_size))
        self.batch = max(batches, key=lambda inputs: next(iter(inputs.values())).numel())
        self.batch_size = len(next(iter(self.batch.values())))
        adapter = find_blocks(model)
        grid, shape = adapter.grid, adapter.shape
        if grid is None:
            with prune(model, TopK(0.999)):
                self._patches = self._count_patches()
        else:
            self._patches = grid.patches
        self.depth, self._special, self._width = shape.depth, shape.special, shape.width
        self._is_fixed = grid is not None
        self.unpruned = self._count()
        self._inner = adapter.mlp_width
        self._around = max(0, self.unpruned - self._blocks(TopK(1.0)))
        self.extra: dict[str, float] = {}

    def macs(self, method: Method) -> int:
        """Of one clip, counted; where the sound decides, the mean over a few clips."""
        with prune(self.model, method):
            return self._count()

    def predicted_macs(self, method: Method) -> float:
        return self._around + self._blocks(method)

    def speed(self, method: Method) -> float:
        """How many times as fast as unpruned, predicted."""
        share = self.predicted_macs(method) / self.unpruned
        return 1 / max(0.01, share + self.extra.get(kind(method), 0.0))

    def time_kinds(self, families: Sequence[Method], ledger: Ledger, advance: Callable[[], Any]) -> None:
        """Time a setting of each kind once, in turn with the unpruned model."""
        samples: dict[str, Method] = {}
        for family in families:
            steps = ladder(family, self.depth)
            if steps:
                samples.setdefault(kind(family), scored_by_attention(steps[len(steps) // 2]))
        missing = {name: method for name, method in samples.items() if name not in ledger.times}
        if missing:
            # Of few forwards the shortest is the one that nothing else delayed.
            unpruned, *others = map(min, self._times(list(missing.values()), KIND_SECONDS, advance))
            speeds = [unpruned / time for time in others]
            # As it is written down, so that a run that goes on decides as the one that began.
            extra = {
                name: round(1 / speed - self.predicted_macs(method) / self.unpruned, 4)
                for (name, method), speed in zip(missing.items(), speeds, strict=True)
            }
            ledger.note_times(extra)
        self.extra = {name: ledger.times[name] for name in samples}

    def measure(
        self, methods: Sequence[Method], seconds: float, advance: Callable[[], Any] = lambda: None
    ) -> list[Ratio]:
        """How many times as fast as unpruned each is, in turn, `seconds` for each."""
        unpruned, *others = self._times(methods, seconds, advance)
        return [Ratio.between(unpruned, times) for times in others]

    def _times(self, methods: Sequence[Method], seconds: float, advance: Callable[[], Any]) -> list[list[float]]:
        """Seconds of the forwards of the unpruned model, and of each setting."""
        settings = [(self.model, method, self.batch) for method in (None, *methods)]
        return in_turn(settings, max(seconds, 1e-3), advance, lambda inputs: self.model(**inputs))

    def correct(self, speeds: Mapping[Method, float]) -> bool:
        """Take measured speed-ups into the predictions, of the kinds that were measured and, by as much as theirs were
        wrong as a rule, of the others; whether one was far off."""
        wrong: dict[str, list[float]] = {}
        for method, speed in speeds.items():
            wrong.setdefault(kind(method), []).append(1 / speed - 1 / self.speed(method))
        is_far_off = any(abs(speed / self.speed(method) - 1) > FAR_OFF for method, speed in speeds.items())
        shifts = {name: statistics.median(each) for name, each in wrong.items()}
        if is_far_off:
            rest = statistics.median(shifts.values())
            self.extra = {name: extra + shifts.get(name, rest) for name, extra in self.extra.items()}
        return is_far_off

    def _count(self) -> int:
        pruned = handle(self.model)
        is_static = pruned is None or pruned.method.static
        if self._is_fixed and is_static:
            return macs(self.model)
        clips = self.order[: 1 if is_static else COUNTED]
        return round(statistics.fmean(macs(self.model, inputs=x) for _, x in self.clips.batches(self.model, clips, 1)))

    @torch.inference_mode()
    def _count_patches(self) -> int:
        """Droppable tokens of a clip, of a model whose clips differ in length."""
        (_, inputs) = next(self.clips.batches(self.model, self.order[:1], 1))
        with trace(self.model) as record:
            self.model(**inputs)
        time, frequency = record.grid
        return time * frequency

    def _blocks(self, method: Method) -> float:
        """Multiply-accumulates of the blocks: projections and attention over the tokens that enter, and the MLP over
        those that stay."""
        places = method.stages(self.depth)
        left = dict(zip(places, method.counts(self._patches, self.depth)[1:], strict=True))
        total, n = 0.0, self._patches
        for block in range(self.depth):
            # The last of several that act before the block.
            entering = next((left[place] for place in reversed(left) if place.layer == block and not place.after), n)
            n = left.get(Place(block), entering)
            before, after = entering + self._special, n + self._special
            total += self._width * (4 * self._width * before + 2 * before**2 + 2 * self._inner * after)
        return total
