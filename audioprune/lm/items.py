"""One list of questions for every benchmark of audio-language models, and one report of all its problems."""

from __future__ import annotations

import math
import os
import stat
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..audio.extensions import EXTENSIONS
from ..data.files import sounds
from ..data.table import DataError, report

Problems = dict[str, list[str]]
"""Kind of problem, with its remedy → names of the items or files that have it."""

MISSING = "sounds are missing; complete the download, or unpack it into this folder"
EMPTY = "sounds are empty (0 bytes); download them again, or delete them and their lines"
REPEATED = "lines are repeated; remove the copies"
TIMES = "sounds have an impossible start or end; start is 0 or more, and end is after it, both in seconds"


@dataclass(frozen=True, slots=True)
class Item:
    """A question about a sound, with its reference answers.

    Args:
        id: unique in its benchmark.
        path: the sound.
        start: start in the sound, in seconds.
        end: end in the sound, in seconds; None for its own end.
        question: the question; "" if the task is a caption.
        choices: choices of a multiple-choice question.
        references: reference captions or answers.
        task: kind of question; each kind has its own score.
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
    """A benchmark on disk. name: a key of `READERS`; notes: a line for each thing that is missing or unusual."""

    name: str
    items: tuple[Item, ...]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.items)

    def limited(self, count: int | None) -> Benchmark:
        """Benchmark of `count` items at even distances, because tasks are listed one after the other. None: all."""
        if count is None or count >= len(self):
            return self
        if count < 1:
            raise ValueError(f"the limit is {count}; it must be a number of items, at least 1")
        chosen = tuple(self.items[i * len(self) // count] for i in range(count))
        note = f"{count:,} of {len(self):,} items, at even distances: not comparable with published scores"
        return replace(self, items=chosen, notes=(*self.notes, note))


class SoundIndex:
    """Index of the sounds in a folder by name. Sounds in the folders `first` have priority."""

    def __init__(self, folder: Path, first: Sequence[str] = ()) -> None:
        self._paths: dict[str, Path] = {}
        for place in (*(folder / name for name in first), folder):
            for path in sounds(place) if place.is_dir() else ():
                self._paths.setdefault(_key(path.name), path)
                self._paths.setdefault(_key(path.stem), path)

    def find(self, *names: str) -> Path | None:
        """Path of the first name that exists, also as another kind of sound file: "a.wav" matches "a.flac"."""
        for name in names:
            stem, suffix = os.path.splitext(name)
            for known in (name, stem) if suffix.lower() in EXTENSIONS else (name,):
                if _key(known) in self._paths:
                    return self._paths[_key(known)]
        return None


def _key(name: str) -> str:
    # A Mac may unpack an accent as a separate character.
    return unicodedata.normalize("NFC", name).strip()


def build_benchmark(name: str, items: Sequence[Item], problems: Problems, notes: Sequence[str] = ()) -> Benchmark:
    """Check the items and build the benchmark.

    Every sound's size is checked, but nothing is decoded.

    Args:
        name: a key of `READERS`.
        items: the items.
        problems: problems that the reader found.
        notes: a line for each thing that is missing or unusual.

    Raises one `DataError` with all problems, those of the reader and those found here.
    """
    all_problems: Problems = defaultdict(list, problems)
    for path in dict.fromkeys(item.path for item in items):
        try:
            status = os.stat(path)
        except (OSError, ValueError):
            all_problems[MISSING].append(str(path))
            continue
        if not stat.S_ISREG(status.st_mode):
            all_problems[MISSING].append(f"{path} (is not a file)")
        elif status.st_size == 0:
            all_problems[EMPTY].append(str(path))
    ids: set[str] = set()
    for item in items:
        if item.id in ids:
            all_problems[REPEATED].append(item.id)
        ids.add(item.id)
        if not 0 <= item.start < math.inf or (item.end is not None and not item.start < item.end < math.inf):
            all_problems[TIMES].append(f"{item.id} ({item.start} to {item.end} s)")
    all_problems = {kind: what for kind, what in all_problems.items() if what}
    if all_problems:
        raise DataError(report(f"{name} ({len(items):,} items) cannot be used", all_problems))
    if not items:
        raise DataError(f"{name}: there are no items; check that the folder is right and the download complete")
    return Benchmark(name, tuple(items), tuple(notes))
