"""One table of clips for every data set, and one report of all its problems."""

from __future__ import annotations

import math
import os
import stat
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

PARTS = ("train", "validation", "test")
"""Parts of a data set without cross-validation."""


class DataError(ValueError):
    """A data set that cannot be used. The message reports all problems and their remedies."""


@dataclass(frozen=True, slots=True)
class ClipRow:
    """A clip of a sound and its labels.

    `start`, `end`: seconds in the file; `end=None` is the end of the file. `part`: one of `PARTS`, or a fold's name.
    """

    path: Path
    labels: tuple[str, ...]
    start: float = 0.0
    end: float | None = None
    part: str = "train"


@dataclass(frozen=True)
class Split:
    """Training, validation and test clips. `validation` may be empty."""

    train: tuple[ClipRow, ...]
    validation: tuple[ClipRow, ...]
    test: tuple[ClipRow, ...]

    def with_validation(self, share: float, seed: int) -> Split:
        """Split with a `share` of the training clips moved to `validation`; the same split if that is not empty.

        Each class (by a clip's first label) gives its share, rounded, and at least one clip unless that is its only
        one. The same seed gives the same clips. Raises `DataError` for a share outside (0, 1), and if every class has
        a single clip.
        """
        if self.validation:
            return self
        if not 0 < share < 1:
            raise DataError(f"the validation share is {share}; it must be between 0 and 1, for example 0.1")
        classes: dict[str, list[int]] = defaultdict(list)
        for i, row in enumerate(self.train):
            classes[row.labels[0]].append(i)
        rng, chosen = np.random.default_rng(seed), set[int]()
        for label in sorted(classes):
            clips = classes[label]
            count = min(max(1, round(share * len(clips))), len(clips) - 1)
            chosen.update(rng.permutation(clips)[:count].tolist())
        if not chosen:
            raise DataError(
                f"no class of the {len(self.train)} training clips has two clips, so none can be a validation clip; "
                "add clips, or use no validation share"
            )
        train = tuple(row for i, row in enumerate(self.train) if i not in chosen)
        return Split(train, tuple(row for i, row in enumerate(self.train) if i in chosen), self.test)


@dataclass(frozen=True)
class ClipTable:
    """A data set on disk.

    Args:
        name: name of the data set, or of its folder.
        rows: all clips of all parts.
        labels: class names in the order of the class indices.
        folds: names of the folds, if the set is cross-validated; the rows' parts are then folds.
        multi_label: whether a clip may have several labels, and classes may have no clip (AudioSet).
        preset: key of `audioprune.audio.features.PRESETS` that fits the clips, if there is one.
        skipped: a line for each kind of file that was left out on purpose, for the report.
        warnings: a line for each unusual thing that does no harm.
    """

    name: str
    rows: tuple[ClipRow, ...]
    labels: tuple[str, ...]
    folds: tuple[str, ...] = ()
    multi_label: bool = False
    preset: str | None = None
    skipped: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.rows)

    def split(self, fold: str | None = None, hold_out: Sequence[str] = ()) -> Split:
        """Training, validation and test clips.

        A cross-validated set needs `fold`, the fold of the test clips. The other folds are for training, except those
        in `hold_out`, which are not used at all. Raises `DataError` if a fold is missing or unknown, or if the set has
        no folds.
        """
        if not self.folds:
            if fold is not None or hold_out:
                raise DataError(
                    f"{self.name} has no folds, but fold is {fold!r} (held out: {list(hold_out)}); "
                    "leave both out: it has its own train, validation and test parts"
                )
            train, validation, test = (tuple(row for row in self.rows if row.part == part) for part in PARTS)
            return Split(train, validation, test)
        unknown = [name for name in (fold, *hold_out) if name not in self.folds]
        if unknown:
            raise DataError(
                f"{self.name} is cross-validated and has the folds {', '.join(self.folds)}; "
                + ("choose one as the test" if fold is None else f"there is no fold {unknown[0]!r}")
            )
        assert fold is not None
        apart = {fold, *hold_out}
        train = tuple(row for row in self.rows if row.part not in apart)
        if not train:
            raise DataError(
                f"{self.name}: with fold {fold} as test and {', '.join(hold_out)} held out, no fold is left"
            )
        return Split(train, (), tuple(row for row in self.rows if row.part == fold))

    def targets(self, rows: Sequence[ClipRow]) -> np.ndarray:
        """Targets of some rows: (n,) int64 class indices, or (n, labels) float32 ones and zeros if `multi_label`.

        Raises `DataError` for a label that is not a class of this table.
        """
        index = {label: i for i, label in enumerate(self.labels)}
        try:
            if not self.multi_label:
                return np.array([index[row.labels[0]] for row in rows], dtype=np.int64)
            targets = np.zeros((len(rows), len(self.labels)), dtype=np.float32)
            for target, row in zip(targets, rows):
                target[[index[label] for label in row.labels]] = 1
            return targets
        except KeyError as error:
            raise DataError(f"{error.args[0]!r} is not a class of {self.name}; use clips of this data set") from None


