"""The answers of one setting, in a file that outlives a kill."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from ..files import Journal, Row


class AnswersError(ValueError):
    """A file of answers that cannot be gone on with. The message names it and the remedy."""


class Answers:
    """A JSON Lines file: what was asked of whom in the first line, an answer in each further one.

    Answers are appended one by one and survive a kill; a line that was torn by it is cut off and its question asked
    again. A file that was begun with another model, method or prompt is refused, so that no figure mixes two.
    """

    def __init__(self, path: Path, setting: Row) -> None:
        self.path, self.setting = path, json.loads(json.dumps(setting))
        self.rows: dict[str, Row] = {}
        self._journal = Journal(path, AnswersError, "an answer of this command")
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
        """Append rows, each with the "id" of its item; on return they outlive the process."""
        self._journal.append(rows)
        self.rows |= {row["id"]: row for row in rows}

    def check_asked(self, asked: dict[str, str]) -> None:
        """Raise `AnswersError` where an item was asked another question than `asked` says, by its id."""
        for name, question in asked.items():
            before = self.rows.get(name, {}).get("asked", question)
            if before != question:
                raise AnswersError(
                    f"{self.path}: {name} was asked {before!r}, and is now asked {question!r}: the benchmark has "
                    "changed; choose another --out, or delete the file"
                )

    def _resume(self) -> None:
        number = 0
        for number, row in self._journal.read():
            name, kind = ("setting", dict) if number == 1 else ("id", str)
            if not isinstance(row.get(name), kind):
                self._journal.refuse(number)
            if number == 1:
                self._check(row)
            else:
                self.rows[row["id"]] = row
        if number == 0:
            self._journal.append([{"setting": self.setting}])

    def _check(self, first: Row) -> None:
        was, now = first["setting"], self.setting
        other = [
            f"{key}={was.get(key)!r} (not {now.get(key)!r})"
            for key in sorted({*was, *now})
            if was.get(key) != now.get(key)
        ]
        if other:
            raise AnswersError(f"{self.path}: begun with {', '.join(other)}; give the same to go on, or another --out")
