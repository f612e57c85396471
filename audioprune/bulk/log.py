"""Results written one by one, and resuming after a kill. Imports no PyTorch."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from ..files import Journal, Row, check_same
from .asked import Asked
from .sounds import Sound, key

ROW_START = b'{"path": '
"""Beginning of every row. An incomplete last line must begin with it too."""
WINDOWS = "windows"
"""Key, in a setting, of how long sounds are heard."""
ASKED = "asked"
"""Key of the mark of what was asked for."""


class ResultLogError(ValueError):
    """An output file that cannot be appended to. The message names the file and the remedy."""


class ResultLog:
    """A JSON Lines file of rows that survives a kill. Rows are appended, and a run resumes without loss or repetition.

    Every row contains the run's `setting`. A file with another setting is refused, so that a file never mixes two
    models or two keep rates. If a kill left an incomplete last line, it is cut off, and its clip is done again.

    Every row also contains the mark of what was asked for (`asked`), if that is known. Nothing is refused by it.
    """

    def __init__(self, path: Path, setting: Row, asked: Asked | None = None) -> None:
        self.path, self.setting = path, setting
        self._about: Row = {"setting": setting} | ({} if asked is None else {ASKED: asked.mark(setting)})
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
        if self.path.is_file() and self.path.stat().st_size == 0:  # there are no results: leave no empty file
            self._journal.remove()
        self._journal.close()

    def is_done(self, sound: Path | Sound) -> bool:
        return key(sound) in self._failed

    def failures(self, sounds: Iterable[Path | Sound]) -> int:
        """Number of these clips that have a row with an error."""
        return sum(self._failed.get(key(sound), False) for sound in sounds)

    def write(self, row: Row) -> None:
        """Append a row in one write. It is on disk when this returns."""
        self._journal.append([{**row, **self._about}])
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
        begun = with_windows(
            row["setting"], self.setting, [(row.get("seconds"), row.get("heard_seconds", row.get("seconds")))]
        )
        check_same(self.path, begun, self.setting, ResultLogError)
        self._count(row)


def with_windows(begun: Row, setting: Row, lengths: Iterable[tuple[float | None, float | None]]) -> Row:
    """The setting of earlier rows, as it counts now: earlier versions knew no windows.

    A sound that fits one window has the same row however long sounds are heard. lengths: seconds of each sound, and how
    many of them were heard; None for a sound that failed.
    """
    if WINDOWS in begun or WINDOWS not in setting:
        return begun
    # Not above: a run with nothing left to do imports nothing that decodes.
    from ..audio.files import is_cut

    is_any_cut = any(is_cut(seconds or 0.0, heard or 0.0) for seconds, heard in lengths)
    return begun if is_any_cut else {**begun, WINDOWS: setting[WINDOWS]}


def begun(path: Path) -> tuple[Row, str | None] | None:
    """Setting and mark of the first row of a file; None if it has no setting, or if it cannot be read.

    Rows of version 0.1 have no mark.
    """
    if not path.is_file():  # reading a pipe would wait for ever
        return None
    try:
        with open(path, "rb") as file:
            row = json.loads(file.readline())
        return row["setting"], row.get(ASKED)
    # Told by `ResultLog`, which opens it later.
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


class Log(Protocol):
    """Output of a run: `ResultLog`, or another file that can be resumed."""

    setting: Row

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None: ...

    def is_done(self, sound: Path | Sound) -> bool: ...

    def failures(self, sounds: Iterable[Path | Sound]) -> int: ...

    def write(self, row: Row) -> None: ...