_REMEDIES = {
    "files are missing": "complete the download, or unpack it again",
    "files are empty (0 bytes)": "download them again, or delete them and their lines",
    "clips have no label": "label them, or remove their lines",
    "labels are no class": "correct the spelling, or the list of classes",
    "clips are listed twice": "remove the repeated lines",
    "files are in two parts": "leave each file in one part, or the test is not fair",
    "clips have an impossible start or end": "start is 0 or more, and end is after it, both in seconds",
    "clips are of an unknown part": "parts are train, validation and test, or the folds of the set",
    "classes are named twice": "give each class its own name",
    "classes have no clip": "fill them, or remove them (or their folders)",
}


def with_warnings(table: ClipTable) -> ClipTable:
    """The table, checked, with its warnings. Raises `DataError` as `check` does."""
    return replace(table, warnings=(*table.warnings, *check(table)))


def check(table: ClipTable, *, limit: int = 10) -> tuple[str, ...]:
    """Check every row and the size of every file, but decode nothing.

    Returns warnings about unusual things that do no harm. Raises one `DataError` with all problems: the count, the
    first `limit` and the remedy of each kind in `_REMEDIES`.
    """
    if not table.rows:
        raise DataError(f"{table.name}: there is no clip; check that the folder is right and the download complete")
    problems: dict[str, list[str]] = defaultdict(list)
    _check_files(table.rows, problems)
    _check_repeats(table.rows, problems)
    _check_times(table, problems)
    parts = _check_labels(table, problems)
    if problems:
        raise DataError(report(f"{table.name} ({len(table):,} clips) cannot be used", problems, limit))
    return _warnings(table, parts, limit)


def report(title: str, problems: dict[str, list[str]], limit: int = 10) -> str:
    """Report of several lines: each kind of problem with its count, its first `limit` items, and its known remedy."""
    lines = [f"{title}:"]
    for kind, items in problems.items():
        remedy = f"; {_REMEDIES[kind]}" if kind in _REMEDIES else ""
        lines.append(f"  {len(items):,} {kind}{remedy}")
        lines += [f"    {item}" for item in items[:limit]]
        if len(items) > limit:
            lines.append(f"    … and {len(items) - limit:,} more")
    return "\n".join(lines)


def _check_files(rows: Iterable[ClipRow], problems: dict[str, list[str]]) -> None:
    # On most systems, a folder listing has no sizes. One stat per file is as fast, and detects the empty files.
    for path in dict.fromkeys(str(row.path) for row in rows):
        try:
            status = os.stat(path)
        except (OSError, ValueError):
            problems["files are missing"].append(path)
            continue
        if not stat.S_ISREG(status.st_mode):
            problems["files are missing"].append(f"{path} (is not a file)")
        elif status.st_size == 0:
            problems["files are empty (0 bytes)"].append(path)


def _check_repeats(rows: Iterable[ClipRow], problems: dict[str, list[str]]) -> None:
    first: dict[str, ClipRow] = {}
    # Slices are kept only for files with several clips; most sets have one clip per file.
    slices: set[tuple[str, float, float | None]] = set()
    for row in rows:
        path = str(row.path)
        if path not in first:
            first[path] = row
            continue
        before = first[path]
        if before.part != row.part:
            problems["files are in two parts"].append(f"{path} ({before.part} and {row.part})")
            continue
        key = (path, row.start, row.end)
        if key in slices or (before.start, before.end) == (row.start, row.end):
            problems["clips are listed twice"].append(path)
        slices.add(key)


def _check_times(table: ClipTable, problems: dict[str, list[str]]) -> None:
    parts = set(table.folds or PARTS)
    for row in table.rows:
        if not (0 <= row.start < math.inf) or (row.end is not None and not (row.start < row.end < math.inf)):
            problems["clips have an impossible start or end"].append(f"{row.path} ({row.start} to {row.end} s)")
        if row.part not in parts:
            problems["clips are of an unknown part"].append(f"{row.path} ({row.part!r})")


def _check_labels(table: ClipTable, problems: dict[str, list[str]]) -> dict[str, set[str]]:
    """Check the labels; returns the parts in which each class occurs."""
    parts: dict[str, set[str]] = {label: set() for label in table.labels}
    if len(parts) < len(table.labels):
        problems["classes are named twice"] += [label for label in parts if table.labels.count(label) > 1]
    unknown: dict[str, Path] = {}
    for row in table.rows:
        if not row.labels:
            problems["clips have no label"].append(str(row.path))
        for label in row.labels:
            if label in parts:
                parts[label].add(row.part)
            else:
                unknown.setdefault(label, row.path)
    if unknown:
        problems["labels are no class"] += [f"{label!r}, first of {path}" for label, path in unknown.items()]
    never = [label for label in parts if not parts[label]]
    if never and not table.multi_label:
        problems["classes have no clip"] += never
    return parts


def _warnings(table: ClipTable, parts: dict[str, set[str]], limit: int) -> tuple[str, ...]:
    if table.folds:
        alone = [label for label, class_parts in parts.items() if len(class_parts) == 1]
        what = "in one fold only, so they have no training clip if it is the test fold"
    elif any("train" in class_parts for class_parts in parts.values()):
        alone = [label for label, class_parts in parts.items() if "train" not in class_parts]
        what = "without a training clip"
    else:
        return ("no training clip, only validation and test clips",)
    names = ", ".join(alone[:limit]) + (" …" if len(alone) > limit else "")
    return (f"{len(alone)} of {len(parts)} classes {what}: {names}",) if alone else ()
