"""How a long sound is cut into windows, and what a model hears in them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from ..audio.files import SAMPLE_RATE
from ..audio.front_end import FrontEnd

POOLS = ("mean", "max")
"""How the answers of windows become one: the mean of each label's probability, or its maximum."""
FIRST, AUTO = "first", "auto"


@dataclass(frozen=True)
class Windowing:
    """How a sound that is longer than a window is heard: window by window, from beginning to end.

    Args:
        seconds: length of a window; the model's own by default. A shorter one is padded, as a short clip is.
        hop: seconds from the start of a window to the next; half a window by default.
        pool: one of `POOLS`.
    """

    seconds: float | None = None
    hop: float | None = None
    pool: str = "mean"

    def __post_init__(self) -> None:
        if self.pool not in POOLS:
            raise ValueError(f"pool is {self.pool!r}; it is {' or '.join(POOLS)}")

    @classmethod
    def parse(cls, window: str, hop: float | None, pool: str) -> Self | None:
        """The words of a command; None for "first", which hears the first window alone."""
        if window == FIRST:
            if hop is not None:
                raise ValueError(f"--hop is {hop:g}, but --window first hears one window; leave one of both out")
            return None
        try:
            return cls(None if window == AUTO else float(window), hop, pool)
        except ValueError as error:
            if "pool" in str(error):
                raise ValueError(f"--{error}") from None
            raise ValueError(f"--window is {window!r}; it is auto, first, or a number of seconds") from None

    def of(self, front: FrontEnd) -> Self:
        """The same with the numbers that a front end gives. Raises `ValueError` for numbers that it cannot serve."""
        most = None if front.shape is None else front.max_seconds
        seconds = front.max_seconds if self.seconds is None else self.seconds
        if not 0.1 <= seconds < 3600 or (most is not None and seconds > most + 0.01):
            upper = "" if most is None else f", and at most {most:g} s, which is all that the model hears at once"
            raise ValueError(f"window is {seconds:g} s; it must be at least 0.1 s{upper}")
        hop = seconds / 2 if self.hop is None else self.hop
        if not 0.01 <= hop <= seconds:
            raise ValueError(
                f"hop is {hop:g} s; it must be at least 0.01 s and at most the window, {seconds:g} s, or parts of the "
                "sound would not be heard"
            )
        return replace(self, seconds=seconds, hop=hop)

    @property
    def samples(self) -> tuple[int, int]:
        """Samples of a window and of a hop, once both are known."""
        assert self.seconds is not None
        assert self.hop is not None
        return round(self.seconds * SAMPLE_RATE), round(self.hop * SAMPLE_RATE)

    def as_dict(self) -> dict[str, Any]:
        """For JSON and for the settings of a run."""
        rounded = {name: None if value is None else round(value, 6) for name, value in self._times.items()}
        return {**rounded, "pool": self.pool}

    @property
    def _times(self) -> dict[str, float | None]:
        return {"window_seconds": self.seconds, "hop_seconds": self.hop}


WHOLE = Windowing()
"""The whole of a long sound, in windows as long as the model hears that overlap by half."""


@dataclass(frozen=True)
class Timeline:
    """What a model heard in each window of a sound.

    Args:
        spans: (windows, 2), start and end of each in seconds.
        probabilities: (windows, labels), float32, on the CPU.
        silent: (windows,) bool.
        pool: one of `POOLS`.
        envelope: (bins, 2), lowest and highest sample of each tenth of a second.
    """

    spans: np.ndarray
    probabilities: Tensor
    silent: np.ndarray
    pool: str
    envelope: np.ndarray

    def __len__(self) -> int:
        return len(self.spans)

    @property
    def is_silent(self) -> bool:
        return bool(self.silent.all())

    def pooled(self) -> Tensor:
        """The answer for the whole sound, (labels,). Silent windows have no part in it, unless all are silent."""
        heard = self.probabilities if self.is_silent else self.probabilities[torch.from_numpy(~self.silent)]
        return heard.mean(0) if self.pool == "mean" else heard.amax(0)

    def clearest(self) -> tuple[float, float]:
        """Start and end of the window in which the whole sound's top label is most probable."""
        scores = self.probabilities[:, int(self.pooled().argmax())].clone()
        if not self.is_silent:
            scores[torch.from_numpy(self.silent)] = -1
        start, end = self.spans[int(scores.argmax())].tolist()
        return start, end

    @property
    def bounds(self) -> np.ndarray:
        """(windows + 1,), the moments in seconds at which one window's answer gives way to the next one's: half-way
        between the middles of both."""
        middles = self.spans.mean(1)
        return np.concatenate(([0.0], (middles[1:] + middles[:-1]) / 2, self.spans[-1:, 1]))
