"""Bulk tagging: the sounds to tag, and the file for the results. Imports no PyTorch."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..audio.folder import is_visible
from ..bulk.asked import Asked
from ..bulk.log import Log, ResultLog, begun
from ..bulk.sounds import Sound, find_clips, key
from ..files import Row
from .bulk_csv import CsvLog, csv_journal

JSON_LINES, PARQUET, CSV = ".jsonl", ".parquet", ".csv"


def find_sounds(sources: Iterable[str | Path], result: Path | None = None) -> tuple[list[Path | Sound], list[Path]]:
    """Sounds to tag, each once, and files in folders that were skipped because of their names.

    A source is a sound file, a Parquet file (see `bulk_parquet.sounds_in`), or a folder. A folder is searched for sound
    files and, if there are none, for Parquet files; files in `result` are not used. Raises `FileNotFoundError` if a
    source does not exist, `ModuleNotFoundError` if pyarrow is missing but needed, and `ValueError` if a Parquet file
    cannot be used or if two sounds have the same name.
    """
    by_key: dict[str, Path | Sound] = {}
    skipped: list[Path] = []
    for source in map(Path, sources):
        sounds, others = _in(source, None if result is None else Path(os.path.abspath(result)))
        skipped += others
        for sound in sounds:
            other = by_key.setdefault(key(sound), sound)
            if other != sound and not (isinstance(other, Path) and isinstance(sound, Path)):
                raise ValueError(
                    f"two sounds have the name {key(sound)}; give each its own name in a column id (of strings or "
                    "whole numbers)"
                )
    return list(by_key.values()), skipped


def _in(source: Path, result: Path | None) -> tuple[Sequence[Path | Sound], list[Path]]:
    clips, others = find_clips([source])
    candidates = others if source.is_dir() else clips
    tables = [
        path for path in candidates if path.suffix.lower() == PARQUET and (is_visible(path.name) or path in clips)
    ]
    if not tables or (source.is_dir() and clips):
        return clips, others
    from .parquet_sounds import sounds_in

    tables_to_read = [path for path in tables if result not in Path(os.path.abspath(path)).parents]
    sounds = [sound for table in tables_to_read for sound in sounds_in(table)]
    if tables_to_read and not sounds:
        raise ValueError(f"{source}: contains no rows; name a file with rows")
    return sounds, [path for path in others if path not in set(tables)]


def open_log(path: Path, setting: Row, asked: Asked | None = None) -> Log:
    """Open the file for results: JSON Lines, CSV or Parquet, by the suffix. Raises `ValueError` for another suffix."""
    if path.suffix.lower() == PARQUET:
        from .bulk_parquet import ParquetLog

        return ParquetLog(path, setting, asked)
    if path.suffix.lower() == JSON_LINES:
        return ResultLog(path, setting, asked)
    if path.suffix.lower() == CSV:
        return CsvLog(path, setting, asked)
    raise ValueError(f"--out is {str(path)!r}; give it a name that ends in {JSON_LINES}, {CSV} or {PARQUET}")


def reopen_log(path: Path, asked: Asked | None) -> Log | None:
    """Open a file of results before the model is loaded, with the setting in it; None if another setting may be asked
    for now.

    The setting is trusted only if it came of the same words and files.
    """
    found = _begun(path)
    if asked is None or found is None:
        return None
    setting, mark = found
    return open_log(path, setting, asked) if asked.mark(setting) == mark else None


def begun_setting(path: Path) -> Row | None:
    """The setting in a file of results; None if it has none."""
    found = _begun(path)
    return None if found is None else found[0]


def _begun(path: Path) -> tuple[Row, str | None] | None:
    """Setting and mark in a file of results, of any form; None if it has none."""
    if path.suffix.lower() == PARQUET and path.is_dir():
        from .bulk_parquet import parquet_begun

        return parquet_begun(path)
    if path.suffix.lower() == CSV:
        return begun(csv_journal(path))
    return begun(path) if path.suffix.lower() == JSON_LINES else None
