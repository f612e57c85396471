"""A folder of class folders: your own sounds."""

from __future__ import annotations

from pathlib import Path

from .files import has_sounds, some, sounds, subfolders
from .table import ClipRow, ClipTable, DataError, checked

PART_FOLDERS = {
    "train": "train",
    "validation": "validation",
    "val": "validation",
    "valid": "validation",
    "test": "test",
}


def read_folders(folder: Path) -> ClipTable:
    """Each subfolder is a class, and all sounds anywhere beneath it are its clips, all to train on.

    Where `train`, `validation` (or `val`, `valid`) or `test` folders hold class folders, they are the parts. Sounds
    beside the class folders are skipped. Raises `DataError`, also where there are fewer than two classes.
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
    skipped = (f"{len(loose):,} sounds that lie in no class folder: {some(loose)}",) if loose else ()
    return checked(ClipTable(folder.resolve().name, tuple(rows), tuple(sorted(labels)), skipped=skipped))


def _parts(folder: Path) -> list[tuple[Path, str]]:
    """(folder, part). Raises `DataError` where class folders stand beside part folders."""
    places = subfolders(folder)
    # "train" may as well be a class, of railways: as a part it holds folders of sounds.
    parts = [place for place in places if place.name.lower() in PART_FOLDERS and _holds_classes(place)]
    if not parts:
        return [(folder, "train")]
    others = [place.name for place in places if place not in parts and has_sounds(place)]
    if others:
        raise DataError(
            f"{folder}: {some(others)} stand beside {some(place.name for place in parts)}; "
            f"move each class folder into the part it belongs to, or rename {parts[0].name}"
        )
    return [(place, PART_FOLDERS[place.name.lower()]) for place in parts]


def _holds_classes(folder: Path) -> bool:
    return any(has_sounds(place) for place in subfolders(folder))
