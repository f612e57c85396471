"""Sounds in Parquet files, and results written to Parquet files."""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from ..files import DRAFT, Row, check_same, draft
from .asked import Asked
from .log import ResultLog, ResultLogError
from .sounds import Sound, key

if TYPE_CHECKING:
    from ..audio.files import Clip

UNREADABLE = (OSError, pa.ArrowException)
"""Errors that pyarrow raises for a damaged file."""

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
PART = re.compile(r"part-(\d+)\.parquet")
SETTING = b"audioprune"
"""Key of the run's setting, as JSON, in the metadata of the schema."""
MARK = b"audioprune.asked"
"""Key of the mark of what was asked for, beside it."""
PARQUET = ".parquet"
ROWS_A_PART = 10_000
JOURNAL = "_rows.jsonl"
"""File with the rows that are not in a part yet. Readers of Parquet folders ignore names that begin with "_"."""


@dataclass(frozen=True)
class ParquetSound:
    """A row of a Parquet file.

    Args:
        key: name of the sound in the results.
        table: path of the Parquet file.
        group: its row group.
        row: its row in the group.
        column: column with the content of a sound file, such as "bytes" or "audio.bytes"; None if there is none.
        file: a sound file, for a row without content.
    """

    key: str
    table: Path
    group: int
    row: int
    column: str | None
    file: Path | None

    def __str__(self) -> str:
        return self.key

    def load(self, max_seconds: float) -> Clip:
        # Not above: a run with nothing left to do decodes nothing, and need not import what decodes.
        from ..audio.files import AudioError, decode, load_audio

        content = None if self.column is None else _contents(self.table, self.group, self.column)[self.row].as_py()
        if content is not None:
            if not content:
                raise AudioError(f"{self.key}: the sound is empty (0 bytes); write its content again")
            return decode(io.BytesIO(content), self.key, max_seconds=max_seconds)
        if self.file is None:
            raise AudioError(f"{self.key}: the row has neither a sound nor a path; fill it, or remove it")
        return load_audio(self.file, max_seconds=max_seconds)


_reading = Lock()


def _contents(table: Path, group: int, column: str) -> pa.ChunkedArray:
    """Sounds of a row group. The last group stays in memory, because its rows are read one by one."""
    with _reading:
        return _read_group(table, group, column)


@lru_cache(maxsize=1)
def _read_group(table: Path, group: int, column: str) -> pa.ChunkedArray:
    from ..audio.files import AudioError

    try:
        with pq.ParquetFile(table) as file:
            return _flat(file.read_row_group(group, columns=[column]), column)
    except UNREADABLE as error:
        raise AudioError(f"{table}: row group {group} cannot be read ({_first_line(error)})") from error


def _flat(content: pa.Table, column: str) -> pa.ChunkedArray:
    """A column, or a field of a column such as "audio.bytes"."""
    outer, _, inner = column.partition(".")
    if not inner:
        return content.column(outer)
    import pyarrow.compute as pc

    return pc.struct_field(content.column(outer), inner)


def sounds_in(table: Path) -> list[Path | Sound]:
    """Sounds of a Parquet file, one per row.

    Its columns are `path` (of sound files; a relative path starts at the folder of the Parquet file), or `bytes` (the
    content of sound files), or `audio` (such bytes, or Hugging Face's struct of bytes and path). For rows with bytes,
    `path` in the results is the value of `id` if there is such a column, otherwise the path, otherwise the file and
    number of the row. Raises `ValueError` if the file is damaged or has no such columns.
    """
    try:
        with pq.ParquetFile(table) as file:
            content, names = _columns(table, file.schema_arrow)
            wanted = [name for name in names if name is not None]
            sounds: list[Path | Sound] = []
            for group in range(file.num_row_groups):
                columns = file.read_row_group(group, columns=wanted) if wanted else None
                count = file.metadata.row_group(group).num_rows
                ids, paths = (
                    [None] * count if name is None or columns is None else _flat(columns, name).to_pylist()
                    for name in names
                )
                sounds += [
                    _sound(table, group, row, content, ids[row], paths[row], len(sounds) + row) for row in range(count)
                ]
            return sounds
    except UNREADABLE as error:
        raise ValueError(
            f"{table}: cannot be read as Parquet ({_first_line(error)}); download or write it again"
        ) from error


def _sound(
    table: Path, group: int, row: int, content: str | None, identity: Any, path: str | None, number: int
) -> Path | Sound:
    """Sound of one row.

    Args:
        table: path of the Parquet file.
        group: its row group.
        row: its row in the group.
        content: name of the column with content, or None.
        identity: value of the column id, or None.
        path: value of the column path, or None.
        number: number of the row in the file.
    """
    file = None if path is None else table.parent / path
    if content is None and file is not None:
        return file
    table = Path(os.path.abspath(table))
    own_name = identity if identity is not None else path
    name = f"{table}#{number}" if own_name is None else str(own_name)
    return ParquetSound(name, table, group, row, content, None if file is None else Path(os.path.abspath(file)))


def _columns(table: Path, schema: pa.Schema) -> tuple[str | None, tuple[str | None, str | None]]:
    """Names of the columns with content, identity and path. Raises `ValueError` if there are none."""
    kinds = {field.name: field.type for field in schema}
    audio = kinds.get("audio")
    fields = {field.name: field.type for field in audio} if audio is not None and pa.types.is_struct(audio) else {}
    kinds |= {f"audio.{name}": kind for name, kind in fields.items()}
    content = next((name for name in ("bytes", "audio", "audio.bytes") if _is_binary(kinds.get(name))), None)
    path = next((name for name in ("path", "audio.path") if _is_text(kinds.get(name))), None)
    if content is None and path is None:
        there = ", ".join(f"{field.name} ({field.type})" for field in schema)
        raise ValueError(
            f"{table}: no column contains sounds; name one path (strings), bytes (content of sound files) or audio (a "
            f"struct of bytes and path). Its columns are: {there or 'none'}"
        )
    has_id = content is not None and "id" in kinds and (_is_text(kinds["id"]) or pa.types.is_integer(kinds["id"]))
    return content, ("id" if has_id else None, path)


def _is_binary(kind: pa.DataType | None) -> bool:
    return kind is not None and (pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _is_text(kind: pa.DataType | None) -> bool:
    return kind is not None and (pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def parquet_begun(path: Path) -> tuple[Row, str] | None:
    """Setting and mark of the first part of a folder; None if it has none, or if it cannot be read."""
    try:
        metadata = pq.read_schema(_parts(path)[0]).metadata
        return json.loads(metadata[SETTING]), metadata[MARK].decode()
    except (*UNREADABLE, IndexError, KeyError, TypeError, ValueError):  # told by `ParquetLog`, which opens it later
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
        self._schema = SCHEMA.with_metadata({SETTING: json.dumps(setting), **mark})
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
        self._waiting.append({name: value for name, value in row.items() if name in SCHEMA.names} | text)
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
        if not any(self.path.iterdir()):  # there are no results: leave no empty folder
            self.path.rmdir()

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
                check_same(self.path, json.loads(metadata[SETTING]), self.setting, ResultLogError)
                columns = file.read(columns=["path", "error"])
        except UNREADABLE as error:
            raise ResultLogError(
                f"{part}: cannot be read ({_first_line(error)}); delete it, and its clips are tagged again"
            ) from error
        failed = [error is not None for error in columns["error"].to_pylist()]
        self._failed |= dict(zip(columns["path"].to_pylist(), failed, strict=True))


def _text(name: str) -> str:
    return name.encode(errors="backslashreplace").decode()
