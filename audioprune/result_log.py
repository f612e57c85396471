"""Rows of results of many sounds: a file of them that survives a kill, and the run that fills it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from .audio.files import Clip
from .files import Journal, Row, check_same

ROW_START = b'{"path": '
"""Beginning of every row. An incomplete last line must begin with it too."""


class Sound(Protocol):
    """A sound without its own file, such as a row of a table. `str()` gives its name in messages."""

    @property
    def key(self) -> str:
        """Value of `path` in its row, unique in a run."""

    def load(self, max_seconds: float) -> Clip:
        """Decode the beginning. Raises `AudioError` if this is not possible."""


def key(sound: Path | Sound) -> str:
    """Value of `path` in a sound's row: absolute for a file, so that a run can resume from another folder."""
    return os.path.abspath(sound) if isinstance(sound, Path) else sound.key


class ResultLogError(ValueError):
    """An output file that cannot be appended to. The message names the file and the remedy."""


class ResultLog:
    """A JSON Lines file of rows that survives a kill. Rows are appended, and a run resumes without loss or repetition.

    Every row contains the run's `setting`. A file with another setting is refused, so that a file never mixes two
    models or two keep rates. If a kill left an incomplete last line, it is cut off, and its clip is done again.
    """

    def __init__(self, path: Path, setting: Row) -> None:
        self.path, self.setting = path, setting
        self._failed: dict[str, bool] = {}
        self._journal = Journal(path, ResultLogError, "a row of results", ROW_START)
        try:
            for number, row in self._journal.read():
                self._resume(number, row)
        except BaseException:
            self._journal.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._journal.close()
        if self.path.is_file() and self.path.stat().st_size == 0:  # there are no results: leave no empty file
            self.path.unlink()

    def is_done(self, sound: Path | Sound) -> bool:
        return key(sound) in self._failed

    def failures(self, sounds: Iterable[Path | Sound]) -> int:
        """Number of these clips that have a row with an error."""
        return sum(self._failed.get(key(sound), False) for sound in sounds)

    def write(self, row: Row) -> None:
        """Append a row in one write. It is on disk when this returns."""
        self._journal.append([{**row, "setting": self.setting}])
        self._count(row)

    def clear(self) -> None:
        """Delete all rows, for a caller that has saved them elsewhere."""
        self._journal.clear()
        self._failed.clear()

    def _count(self, row: Row) -> None:
        self._failed[row["path"]] = "error" in row

    def _resume(self, number: int, row: Row) -> None:
        if not isinstance(row.get("path"), str) or not isinstance(row.get("setting"), dict):
            self._journal.refuse(number)
        check_same(self.path, row["setting"], self.setting, ResultLogError)
        self._count(row)


class Log(Protocol):
    """Output of a run: `ResultLog`, or another file that can be resumed."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None: ...

    def is_done(self, sound: Path | Sound) -> bool: ...

    def failures(self, sounds: Iterable[Path | Sound]) -> int: ...

    def write(self, row: Row) -> None: ...


def run(
    engine: Callable[[list[Any]], Iterable[Row]],
    sounds: Sequence[Path | Sound],
    log: Log | None,
    report: Callable[[Row], None] = lambda row: None,
) -> tuple[int, int]:
    """Make the rows of the sounds that are not in the log yet.

    Args:
        engine: a `Tagger`, or another that gives one row per sound, in any order.
        sounds: all sounds.
        log: log of the results, or None.
        report: called with each row.

    Returns the number of rows written, and the number of all failures, with earlier ones.
    """
    todo = [sound for sound in sounds if log is None or not log.is_done(sound)]
    written = failures = 0
    for row in engine(todo):
        if log is not None:
            log.write(row)
        written += 1
        failures += "error" in row
        report(row)
    return written, failures if log is None else log.failures(sounds)
