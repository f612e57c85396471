"""Tagging of many files: decoding ahead in threads, and batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from ..audio.files import AudioError, Clip, decode_ahead, load_audio
from ..audio.front_end import FrontEnd
from ..bulk.sounds import Sound, key
from ..files import Row


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
    front: FrontEnd
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

    def _labels(self, probabilities: Tensor) -> list[dict[str, Any]]:
        values, indices = probabilities.topk(min(self.top, len(probabilities)))
        names: dict[Any, str] = self.model.config.id2label or {}
        return [
            {"label": names.get(index, str(index)), "score": round(value, 6)}
            for value, index in zip(values.tolist(), indices.tolist(), strict=True)
        ]
