"""Tagging many files: decode ahead in threads, run in batches, write each result as it comes, resume after a kill."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from ..audio.features import LogMel
from ..audio.files import EXTENSIONS, AudioError, Clip, decode_ahead, load_audio
from ..files import Journal, Row, check_same

ROW_START = b'{"path": '
"""How every row begins: what is left of a torn last line must begin so too."""


class Sound(Protocol):
    """A sound that is no file of its own, such as a row of a table. `str()` is what messages call it."""

    @property
    def key(self) -> str:
        """What its row gives as `path`: unlike that of every other sound of a run."""

    def load(self, max_seconds: float) -> Clip:
        """Decode the beginning. Raises `AudioError` where that cannot be."""


def key(sound: Path | Sound) -> str:
    """`path` of a sound's row: absolute for a file, so that a run may be taken up from another folder."""
    return os.path.abspath(sound) if isinstance(sound, Path) else sound.key


class ResultLogError(ValueError):
    """An output file that cannot be appended to. The message names it and the remedy."""


def find_clips(sources: Iterable[str | Path]) -> tuple[list[Path], list[Path]]:
    """Files to tag, each once, and the files passed over in folders because their name is not a sound's.

    A folder is searched through and sorted; a file that is named explicitly is always taken.
    Raises `FileNotFoundError` for a source that is not there.
    """
    clips: dict[str, Path] = {}
    passed: list[Path] = []
    for source in map(Path, sources):
        if not source.exists():
            raise FileNotFoundError(f"{source}: no such file or folder")
        if not source.is_dir():
            clips.setdefault(os.path.abspath(source), source)
            continue
        for path in sorted(p for p in source.rglob("*") if p.is_file()):
            if path.suffix.lower() in EXTENSIONS:
                clips.setdefault(os.path.abspath(path), path)
            else:
                passed.append(path)
    return list(clips.values()), passed


@dataclass
class Tagger:
    """A model, its front end, and how to read its answers.

    top: labels reported per clip. batch_size: clips per forward. workers: threads that decode.
    """

    model: PreTrainedModel
    front: LogMel
    top: int = 3
    batch_size: int = 8
    workers: int = 2

    def __post_init__(self) -> None:
        self.front.to(self.device)

    @property
    def device(self) -> torch.device:
        return self.model.device

    def __call__(self, sounds: Iterable[Path | Sound]) -> Iterator[Row]:
        """A row for each sound, in order: `path`, `labels`, `seconds`, `heard_seconds`, and `silent` where it is; or
        `path` and `error`."""
        batch: list[tuple[Path | Sound, Clip | AudioError]] = []
        for item in self._decoded(sounds):
            batch.append(item)
            if len(batch) == self.batch_size:
                yield from self._rows(batch)
                batch = []
        yield from self._rows(batch)

    def _decoded(self, sounds: Iterable[Path | Sound]) -> Iterator[tuple[Path | Sound, Clip | AudioError]]:
        """Decode ahead of the model, two batches at most, in order."""

        def load(sound: Path | Sound) -> Clip:
            read = partial(load_audio, sound) if isinstance(sound, Path) else sound.load
            return read(max_seconds=self.front.max_seconds)

        return decode_ahead(sounds, load, ahead=2 * self.batch_size, workers=self.workers)

    def _rows(self, batch: list[tuple[Path | Sound, Clip | AudioError]]) -> list[Row]:
        clips = [item for _, item in batch if isinstance(item, Clip)]
        answers = iter(self.probabilities([clip.waveform for clip in clips]) if clips else ())
        rows: list[Row] = []
        for sound, item in batch:
            if isinstance(item, AudioError):
                rows.append({"path": key(sound), "error": str(item)})
                continue
            probabilities = next(answers)
            if not torch.isfinite(probabilities).all():
                rows.append({"path": key(sound), "error": f"{sound}: the model's answer is not finite"})
                continue
            seconds = {"seconds": round(item.seconds, 3), "heard_seconds": round(item.heard_seconds, 3)}
            silent = {"silent": True} if item.is_silent else {}
            rows.append({"path": key(sound), "labels": self._labels(probabilities), **seconds, **silent})
        return rows

    @torch.inference_mode()
    def probabilities(self, waveforms: list[np.ndarray]) -> Tensor:
        """(clips, labels) on the CPU, float32: sigmoid for a multi-label model, softmax otherwise."""
        logits = self.model(self.features(waveforms)).logits.float()
        if self.model.config.problem_type == "multi_label_classification":
            return logits.sigmoid().cpu()
        return logits.softmax(dim=-1).cpu()

    def features(self, waveforms: list[np.ndarray]) -> Tensor:
        """(clips, frames, mels) on the model's device, in its dtype."""
        return self.front(waveforms).to(self.model.dtype)

    def _labels(self, probabilities: Tensor) -> list[dict[str, Any]]:
        values, indices = probabilities.topk(min(self.top, len(probabilities)))
        names: dict[Any, str] = self.model.config.id2label or {}
        return [
            {"label": names.get(index, str(index)), "score": round(value, 6)}
            for value, index in zip(values.tolist(), indices.tolist(), strict=True)
        ]


