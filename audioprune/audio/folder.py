"""Search of a folder for sounds."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from .extensions import EXTENSIONS


def search(folder: Path, *, deep: bool = True) -> Iterator[tuple[Path, bool]]:
    """Each file with whether it is a sound by its name, sorted within each folder.

    Hidden files and folders (`.DS_Store`, `._clip.wav`, `.git`, `__MACOSX`) are no sounds, nor are folders that may not
    be read; such a folder is yielded itself. Linked folders are followed, each once, so that a link to a parent ends.

    deep: whether to search subfolders too.
    """
    visited: set[tuple[int, int]] = set()
    closed: list[Path] = []
    walk = os.walk(folder, followlinks=True, onerror=lambda error: closed.append(Path(os.fsdecode(error.filename))))
    for place, folders, names in walk:
        status = os.stat(place)
        if (status.st_dev, status.st_ino) in visited:
            folders.clear()
            continue
        visited.add((status.st_dev, status.st_ino))
        for name in sorted(names):
            yield Path(place, name), is_visible(name) and os.path.splitext(name)[1].lower() in EXTENSIONS
        if deep:
            yield from ((Path(place, name), False) for name in sorted(folders) if not is_visible(name))
        folders[:] = sorted(name for name in folders if is_visible(name)) if deep else []
    yield from ((path, False) for path in closed)


def is_visible(name: str) -> bool:
    """Whether a file or folder of this name is the user's own."""
    return not name.startswith(".") and name != "__MACOSX"
