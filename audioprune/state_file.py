"""A file of what a run has done so far, so that a run which was stopped goes on."""

from __future__ import annotations

import json
import warnings
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, TextIO

from .files import Earlier, Row, differences, write_text


class StateFile(ABC):
    """JSON Lines: first what the run is, then a row for each thing that was done.

    path: None keeps nothing. run: what must be the same for the rows to be of use. `other`: what the file was begun
    with instead; it is then begun anew, with a warning. A last line that a kill has torn is done again.
    """

    def __init__(self, path: Path | None = None, run: Row | None = None, earlier: Earlier | None = None) -> None:
        self.path = path
        self.other: list[str] = []
        self._file: TextIO | None = None
        if path is None:
            return
        rows = _complete_lines(path)
        if rows:
            self.other = _other(json.loads(rows[0]), run or {}, earlier)
        if self.other:
            warnings.warn(f"{path}: begun with {', '.join(self.other)}, and now begun anew", stacklevel=5)
        if not rows or self.other:
            rows = [json.dumps({"run": run}, sort_keys=True)]
        for row in rows[1:]:
            self._take(json.loads(row))
        write_text(path, "".join(f"{row}\n" for row in rows))
        self._file = open(path, "a")  # noqa: SIM115  (closed by `close` and `remove`)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def remove(self) -> None:
        """At the end of a run there is nothing to go on with."""
        self.close()
        if self.path is not None:
            self.path.unlink(missing_ok=True)

    def _write(self, row: Row) -> None:
        text = json.dumps(row)
        self._take(json.loads(text))
        if self._file is not None:
            self._file.write(text + "\n")
            self._file.flush()

    @abstractmethod
    def _take(self, row: Row) -> None:
        """Remember a row."""


def _other(head: Any, run: Row, earlier: Earlier | None) -> list[str]:
    """What the first line of a file says of another run."""
    begun = head.get("run") if isinstance(head, dict) else None
    if not isinstance(begun, dict):
        return ["something else"]
    return differences(begun, run, earlier=earlier)


def _complete_lines(path: Path) -> list[str]:
    """The lines of JSON up to the first that is none."""
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError):
        return []
    found = []
    for line in text.splitlines(keepends=True):
        try:
            json.loads(line)
        except ValueError:
            break
        if not line.endswith("\n"):
            break
        found.append(line.rstrip("\n"))
    return found
