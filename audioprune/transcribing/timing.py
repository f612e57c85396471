"""Seconds of an encoder within a transcription, and turns of several contenders."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from statistics import fmean
from types import TracebackType
from typing import Any, Self

import torch

from ..core.cost import synchronize
from ..core.trace import Trace


class EncoderClock:
    """Context that times each forward of a model's encoder, and counts the tokens that leave it.

    model: a Whisper. run_trace: trace of the pruned model to count by, which takes time of its own; None if the
    output shows the count.

    seconds: of all forwards together. tokens: for each clip of the batch, mean over the forwards (a long recording has
    one for each window).
    """

    def __init__(self, model: Any, run_trace: Trace | None = None) -> None:
        self._encoder, self._trace, self._device = model.get_encoder(), run_trace, str(model.device)
        self._begun, self._counts = 0.0, list[list[int]]()
        self.seconds = 0.0

    @property
    def tokens(self) -> list[float]:
        # `generate` may go on with some clips of a batch alone, and does not say with which.
        whole = [counts for counts in self._counts if len(counts) == len(self._counts[0])]
        return [fmean(counts) for counts in zip(*whole, strict=True)]

    def __enter__(self) -> Self:
        self._hooks = [
            self._encoder.register_forward_pre_hook(self._begin),
            self._encoder.register_forward_hook(self._end),
        ]
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for hook in self._hooks:
            hook.remove()

    def _begin(self, *_: Any) -> None:
        synchronize(self._device)
        self._begun = time.perf_counter()

    def _end(self, encoder: Any, inputs: Any, output: Any) -> None:
        synchronize(self._device)
        self.seconds += time.perf_counter() - self._begun
        self._counts.append(tokens_left(output, self._trace))


def tokens_left(output: Any, run_trace: Trace | None = None) -> list[int]:
    """Tokens that leave an encoder, for each clip of a batch.

    output: the encoder's; its length is the number of tokens unless it was pruned. run_trace: trace of a pruned model.
    """
    hidden = output[0]
    if run_trace is None or not run_trace.holders:
        return [hidden.shape[1]] * hidden.shape[0]
    return [len({token for token in row if token >= 0}) for row in run_trace.holders[-1].tolist()]


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Context in which PyTorch uses so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def in_turns(calls: Sequence[Callable[[], Any]], rounds: int, seed: str = "") -> None:
    """Make every call once a round, in a new order each round, so that drift and neighbours affect all alike."""
    shuffle, order = random.Random(seed).shuffle, list(range(len(calls)))
    for _ in range(rounds):
        shuffle(order)
        for i in order:
            calls[i]()
