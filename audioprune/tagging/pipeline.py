"""transformers' pipeline for sounds of any length."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AudioClassificationPipeline
from transformers.pipelines.base import ChunkPipeline

from ..audio.files import is_silent
from ..audio.waveforms import waveform_of
from ..audio.windowing import Windowing
from ..audio.windows import Window, batches, cut, pieces
from ..bulk.sounds import load
from ..models.front_ends import front_end_of
from .timeline import Timeline


class LongAudioClassificationPipeline(ChunkPipeline, AudioClassificationPipeline):
    """transformers' audio classification for sounds of any length, window by window:

        classify = pipeline(
            "audio-classification", model=model, feature_extractor=extractor,
            pipeline_class=ap.LongAudioClassificationPipeline,
        )
        classify("street.flac", hop=1.0, batch_size=8)

    It gives the same list of labels and scores. A sound that fits one window gets the answer of transformers' own.
    Files are read from disk piece by piece, and need no ffmpeg.

    Further arguments, when it is made or called:
        window: seconds of a window; the model's own by default, 10 if it takes any length.
        hop: seconds from the start of a window to the next; half a window by default.
        pool: "mean" or "max" of the windows' probabilities, for the answer.
        return_windows: give {"labels": …, "windows": [{"start", "end", "labels"}, …]} instead.
    """

    def _sanitize_parameters(
        self,
        top_k: int | None = None,
        function_to_apply: str | None = None,
        window: float | None = None,
        hop: float | None = None,
        pool: str | None = None,
        return_windows: bool | None = None,
        **further: Any,
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        _, _, after = super()._sanitize_parameters(top_k, function_to_apply, **further)
        before = {name: value for name, value in {"window": window, "hop": hop}.items() if value is not None}
        more: dict[str, Any] = {
            name: value for name, value in {"pool": pool, "return_windows": return_windows}.items() if value is not None
        }
        Windowing(pool=pool or "mean")  # raises for what is none
        return before, {}, after | more

    def preprocess(  # type: ignore[override]
        self, inputs: Any, window: float | None = None, hop: float | None = None
    ) -> Iterator[dict[str, Any]]:
        """Features of each window; `is_last` tells the pipeline that the sound ends."""
        asked = Windowing(window, hop).of(front_end_of(self.feature_extractor, self.model))
        windows = (one for batch in batches(cut(self._parts(inputs), *asked.samples), 1) for one in batch)
        before: Window | None = None
        for one in windows:
            if before is not None:
                yield self._features(before, is_last=False)
            before = one
        if before is not None:
            yield self._features(before, is_last=True)

    def _parts(self, inputs: Any) -> Iterator[np.ndarray]:
        if isinstance(inputs, str | Path):
            return pieces(partial(load, Path(inputs)))
        return iter([waveform_of(inputs).cpu().numpy()])

    def _features(self, window: Window, is_last: bool) -> dict[str, Any]:
        extractor: Any = self.feature_extractor
        rate = extractor.sampling_rate
        features = extractor(window.waveform, sampling_rate=rate, return_tensors="pt")
        if self.dtype is not None:
            features = features.to(dtype=self.dtype)
        silent = is_silent(window.waveform)
        return {"is_last": is_last, "place": (*window.seconds, silent), **features}

    def _forward(self, model_inputs: dict[str, Any]) -> Any:  # type: ignore[override]
        told = {name: model_inputs.pop(name) for name in ("is_last", "place")}
        return {**told, "logits": self.model(**model_inputs).logits}

    def postprocess(  # type: ignore[override]
        self,
        model_outputs: list[dict[str, Any]],
        top_k: int = 5,
        function_to_apply: str | None = None,
        pool: str = "mean",
        return_windows: bool = False,
    ) -> Any:
        """The labels of the whole sound; see the class."""
        to_probabilities = _function(function_to_apply, self.model.config.problem_type)
        probabilities = to_probabilities(torch.cat([output["logits"] for output in model_outputs]).float().cpu())
        places = [_place(output["place"]) for output in model_outputs]
        spans, silent = np.array([place[:2] for place in places]), np.array([bool(place[2]) for place in places])
        timeline = Timeline(spans, probabilities, silent, pool, np.empty((0, 2)))
        labels = self._labels(timeline.pooled(), top_k)
        if not return_windows:
            return labels
        windows = [
            {"start": start, "end": end, "labels": self._labels(each, top_k)}
            for (start, end), each in zip(spans.tolist(), probabilities, strict=True)
        ]
        return {"labels": labels, "windows": windows}

    def _labels(self, probabilities: torch.Tensor, top_k: int) -> list[dict[str, Any]]:
        scores, ids = probabilities.topk(top_k)
        names: dict[Any, str] = self.model.config.id2label or {}
        return [{"score": score, "label": names[i]} for score, i in zip(scores.tolist(), ids.tolist(), strict=True)]


def _function(name: str | None, problem: str | None) -> Any:
    """Logits to probabilities, as transformers' own pipeline chooses it."""
    if name is None:
        name = {"regression": "none", "multi_label_classification": "sigmoid"}.get(problem or "", "softmax")
    return {"none": lambda x: x, "sigmoid": torch.sigmoid, "softmax": lambda x: x.softmax(-1)}[name]


def _place(place: Any) -> Any:
    """A batch of one is not unpacked by the pipeline."""
    return place[0] if isinstance(place, list) else place
