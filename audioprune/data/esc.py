"""ESC-50 and ESC-10: five-second environmental sounds in five folds (Piczak, ACM Multimedia 2015)."""

from __future__ import annotations

from pathlib import Path

from .files import csv_columns, csv_rows, integer
from .table import ClipRow, ClipTable, DataError, with_warnings

META = Path("meta", "esc50.csv")
MANIFEST = "manifest.csv"
_META_COLUMNS = ("filename", "fold", "target", "category", "esc10")
_MANIFEST_COLUMNS = ("path", "label", "fold")


def read_esc50(folder: Path) -> ClipTable:
    """Read all 50 classes from `meta/esc50.csv` and `audio/`, or from a `manifest.csv` with path, label and fold.

    Classes are ordered by `target`, or by name if a manifest has no targets. Raises `DataError`.
    """
    return _read(folder, "esc50")


def read_esc10(folder: Path) -> ClipTable:
    """Read the ten classes marked `esc10` in ESC-50's table, or a `manifest.csv` of these. Raises `DataError`."""
    return _read(folder, "esc10")


def has_manifest(folder: Path) -> bool:
    """Whether the folder contains a `manifest.csv` with path, label and fold."""
    return csv_columns(folder / MANIFEST) >= set(_MANIFEST_COLUMNS)


def manifest_name(folder: Path) -> str:
    """Name of the set that a manifest lists, from its number of classes."""
    labels = {row["label"] for row in csv_rows(folder / MANIFEST, _MANIFEST_COLUMNS)}
    return "esc10" if len(labels) <= 10 else "esc50"


def _read(folder: Path, name: str) -> ClipTable:
    if (folder / META).is_file():
        rows, labels = _official(folder, name)
    elif has_manifest(folder):
        if manifest_name(folder) != name:
            raise DataError(
                f"{folder / MANIFEST} does not list the classes of {name}; read it as {manifest_name(folder)}"
            )
        rows = _manifest(folder)
        labels = tuple(sorted({row.labels[0] for row in rows}))
    else:
        raise DataError(f"{folder}: no {name} here; looked for {META}, and for {MANIFEST} with path, label and fold")
    folds = tuple(sorted({row.part for row in rows}))
    return with_warnings(ClipTable(name, rows, labels, folds=folds, preset="esc50"))


def _official(folder: Path, name: str) -> tuple[tuple[ClipRow, ...], tuple[str, ...]]:
    lines = csv_rows(folder / META, _META_COLUMNS)
    lines = [line for line in lines if name == "esc50" or line["esc10"] == "True"]
    categories: dict[int, str] = {}
    for line in lines:
        target = integer(line["target"], f"{folder / META}: target of {line['filename']}")
        if categories.setdefault(target, line["category"]) != line["category"]:
            raise DataError(f"{folder / META}: target {target} is both {categories[target]!r} and {line['category']!r}")
    rows = tuple(ClipRow(folder / "audio" / line["filename"], (line["category"],), part=line["fold"]) for line in lines)
    return rows, tuple(categories[target] for target in sorted(categories))


def _manifest(folder: Path) -> tuple[ClipRow, ...]:
    lines = csv_rows(folder / MANIFEST, _MANIFEST_COLUMNS)
    return tuple(ClipRow(folder / line["path"], (line["label"],), part=line["fold"]) for line in lines)
