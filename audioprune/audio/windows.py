"""Windows of a long sound, streamed: memory does not grow with the length."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from .files import SAMPLE_RATE, Clip

Item = TypeVar("Item")

PIECE_SECONDS = 60
"""Seconds of sound that are decoded at once. A whole number, so that pieces begin at a sample at every rate."""
MARGIN_SECONDS = 1
"""Seconds that are decoded before and after a piece and left out again: the filter that converts the rate hears past
the ends of a piece."""
TAIL = SAMPLE_RATE // 100
"""Samples after the last window that are not worth one more: 10 ms."""

MOST_SPREAD = 12
"""Windows of a sound that are heard, where many sounds are held in memory together and no hop is asked for."""

Load = Callable[[float, float], Clip]
"""Decodes a part of a sound: its length and its start in seconds → its clip."""


@dataclass(frozen=True)
class Window:
    """A part of a sound. start: its first sample. waveform: (samples,) float32 at 16 kHz."""

    start: int
    waveform: np.ndarray

    @property
    def seconds(self) -> tuple[float, float]:
        """Where it starts and ends in the sound."""
        return self.start / SAMPLE_RATE, (self.start + len(self.waveform)) / SAMPLE_RATE


def pieces(load: Load) -> Iterator[np.ndarray]:
    """A sound from beginning to end in pieces of `PIECE_SECONDS`, (samples,) float32 at 16 kHz; the last is shorter.

    Together they are the whole sound as `load_audio` decodes it, to 1e-6. Raises `AudioError` as `load_audio` does.
    """
    start = 0
    while True:
        before = min(start, MARGIN_SECONDS)
        asked = before + PIECE_SECONDS + MARGIN_SECONDS
        samples = load(asked, start - before).waveform
        piece = samples[before * SAMPLE_RATE : (before + PIECE_SECONDS) * SAMPLE_RATE]
        if len(piece):
            yield piece
        if len(samples) <= (before + PIECE_SECONDS) * SAMPLE_RATE:
            return
        start += PIECE_SECONDS


def cut(parts: Iterable[np.ndarray], window: int, hop: int) -> Iterator[Window]:
    """Windows of `window` samples, one every `hop` samples, of a sound that comes in parts of any length.

    The last window ends where the sound ends, so that nothing is padded and every sample is heard; it may overlap more
    than the others. A sound that is shorter than a window is one window.
    """
    if not 0 < hop <= window:
        raise ValueError(f"hop is {hop} samples; it must be at least 1 and at most the window, {window}")
    held, start, due = np.empty(0, np.float32), 0, 0
    for part in parts:
        held = np.concatenate((held, part))
        while due + window <= start + len(held):
            # What comes before the window is kept no longer; of the window itself the last one may need a part.
            held, start = held[due - start :], due
            yield Window(start, held[:window])
            due += hop
    end = start + len(held)
    last = due - hop
    if due == 0 and end:
        yield Window(0, held)
    elif end - (last + window) > TAIL:
        yield Window(end - window, held[-window:])


def count(samples: int, window: int, hop: int) -> int:
    """Number of windows that `cut` makes of so many samples."""
    if samples <= window:
        return min(samples, 1)
    whole = (samples - window) // hop + 1
    return whole + (samples - ((whole - 1) * hop + window) > TAIL)


def spread(samples: int, window: int, hop: int | None, most: int = MOST_SPREAD) -> list[int]:
    """First samples of windows over a whole sound: as `cut` makes them, or without a hop at most so many, at even
    distances, the first at the beginning and the last at the end."""
    if samples - window <= TAIL:
        return [0]
    if hop is not None:
        starts = list(range(0, samples - window + 1, hop))
        return starts if samples - (starts[-1] + window) <= TAIL else [*starts, samples - window]
    number = min(most, -(-samples // window))
    return [round(i * (samples - window) / (number - 1)) for i in range(number)]


def bounds(spans: np.ndarray) -> np.ndarray:
    """(windows + 1,), the moments at which one window's answer gives way to the next one's: half-way between the
    middles of both. spans: (windows, 2), start and end of each in seconds, at least one."""
    middles = spans.mean(1)
    return np.concatenate(([0.0], (middles[1:] + middles[:-1]) / 2, spans[-1:, 1]))


def batches(windows: Iterable[Window], size: int) -> Iterator[list[Window]]:
    """Windows in lists of at most `size`. Each waveform is a copy, which keeps no piece alive."""
    batch: list[Window] = []
    for window in windows:
        batch.append(Window(window.start, window.waveform.copy()))
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def read_ahead(items: Iterator[Item], ahead: int = 2) -> Iterator[Item]:
    """The same items, made by a thread while the caller works; at most `ahead` wait."""
    end = object()
    with ThreadPoolExecutor(1, thread_name_prefix="decode") as pool:
        waiting = deque(pool.submit(next, items, end) for _ in range(ahead))
        try:
            while (item := waiting.popleft().result()) is not end:
                waiting.append(pool.submit(next, items, end))
                yield item  # type: ignore[misc]
        finally:
            for future in waiting:
                future.cancel()


class Envelope:
    """Lowest and highest sample of each tenth of a second, for pictures. It is filled while the parts go by."""

    SECONDS = 0.1

    def __init__(self) -> None:
        self._found: list[np.ndarray] = []
        self._left = np.empty(0, np.float32)

    def watch(self, parts: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """The same parts."""
        size = math.ceil(self.SECONDS * SAMPLE_RATE)
        for part in parts:
            known = np.concatenate((self._left, part))
            whole = len(known) // size * size
            self._add(known[:whole].reshape(-1, size))
            self._left = known[whole:].copy()
            yield part

    def array(self) -> np.ndarray:
        """(bins, 2), lowest and highest."""
        rest = [np.array([[self._left.min(), self._left.max()]], np.float32)] if len(self._left) else []
        return np.concatenate([np.empty((0, 2), np.float32), *self._found, *rest])

    def _add(self, rows: np.ndarray) -> None:
        self._found.append(np.stack((rows.min(1), rows.max(1)), axis=1))
