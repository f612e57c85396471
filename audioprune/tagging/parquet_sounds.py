"""Sounds within Parquet tables."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..bulk.sounds import Sound

if TYPE_CHECKING:
    from ..audio.files import Clip

UNREADABLE = (OSError, pa.ArrowException)
"""Errors that pyarrow raises for a damaged file."""


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

    def load(self, max_seconds: float, start_seconds: float = 0.0) -> Clip:
        # Not above: a run with nothing left to do decodes nothing, and need not import what decodes.
        from ..audio.files import AudioError, decode, load_audio

        content = None if self.column is None else _contents(self.table, self.group, self.column)[self.row].as_py()
        if content is not None:
            if not content:
                raise AudioError(f"{self.key}: the sound is empty (0 bytes); write its content again")
            source = io.BytesIO(content)
            return decode(source, self.key, max_seconds=max_seconds, start_seconds=start_seconds)
        if self.file is None:
            raise AudioError(f"{self.key}: the row has neither a sound nor a path; fill it, or remove it")
        return load_audio(self.file, max_seconds=max_seconds, start_seconds=start_seconds)


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
        raise AudioError(f"{table}: row group {group} cannot be read ({first_line(error)})") from error


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
            f"{table}: cannot be read as Parquet ({first_line(error)}); download or write it again"
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


def first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