class ResultLog:
    """A JSON Lines file of rows that survives a kill: appended row by row, resumed without loss or repeat.

    Every row carries the run's `setting`; a file written under another setting is refused, so that one file never
    mixes two models or two keep rates. A last line that was torn by a kill is cut off and its clip done again.
    """

    def __init__(self, path: Path, setting: Row) -> None:
        self.path, self.setting = path, setting
        self._failed: dict[str, bool] = {}
        self._journal = Journal(path, ResultLogError, "a row of results", ROW_START)
        try:
            for number, row in self._journal.read():
                self._resume(number, row)
        except BaseException:
            self._journal.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._journal.close()
        if self.path.is_file() and self.path.stat().st_size == 0:  # nothing came of it: leave no empty file behind
            self.path.unlink()

    def is_done(self, sound: Path | Sound) -> bool:
        return key(sound) in self._failed

    def failures(self, sounds: Iterable[Path | Sound]) -> int:
        """How many of these clips have a row with an error."""
        return sum(self._failed.get(key(sound), False) for sound in sounds)

    def write(self, row: Row) -> None:
        """Append a row in one write; on return it outlives the process."""
        self._journal.append([{**row, "setting": self.setting}])
        self._count(row)

    def clear(self) -> None:
        """Drop the rows: for who has put them elsewhere."""
        self._journal.clear()
        self._failed.clear()

    def _count(self, row: Row) -> None:
        self._failed[row["path"]] = "error" in row

    def _resume(self, number: int, row: Row) -> None:
        if not isinstance(row.get("path"), str) or not isinstance(row.get("setting"), dict):
            self._journal.refuse(number)
        check_same(self.path, row["setting"], self.setting, ResultLogError)
        self._count(row)


class Log(Protocol):
    """What a run writes to: `ResultLog`, or another file that can be resumed."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None: ...

    def is_done(self, sound: Path | Sound) -> bool: ...

    def failures(self, sounds: Iterable[Path | Sound]) -> int: ...

    def write(self, row: Row) -> None: ...


def run(
    tagger: Callable[[list[Path | Sound]], Iterable[Row]],
    sounds: Sequence[Path | Sound],
    log: Log | None,
    report: Callable[[Row], None] = lambda row: None,
) -> tuple[int, int]:
    """Tag what the log does not hold yet. Returns (rows written, failures in all, earlier ones included).

    tagger: a `Tagger`, or another engine that gives one row a sound, in any order.
    """
    todo = [sound for sound in sounds if log is None or not log.is_done(sound)]
    written = failures = 0
    for row in tagger(todo):
        if log is not None:
            log.write(row)
        written += 1
        failures += "error" in row
        report(row)
    return written, failures if log is None else log.failures(sounds)
