"""Reading of the lists, tables and folders of data sets."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from ..audio.folder import is_visible, search
from .table import DataError


def text_lines(path: Path) -> list[tuple[int, str]]:
    """Lines that are not blank, as (number, text). Raises `DataError` if the file cannot be read as UTF-8."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; complete the download") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as UTF-8 text ({error}); download it again") from error
    return [(number, line.strip()) for number, line in enumerate(text.split("\n"), 1) if line.strip()]


def cells(path: Path, number: int, line: str) -> list[str]:
    """Cells of one line of a CSV file. Raises `DataError` that names the line if a quote is not closed."""
    try:
        return next(csv.reader([line], skipinitialspace=True, strict=True))
    except csv.Error as error:
        raise DataError(f"{path}, line {number}: is not CSV ({error}): {line[:100]!r}") from error


def csv_rows(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Rows of a CSV file with a header. Raises `DataError` if one of `columns` is missing, or has a blank cell."""
    lines = text_lines(path)
    header = cells(path, *lines[0]) if lines else []
    missing = [column for column in columns if column not in header]
    if missing:
        listed = ", ".join(header) or "nothing"
        raise DataError(f"{path}: the columns {', '.join(missing)} are missing; the header has {listed}")
    rows = []
    for number, line in lines[1:]:
        row = dict(zip(header, cells(path, number, line)))
        blank = [column for column in columns if not row.get(column)]
        if blank:
            raise DataError(f"{path}, line {number}: {blank[0]} is blank; each line needs {', '.join(columns)}")
        rows.append(row)
    return rows


def csv_columns(path: Path) -> frozenset[str]:
    """Column names of a CSV file; empty if there is no such file."""
    lines = text_lines(path) if path.is_file() else []
    return frozenset(cells(path, *lines[0])) if lines else frozenset()


def integer(text: str, what: str) -> int:
    """Convert a text to a whole number. Raises `DataError` that names `what` if this is not possible."""
    try:
        return int(text)
    except ValueError:
        raise DataError(f"{what} is {text!r}; it must be a whole number") from None


def subfolders(folder: Path) -> list[Path]:
    """Visible folders directly in `folder`, sorted."""
    return sorted(folder / entry.name for entry in os.scandir(folder) if entry.is_dir() and is_visible(entry.name))


def sounds(folder: Path, *, deep: bool = True) -> Iterator[Path]:
    """Visible files with the suffix of a sound, sorted within each folder. deep: whether to include subfolders."""
    return (path for path, is_sound in search(folder, deep=deep) if is_sound)


def has_sounds(folder: Path) -> bool:
    return next(sounds(folder), None) is not None


def some(names: Iterable[object], limit: int = 5) -> str:
    """The first few of `names`, for messages."""
    items = [str(name) for name in names]
    return ", ".join(items[:limit]) + (f" … ({len(items):,} in all)" if len(items) > limit else "")
