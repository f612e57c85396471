"""Seconds of an encoder within a transcription."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import fmean
from types import TracebackType
from typing import Any, Self

import torch

from ..core.cost import synchronize


class EncoderClock:
    """Context that times each forward of a model's encoder, and counts the tokens that leave it.

    model: a Whisper.
    seconds: of all forwards together. tokens: for each clip of the batch, mean over the forwards (a long recording has
    one for each window).
    """

    def __init__(self, model: Any) -> None:
        self._encoder, self._device = model.get_encoder(), str(model.device)
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
        self._counts.append(tokens_left(output))


def tokens_left(output: Any) -> list[int]:
    """Tokens that leave an encoder, for each clip of a batch. output: the encoder's, pruned or not."""
    tokens, size = getattr(output, "tokens", None), getattr(output, "size", None)
    if size is not None:
        return (size > 0).sum(dim=1).tolist()
    left = output[0] if tokens is None else tokens
    return [left.shape[1]] * left.shape[0]


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Context in which PyTorch uses so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
