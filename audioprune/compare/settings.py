"""What is compared: methods by name, models that were trained with one, and labelled clips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ..audio.files import SAMPLE_RATE, AudioError, is_cut, is_silent, load_audio
from ..audio.front_end import FrontEnd
from ..audio.windowing import Windowing
from ..audio.windows import spread
from ..core.settings import SETTINGS, parse_method, read_method, settings_path
from ..data import ClipRow, ClipTable, DataError, SoundCache
from ..methods import Method
from ..methods.names import NamedMethod, compared, named, untrained_as
from ..models.loading import load, load_features


class Clips(Protocol):
    """Features of clips, all of one shape: a tensor (clips, …), or whatever reads them one by one."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Tensor: ...


@dataclass(frozen=True)
class ReadClips:
    """Clips of a table, read as they are asked for.

    recordings: of each row the clip that it is a window of, 0 … n - 1; () if each row is a clip. pool: "mean" or "max"
        of the windows' probabilities, for a clip's answer.
    """

    rows: Sequence[ClipRow]
    front: FrontEnd
    cache: SoundCache
    recordings: Sequence[int] = ()
    pool: str = "mean"

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Tensor:
        return self.cache.features(self.rows[index], self.front)

    @cached_property
    def answering(self) -> Tensor:
        """(rows,) bool: the windows that a clip's answer is made of. A silent one has no part in it, unless all are."""
        owners = torch.tensor(self.recordings)
        alone = torch.bincount(owners)[owners] == 1
        heard = torch.tensor([bool(only) or self._is_heard(row) for row, only in zip(self.rows, alone, strict=True)])
        return heard | (torch.bincount(owners, heard.double())[owners] == 0)

    def _is_heard(self, row: ClipRow) -> bool:
        return not is_silent(self.cache.waveform(row))


@dataclass(frozen=True)
class FineTuned:
    """A model that was trained with a method, and the clips by its own front end."""

    model: PreTrainedModel
    features: Clips
    method: Method


def parse_methods(words: Sequence[str]) -> dict[str, NamedMethod]:
    """Methods by name: words, "all" for every word that a comparison shows, JSON files, and folders with a
    `pruning.json`.

    Raises `ValueError` for an unknown word, and for a method that must be trained first.
    """
    methods: dict[str, NamedMethod] = {}
    for word in words:
        if word == "all":
            methods |= {name: named(name) for name in compared()}
            continue
        remedy = f"give what was trained by --fine-tuned {word}=FOLDER"
        method = parse_method(word, remedy)
        is_file = settings_path(word) is not None
        if not is_file and (double := untrained_as(word)) is not None:
            raise ValueError(
                f"{word} chooses as {double} does until a model is trained with it: compare {double}, or {remedy}"
            )
        is_taken = is_file and (method.word in methods or method.word in compared())
        methods[word if is_taken else method.word] = method
    return methods


def open_fine_tuned(
    folder: str | Path,
    like: PreTrainedModel,
    rows: Sequence[ClipRow],
    cache: SoundCache,
    windows: Windowing | None = None,
) -> FineTuned:
    """A model that was trained with the method that its `pruning.json` names, on the device of `like`.

    windows: how clips are cut that are longer than it hears.

    Raises `ValueError` where the folder has no such file, or the model answers in other labels than `like`.
    """
    method = read_method(Path(folder) / SETTINGS)
    model: Any = load(folder)
    if _labels(model) != _labels(like):
        raise ValueError(
            f"{folder}: answers in {_some(_labels(model))}, the model that it is compared with in "
            f"{_some(_labels(like))}; both must have been trained for the same labels"
        )
    front = load_features(folder, model)
    return FineTuned(model.to(like.device, like.dtype), read_clips(rows, front, cache, windows), method)


def read_clips(
    rows: Sequence[ClipRow], front: FrontEnd, cache: SoundCache, windows: Windowing | None = None
) -> ReadClips:
    """The clips of some rows, with those in windows that are longer than the model hears (see `in_windows`)."""
    cut, recordings = in_windows(rows, front, windows)
    return ReadClips(cut, front, cache, recordings, "mean" if windows is None else windows.pool)


