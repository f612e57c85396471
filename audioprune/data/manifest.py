"""Reader of your own list of sounds: a CSV file with a line for each clip."""

from __future__ import annotations

from pathlib import Path

from .files import csv_columns, csv_rows
from .table import PARTS, ClipRow, ClipTable, DataError, with_warnings

MANIFEST = "manifest.csv"
_COLUMNS = ("path", "label", "split")


def has_split_manifest(folder: Path) -> bool:
    """Whether the folder contains a `manifest.csv` with path, label and split."""
    return csv_columns(folder / MANIFEST) >= set(_COLUMNS)


def read_manifest(folder: Path) -> ClipTable:
    """Read a `manifest.csv` with path (of the folder, or absolute), label and split (train, validation or test).

    Raises `DataError`, also for another split.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise DataError(f"{folder}: no list here; looked for {MANIFEST} with path, label and split")
    rows = []
    for number, line in enumerate(csv_rows(path, _COLUMNS), start=1):
        if line["split"] not in PARTS:
            raise DataError(f"{path}, clip {number}: split is {line['split']!r}; it must be {', '.join(PARTS)}")
        rows.append(ClipRow(folder / line["path"], (line["label"],), part=line["split"]))
    labels = tuple(sorted({row.labels[0] for row in rows}))
    return with_warnings(ClipTable(folder.resolve().name, tuple(rows), labels))
