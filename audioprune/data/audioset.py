"""AudioSet: ten-second clips of videos with several labels each (Gemmeke et al., ICASSP 2017)."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from .files import cells, csv_rows, some, sounds, text_lines
from .table import ClipRow, ClipTable, DataError, with_warnings

CLASSES = "class_labels_indices.csv"
TRAIN_LISTS = {"balanced": "balanced_train_segments.csv", "unbalanced": "unbalanced_train_segments.csv"}
TEST_LIST = "eval_segments.csv"
JSON_LISTS = {"train.json": "train", "eval.json": "test"}


def read_audioset(folder: Path, train: Literal["balanced", "unbalanced"] | None = None) -> ClipTable:
    """Read segment lists and `class_labels_indices.csv`.

    Lists are the official CSV files, or the AST authors' `train.json` and `eval.json`. If both exist, the JSON files
    are used. `train` names the CSV to train on: by default the balanced one of 20,000 clips, if it exists.

    The file of a CSV's clip `YTID` may have the name `YTID`, `YYTID`, `YTID_START`, `YTID_START_END` or
    `YTID_START-END` (in seconds; the start may be in milliseconds). It may be anywhere in `audio/` or in a folder named
    after the list. Files are assumed to be cut to their segment, as download tools do, so the whole file is used.

    Videos disappear, so clips that are not on disk are skipped and counted. Raises `DataError`, also if there is no
    clip at all.
    """
    if train is None:
        train = "balanced" if (folder / TRAIN_LISTS["balanced"]).is_file() else "unbalanced"
    if train not in TRAIN_LISTS:
        raise DataError(f"train is {train!r}; AudioSet's training lists are {', '.join(TRAIN_LISTS)}")
    lists = {name: part for name, part in JSON_LISTS.items() if (folder / name).is_file()}
    if not lists:
        lists = {name: part for name, part in _csv_lists(train).items() if (folder / name).is_file()}
    if not lists or not (folder / CLASSES).is_file():
        wanted = ", ".join((*TRAIN_LISTS.values(), TEST_LIST, *JSON_LISTS))
        raise DataError(f"{folder}: no audioset here; looked for {CLASSES} and one or more of {wanted}")
    names = {line["mid"]: line["display_name"] for line in _classes(folder)}
    rows: list[ClipRow] = []
    skipped: list[str] = []
    for name, part in lists.items():
        present, absent = (_from_json if name.endswith(".json") else _from_csv)(folder / name, part, names)
        rows += present
        if absent:
            skipped.append(
                f"{name}: {len(absent):,} of {len(present) + len(absent):,} clips not on disk: {some(absent, 3)}"
            )
    if not rows:
        raise DataError(
            f"{folder}: none of the clips is on disk ({'; '.join(skipped) or 'the lists are empty'}); "
            "put them into audio/, named YTID.wav for example"
        )
    return with_warnings(
        ClipTable(
            "audioset", tuple(rows), tuple(names.values()), multi_label=True, preset="audioset", skipped=tuple(skipped)
        )
    )


def has_lists(folder: Path) -> bool:
    """Whether the folder contains AudioSet's classes and at least one of its lists."""
    lists = (*TRAIN_LISTS.values(), TEST_LIST, *JSON_LISTS)
    return (folder / CLASSES).is_file() and any((folder / name).is_file() for name in lists)


def _csv_lists(train: str) -> dict[str, str]:
    return {TRAIN_LISTS[train]: "train", TEST_LIST: "test"}


def _classes(folder: Path) -> list[dict[str, str]]:
    lines = csv_rows(folder / CLASSES, ("index", "mid", "display_name"))
    order = [line["index"] for line in lines]
    if order != [str(i) for i in range(len(lines))]:
        raise DataError(f"{folder / CLASSES}: the column index must be 0, 1, 2 …, but it starts with {some(order)}")
    return lines


def _from_csv(path: Path, part: str, names: dict[str, str]) -> tuple[list[ClipRow], list[str]]:
    """Rows of a segment list, and the clips that are not on disk."""
    files = _files(path)
    rows, absent = [], []
    for number, line in text_lines(path):
        if line.startswith("#"):
            continue
        parts = cells(path, number, line)
        if len(parts) != 4:
            raise DataError(f'{path}, line {number}: expected `YTID, start, end, "mid,mid"`, got {line!r}')
        clip, start, end, mids = parts
        sound = next((files[name] for name in _namings(clip, start, end, path, number) if name in files), None)
        if sound is None:
            absent.append(clip)
        else:
            rows.append(ClipRow(sound, _labels(mids, names), part=part))
    return rows, absent


def _files(segments: Path) -> dict[str, Path]:
    """Paths by stem of all sounds that may belong to a list. Sounds in the folder with its name have priority."""
    folder, stem = segments.parent, segments.stem
    places = ("audio", stem.removesuffix("_segments"), stem)
    inside = [folder / "audio" / name for name in places[1:]]
    return {path.stem: path for place in (*(folder / name for name in places), *inside) for path in sounds(place)}


def _namings(clip: str, start: str, end: str, path: Path, number: int) -> Iterator[str]:
    """Possible file names of a clip, without suffix.

    Args:
        clip: the clip's YouTube id.
        start: start in the list, in seconds.
        end: end in the list, in seconds.
        path: path of the list, for errors.
        number: line number, for errors.
    """
    yield clip
    yield f"Y{clip}"
    try:
        first, last = float(start), float(end)
    except ValueError:
        raise DataError(f"{path}, line {number}: the times are {start!r} and {end!r}; they must be seconds") from None
    begins = (f"{round(first * 1000)}", f"{first:g}", f"{first:.3f}", f"{first:.1f}")
    ends = (f"{round(last * 1000)}", f"{last:g}", f"{last:.3f}", f"{last:.1f}")
    for name in (clip, f"Y{clip}"):
        for a, b in zip(begins, ends):
            yield f"{name}_{a}"
            yield f"{name}_{a}_{b}"
            yield f"{name}_{a}-{b}"


def _from_json(path: Path, part: str, names: dict[str, str]) -> tuple[list[ClipRow], list[str]]:
    """Rows of `{"data": [{"wav": path, "labels": "mid,mid"}]}`, and the clips that are not on disk."""
    try:
        with path.open(encoding="utf-8") as file:
            clips = [(str(clip["wav"]), str(clip["labels"])) for clip in json.load(file)["data"]]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        form = '{"data": [{"wav": "a.wav", "labels": "/m/09x0r,/m/05zppz"}]}'
        raise DataError(f"{path}: cannot be read ({type(error).__name__}: {error}); expected {form}") from error
    rows, absent = [], []
    for wav, mids in clips:
        if os.path.isfile(path.parent / wav):
            rows.append(ClipRow(path.parent / wav, _labels(mids, names), part=part))
        else:
            absent.append(wav)
    return rows, absent


def _labels(mids: str, names: dict[str, str]) -> tuple[str, ...]:
    # A mid that is not a class does not change here; the check reports it.
    return tuple(names.get(mid, mid) for mid in (part.strip() for part in mids.split(",")) if mid)
