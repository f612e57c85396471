"""Results as a table for spreadsheets. Imports no PyTorch."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from ..bulk.asked import Asked
from ..bulk.log import ResultLog, ResultLogError
from ..files import Row, draft

COLUMNS = ("path", "part", "start", "end", "rank", "label", "score", "silent", "error")
"""A line for each label of a sound ("sound") and of each of its windows ("window")."""


def csv_journal(path: Path) -> Path:
    """The file of rows of a table: it says what is done, and with which settings."""
    return path.with_name(f".{path.name}.jsonl")


class CsvLog(ResultLog):
    """A CSV file, written whole at the end. Rows are appended to a hidden file beside it, which survives a kill."""

    def __init__(self, path: Path, setting: Row, asked: Asked | None = None) -> None:
        self._table, self._is_new = path, False
        if path.exists() and not csv_journal(path).exists():
            raise ResultLogError(f"{path}: exists, and this command did not write it; move it, or choose another --out")
        super().__init__(csv_journal(path), setting, asked)

    def write(self, row: Row) -> None:
        super().write(row)
        self._is_new = True

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        try:  # while the rows are locked
            if self._failed and (self._is_new or not self._table.exists()):
                self._write_table()
        finally:
            super().__exit__(kind, error, tb)

    def _write_table(self) -> None:
        with draft(self._table) as made, made.open("w", newline="", errors="surrogateescape") as file:
            table = csv.writer(file)
            table.writerow(COLUMNS)
            with self.path.open() as rows:
                for line in rows:
                    table.writerows(lines_of(json.loads(line)))


def lines_of(row: Row) -> Iterator[tuple[object, ...]]:
    """The lines of one row of results, as `COLUMNS` names them."""
    if "error" in row:
        yield (row["path"], "sound", "", "", "", "", "", "", row["error"])
        return
    whole = {"start": 0.0, "end": row["heard_seconds"], **row}
    for part, one in [("sound", whole), *(("window", window) for window in row.get("windows", ()))]:
        for rank, found in enumerate(one["labels"], start=1):
            silent = "true" if one.get("silent") else ""
            yield (row["path"], part, one["start"], one["end"], rank, found["label"], found["score"], silent, "")
