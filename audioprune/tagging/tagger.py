"""Tagging of many files: decoding ahead in threads, batches, and long recordings window by window."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from ..audio.files import SAMPLE_RATE, AudioError, Clip, decode_ahead, is_silent
from ..audio.front_end import FrontEnd
from ..audio.windowing import WHOLE, Windowing
from ..audio.windows import Envelope, batches, count, cut, pieces, read_ahead
from ..bulk.sounds import Sound, key, load
from ..core.cost import macs
from ..core.pruning import handle
from ..files import Row
from .timeline import Timeline


class NotFiniteError(ValueError):
    """A model's output that is not finite."""


@dataclass
class Tagger:
    """A classifier with its front end, which gives a row of labels for each sound.

    Args:
        model: the classifier.
        front: its front end.
        top: number of labels per clip.
        batch_size: clips per forward.
        workers: number of threads that decode.
        windows: how a sound that is longer than a window is heard; None hears its beginning alone.
        progress: called with the windows of a long sound that were heard, and their number.
        heard: called with each long sound and what was heard in it.
    """

    model: PreTrainedModel
    front: FrontEnd
    top: int = 3
    batch_size: int = 8
    workers: int = 2
    windows: Windowing | None = WHOLE
    progress: Callable[[int, int], Any] = lambda done, total: None
    heard: Callable[[Path | Sound, Timeline], Any] = lambda sound, timeline: None
    _counts: dict[str, int] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        self.front.to(self.device)
        self.windows = None if self.windows is None else self.windows.of(self.front)

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def seconds(self) -> float:
        """Seconds of sound that are heard at once."""
        seconds = None if self.windows is None else self.windows.seconds
        return self.front.max_seconds if seconds is None else seconds

    def __call__(self, sounds: Iterable[Path | Sound]) -> Iterator[Row]:
        """Yield a row for each sound, in order.

        A row has `path`, `labels`, `seconds` and `heard_seconds`, and `silent` if the sound is silent; or `path` and
        `error`. That of a long sound also has `pool` (how its labels came of its windows), `window_seconds`,
        `hop_seconds`, `macs_per_window`, and `windows`: `start`, `end` and `labels` of each, and `silent`."""
        batch: list[tuple[Path | Sound, Clip | AudioError]] = []
        for sound, item in self._decoded(sounds):
            if isinstance(item, Clip) and self.is_long(item):
                yield from self._rows(batch)
                batch = []
                yield self._long(sound, item)
                continue
            batch.append((sound, item))
            if len(batch) == self.batch_size:
                yield from self._rows(batch)
                batch = []
        yield from self._rows(batch)

    def is_long(self, clip: Clip) -> bool:
        """Whether a sound is heard in windows. clip: its first window."""
        return self.windows is not None and clip.is_cut

    def timeline(self, sound: Path | Sound, seconds: float) -> Timeline:
        """What the model hears in each window of a sound, which is read from disk meanwhile.

        seconds: length of the sound, for `progress`. Raises `AudioError` if a part cannot be decoded, and
        `NotFiniteError` if an answer is not finite.
        """
        assert self.windows is not None
        window, hop = self.windows.samples
        total, envelope = count(round(seconds * SAMPLE_RATE), window, hop), Envelope()
        spans, answers, silent = [], [], []
        parts = envelope.watch(pieces(partial(load, sound)))
        for batch in read_ahead(batches(cut(parts, window, hop), self.batch_size)):
            answers.append(self.probabilities([one.waveform for one in batch]))
            if not torch.isfinite(answers[-1]).all():
                raise NotFiniteError(
                    f"{sound}: the model's output is not finite (at {batch[0].seconds[0]:.1f} s or after)"
                )
            spans += [one.seconds for one in batch]
            silent += [is_silent(one.waveform) for one in batch]
            self.progress(len(spans), max(total, len(spans)))
        return Timeline(np.array(spans), torch.cat(answers), np.array(silent), self.windows.pool, envelope.array())

    def timeline_row(self, sound: Path | Sound, seconds: float, timeline: Timeline) -> Row:
        """The row of a long sound."""
        assert self.windows is not None
        heard = float(timeline.spans[-1, 1])
        row: Row = {"path": key(sound), "labels": self.labels(timeline.pooled())}
        row |= {"seconds": round(max(seconds, heard), 3), "heard_seconds": round(heard, 3)}
        row |= {"silent": True} if timeline.is_silent else {}
        row |= self.windows.as_dict() | {"macs_per_window": self.macs_per_window()}
        windows = zip(timeline.spans.tolist(), timeline.probabilities, timeline.silent.tolist(), strict=True)
        row["windows"] = [
            {"start": round(start, 3), "end": round(end, 3), "labels": self.labels(probabilities)}
            | ({"silent": True} if silent else {})
            for (start, end), probabilities, silent in windows
        ]
        return row

    def macs_per_window(self) -> int:
        """Multiply-accumulates of one window of noise, pruning included."""
        pruned = handle(self.model)
        method = "" if pruned is None else str(pruned.method)
        if method not in self._counts:
            self._counts[method] = self._count()
        return self._counts[method]

    def _count(self) -> int:
        noise = np.random.default_rng(0).standard_normal(round(self.seconds * SAMPLE_RATE)).astype(np.float32) * 0.1
        return macs(self.model, inputs=self.features([noise]))

    def _long(self, sound: Path | Sound, clip: Clip) -> Row:
        try:
            timeline = self.timeline(sound, clip.seconds)
            self.heard(sound, timeline)
            return self.timeline_row(sound, clip.seconds, timeline)
        except (AudioError, NotFiniteError) as error:
            return {"path": key(sound), "error": str(error)}
        except OSError as error:
            return {"path": key(sound), "error": f"{sound}: cannot be read ({type(error).__name__}: {error})"}

    def _decoded(self, sounds: Iterable[Path | Sound]) -> Iterator[tuple[Path | Sound, Clip | AudioError]]:
        """Decode the first window of each sound ahead of the model, at most two batches, in order."""
        first = partial(load, max_seconds=self.seconds)
        return decode_ahead(sounds, first, ahead=2 * self.batch_size, workers=self.workers)

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
            rows.append({"path": key(sound), "labels": self.labels(probabilities), **seconds, **silent})
        return rows

    @torch.inference_mode()
    def probabilities(self, waveforms: list[np.ndarray]) -> Tensor:
        """Probabilities (clips, labels), float32, on the CPU: sigmoid for a multi-label model, softmax otherwise."""
        found: dict[int, Tensor] = {}
        for batch in self.front.batches(waveforms):
            logits = self.model(self.features([waveforms[i] for i in batch])).logits.float()
            found |= zip(batch, logits, strict=True)
        logits = torch.stack([found[i] for i in range(len(waveforms))])
        if self.model.config.problem_type == "multi_label_classification":
            return logits.sigmoid().cpu()
        return logits.softmax(dim=-1).cpu()

    def features(self, waveforms: list[np.ndarray]) -> Tensor:
        """Features (clips, *front.shape) on the model's device, in its dtype; of clips that `front.batches` puts
        together."""
        return self.front(waveforms).to(self.model.dtype)

    def labels(self, probabilities: Tensor) -> list[dict[str, Any]]:
        """The most probable labels of (labels,), with their scores."""
        values, indices = probabilities.topk(min(self.top, len(probabilities)))
        return [
            {"label": self.name_of(index), "score": round(value, 6)}
            for value, index in zip(values.tolist(), indices.tolist(), strict=True)
        ]

    def name_of(self, index: int) -> str:
        """Name of a label by its number."""
        names: dict[Any, str] = self.model.config.id2label or {}
        return names.get(index, str(index))
