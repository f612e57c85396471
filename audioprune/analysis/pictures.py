"""Pictures of pruned sounds: Figs. 2, 12 and 16 to 23, one row a clip and one column a stage."""

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
from ..plots import _draw_tokens, _finish, _shown, _spectrogram, moments_figure

WIDTH, HEIGHT = 11.0, 1.75
"""Inches: of a picture, and of a row in it."""


def picture(
    model: Any,
    log_mel: Tensor,
    method: Method,
    title: str = "",
    labels: Sequence[str] = (),
    *,
    unpruned: Any = None,
) -> Figure:
    """What each stage keeps of clips: the spectrogram, and after each stage the patches that are left, the others
    veiled. Of many stages three are drawn.

    model: a classifier that is not pruned; it is so again afterwards. log_mel: (clips, frames, mels), or one clip's
    (frames, mels), as the model takes it. labels: true label of each clip, and its name, if you like. unpruned: the
    model whose answer stands beside, where each keep rate has one of its own.
    """
    clips = log_mel[None] if log_mel.ndim == 2 else log_mel
    whole = [_answer(unpruned if unpruned is not None else model, clip) for clip in clips]
    with prune(model, method) as handle:
        stages = _shown(len(handle.layers), most=3)
        figure, axes = _panels(len(clips), 1 + len(stages))
        for i, clip in enumerate(clips):
            with trace(model) as record:
                said = _answer(model, clip)
            _row(axes[i], clip.float().cpu().numpy(), record, stages)
            true = f"{labels[i]} · " if i < len(labels) else ""
            _headline(axes[i, 0], f"{true}unpruned: {whole[i]} · pruned: {said}")
    _bare(axes)
    figure.suptitle(title, fontsize=11, parse_math=False)
    return figure


def _panels(rows: int, columns: int) -> tuple[Figure, np.ndarray]:
    figure = Figure(figsize=(WIDTH, HEIGHT * rows + 0.7), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)


@torch.inference_mode()
def _answer(model: Any, clip: Tensor) -> str:
    """The top label and how sure the model is. clip: (frames, mels)."""
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
    """Across the whole row, in room that two empty lines take."""
    axes.set_title(" \n ", fontsize=9)
    place: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points"}
    said = axes.annotate(text, (0, 1), (0, 19), fontsize=9, fontweight="bold", parse_math=False, **place)
    said.set_in_layout(False)


def _bare(axes: np.ndarray) -> None:
    """Numbers and names along the outer axes only."""
    for i, row in enumerate(axes):
        for j, one in enumerate(row):
            one.tick_params(labelsize=7, labelbottom=i == len(axes) - 1, labelleft=j == 0)
            one.set_ylabel("frequency (Hz)" if j == 0 else "", fontsize=7.5)
            one.set_xlabel("time (s)" if i == len(axes) - 1 else "", fontsize=8)


def moments(model: Any, processor: Any, clip: Path, method: Method, title: str = "") -> Figure:
    """As `picture`, of an audio-language model: the moments of a clip that its language model reads. Scores do not
    depend on what is asked. Raises `AudioError` where the clip cannot be used."""
    from ..audio.files import SAMPLE_RATE, load_audio
    from ..lm.generate import answer
    from ..lm.loading import sampling_rate

    waveform = load_audio(clip, sample_rate=sampling_rate(processor)).waveform
    with prune(model, method):
        said = answer(model, processor, waveform, "what was heard ?", max_new_tokens=1)
    heard = load_audio(clip).waveform[: math.ceil(said.heard_seconds * SAMPLE_RATE)]
    return moments_figure(heard, said.record, title=title)
