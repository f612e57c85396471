"""Reader of your own sounds: a folder with a folder for each class."""

from __future__ import annotations

from pathlib import Path

from .files import has_sounds, some, sounds, subfolders
from .table import ClipRow, ClipTable, DataError, with_warnings

PART_FOLDERS = {
    "train": "train",
    "validation": "validation",
    "val": "validation",
    "valid": "validation",
    "test": "test",
}


def read_folders(folder: Path) -> ClipTable:
    """Read a folder of class folders. Each subfolder is a class, and all sounds in it are training clips.

    If folders named `train`, `validation` (or `val`, `valid`) or `test` contain class folders, they are the parts.
    Sounds outside the class folders are skipped. Raises `DataError`, also if there are fewer than two classes.
    """
    parts = _parts(folder)
    rows, labels, loose = [], set(), []
    for place, part in parts:
        loose += list(sounds(place, deep=False))
        for kind in subfolders(place):
            labels.add(kind.name)
            rows += [ClipRow(path, (kind.name,), part=part) for path in sounds(kind)]
    if len(labels) < 2:
        raise DataError(
            f"{folder}: {len(labels)} class folders ({some(sorted(labels))}); a classifier needs two or more, "
            "each a folder of sounds"
        )
    skipped = (f"{len(loose):,} sounds that are in no class folder: {some(loose)}",) if loose else ()
    return with_warnings(ClipTable(folder.resolve().name, tuple(rows), tuple(sorted(labels)), skipped=skipped))


def _parts(folder: Path) -> list[tuple[Path, str]]:
    """Pairs of folder and part. Raises `DataError` if there are both class folders and part folders."""
    places = subfolders(folder)
    # "train" may also be a class, of railways. As a part it contains folders of sounds.
    parts = [place for place in places if place.name.lower() in PART_FOLDERS and _contains_classes(place)]
    if not parts:
        return [(folder, "train")]
    others = [place.name for place in places if place not in parts and has_sounds(place)]
    if others:
        raise DataError(
            f"{folder}: contains both class folders ({some(others)}) and parts "
            f"({some(place.name for place in parts)}); move each class folder into its part, or rename {parts[0].name}"
        )
    return [(place, PART_FOLDERS[place.name.lower()]) for place in parts]


def _contains_classes(folder: Path) -> bool:
    return any(has_sounds(place) for place in subfolders(folder))
