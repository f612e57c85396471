"""The answers of one setting, in a file that survives a kill."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from ..files import Earlier, Journal, Row, check_same


class AnswersError(ValueError):
    """A file of answers that cannot be continued. The message names the file and the remedy."""


class AnswerLog:
    """A JSON Lines file: the setting in the first line, one answer in each further line.

    Answers are appended one by one and survive a kill. An incomplete line is cut off, and its question is asked again.
    A file that was begun with another model, method or prompt is refused, so that no score mixes two settings.
    """

    def __init__(self, path: Path, setting: Row, earlier: Earlier | None = None) -> None:
        self.path, self.setting, self._earlier = path, setting, earlier
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
        """Append rows, each with the "id" of its item. They are on disk when this returns."""
        self._journal.append(rows)
        self.rows |= {row["id"]: row for row in rows}

    def check_questions(self, questions: dict[str, str]) -> None:
        """Raise `AnswersError` if the log contains another question for an item. questions: by the items' ids."""
        for name, question in questions.items():
            before = self.rows.get(name, {}).get("asked", question)
            if before != question:
                raise AnswersError(
                    f"{self.path}: the question of {name} was {before!r}, and is now {question!r}: the benchmark has "
                    "changed; choose another --out, or delete the file"
                )

    def _resume(self) -> None:
        number = 0
        for number, row in self._journal.read():
            name, kind = ("setting", dict) if number == 1 else ("id", str)
            if not isinstance(row.get(name), kind):
                self._journal.refuse(number)
            if number == 1:
                check_same(self.path, row["setting"], self.setting, AnswersError, earlier=self._earlier)
            else:
                self.rows[row["id"]] = row
        if number == 0:
            self._journal.append([{"setting": self.setting}])
