"""The cases, in the order of the page. Each is a function that raises `AssertionError` if an answer is not right."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .subjects import KINDS, Subject


@dataclass(frozen=True)
class Case:
    """topic: a table of the page. what: who does what, when. note: what to know of it. needs: packages. is_slow: one
    model of each kind is enough."""

    topic: str
    what: str
    attempt: Callable[[Subject], None]
    note: str
    needs: tuple[str, ...]
    kinds: Sequence[str]
    is_slow: bool

    @property
    def is_met(self) -> bool:
        return all(importlib.util.find_spec(name) for name in self.needs)


CASES: list[Case] = []


def case(
    topic: str,
    what: str,
    note: str = "",
    needs: tuple[str, ...] = (),
    kinds: Sequence[str] = KINDS,
    is_slow: bool = False,
) -> Callable[[Callable[[Subject], None]], Callable[[Subject], None]]:
    """Enter a function as a case."""

    def enter(attempt: Callable[[Subject], None]) -> Callable[[Subject], None]:
        CASES.append(Case(topic, what, attempt, note, needs, kinds, is_slow))
        return attempt

    return enter


from . import placing, serving, training, weights  # noqa: E402, F401 (they enter theirs)
