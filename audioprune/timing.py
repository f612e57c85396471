"""Times of calls that take turns, and ratios of them that tell how sure they are."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any, Self

ROUNDS = 5
"""Rounds that are counted at least: fewer say nothing about their spread."""
MOST_SPREAD = 0.25
"""Greatest width of a ratio's interval that is trusted, as a share of the ratio."""
CONFIDENCE = 0.95


class Ratio(float):
    """How many times as fast something is, with the interval in which that lies.

    low, high: interval of the median with 95 % confidence, whatever the distribution; of few rounds the least and the
        greatest. rounds: turns that were counted.
    """

    low: float
    high: float
    rounds: int

    def __new__(cls, value: float, low: float | None = None, high: float | None = None, rounds: int = ROUNDS) -> Self:
        made = super().__new__(cls, value)
        made.low, made.high = float(value if low is None else low), float(value if high is None else high)
        made.rounds = rounds
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (float(self), self.low, self.high, self.rounds)

    @classmethod
    def between(cls, slow: Sequence[float], fast: Sequence[float]) -> Self:
        """Ratio of two lists of seconds of the same rounds: median of the rounds' ratios, so that what slows a whole
        round has no part in it."""
        ratios = [a / b for a, b in zip(slow, fast, strict=True)]
        return cls(median(ratios), *median_interval(ratios), rounds=len(ratios))

    @classmethod
    def of(cls, row: Mapping[str, Any], name: str = "speed_up") -> Self:
        """Ratio of a row that `as_dict` made; sure if the row says nothing of it."""
        low, high = row.get(f"{name}_interval", (None, None))
        return cls(row[name], low, high, ROUNDS if row.get(f"{name}_sure", True) else 0)

    @property
    def is_sure(self) -> bool:
        """Whether the interval is narrow enough to trust the ratio."""
        return self.rounds >= ROUNDS and self.high - self.low <= MOST_SPREAD * self

    @property
    def spread(self) -> float:
        """Half of the width of the interval."""
        return (self.high - self.low) / 2

    def __str__(self) -> str:
        """ "1.42× ±0.05"; with a question mark if the spread is too wide to trust."""
        digits = 2 if self < 9.995 else 1
        spread = f"{self.spread:.2f}" if self.spread < 0.995 else f"{self.spread:.0f}"
        return f"{float(self):.{digits}f}× ±{spread}{'' if self.is_sure else ' ?'}"

    def as_dict(self, name: str = "speed_up") -> dict[str, Any]:
        """For JSON: the ratio, its interval, and whether it is sure."""
        return {name: float(self), f"{name}_interval": [self.low, self.high], f"{name}_sure": self.is_sure}


UNSURE = "?: the spread is too wide to trust; measure again when the machine is idle, or for longer"
"""What a question mark behind a ratio means, for captions of tables."""


def unsure_note(ratios: Sequence[Ratio]) -> str:
    """`UNSURE` if one of the ratios is not sure, else nothing."""
    return UNSURE if any(not ratio.is_sure for ratio in ratios) else ""


def median_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Interval of the median of what the values are drawn from, by their ranks alone.

    The number of values below the median is binomial, so the k-th least and the k-th greatest bound it with a chance
    of 1 - 2·P(fewer than k below). If there are too few values for this confidence, all of them.
    """
    ordered, n = sorted(values), len(values)
    k, missed = 0, 0.0
    while 2 * (missed + math.comb(n, k) / 2**n) <= 1 - confidence:
        missed += math.comb(n, k) / 2**n
        k += 1
    k = max(k, 1)
    return ordered[k - 1], ordered[n - k]


def take_turns(
    calls: Sequence[Callable[[], float]], seconds: float, advance: Callable[[], Any] = lambda: None
) -> list[list[float]]:
    """The seconds that each call says it took, for about `seconds` a call and at least `ROUNDS` times.

    Each round makes every call once, in an order of its own; the first round is not counted. The n-th seconds of all
    calls are of one round.
    """
    shuffle = random.Random(0).shuffle
    order = list(range(len(calls)))
    times: list[list[float]] = [[] for _ in calls]
    rounds, done, began = 0, 0, time.perf_counter()
    while rounds < 1 + ROUNDS or time.perf_counter() - began < seconds * len(calls):
        for i in order:
            took = calls[i]()
            if rounds:
                times[i].append(took)
        rounds += 1
        shuffle(order)
        due = min(len(calls), int((time.perf_counter() - began) / seconds))
        while done < due:
            advance()
            done += 1
    for _ in range(len(calls) - done):
        advance()
    return times


def in_turns(calls: Sequence[Callable[[], Any]], rounds: int, seed: str = "") -> None:
    """Make every call once a round, in a new order each round, so that drift and neighbours affect all alike."""
    shuffle, order = random.Random(seed).shuffle, list(range(len(calls)))
    for _ in range(rounds):
        shuffle(order)
        for i in order:
            calls[i]()
