"""Pictures of pruned clips: Figs. 2, 12 and 16 to 23, one row for each clip and one column for each stage."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from ..core.pruning import prune
from ..core.trace import Trace, trace
from ..methods import Method
from ..plots import _draw_tokens, _finish, _spectrogram, _stages_to_draw, moments_figure

WIDTH, HEIGHT = 11.0, 1.75
"""Width of a picture and height of a row, in inches."""


def picture(
    model: Any,
    log_mel: Tensor,
    method: Method,
    title: str = "",
    labels: Sequence[str] = (),
    *,
    unpruned: Any = None,
) -> Figure:
    """Draw clips and what each stage keeps of them: the spectrogram, then the kept patches, with the others veiled.

    If there are many stages, three are drawn.

    Args:
        model: a classifier that is not pruned; it is pruned for this call only.
        log_mel: (clips, frames, mels), or (frames, mels) of one clip, the model's input.
        method: the pruning method.
        title: title of the figure.
        labels: true label of each clip, with its name if you like.
        unpruned: the unpruned model to compare with, if each keep rate has its own model.
    """
    clips = log_mel[None] if log_mel.ndim == 2 else log_mel
    whole = [_top_label(unpruned if unpruned is not None else model, clip) for clip in clips]
    with prune(model, method) as handle:
        stages = _stages_to_draw(len(handle.layers), most=3)
        figure, axes = _panels(len(clips), 1 + len(stages))
        for i, clip in enumerate(clips):
            with trace(model) as record:
                top_label = _top_label(model, clip)
            _row(axes[i], clip.float().cpu().numpy(), record, stages)
            true = f"{labels[i]} · " if i < len(labels) else ""
            _headline(axes[i, 0], f"{true}unpruned: {whole[i]} · pruned: {top_label}")
    _bare(axes)
    figure.suptitle(title, fontsize=11, parse_math=False)
    return figure


def _panels(rows: int, columns: int) -> tuple[Figure, np.ndarray]:
    figure = Figure(figsize=(WIDTH, HEIGHT * rows + 0.7), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)


@torch.inference_mode()
def _top_label(model: Any, clip: Tensor) -> str:
    """Top label and its probability. clip: (frames, mels)."""
    logits = model(clip[None].to(model.device, model.dtype)).logits[0].float()
    share, top = logits.softmax(0).max(0)
    return f"{model.config.id2label[int(top)]} {float(share):.2f}"


def _row(axes: Sequence[Axes], log_mel: np.ndarray, record: Trace, stages: Sequence[int]) -> None:
    _spectrogram(axes[0], log_mel)
    _finish(axes[0], log_mel, "", None)
    for one, stage in zip(axes[1:], stages, strict=True):
        kept = _draw_tokens(one, log_mel, record, stage)
        _finish(one, log_mel, "", None)
        one.set_title(f"block {record.layers[stage] + 1}: {kept}", fontsize=8, loc="left", parse_math=False)


def _headline(axes: Axes, text: str) -> None:
    """Write a headline across the whole row, in the space of two empty lines."""
    axes.set_title(" \n ", fontsize=9)
    place: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points"}
    annotation = axes.annotate(text, (0, 1), (0, 19), fontsize=9, fontweight="bold", parse_math=False, **place)
    annotation.set_in_layout(False)


def _bare(axes: np.ndarray) -> None:
    """Leave ticks and labels on the outer axes only."""
    for i, row in enumerate(axes):
        for j, one in enumerate(row):
            one.tick_params(labelsize=7, labelbottom=i == len(axes) - 1, labelleft=j == 0)
            one.set_ylabel("frequency (Hz)" if j == 0 else "", fontsize=7.5)
            one.set_xlabel("time (s)" if i == len(axes) - 1 else "", fontsize=8)


def moments(model: Any, processor: Any, clip: Path, method: Method, title: str = "") -> Figure:
    """Draw the moments of a clip that the language model reads, of an audio-language model.

    The scores do not depend on the question.

    Args:
        model: the audio-language model; it is pruned for this call only.
        processor: its processor.
        clip: path of the clip.
        method: the pruning method.
        title: title of the figure.

    Raises `AudioError` if the clip cannot be used.
    """
    from ..audio.files import SAMPLE_RATE, load_audio
    from ..lm.generate import answer
    from ..lm.loading import sampling_rate

    waveform = load_audio(clip, sample_rate=sampling_rate(processor)).waveform
    with prune(model, method):
        generated = answer(model, processor, waveform, "what was heard ?", max_new_tokens=1)
    samples = load_audio(clip).waveform[: math.ceil(generated.heard_seconds * SAMPLE_RATE)]
    return moments_figure(samples, generated.record, title=title)
