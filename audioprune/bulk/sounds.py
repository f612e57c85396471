"""Many sounds: what they are called, and which ones folders contain. Imports no PyTorch."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ..audio.folder import search

if TYPE_CHECKING:
    from ..audio.files import Clip


class Sound(Protocol):
    """A sound without its own file, such as a row of a table. `str()` gives its name in messages."""

    @property
    def key(self) -> str:
        """Value of `path` in its row, unique in a run."""

    def load(self, max_seconds: float, start_seconds: float = 0.0) -> Clip:
        """Decode a part. Raises `AudioError` if this is not possible."""


def key(sound: Path | Sound) -> str:
    """Value of `path` in a sound's row: absolute for a file, so that a run can resume from another folder."""
    return os.path.abspath(sound) if isinstance(sound, Path) else sound.key


def load(sound: Path | Sound, max_seconds: float, start_seconds: float = 0.0) -> Clip:
    """Decode a part of a sound. Raises `AudioError` if this is not possible."""
    if not isinstance(sound, Path):
        return sound.load(max_seconds, start_seconds)
    # Not above: a run with nothing left to do decodes nothing, and need not import what decodes.
    from ..audio.files import load_audio

    return load_audio(sound, max_seconds=max_seconds, start_seconds=start_seconds)


def find_clips(sources: Iterable[str | Path]) -> tuple[list[Path], list[Path]]:
    """Sound files, each once, and what was left out of folders: hidden files and folders, and files that are no sounds
    by their names.

    A folder is searched with its subfolders, also linked ones, and sorted. A file that is named explicitly is always
    used. Raises `FileNotFoundError` if a source does not exist.
    """
    clips: dict[str, Path] = {}
    skipped: list[Path] = []
    for source in map(Path, sources):
        if not source.exists():
            raise FileNotFoundError(f"{source}: no such file or folder")
        if not source.is_dir():
            clips.setdefault(os.path.abspath(source), source)
            continue
        for path, is_sound in sorted(search(source)):
            if is_sound:
                clips.setdefault(os.path.abspath(path), path)
            else:
                skipped.append(path)
    return list(clips.values()), skipped
