"""The shrink schedule: a keep rate that falls from 1 to its final value while a model is trained."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..pruning import Pruned

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
        start: epoch (0-based) of the first iteration below 1.
        epochs: from there until the final rate is reached; 0 jumps.
    """

    def __init__(self, handle: Pruned, start: float, epochs: float) -> None:
        if start < 0 or epochs < 0:
            raise ValueError(f"start is {start} and epochs is {epochs}; both count epochs and must not be negative")
        self.handle, self.start, self.epochs = handle, start, epochs
        self.keep_rate: KeepRate = handle.keep_rate

    def rate(self, step: int, steps_per_epoch: float) -> KeepRate:
        """Keep rate, or rates by layer, of iteration `step`."""
        start, steps = round(self.start * steps_per_epoch), round(self.epochs * steps_per_epoch)
        if isinstance(self.keep_rate, Sequence):
            return tuple(shrink(step, start, steps, rate) for rate in self.keep_rate)
        return shrink(step, start, steps, self.keep_rate)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # Not max_steps / num_train_epochs: a run may be told to stop earlier than its schedule ends.
        per_epoch = math.ceil(len(kwargs["train_dataloader"]) / args.gradient_accumulation_steps)
        self.handle.keep_rate = self.rate(state.global_step, per_epoch)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.handle.keep_rate = self.keep_rate
