"""Rows with a name each, below one line of settings, in a file that survives a kill."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from ..files import Earlier, Journal, Row, check_same


class KeyedLog:
    """A JSON Lines file: the settings in the first line, one named row in each further line.

    Rows are appended and survive a kill. An incomplete line is cut off, and its row is made again. A file that was
    begun with other settings is refused, so that no figure mixes two of them.

    Subclasses say: error: what is raised for a file that cannot be continued; row: what a line is called in messages.
    settings_key: key of the settings. name_key: key of a row's name. asked_key, asked: key of what a row was made from,
    which must not change, and what it is called. source: where it comes from.
    """

    error: ClassVar[type[ValueError]]
    row: ClassVar[str]
    settings_key: ClassVar[str]
    name_key: ClassVar[str]
    asked_key: ClassVar[str]
    asked: ClassVar[str]
    source: ClassVar[str]

    def __init__(self, path: Path, settings: Row, earlier: Earlier | None = None) -> None:
        self.path, self.settings, self._earlier = path, settings, earlier
        self.rows: dict[str, Row] = {}
        self._journal = Journal(path, self.error, self.row)
        try:
            self._resume()
        except BaseException:
            self._journal.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._journal.close()

    def write(self, rows: Sequence[Row]) -> None:
        """Append rows, each with its name. They are on disk when this returns."""
        self._journal.append(rows)
        self.rows |= {row[self.name_key]: row for row in rows}

    def check_asked(self, asked: Mapping[str, str]) -> None:
        """Raise the log's error if a row was made from something else. asked: by the rows' names."""
        for name, now in asked.items():
            before = self.rows.get(name, {}).get(self.asked_key, now)
            if before != now:
                raise self.error(
                    f"{self.path}: the {self.asked} of {name} was {before!r}, and is now {now!r}: the {self.source} "
                    "has changed; choose another --out, or delete the file"
                )

    def _resume(self) -> None:
        number = 0
        for number, row in self._journal.read():
            name, kind = (self.settings_key, dict) if number == 1 else (self.name_key, str)
            if not isinstance(row.get(name), kind):
                self._journal.refuse(number)
            if number == 1:
                check_same(self.path, row[self.settings_key], self.settings, self.error, earlier=self._earlier)
            else:
                self.rows[row[self.name_key]] = row
        if number == 0:
            self._journal.append([{self.settings_key: self.settings}])
