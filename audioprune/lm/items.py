"""One list of questions for every benchmark of audio-language models, and one report of all that is wrong with it."""

from __future__ import annotations

import math
import os
import stat
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..audio.files import EXTENSIONS
from ..data.files import sounds
from ..data.table import DataError, report

Problems = dict[str, list[str]]
"""Kind of problem, with its remedy, to what has it."""

MISSING = "sounds are missing; complete the download, or unpack it into this folder"
EMPTY = "sounds are empty (0 bytes); download them again, or delete them and their lines"
REPEATED = "lines come twice; remove the repeated ones"
TIMES = "sounds have an impossible start or end; start is 0 or more, and end is after it, both in seconds"


@dataclass(frozen=True, slots=True)
class Item:
    """A question about a sound, and what people answered.

    id: unique within its benchmark. path: the sound; `start`, `end`: seconds within it, `end=None` for its own.
    question: "" where a caption is asked for. choices: of a multiple-choice question, else none. references: captions,
    or answers. task: the kind of question, by which scores are told apart.
    """

    id: str
    path: Path
    start: float = 0.0
    end: float | None = None
    question: str = ""
    choices: tuple[str, ...] = ()
    references: tuple[str, ...] = ()
    task: str = "caption"


@dataclass(frozen=True)
class Benchmark:
    """A benchmark as it lies on disk. name: a key of `READERS`; notes: what was left out or is odd, a line each."""

    name: str
    items: tuple[Item, ...]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.items)

    def limited(self, count: int | None) -> Benchmark:
        """So many of the items, at even distances, for a benchmark lists one task after the other. None: all."""
        if count is None or count >= len(self):
            return self
        if count < 1:
            raise ValueError(f"the limit is {count}; it is a number of items, at least 1")
        chosen = tuple(self.items[i * len(self) // count] for i in range(count))
        note = f"{count:,} of {len(self):,} items, at even distances: not the published figure"
        return replace(self, items=chosen, notes=(*self.notes, note))


class SoundIndex:
    """The sounds beneath a folder by their names. Those in the folders named in `first` win over the others."""

    def __init__(self, folder: Path, first: Sequence[str] = ()) -> None:
        self._found: dict[str, Path] = {}
        for place in (*(folder / name for name in first), folder):
            for path in sounds(place) if place.is_dir() else ():
                self._found.setdefault(_key(path.name), path)
                self._found.setdefault(_key(path.stem), path)

    def find(self, *names: str) -> Path | None:
        """The first of these that is there, also as another kind of sound file: "a.wav" finds "a.flac"."""
        for name in names:
            stem, suffix = os.path.splitext(name)
            for known in (name, stem) if suffix.lower() in EXTENSIONS else (name,):
                if _key(known) in self._found:
                    return self._found[_key(known)]
        return None


def _key(name: str) -> str:
    # Unpacked on a Mac, an accent is a character of its own.
    return unicodedata.normalize("NFC", name).strip()


def checked(name: str, items: Sequence[Item], problems: Problems, notes: Sequence[str] = ()) -> Benchmark:
    """The benchmark, where nothing is wrong with it.

    Looks at every sound's size, but decodes nothing. Raises one `DataError` of all `problems`, those found here added.
    """
    found: Problems = defaultdict(list, problems)
    for path in dict.fromkeys(item.path for item in items):
        try:
            status = os.stat(path)
        except (OSError, ValueError):
            found[MISSING].append(str(path))
            continue
        if not stat.S_ISREG(status.st_mode):
            found[MISSING].append(f"{path} (is not a file)")
        elif status.st_size == 0:
            found[EMPTY].append(str(path))
    seen: set[str] = set()
    for item in items:
        if item.id in seen:
            found[REPEATED].append(item.id)
        seen.add(item.id)
        if not 0 <= item.start < math.inf or (item.end is not None and not item.start < item.end < math.inf):
            found[TIMES].append(f"{item.id} ({item.start} to {item.end} s)")
    found = {kind: what for kind, what in found.items() if what}
    if found:
        raise DataError(report(f"{name} ({len(items):,} items) cannot be used as it is", found))
    if not items:
        raise DataError(f"{name}: there is nothing to ask; is this the right folder, and the download complete?")
    return Benchmark(name, tuple(items), tuple(notes))
