"""Lists, tables and folders as data sets come with them."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from ..audio.files import EXTENSIONS
from .table import DataError


def text_lines(path: Path) -> list[tuple[int, str]]:
    """(number, text) of the lines that are not blank. Raises `DataError` for a file that cannot be read as UTF-8."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; is the download complete?") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as UTF-8 text ({error}); download it again") from error
    return [(number, line.strip()) for number, line in enumerate(text.split("\n"), 1) if line.strip()]


def cells(path: Path, number: int, line: str) -> list[str]:
    """Cells of one line of a CSV file. Raises `DataError` naming the line where its quotes do not close."""
    try:
        return next(csv.reader([line], skipinitialspace=True, strict=True))
    except csv.Error as error:
        raise DataError(f"{path}, line {number}: is no CSV ({error}): {line[:100]!r}") from error


def csv_rows(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Rows of a CSV file with a header. Raises `DataError` where one of `columns` is not there, or a cell is blank."""
    lines = text_lines(path)
    header = cells(path, *lines[0]) if lines else []
    missing = [column for column in columns if column not in header]
    if missing:
        found = ", ".join(header) or "nothing"
        raise DataError(f"{path}: the columns {', '.join(missing)} are missing; the header names {found}")
    rows = []
    for number, line in lines[1:]:
        row = dict(zip(header, cells(path, number, line)))
        blank = [column for column in columns if not row.get(column)]
        if blank:
            raise DataError(f"{path}, line {number}: {blank[0]} is blank; each line needs {', '.join(columns)}")
        rows.append(row)
    return rows


def csv_columns(path: Path) -> frozenset[str]:
    """The names in a CSV file's header; none where there is no such file."""
    lines = text_lines(path) if path.is_file() else []
    return frozenset(cells(path, *lines[0])) if lines else frozenset()


def integer(text: str, what: str) -> int:
    """Raises `DataError` naming `what` where the text is no whole number."""
    try:
        return int(text)
    except ValueError:
        raise DataError(f"{what} is {text!r}; it must be a whole number") from None


def subfolders(folder: Path) -> list[Path]:
    """Visible folders directly beneath `folder`, sorted."""
    return sorted(folder / entry.name for entry in os.scandir(folder) if entry.is_dir() and _visible(entry.name))


def sounds(folder: Path, *, deep: bool = True) -> Iterator[Path]:
    """Visible files with a sound's suffix, sorted within each folder; those of subfolders too where `deep`."""
    seen = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        # A link to a folder above would go round and round.
        found = os.stat(place)
        if (found.st_dev, found.st_ino) in seen:
            folders.clear()
            continue
        seen.add((found.st_dev, found.st_ino))
        folders[:] = sorted(name for name in folders if _visible(name)) if deep else []
        for name in sorted(names):
            if _visible(name) and os.path.splitext(name)[1].lower() in EXTENSIONS:
                yield Path(place, name)


def _visible(name: str) -> bool:
    return not name.startswith(".") and name != "__MACOSX"


def has_sounds(folder: Path) -> bool:
    return next(sounds(folder), None) is not None


def some(names: Iterable[object], limit: int = 5) -> str:
    """The first few of `names`, for messages."""
    items = [str(name) for name in names]
    return ", ".join(items[:limit]) + (f" … ({len(items):,} in all)" if len(items) > limit else "")
