"""A file of what a run has done so far, so that a run which was stopped goes on."""

from __future__ import annotations

import json
import warnings
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from .files import Earlier, Journal, Row, differences


class StateFile(ABC):
    """JSON Lines: first what the run is, then a row for each thing that was done.

    path: None keeps nothing. run: what must be the same for the rows to be of use. `other`: what the file was begun
    with instead; it is then begun anew, with a warning. A last line that a kill has torn is done again.

    Raises `ValueError` if another run is writing to the file.
    """

    def __init__(self, path: Path | None = None, run: Row | None = None, earlier: Earlier | None = None) -> None:
        self.path: Path | None = None
        self.other: list[str] = []
        self._journal: Journal | None = None
        if path is not None:
            self._open(path, run, earlier)

    def _open(self, path: Path, run: Row | None, earlier: Earlier | None = None) -> None:
        """Keep the rows in a file from now on, and take those that are there."""
        self.path = path
        self._journal = Journal(path, ValueError, "a row of a run")
        try:
            self._resume(path, run, earlier)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        if self._journal is not None:
            self._journal.close()
            self._journal = None

    def remove(self) -> None:
        """At the end of a run there is nothing to go on with."""
        if self._journal is not None:
            self._journal.remove()
            self._journal = None

    def _resume(self, path: Path, run: Row | None, earlier: Earlier | None) -> None:
        """Take the rows of the file, and cut off what comes after the last of them that is of use."""
        assert self._journal is not None
        rows = _complete_rows(path)
        if rows:
            self.other = _other(rows[0][0], run or {}, earlier)
        if self.other:
            # Of this package whoever calls it: the commands show these warnings, and no others.
            warnings.warn(f"{path}: begun with {', '.join(self.other)}, and now begun anew", stacklevel=2)
        if self.other or not rows:
            self._journal.clear()
            self._journal.append([{"run": run}])
            return
        good = rows[0][1]
        for row, end in rows[1:]:
            try:
                self._take(row)
            except (KeyError, TypeError, ValueError, AttributeError):  # not of this run
                break
            good = end
        self._journal.clear(good)

    def _write(self, row: Row) -> None:
        self._take(json.loads(json.dumps(row)))
        if self._journal is not None:
            self._journal.append([row])

    @abstractmethod
    def _take(self, row: Row) -> None:
        """Remember a row."""


def _other(head: Any, run: Row, earlier: Earlier | None) -> list[str]:
    """What the first line of a file says of another run."""
    begun = head.get("run") if isinstance(head, dict) else None
    if not isinstance(begun, dict):
        return ["something else"]
    return differences(begun, run, earlier=earlier)


def _complete_rows(path: Path) -> list[tuple[Any, int]]:
    """The lines of JSON up to the first that is none, each with the number of bytes up to its end."""
    found, end = [], 0
    for line in path.read_bytes().splitlines(keepends=True):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            break
        if not line.endswith(b"\n"):
            break
        end += len(line)
        found.append((row, end))
    return found
