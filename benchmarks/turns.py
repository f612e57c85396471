"""Time contenders in turn, so that drift and other programs affect all in the same way."""

from __future__ import annotations

import math
import random
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch

LEAST_SECONDS = 0.1
"""Shortest length of a turn. A shorter call is repeated within it."""


@dataclass
class Contender:
    """One contender of a race.

    run: the call to time. setting: a context that is entered before a turn and left after it, untimed.
    """

    run: Callable[[], Any]
    setting: Callable[[], AbstractContextManager[Any]] = nullcontext
    times: list[float] = field(default_factory=list)
    calls: int = 1

    @property
    def median(self) -> float:
        """Median seconds of a call."""
        return statistics.median(self.times)


@torch.inference_mode()
def race(contenders: dict[str, Contender], rounds: int, advance: Callable[[], None] = lambda: None) -> None:
    """Time every contender once a round, in a new order each round. The first round warms up and does not count."""
    names, shuffle = list(contenders), random.Random(0).shuffle
    for lap in range(rounds + 1):
        for name in names:
            _turn(contenders[name], warm_up=lap == 0)
        shuffle(names)
        advance()


def _turn(contender: Contender, warm_up: bool) -> None:
    with contender.setting():
        if warm_up or contender.calls > 1:  # a short call must not pay for what the call before it left in the caches
            contender.run()
        begun = time.perf_counter()
        for _ in range(contender.calls):
            contender.run()
        seconds = (time.perf_counter() - begun) / contender.calls
    if warm_up:
        contender.calls = max(1, math.ceil(LEAST_SECONDS / seconds))
    else:
        contender.times.append(seconds)


def ratio(slower: Contender, faster: Contender) -> float:
    """Return how many times as long the first takes: the median of the rounds' ratios."""
    return statistics.median(a / b for a, b in zip(slower.times, faster.times, strict=True))
