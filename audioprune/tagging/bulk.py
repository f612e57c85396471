"""Bulk tagging: which sounds there are to tag, and where the results go."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from .tagger import Log, ResultLog, Row, Sound, find_clips, key

JSON_LINES, PARQUET = ".jsonl", ".parquet"


def find_sounds(sources: Iterable[str | Path], result: Path | None = None) -> tuple[list[Path | Sound], list[Path]]:
    """What there is to tag, each once, and the files passed over in folders because their name is not a sound's.

    A source is a sound file, a Parquet file (`bulk_parquet.sounds_in` says what it may hold), or a folder that is
    searched for sound files and, where there are none, for Parquet files; those in `result` are left alone.
    Raises `FileNotFoundError` for a source that is not there, `ModuleNotFoundError` where a Parquet file is to be read
    and pyarrow is not installed, and `ValueError` for a Parquet file that cannot be used and for two sounds of one
    name.
    """
    found: dict[str, Path | Sound] = {}
    passed: list[Path] = []
    for source in map(Path, sources):
        sounds, others = _in(source, None if result is None else Path(os.path.abspath(result)))
        passed += others
        for sound in sounds:
            other = found.setdefault(key(sound), sound)
            if other != sound and not (isinstance(other, Path) and isinstance(sound, Path)):
                raise ValueError(
                    f"two sounds are called {key(sound)}; give each a name of its own in a column id (of strings or "
                    "whole numbers)"
                )
    return list(found.values()), passed


def _in(source: Path, result: Path | None) -> tuple[Sequence[Path | Sound], list[Path]]:
    clips, others = find_clips([source])
    candidates = others if source.is_dir() else clips
    tables = [path for path in candidates if path.suffix.lower() == PARQUET]
    if not tables or (source.is_dir() and clips):
        return clips, others
    from .bulk_parquet import sounds_in

    read = [path for path in tables if result not in Path(os.path.abspath(path)).parents]
    sounds = [sound for table in read for sound in sounds_in(table)]
    if read and not sounds:
        raise ValueError(f"{source}: holds no rows")
    return sounds, [path for path in others if path not in set(tables)]


def open_log(path: Path, setting: Row) -> Log:
    """What results are written to: JSON Lines or Parquet, by the suffix. Raises `ValueError` for another suffix."""
    if path.suffix.lower() == PARQUET:
        from .bulk_parquet import ParquetLog

        return ParquetLog(path, setting)
    if path.suffix.lower() == JSON_LINES:
        return ResultLog(path, setting)
    raise ValueError(f"--out is {str(path)!r}; give it a name that ends in {JSON_LINES} or {PARQUET}")
