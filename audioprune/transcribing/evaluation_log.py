"""The rows of an evaluation, in a file that survives a kill."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from ..files import Journal, Row, check_same


class EvaluationError(ValueError):
    """Rows that cannot be continued. The message names the file and the remedy."""


class EvaluationLog:
    """A JSON Lines file: the settings in the first line, one clip with all its transcripts in each further line.

    rows: clips by name. A file that was begun with other settings is refused, so that no figure mixes two of them.
    """

    def __init__(self, path: Path, settings: Row) -> None:
        self.path, self.rows = path, dict[str, Row]()
        self._journal = Journal(path, EvaluationError, "a row of this command")
        try:
            self._resume(settings)
        except BaseException:
            self._journal.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._journal.close()

    def write(self, rows: Sequence[Row]) -> None:
        """Append rows, each with the name of its "clip". They are on disk when this returns."""
        self._journal.append(rows)
        self.rows |= {row["clip"]: row for row in rows}

    def check_transcripts(self, transcripts: dict[str, str]) -> None:
        """Raise `EvaluationError` if the log has another transcript of a clip. transcripts: by the clips' names."""
        for name, text in transcripts.items():
            before = self.rows.get(name, {}).get("reference", text)
            if before != text:
                raise EvaluationError(
                    f"{self.path}: the transcript of {name} was {before!r}, and is now {text!r}: the manifest has "
                    "changed; choose another --out, or delete the file"
                )

    def _resume(self, settings: Row) -> None:
        number = 0
        for number, row in self._journal.read():
            name, kind = ("settings", dict) if number == 1 else ("clip", str)
            if not isinstance(row.get(name), kind):
                self._journal.refuse(number)
            if number == 1:
                check_same(self.path, row["settings"], settings, EvaluationError)
            else:
                self.rows[row["clip"]] = row
        if number == 0:
            self._journal.append([{"settings": settings}])
