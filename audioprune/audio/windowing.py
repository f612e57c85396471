"""How a long sound is cut into windows: what the words of a command and the arguments of functions ask for.

Imports no PyTorch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from .front_end import FrontEnd

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
        if pool not in POOLS:
            raise ValueError(f"--pool is {pool!r}; it is {' or '.join(POOLS)}")
        try:
            return cls(None if window == AUTO else float(window), hop, pool)
        except ValueError:
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
        # Not above: a command with nothing left to do imports nothing that decodes.
        from .files import SAMPLE_RATE

        return round(self.seconds * SAMPLE_RATE), round(self.hop * SAMPLE_RATE)

    def as_dict(self) -> dict[str, Any]:
        """For JSON and for the settings of a run."""
        times = {"window_seconds": self.seconds, "hop_seconds": self.hop}
        return {name: None if value is None else round(value, 6) for name, value in times.items()} | {"pool": self.pool}


WHOLE = Windowing()
"""The whole of a long sound, in windows as long as the model hears that overlap by half."""
