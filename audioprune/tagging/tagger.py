"""Tagging of many files: decoding ahead in threads, batches, results written one by one, and resuming after a kill."""

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
"""Beginning of every row. An incomplete last line must begin with it too."""


class Sound(Protocol):
    """A sound without its own file, such as a row of a table. `str()` gives its name in messages."""

    @property
    def key(self) -> str:
        """Value of `path` in its row, unique in a run."""

    def load(self, max_seconds: float) -> Clip:
        """Decode the beginning. Raises `AudioError` if this is not possible."""


def key(sound: Path | Sound) -> str:
    """Value of `path` in a sound's row: absolute for a file, so that a run can resume from another folder."""
    return os.path.abspath(sound) if isinstance(sound, Path) else sound.key


class ResultLogError(ValueError):
    """An output file that cannot be appended to. The message names the file and the remedy."""


def find_clips(sources: Iterable[str | Path]) -> tuple[list[Path], list[Path]]:
    """Files to tag, each once, and files in folders that were skipped because of their names.

    A folder is searched with its subfolders, and sorted. A file that is named explicitly is always used. Raises
    `FileNotFoundError` if a source does not exist.
    """
    clips: dict[str, Path] = {}
    skipped: list[Path] = []
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
                skipped.append(path)
    return list(clips.values()), skipped


@dataclass
class Tagger:
    """A classifier with its front end, which gives a row of labels for each sound.

    Args:
        model: the classifier.
        front: its front end.
        top: number of labels per clip.
        batch_size: clips per forward.
        workers: number of threads that decode.
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
        """Yield a row for each sound, in order.

        A row has `path`, `labels`, `seconds` and `heard_seconds`, and `silent` if the sound is silent; or `path` and
        `error`."""
        batch: list[tuple[Path | Sound, Clip | AudioError]] = []
        for item in self._decoded(sounds):
            batch.append(item)
            if len(batch) == self.batch_size:
                yield from self._rows(batch)
                batch = []
        yield from self._rows(batch)

    def _decoded(self, sounds: Iterable[Path | Sound]) -> Iterator[tuple[Path | Sound, Clip | AudioError]]:
        """Decode ahead of the model, at most two batches, in order."""

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
                rows.append({"path": key(sound), "error": f"{sound}: the model's output is not finite"})
                continue
            seconds = {"seconds": round(item.seconds, 3), "heard_seconds": round(item.heard_seconds, 3)}
            silent = {"silent": True} if item.is_silent else {}
            rows.append({"path": key(sound), "labels": self._labels(probabilities), **seconds, **silent})
        return rows

    @torch.inference_mode()
    def probabilities(self, waveforms: list[np.ndarray]) -> Tensor:
        """Probabilities (clips, labels), float32, on the CPU: sigmoid for a multi-label model, softmax otherwise."""
        logits = self.model(self.features(waveforms)).logits.float()
        if self.model.config.problem_type == "multi_label_classification":
            return logits.sigmoid().cpu()
        return logits.softmax(dim=-1).cpu()

    def features(self, waveforms: list[np.ndarray]) -> Tensor:
        """Spectrograms (clips, frames, mels) on the model's device, in its dtype."""
        return self.front(waveforms).to(self.model.dtype)

    def _labels(self, probabilities: Tensor) -> list[dict[str, Any]]:
        values, indices = probabilities.topk(min(self.top, len(probabilities)))
        names: dict[Any, str] = self.model.config.id2label or {}
        return [
            {"label": names.get(index, str(index)), "score": round(value, 6)}
            for value, index in zip(values.tolist(), indices.tolist(), strict=True)
        ]


class ResultLog:
    """A JSON Lines file of rows that survives a kill. Rows are appended, and a run resumes without loss or repetition.

    Every row contains the run's `setting`. A file with another setting is refused, so that a file never mixes two
    models or two keep rates. If a kill left an incomplete last line, it is cut off, and its clip is tagged again.
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
        if self.path.is_file() and self.path.stat().st_size == 0:  # there are no results: leave no empty file
            self.path.unlink()

    def is_done(self, sound: Path | Sound) -> bool:
        return key(sound) in self._failed

    def failures(self, sounds: Iterable[Path | Sound]) -> int:
        """Number of these clips that have a row with an error."""
        return sum(self._failed.get(key(sound), False) for sound in sounds)

    def write(self, row: Row) -> None:
        """Append a row in one write. It is on disk when this returns."""
        self._journal.append([{**row, "setting": self.setting}])
        self._count(row)

    def clear(self) -> None:
        """Delete all rows, for a caller that has saved them elsewhere."""
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
    """Output of a run: `ResultLog`, or another file that can be resumed."""

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
    """Tag the sounds that are not in the log yet.

    Args:
        tagger: a `Tagger`, or another engine that gives one row per sound, in any order.
        sounds: all sounds.
        log: log of the results, or None.
        report: called with each row.

    Returns the number of rows written, and the number of all failures, with earlier ones.
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
