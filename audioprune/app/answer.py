"""Content of the page: a model's labels with and without pruning, their cost, and what each stage kept."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..audio.files import load_audio
from ..compare.benchmark import in_turn, mean_macs
from ..core.pruning import prune
from ..core.trace import Trace, trace
from ..methods import Method
from ..tagging.tagger import Tagger
from ..tagging.timeline import Timeline
from ..timing import Ratio
from .remarks import remarks

SECONDS = 0.3
"""Time for which each of the two settings is measured."""


@dataclass(frozen=True)
class Prediction:
    """A model's prediction for one clip, pruned or not, with its cost.

    Args:
        labels: label → probability, most likely first.
        tokens: number of tokens that leave each block.
        macs: multiply-accumulates.
        milliseconds: median of the measured forwards.
    """

    labels: dict[str, float]
    tokens: tuple[int, ...]
    macs: int
    milliseconds: float

    @property
    def top(self) -> str:
        return next(iter(self.labels))


@dataclass(frozen=True)
class Comparison:
    """The predictions with and without pruning, and the data to draw.

    Args:
        name: name of the sound.
        method: the pruning method, as text.
        unpruned: prediction without pruning.
        pruned: prediction with pruning.
        speed_up: how many times as fast the pruned model is.
        notes: remarks about the sound.
        measured: name of the device of the measurement.
        log_mel: (frames, mels), what the model heard.
        heard_seconds: seconds of sound in it, without padding.
        record: trace of the pruned forward.
        timeline: of a long sound, what the pruned model heard in each window; the labels are those of the whole, and
            everything else is of the window at `span`.
        span: start and end of that window in seconds.
        label_names: of the labels, by their numbers.
    """

    name: str
    method: str
    unpruned: Prediction
    pruned: Prediction
    speed_up: Ratio
    notes: tuple[str, ...]
    measured: str
    log_mel: np.ndarray
    heard_seconds: float
    record: Trace
    timeline: Timeline | None = None
    span: tuple[float, float] | None = None
    label_names: tuple[str, ...] = ()

    @property
    def agrees(self) -> bool:
        """Whether the top label is the same with and without pruning."""
        return self.unpruned.top == self.pruned.top

    @property
    def stages(self) -> int:
        """Number of stages that reduced tokens."""
        return len(self.record.layers)


def compare(
    tagger: Tagger,
    path: Path,
    method: Method,
    *,
    seconds: float = SECONDS,
    progress: Callable[[int, int], Any] = lambda done, total: None,
) -> Comparison:
    """Predict the labels of a sound with a method and without. The model is unchanged afterwards.

    Args:
        tagger: the model with its front end.
        path: path of the sound.
        method: the pruning method.
        seconds: time to measure each of the two.
        progress: called with the windows of a long sound that were heard, by both, and their number.

    Raises `AudioError` if the sound cannot be used, and `ValueError` if the method does not fit the model or the
    output is not finite.
    """
    model: Any = tagger.model
    clip = load_audio(path, max_seconds=tagger.seconds)
    tagger.progress = lambda done, total: progress(done, 2 * total)
    full_timeline = tagger.timeline(path, clip.seconds) if tagger.is_long(clip) else None
    tagger.progress = lambda done, total: progress(total + done, 2 * total)
    with prune(model, method) as handle:
        depth = handle.adapter.depth
        timeline = None if full_timeline is None else tagger.timeline(path, clip.seconds)
        span = None if timeline is None else timeline.clearest()
        if span is not None:
            clip = load_audio(path, max_seconds=tagger.seconds, start_seconds=span[0])
        inputs = tagger.features([clip.waveform])
        with trace(model) as record:
            answer = tagger.probabilities([clip.waveform])[0]
        macs = mean_macs(model, inputs)
    full = tagger.probabilities([clip.waveform])[0] if full_timeline is None else full_timeline.pooled()
    labels = _labels(tagger, answer if timeline is None else timeline.pooled())
    unpruned, pruned = in_turn([(model, None, inputs), (model, method, inputs)], seconds)
    slow, fast = (1000 * statistics.median(each) for each in (unpruned, pruned))
    patches = record.grid[0] * record.grid[1]
    return Comparison(
        name=path.name,
        method=str(method),
        unpruned=Prediction(_labels(tagger, full), (patches,) * depth, mean_macs(model, inputs), slow),
        pruned=Prediction(labels, _tokens(record, patches, depth), macs, fast),
        speed_up=Ratio.between(unpruned, pruned),
        notes=remarks(clip, tagger.seconds, timeline),
        measured=_device_name(model.device),
        log_mel=tagger.front.picture(clip.waveform),
        heard_seconds=clip.heard_seconds,
        record=record,
        timeline=timeline,
        span=span,
        label_names=tuple(tagger.name_of(i) for i in range(len(full))),
    )


def _labels(tagger: Tagger, probabilities: Tensor) -> dict[str, float]:
    """All labels with their probabilities, most likely first."""
    if not torch.isfinite(probabilities).all():
        raise ValueError("the model's output is not finite; if it runs in float16, try float32")
    order = probabilities.argsort(descending=True).tolist()
    return {tagger.name_of(index): float(probabilities[index]) for index in order}


def _tokens(record: Trace, patches: int, depth: int) -> tuple[int, ...]:
    """Number of tokens that leave each block, as counted in this forward."""
    after = {layer: kept_tokens(record, stage) for stage, layer in enumerate(record.layers)}
    counts = [patches]
    for layer in range(depth):
        counts.append(after.get(layer, counts[-1]))
    return tuple(counts[1:])


def kept_tokens(record: Trace, stage: int) -> int:
    """Number of tokens that contain at least one patch after a stage, in the trace of one clip."""
    holders = record.holders[stage][0]
    return len(holders[holders >= 0].unique())


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"the CPU, {threads} {'thread' if threads == 1 else 'threads'}"