def choose_clips(table: ClipTable, folds: Sequence[str] = (), part: str | None = None) -> tuple[ClipRow, ...]:
    """Clips to compare on: of these folds together, or of a part ("train", "validation", "test" or "all").

    By default the test clips. Where clips are of no part at all, as those of a plain folder of class folders, all.
    Raises `DataError` where none are left or it must be said which.
    """
    if folds and part is not None:
        raise DataError(f"give folds ({', '.join(folds)}) or a part of the data ({part}), not both")
    if folds:
        return tuple(row for fold in dict.fromkeys(folds) for row in table.split(fold).test)
    if part == "all":
        return table.rows
    if table.folds:
        raise DataError(
            f"{table.name} has the folds {', '.join(table.folds)}; choose those that the model never heard "
            "(--folds), or all clips (--split all)"
        )
    if part is None and all(row.part == "train" for row in table.rows):
        return table.rows
    rows = tuple(row for row in table.rows if row.part == (part or "test"))
    if not rows:
        raise DataError(f"{table.name}: has no {part or 'test'} clips; choose another part (--split), or all")
    return rows


def others(table: ClipTable, compared: Sequence[ClipRow], count: int) -> tuple[ClipRow, ...]:
    """So many clips that are not compared, at even distances: of the training part, or of the other folds.

    Raises `DataError` if there are fewer.
    """
    used = set(compared)
    rows = [row for row in table.rows if row not in used and (table.folds or row.part == "train")]
    if len(rows) < count:
        raise DataError(
            f"{table.name}: has {len(rows)} clips to correct with that are not compared, and --correct asks for "
            f"{count}; ask for fewer, or give data with folds (--folds) or a training part"
        )
    return spaced(rows, count)


def spaced(rows: Sequence[ClipRow], limit: int | None) -> tuple[ClipRow, ...]:
    """At most `limit` rows at even distances, so that all classes of a sorted data set are included."""
    if limit is None or limit >= len(rows):
        return tuple(rows)
    if limit < 1:
        raise ValueError(f"--limit is {limit}; it must be a number of clips, at least 1")
    return tuple(rows[i * len(rows) // limit] for i in range(limit))


def in_windows(
    rows: Sequence[ClipRow], front: FrontEnd, windows: Windowing | None
) -> tuple[tuple[ClipRow, ...], tuple[int, ...]]:
    """Rows with those that are longer than a window cut into windows, and the number of the row that each came from.

    windows: how they are cut; with no `hop` into `MOST_SPREAD` at most, over the whole length. None cuts nothing, and
    the numbers are (). A file that cannot be read stays as it is.
    """
    if windows is None:
        return tuple(rows), ()
    window, _ = windows.of(front).samples
    hop = None if windows.hop is None else round(windows.hop * SAMPLE_RATE)
    found, owners = list[ClipRow](), list[int]()
    for number, row in enumerate(rows):
        seconds = _seconds(row)
        is_long = is_cut(seconds, window / SAMPLE_RATE)
        starts = spread(round(seconds * SAMPLE_RATE), window, hop) if is_long else [0]
        if len(starts) == 1:
            found.append(row)
        for start in starts if len(starts) > 1 else ():
            first = row.start + start / SAMPLE_RATE
            found.append(replace(row, start=first, end=first + window / SAMPLE_RATE))
        owners += [number] * len(starts)
    return tuple(found), () if len(found) == len(rows) else tuple(owners)


def _seconds(row: ClipRow) -> float:
    """Length of a row; 0 if its file cannot be read, which is told when it is heard."""
    if row.end is not None:
        return row.end - row.start
    try:
        return load_audio(row.path, max_seconds=0.1).seconds - row.start
    except AudioError:
        return 0.0


def targets_of(model: PreTrainedModel, table: ClipTable, rows: Sequence[ClipRow]) -> Tensor:
    """The clips' labels by the model's numbers: (clips,) int64, or (clips, classes) float32 where a clip may have
    several. Raises `DataError` for a label that the model does not know; it may know others besides."""
    known = _labels(model)
    strange = sorted({label for row in rows for label in row.labels} - set(known))
    if strange:
        raise DataError(
            f"{table.name}: has the labels {_some(strange)}, and the model knows {_some(known)}; name the classes as "
            "the model does, or compare on what it was trained for"
        )
    places = [known.index(label) if label in known else -1 for label in table.labels]
    if not table.multi_label:
        return torch.tensor(places)[torch.as_tensor(table.targets(rows))]
    targets = torch.zeros(len(rows), len(known))
    there = [i for i, place in enumerate(places) if place >= 0]
    targets[:, [places[i] for i in there]] = torch.as_tensor(table.targets(rows))[:, there]
    return targets


def _labels(model: PreTrainedModel) -> list[str]:
    config: Any = model.config
    return [str(config.id2label.get(i)) for i in range(config.num_labels)]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (" …" if len(names) > 5 else "")
