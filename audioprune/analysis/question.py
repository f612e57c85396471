"""What a question of the papers is: a statistic that grows with every batch, and its answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from .observe import Observation


@dataclass(frozen=True)
class Table:
    """name: of its files. rows: cells in the columns' order, numbers, words or None. caption: one sentence."""

    name: str
    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]


@dataclass(frozen=True)
class Answer:
    """What a question found.

    found: sentences that say what came out, from the numbers. tables: to print. values: whatever figures need, of
    plain numbers, lists and dicts, so that it can be saved as JSON. note: why there is nothing, where there is nothing.
    """

    found: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    values: dict[str, Any] = field(default_factory=dict)
    note: str | None = None


class Question(Protocol):
    """A statistic over observations, in one pass: memory does not grow with the number of clips.

    Batches of several keep rates come in turn. `state` and `load` make an interrupted analysis resumable: plain
    numbers, lists, dicts and numpy arrays.
    """

    name: str
    """Of its files and of its chapter's anchor."""
    title: str
    """Of its chapter."""
    how: str
    """One sentence that says how to read its figure."""

    def update(self, observation: Observation) -> None:
        """Take in a batch."""

    def answer(self) -> Answer:
        """What was found so far."""

    def state(self) -> dict[str, Any]:
        """All that `update` has gathered."""

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a `state`."""


def mean_std(total: float, squares: float, count: float) -> tuple[float | None, float | None]:
    """Mean and sample standard deviation from sums; None where there is nothing to take them of."""
    if count == 0:
        return None, None
    mean = total / count
    if count == 1:
        return mean, None
    return mean, (max(0.0, squares - count * mean * mean) / (count - 1)) ** 0.5


def percent(value: float | None, digits: int = 1) -> str:
    """0.123 → "12.3 %"; "–" for None."""
    return "–" if value is None else f"{100 * value:.{digits}f} %"


def listed(words: Sequence[str]) -> str:
    """ "a, b and c"."""
    return " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))
