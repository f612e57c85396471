"""The answers of one setting, in a file that outlives a kill."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

try:
    import fcntl
except ImportError:  # Windows has no advisory locks of this kind
    fcntl = None  # type: ignore[assignment]

Row = dict[str, Any]


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
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(path, "a+b")  # noqa: SIM115  (closed by __exit__)
        try:
            self._lock()
            self._resume()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._file.close()

    def write(self, rows: Sequence[Row]) -> None:
        """Append rows, each with the "id" of its item; on return they outlive the process."""
        self._append(rows)
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

    def _append(self, rows: Sequence[Row]) -> None:
        self._file.write("".join(f"{json.dumps(row)}\n" for row in rows).encode())
        self._file.flush()

    def _lock(self) -> None:
        if fcntl is not None:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise AnswersError(
                    f"{self.path}: another run is writing to it; wait for it or choose an --out"
                ) from error

    def _resume(self) -> None:
        self._file.seek(0)
        lines = self._file.read().split(b"\n")
        torn = lines.pop()
        for number, line in enumerate(lines, 1):
            row = self._parsed(number, line)
            if number == 1:
                self._check(row)
            else:
                self.rows[row["id"]] = row
        if torn:
            if not torn.startswith(b"{"):
                self._refuse(len(lines) + 1)
            self._file.truncate(sum(len(line) + 1 for line in lines))
        if not lines:
            self._append([{"setting": self.setting}])

    def _parsed(self, number: int, line: bytes) -> Row:
        try:
            row = json.loads(line)
            known = isinstance(row["setting"], dict) if number == 1 else isinstance(row["id"], str)
        except (ValueError, KeyError, TypeError):
            known = False
        if not known:
            self._refuse(number)
        return row

    def _check(self, first: Row) -> None:
        was, now = first["setting"], self.setting
        other = [
            f"{key}={was.get(key)!r} (not {now.get(key)!r})"
            for key in sorted({*was, *now})
            if was.get(key) != now.get(key)
        ]
        if other:
            raise AnswersError(f"{self.path}: begun with {', '.join(other)}; give the same to go on, or another --out")

    def _refuse(self, number: int) -> NoReturn:
        raise AnswersError(
            f"{self.path}: line {number} is no answer of this command; choose another --out, nothing was changed"
        ) from None
