"""What the page says of a sound: a model's labels with and without pruning, their cost, and what each stage kept."""

from __future__ import annotations

import statistics
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
from .remarks import remarks

SECONDS = 0.3
"""Time for which each of the two forwards is measured."""


@dataclass(frozen=True)
class Side:
    """A model's answer to one clip, pruned or not.

    labels: probabilities, likeliest first. tokens: how many leave each block. macs: multiply-accumulates.
    milliseconds: median of the forwards that were measured.
    """

    labels: dict[str, float]
    tokens: tuple[int, ...]
    macs: int
    milliseconds: float

    @property
    def top(self) -> str:
        return next(iter(self.labels))


@dataclass(frozen=True)
class Answer:
    """Both sides, and what there is to draw.

    log_mel: (frames, mels), what the model heard, and `heard_seconds` of it are sound. measured: on what, in words.
    """

    name: str
    method: str
    unpruned: Side
    pruned: Side
    notes: tuple[str, ...]
    measured: str
    log_mel: np.ndarray
    heard_seconds: float
    record: Trace

    @property
    def agrees(self) -> bool:
        """Whether pruning left the top label as it was."""
        return self.unpruned.top == self.pruned.top

    @property
    def stages(self) -> int:
        """How often tokens were reduced."""
        return len(self.record.layers)


def hear(tagger: Tagger, path: Path, method: Method, *, seconds: float = SECONDS) -> Answer:
    """A model's answer to a sound with this method and without. The model is as it was afterwards.

    Raises `AudioError` where the sound cannot be used, `ValueError` where the method does not fit the model or the
    answer is not finite.
    """
    model: Any = tagger.model
    clip = load_audio(path, max_seconds=tagger.front.max_seconds)
    inputs = tagger.features([clip.waveform])
    full = _labels(tagger, clip.waveform)
    full_macs = mean_macs(model, inputs)
    with prune(model, method) as handle:
        with trace(model) as record:
            labels = _labels(tagger, clip.waveform)
        macs = mean_macs(model, inputs)
        depth = handle.adapter.depth
    times = in_turn([(model, None, inputs), (model, method, inputs)], seconds)
    slow, fast = (1000 * statistics.median(each) for each in times)
    patches = record.grid[0] * record.grid[1]
    return Answer(
        name=path.name,
        method=str(method),
        unpruned=Side(full, (patches,) * depth, full_macs, slow),
        pruned=Side(labels, _tokens(record, patches, depth), macs, fast),
        notes=remarks(path, clip, tagger.front.max_seconds),
        measured=_where(model.device),
        log_mel=tagger.front([clip.waveform])[0].float().cpu().numpy(),
        heard_seconds=clip.heard_seconds,
        record=record,
    )


def _labels(tagger: Tagger, waveform: np.ndarray) -> dict[str, float]:
    """All labels, likeliest first."""
    probabilities: Tensor = tagger.probabilities([waveform])[0]
    if not torch.isfinite(probabilities).all():
        raise ValueError("the model's answer is not finite; if it runs in float16, try float32")
    names = tagger.model.config.id2label or {}
    order = probabilities.argsort(descending=True).tolist()
    return {str(names.get(index, index)): float(probabilities[index]) for index in order}


def _tokens(record: Trace, patches: int, depth: int) -> tuple[int, ...]:
    """How many tokens leave each block: what really stayed, where the sound decides it."""
    after = {layer: held(record, stage) for stage, layer in enumerate(record.layers)}
    counts = [patches]
    for layer in range(depth):
        counts.append(after.get(layer, counts[-1]))
    return tuple(counts[1:])


def held(record: Trace, stage: int) -> int:
    """Tokens that hold any patch after a stage, of a trace of one clip."""
    holders = record.holders[stage][0]
    return len(holders[holders >= 0].unique())


def _where(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"the CPU, {threads} {'thread' if threads == 1 else 'threads'}"
