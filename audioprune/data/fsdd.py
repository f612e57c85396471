"""Free Spoken Digit Dataset: ten digits by six speakers (github.com/Jakobovski/free-spoken-digit-dataset)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from .files import csv_columns, csv_rows, some, sounds
from .table import PARTS, ClipRow, ClipTable, DataError, with_warnings

MANIFEST = "manifest.csv"
_COLUMNS = ("path", "digit", "speaker", "split")
_NAME = re.compile(r"(?P<digit>\d)_(?P<speaker>[^_]+)_(?P<take>\d+)")
_TEST_TAKES = 5


class _Recording(NamedTuple):
    path: Path
    digit: str
    speaker: str
    part: str


def read_fsdd_digits(folder: Path) -> ClipTable:
    """Read the data set with the digits as labels. See `_recordings` for the layouts. Raises `DataError`."""
    return _read(folder, "digits")


def read_fsdd_speakers(folder: Path) -> ClipTable:
    """Read the data set with the speakers as labels. See `_recordings` for the layouts. Raises `DataError`."""
    return _read(folder, "speakers")


def has_recordings(folder: Path) -> bool:
    """Whether the folder looks like this data set."""
    if csv_columns(folder / MANIFEST) >= set(_COLUMNS):
        return True
    return any(_NAME.fullmatch(path.stem) for path in sounds(folder / "recordings", deep=False))


def _read(folder: Path, task: str) -> ClipTable:
    recordings, skipped = list(_recordings(folder)), _foreign(folder)
    if not recordings:
        raise DataError(
            f"{folder}: no fsdd here; looked for recordings/ with files named digit_speaker_take.wav, "
            f"and for {MANIFEST} with {', '.join(_COLUMNS)}"
        )
    rows = tuple(
        ClipRow(recording.path, (recording.digit if task == "digits" else recording.speaker,), part=recording.part)
        for recording in recordings
    )
    labels = tuple(sorted({row.labels[0] for row in rows}))
    return with_warnings(ClipTable(f"fsdd-{task}", rows, labels, preset="fsdd", skipped=skipped))


def _recordings(folder: Path) -> Iterator[_Recording]:
    """Recordings from `manifest.csv` with path, digit, speaker and split, or from `recordings/`.

    In `recordings/`, takes 0 to 4 are test clips."""
    if csv_columns(folder / MANIFEST) >= set(_COLUMNS):
        for line in csv_rows(folder / MANIFEST, _COLUMNS):
            if line["split"] not in PARTS:
                cell = f"{folder / MANIFEST}: split of {line['path']}"
                raise DataError(f"{cell} is {line['split']!r}; it must be one of {', '.join(PARTS)}")
            yield _Recording(folder / line["path"], line["digit"], line["speaker"], line["split"])
        return
    for path in sounds(folder / "recordings", deep=False):
        if match := _NAME.fullmatch(path.stem):
            part = "test" if int(match["take"]) < _TEST_TAKES else "train"
            yield _Recording(path, match["digit"], match["speaker"], part)


def _foreign(folder: Path) -> tuple[str, ...]:
    names = [path.name for path in sounds(folder / "recordings", deep=False) if not _NAME.fullmatch(path.stem)]
    return (f"recordings not named digit_speaker_take.wav: {some(names)}",) if names else ()
