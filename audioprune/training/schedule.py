"""The shrink schedule: a keep rate that falls from 1 to its final value while a model is trained."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..core.pruning import Pruned

KeepRate = float | Sequence[float]


def shrink(step: int, start: int, steps: int, keep_rate: float) -> float:
    """Keep rate of iteration `step` (0-based): 1 before `start`, then a cosine over `steps` iterations to `keep_rate`.

    r + (1 − r)(cos(π·(step − start) / steps) + 1) / 2: EViT's schedule, which Token Pruning in Audio Transformers
    (arXiv 2504.01690, §4.1) takes over. It advances with every iteration.
    """
    if step < start:
        return 1.0
    if step >= start + steps:
        return keep_rate
    return keep_rate + (1 - keep_rate) * (math.cos(math.pi * (step - start) / steps) + 1) / 2


class ShrinkSchedule(TrainerCallback):
    """Lowers the keep rate of a pruned model as transformers' Trainer trains it.

        handle = ap.prune(model, ap.TopK(keep_rate=0.5))
        trainer.add_callback(ShrinkSchedule(handle, start=20, epochs=40))

    Between training steps (evaluation, saving, after the training) the final rate is set: what is evaluated is what
    will be used. A resumed run goes on at the rate of its step.

    Args:
        handle: of the pruned model; its keep rate, one or one a layer, is the final one.
        start: epoch (0-based) of the first iteration below 1; with `steps`, its step.
        epochs: from there until the final rate is reached; 0 jumps.
        steps: the same in optimizer steps, instead of `epochs`: for a streamed data set, whose epochs have no length.

    Raises `ValueError` for negative numbers, for both or none of `epochs` and `steps`, and, where the training begins,
    if the schedule counts epochs of a data set whose length nobody knows.
    """

    def __init__(self, handle: Pruned, start: float, epochs: float | None = None, *, steps: int | None = None) -> None:
        if (epochs is None) == (steps is None):
            raise ValueError("a shrink schedule has a length: either epochs=…, or steps=… for a streamed data set")
        name, length = ("epochs", epochs) if steps is None else ("steps", steps)
        if start < 0 or (length or 0) < 0:
            raise ValueError(f"start is {start} and {name} is {length}; both count {name} and must not be negative")
        self.handle, self.start, self.epochs, self.steps = handle, start, epochs, steps
        self.keep_rate: KeepRate = handle.keep_rate

    def rate(self, step: int, steps_per_epoch: float) -> KeepRate:
        """Keep rate, or rates by layer, of iteration `step`. steps_per_epoch: of no matter if `steps` was given."""
        start, steps = self._window(steps_per_epoch)
        if isinstance(self.keep_rate, Sequence):
            return tuple(shrink(step, start, steps, rate) for rate in self.keep_rate)
        return shrink(step, start, steps, self.keep_rate)

    def _window(self, steps_per_epoch: float) -> tuple[int, int]:
        """The first step below 1, and how many there are until the final rate is reached."""
        if self.epochs is None:
            return round(self.start), self.steps or 0
        return round(self.start * steps_per_epoch), round(self.epochs * steps_per_epoch)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        start, steps = self._window(self._steps_per_epoch(args, kwargs))
        if 0 < state.max_steps < start + steps:
            warnings.warn(
                f"the keep rate reaches its final value at step {start + steps}, but the training ends at step "
                f"{state.max_steps}: the model is never trained at the rate that it will have afterwards",
                stacklevel=2,
            )

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.handle.keep_rate = self.rate(state.global_step, self._steps_per_epoch(args, kwargs))

    def _steps_per_epoch(self, args: TrainingArguments, kwargs: dict[str, Any]) -> float:
        if self.epochs is None:
            return 0
        try:
            batches = len(kwargs["train_dataloader"])
        except TypeError as error:  # a stream
            raise ValueError(
                "ShrinkSchedule counts epochs, but this data set is a stream, whose epochs have no length; count "
                "optimizer steps instead: ShrinkSchedule(handle, start=0, steps=1000)"
            ) from error
        # Not max_steps / num_train_epochs: a run may be told to stop earlier than its schedule ends.
        return math.ceil(batches / args.gradient_accumulation_steps)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.handle.keep_rate = self.keep_rate
