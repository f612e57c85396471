"""Labels of a sound while it goes on: a microphone, a radio, a pipe."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soxr
import torch
from transformers import PreTrainedModel

from ..audio.files import SAMPLE_RATE, is_silent
from ..audio.front_end import FrontEnd
from ..audio.waveforms import block_of
from ..models.front_ends import front_end_of
from ..models.loading import load_features
from .tagger import Tagger


@dataclass(frozen=True)
class Answer:
    """What a model hears at a moment.

    Args:
        start: where the window begins, in seconds since the stream did.
        end: where it ends: the moment that the answer is about.
        labels: (label, probability), the most probable first.
        silent: whether the window is silent, so that the labels mean nothing.
        compute_seconds: time that the answer took.
        skipped: answers that were left out just before this one, because they would have come too late.
    """

    start: float
    end: float
    labels: tuple[tuple[str, float], ...]
    silent: bool
    compute_seconds: float
    skipped: int = 0

    @property
    def label(self) -> str:
        return self.labels[0][0]

    def as_row(self) -> dict[str, Any]:
        """For JSON."""
        row: dict[str, Any] = {"start": round(self.start, 3), "end": round(self.end, 3)}
        row["labels"] = [{"label": label, "score": round(score, 6)} for label, score in self.labels]
        row |= {"silent": True} if self.silent else {}
        row |= {"skipped": self.skipped} if self.skipped else {}
        return row | {"compute_seconds": round(self.compute_seconds, 6)}


class Stream:
    """Labels of a sound that comes bit by bit. It holds the last window, and the filter that converts the rate.

        model = ap.load("esc10")
        ap.prune(model, ap.recommended(model))
        stream = ap.Stream(model, "esc10", hop=0.5, sampling_rate=44_100)
        for block in microphone:  # (samples,) each
            for answer in stream.feed(block):
                print(f"{answer.end:.1f} s: {answer.label}")

    Each answer is that for a clip of the last `window` seconds. Until so much was heard, it is that for all that was
    heard, padded as a short clip is. The model stays as it is: pruned where it was pruned, also between two calls.

    Args:
        model: an audio classifier.
        front: what turns waveforms into its inputs: the source that it was loaded from, what `ap.load_features` gave,
            or its transformers extractor.
        hop: seconds between answers.
        sampling_rate: hertz of what is fed.
        window: seconds that are heard at once; the model's own by default (10 s if it takes any length).
        top: number of labels of an answer.

    Raises `ValueError` for numbers that cannot be served.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        front: FrontEnd | str | Path | Any,
        *,
        hop: float = 0.5,
        sampling_rate: int = SAMPLE_RATE,
        window: float | None = None,
        top: int = 3,
    ) -> None:
        if isinstance(front, str | Path):
            front = load_features(front, model)
        elif not isinstance(front, FrontEnd):
            front = front_end_of(front, model)
        if not math.isfinite(hop) or hop < 0.05:
            raise ValueError(f"hop is {hop!r}; it is the seconds between answers, at least 0.05")
        if not math.isfinite(sampling_rate) or not 1000 <= sampling_rate <= 768_000:
            raise ValueError(f"sampling_rate is {sampling_rate!r}; it is a number of hertz, such as 16000 or 44100")
        most = None if front.shape is None else front.max_seconds
        window = front.max_seconds if window is None else window
        if not 0.1 <= window < 3600 or (most is not None and window > most + 0.01):
            raise ValueError(
                f"window is {window!r}; it must be at least 0.1 s"
                + ("" if most is None else f", and at most {most:g} s, which is all that the model hears at once")
            )
        self.hop, self.sampling_rate, self.window = hop, sampling_rate, window
        self._tagger = Tagger(model, front, top=top, windows=None)
        self._ring = np.zeros(round(window * SAMPLE_RATE), np.float32)
        self.reset()

    def reset(self) -> None:
        """Forget what was heard, as for a new stream."""
        self._resampler = (
            None
            if self.sampling_rate == SAMPLE_RATE
            else soxr.ResampleStream(self.sampling_rate, SAMPLE_RATE, 1, dtype="float32", quality="HQ")
        )
        self._heard = 0
        """Samples heard, at 16 kHz."""
        self._answers = 0
        """Moments that are past, answered or skipped."""
        self._skipped = 0

    @property
    def seconds(self) -> float:
        """Seconds that were heard."""
        return self._heard / SAMPLE_RATE

    def feed(self, samples: Any, *, latest: bool = False) -> list[Answer]:
        """Hear some more. Returns the answers that are due: none, one or several.

        Args:
            samples: any length, also none: (samples,) floats in [-1, 1] or whole numbers in full scale, at
                `sampling_rate`; or with channels, which are averaged.
            latest: whether to answer only for the last moment that is due, and to skip those before it.

        Raises `AudioError` (a `ValueError`) if the samples are no sound: a wrong shape or type, NaN, or floats far
        outside [-1, 1]. Nothing of them is then heard, and the stream goes on with the next call. Raises `ValueError`
        if the model's output is not finite.
        """
        return self._hear(self._converted(samples, last=False), latest)

    def finish(self) -> list[Answer]:
        """The answers that are due when the stream ends, and one for what came after the last of them. Begins anew."""
        answers = self._hear(self._converted(np.zeros(0, np.float32), last=True), False)
        rest = self._heard - self._due(self._answers)
        if rest >= SAMPLE_RATE // 20:
            answers.append(self._answer())
        self.reset()
        return answers

    def _converted(self, samples: Any, last: bool) -> np.ndarray:
        checked = block_of(samples, "the samples").numpy()
        if self._resampler is None:
            return checked
        return np.asarray(self._resampler.resample_chunk(checked, last=last), np.float32)

    def _hear(self, samples: np.ndarray, latest: bool) -> list[Answer]:
        answers: list[Answer] = []
        final = self._heard + len(samples)
        while True:
            due = self._due(self._answers + 1)
            part = samples[: due - self._heard]
            self._push(part)
            samples = samples[len(part) :]
            if self._heard < due:
                return answers
            self._answers += 1
            if latest and self._due(self._answers + 1) <= final:
                self._skipped += 1
            else:
                answers.append(self._answer())

    def _due(self, answers: int) -> int:
        """Samples that are heard at the moment of an answer; moments do not drift, whatever the hop."""
        return round(answers * self.hop * SAMPLE_RATE)

    def _push(self, samples: np.ndarray) -> None:
        """Write samples behind the others. The ring holds what was heard last, from `_heard` modulo its length on."""
        kept = samples[-len(self._ring) :]
        places = (self._heard + len(samples) - len(kept) + np.arange(len(kept))) % len(self._ring)
        self._ring[places] = kept
        self._heard += len(samples)

    def _last(self) -> np.ndarray:
        count = min(self._heard, len(self._ring))
        return self._ring[(self._heard - count + np.arange(count)) % len(self._ring)]

    def _answer(self) -> Answer:
        began = time.perf_counter()
        waveform = self._last()
        found = self._tagger.probabilities([waveform])[0]
        if not torch.isfinite(found).all():
            raise ValueError("the model's output is not finite; if it runs in float16, try float32")
        labels = tuple((one["label"], one["score"]) for one in self._tagger.labels(found))
        skipped, self._skipped = self._skipped, 0
        took = time.perf_counter() - began
        end = self.seconds
        silent = is_silent(waveform)
        return Answer(end - len(waveform) / SAMPLE_RATE, end, labels, silent, took, skipped)
