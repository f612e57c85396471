"""Results written to Parquet files."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import pyarrow as pa
import pyarrow.parquet as pq

from ..bulk.asked import Asked
from ..bulk.log import ResultLog, ResultLogError, with_windows
from ..bulk.sounds import Sound, key
from ..files import DRAFT, Row, check_same, draft
from .parquet_sounds import UNREADABLE, first_line

SCHEMA = pa.schema(
    {
        "path": pa.string(),
        "labels": pa.list_(pa.struct({"label": pa.string(), "score": pa.float64()})),
        "seconds": pa.float64(),
        "heard_seconds": pa.float64(),
        "silent": pa.bool_(),
        "error": pa.string(),
    }
)
LABELS = SCHEMA.field("labels").type
WINDOWS = pa.list_(pa.struct({"start": pa.float64(), "end": pa.float64(), "labels": LABELS, "silent": pa.bool_()}))
OF_LONG = pa.schema(
    {
        "pool": pa.string(),
        "window_seconds": pa.float64(),
        "hop_seconds": pa.float64(),
        "macs_per_window": pa.int64(),
        "windows": WINDOWS,
    }
)
"""Further columns of a run that hears long sounds in windows."""
PART = re.compile(r"part-(\d+)\.parquet")
SETTING = b"audioprune"
"""Key of the run's setting, as JSON, in the metadata of the schema."""
MARK = b"audioprune.asked"
"""Key of the mark of what was asked for, beside it."""
PARQUET = ".parquet"
ROWS_A_PART = 10_000
JOURNAL = "_rows.jsonl"
"""File with the rows that are not in a part yet. Readers of Parquet folders ignore names that begin with "_"."""


def parquet_begun(path: Path) -> tuple[Row, str | None] | None:
    """Setting and mark of the first part of a folder; None if it has no setting, or if it cannot be read.

    Parts of version 0.1 have no mark.
    """
    try:
        metadata = pq.read_schema(_parts(path)[0]).metadata
        mark = metadata.get(MARK)
        return json.loads(metadata[SETTING]), None if mark is None else mark.decode()
    # Told by `ParquetLog`, which opens it later.
    except (*UNREADABLE, IndexError, KeyError, TypeError, ValueError, AttributeError, RecursionError):
        return None


def _parts(path: Path) -> list[Path]:
    return sorted(path.glob(f"[!._]*{PARQUET}"))


class ParquetLog:
    """A folder of Parquet files that survives a kill. Every reader of Parquet takes it as one table.

    Rows are appended to a journal one by one. When there are many, and at the end, they become a part of the folder. A
    part is written under another name and renamed, so it is complete or does not exist. The metadata of each part
    contains the run's `setting`; a folder with another setting is refused. A name that is not valid Unicode is written
    with \\x escapes.
    """

    def __init__(self, path: Path, setting: Row, asked: Asked | None = None) -> None:
        self.path, self.setting = path, setting
        mark = {} if asked is None else {MARK: asked.mark(setting)}
        columns = pa.unify_schemas([SCHEMA, OF_LONG]) if setting.get("windows") else SCHEMA
        self._schema = columns.with_metadata({SETTING: json.dumps(setting), **mark})
        self._failed: dict[str, bool] = {}
        self._waiting: list[Row] = []
        self._check_folder()
        self._journal = ResultLog(path / JOURNAL, setting, asked)
        try:
            for left in path.glob(f".*{DRAFT}"):  # of a killed run: nobody else writes here while the journal is ours
                left.unlink()
            for part in self._parts():
                self._resume(part)
            # If a run is killed after writing a part, before clearing the journal, both contain the rows.
            journal = (json.loads(line) for line in (path / JOURNAL).read_bytes().splitlines())
            for row in [row for row in journal if _text(row["path"]) not in self._failed]:
                self._take(row)
        except BaseException:
            self._close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        try:
            self._seal()
        finally:
            self._close()

    def is_done(self, sound: Path | Sound) -> bool:
        return _text(key(sound)) in self._failed

    def failures(self, sounds: Iterable[Path | Sound]) -> int:
        """Number of these clips that have a row with an error."""
        return sum(self._failed.get(_text(key(sound)), False) for sound in sounds)

    def write(self, row: Row) -> None:
        """Append a row to the journal in one write. It is on disk when this returns."""
        self._journal.write(row)
        self._take(row)
        if len(self._waiting) >= ROWS_A_PART:
            self._seal()

    def _take(self, row: Row) -> None:
        text = {name: _text(row[name]) for name in ("path", "error") if name in row}
        self._waiting.append({name: value for name, value in row.items() if name in self._schema.names} | text)
        self._failed[text["path"]] = "error" in row

    def _seal(self) -> None:
        """Write the waiting rows as a part, and clear the journal."""
        if self._waiting:
            number = 1 + max(
                (int(match[1]) for path in self._parts() if (match := PART.fullmatch(path.name))), default=-1
            )
            with draft(self.path / f"part-{number:05}{PARQUET}") as made:
                pq.write_table(pa.Table.from_pylist(self._waiting, schema=self._schema), made)
            self._waiting = []
        self._journal.clear()

    def _close(self) -> None:
        self._journal.__exit__(None, None, None)
        with suppress(OSError):  # another run may begin in it now
            self.path.rmdir()  # if it is empty: there are no results

    def _parts(self) -> list[Path]:
        return _parts(self.path)

    def _check_folder(self) -> None:
        if not self.path.exists():
            return
        if not self.path.is_dir():
            raise ResultLogError(f"{self.path}: is a file, but results in Parquet need a folder; choose another --out")
        for path in self.path.iterdir():
            if path.suffix != PARQUET and not path.name.startswith((".", "_")):
                raise ResultLogError(f"{self.path}: contains {path.name}, which is not a result; choose another --out")

    def _resume(self, part: Path) -> None:
        try:
            with pq.ParquetFile(part) as file:
                metadata = file.schema_arrow.metadata or {}
                if SETTING not in metadata:
                    raise ResultLogError(f"{part}: is not a part of results; choose another --out, nothing was changed")
                columns = file.read(columns=["path", "error", "seconds", "heard_seconds"])
                lengths = zip(columns["seconds"].to_pylist(), columns["heard_seconds"].to_pylist(), strict=True)
                begun = with_windows(json.loads(metadata[SETTING]), self.setting, lengths)
                check_same(self.path, begun, self.setting, ResultLogError)
        except UNREADABLE as error:
            raise ResultLogError(
                f"{part}: cannot be read ({first_line(error)}); delete it, and its clips are tagged again"
            ) from error
        failed = [error is not None for error in columns["error"].to_pylist()]
        self._failed |= dict(zip(columns["path"].to_pylist(), failed, strict=True))


def _text(name: str) -> str:
    return name.encode(errors="backslashreplace").decode()
