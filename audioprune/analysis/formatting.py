"""Tables as text for readers: shares in percent with one digit, means with their spread."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from .question import Table

NOTHING = "–"

_SHARES: dict[str, str] = {
    "survey_histogram": "share",
    "survey_clusters": "share",
    "retained_signal": "(random )?[AB]|signal of (kept|input)",
    "kept_by_cluster": r"C\d+|random",
}
"""Table → pattern of its columns that hold shares between 0 and 1, which are shown in percent."""


@dataclass(frozen=True)
class TextTable:
    """A table as text. columns: the header; numeric: whether each column holds numbers; rows: the cells."""

    columns: tuple[str, ...]
    numeric: tuple[bool, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class _Column:
    """A column to show. at: its index in the table. spread: index of its spread, which goes into the same cell."""

    name: str
    at: int
    spread: int | None
    scale: float
    digits: int | None


def format_table(table: Table) -> TextTable:
    """Format a table. A column "X ±" or "±…" is the spread of the column before it and joins its cells: 74.1 ± 21.3."""
    columns = list(_columns(table))
    names = tuple(column.name for column in columns)
    numeric = tuple(any(_is_number(row[column.at]) for row in table.rows) for column in columns)
    return TextTable(names, numeric, tuple(tuple(_cell(row, column) for column in columns) for row in table.rows))


def _columns(table: Table) -> Iterator[_Column]:
    for i, name in enumerate(table.columns):
        if is_spread(name):
            continue
        spread = i + 1 if i + 1 < len(table.columns) and is_spread(table.columns[i + 1]) else None
        share = re.fullmatch(_SHARES.get(table.name, "$."), name) is not None
        percent = share or "%" in name
        digits = 1 if percent else _digits([row[i] for row in table.rows])
        yield _Column(f"{name}, %" if share else name, i, spread, 100.0 if share else 1.0, digits)


def is_spread(column: str) -> bool:
    return column.startswith("±") or column.endswith(" ±")


def _digits(cells: Sequence[Any]) -> int | None:
    """Decimals of a column, so that its greatest number has about four digits. None for whole numbers and words."""
    sizes = [abs(cell) for cell in cells if _is_number(cell) and not isinstance(cell, int)]
    if not sizes:
        return None
    return 0 if max(sizes) >= 1000 else 1 if max(sizes) >= 100 else 2 if max(sizes) >= 1 else 3


def _cell(row: Sequence[Any], column: _Column) -> str:
    value = row[column.at]
    if column.name == "keep rate" and _is_number(value):
        return f"{value:g}"
    # Rows of one table may have different units; the first cell names them.
    digits = 1 if isinstance(row[0], str) and row[0].endswith("%") and _is_number(value) else column.digits
    text = number(value, column.scale, digits)
    if column.spread is None or text == NOTHING or (around := row[column.spread]) is None:
        return text
    return f"{text} ± {number(around, column.scale, digits)}"


def number(value: Any, scale: float = 1.0, digits: int | None = None) -> str:
    """Text of a cell: None, NaN → "–"; True → "yes"; 1234 → "1,234"; 0.741 × 100 with one digit → "74.1"."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) and scale == 1 and digits != 1:
        return f"{value:,}"
    if _is_number(value):
        return f"{scale * value:,.{3 if digits is None else digits}f}".replace("-", "−")
    return str(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
