"""The interface of a question: a statistic that is updated with every batch, and its finding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from .observe import Observation


@dataclass(frozen=True)
class Table:
    """A table of numbers, words or None.

    name: name of its files. caption: one sentence. rows: cells in the order of the columns."""

    name: str
    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]


@dataclass(frozen=True)
class Finding:
    """The result of a question.

    Args:
        found: sentences that state the result, built from the numbers.
        tables: tables to print.
        values: data of the figures, as plain numbers, lists and dicts that JSON can save.
        note: the reason if something is missing.
    """

    found: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    values: dict[str, Any] = field(default_factory=dict)
    note: str | None = None


class Question(Protocol):
    """A statistic over observations, in one pass. Its memory does not grow with the number of clips.

    Batches of several keep rates come in turn. With `state` and `load`, an interrupted analysis can continue; a state
    consists of plain numbers, lists, dicts and numpy arrays.
    """

    name: str
    """Name of its files, and anchor of its chapter."""
    title: str
    """Title of its chapter."""
    how: str
    """Explanation of its figure."""

    def update(self, observation: Observation) -> None:
        """Add a batch to the statistic."""

    def answer(self) -> Finding:
        """Finding from the batches so far."""

    def state(self) -> dict[str, Any]:
        """Everything that `update` has collected."""

    def load(self, state: dict[str, Any]) -> None:
        """Continue from a `state`."""


def mean_std(total: float, squares: float, count: float) -> tuple[float | None, float | None]:
    """Mean and sample standard deviation from sums; None if there are too few values."""
    if count == 0:
        return None, None
    mean = total / count
    if count == 1:
        return mean, None
    return mean, (max(0.0, squares - count * mean * mean) / (count - 1)) ** 0.5


def percent(value: float | None, digits: int = 1) -> str:
    """Percentage as text: 0.123 → "12.3 %"; "–" for None."""
    return "–" if value is None else f"{100 * value:.{digits}f} %"


def join_words(words: Sequence[str]) -> str:
    """Words as a list in a sentence: "a, b and c"."""
    return " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))
