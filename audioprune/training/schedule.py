"""The shrink schedule: a keep rate that falls from 1 to its final value during training."""

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

    The formula is r + (1 − r)(cos(π·(step − start) / steps) + 1) / 2. It is EViT's schedule, which Token Pruning in
    Audio Transformers (arXiv 2504.01690, §4.1) uses too. It advances with every iteration.

    Args:
        step: the iteration.
        start: first iteration of the shrink.
        steps: number of iterations of the shrink.
        keep_rate: the final keep rate.
    """
    if step < start:
        return 1.0
    if step >= start + steps:
        return keep_rate
    return keep_rate + (1 - keep_rate) * (math.cos(math.pi * (step - start) / steps) + 1) / 2


class ShrinkSchedule(TrainerCallback):
    """Lowers the keep rate of a pruned model during training with transformers' Trainer.

        handle = ap.prune(model, ap.TopK(keep_rate=0.5))
        trainer.add_callback(ShrinkSchedule(handle, start=20, epochs=40))

    Outside training steps (in evaluation, in saving, and after the training), the final rate is set. So the evaluated
    model is the model that will be used. A resumed run continues at the rate of its step.

    Args:
        handle: handle of the pruned model; its keep rate, one number or one per layer, is the final rate.
        start: epoch (0-based) of the first iteration below 1; with `steps`, its step.
        epochs: number of epochs from there to the final rate; 0 changes the rate at once.
        steps: the same in optimizer steps, instead of `epochs`: for a streamed data set, whose epochs have no length.

    Raises `ValueError` for negative numbers, and for both or none of `epochs` and `steps`. At the start of the training
    it raises `ValueError` if the schedule counts epochs, but the length of the data set is unknown.
    """

    def __init__(self, handle: Pruned, start: float, epochs: float | None = None, *, steps: int | None = None) -> None:
        if (epochs is None) == (steps is None):
            raise ValueError("a shrink schedule needs a length: either epochs=…, or steps=… for a streamed data set")
        name, length = ("epochs", epochs) if steps is None else ("steps", steps)
        if start < 0 or (length or 0) < 0:
            raise ValueError(f"start is {start} and {name} is {length}; both count {name} and must not be negative")
        self.handle, self.start, self.epochs, self.steps = handle, start, epochs, steps
        self.keep_rate: KeepRate = handle.keep_rate

    def rate(self, step: int, steps_per_epoch: float) -> KeepRate:
        """Keep rate, or rates by layer, at iteration `step`. steps_per_epoch: not used if `steps` was given."""
        start, steps = self._window(steps_per_epoch)
        if isinstance(self.keep_rate, Sequence):
            return tuple(shrink(step, start, steps, rate) for rate in self.keep_rate)
        return shrink(step, start, steps, self.keep_rate)

    def _window(self, steps_per_epoch: float) -> tuple[int, int]:
        """First step below 1, and number of steps to the final rate."""
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
                f"{state.max_steps}: the model is never trained at its final rate; set start or the length lower",
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
        # Not max_steps / num_train_epochs: a run may stop before the end of its schedule.
        return math.ceil(batches / args.gradient_accumulation_steps)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.handle.keep_rate = self.keep_rate
