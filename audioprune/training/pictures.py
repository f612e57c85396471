"""Pictures of a pre-training: its loss curve, and spectrograms as they were, as they were seen, and as drawn back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor


def loss_curve(losses: Sequence[float], path: Path, title: str) -> None:
    """losses: one an epoch."""
    figure = Figure(figsize=(6, 3.2), layout="constrained")
    axes: Axes = figure.subplots()
    axes.plot(np.arange(1, len(losses) + 1), losses, linewidth=1.2)
    axes.set(xlabel="epoch", ylabel="mean squared error of hidden patches", title=title)
    axes.grid(alpha=0.3)
    _save(figure, path)


def reconstructions(
    features: Tensor, hidden: Tensor, drawn: Tensor, titles: Sequence[str], path: Path, note: str = ""
) -> None:
    """features, drawn: (clips, frames, mels); hidden: the same shape, true where the model saw nothing."""
    columns = ("input", "what the model saw", "what it drew")
    figure = Figure(figsize=(11, 1.9 * len(features)), layout="constrained")
    rows = figure.subplots(len(features), 3, squeeze=False, sharex=True)
    for axes, clip, mask, made, title in zip(rows, features, hidden, drawn, titles, strict=True):
        # One scale for the three, set by the clip alone: a bad drawing must not look good by being rescaled.
        low, high = np.quantile(clip.numpy(), (0.01, 0.99))
        seen = np.where(mask.numpy(), np.nan, clip.numpy())
        for axis, cells in zip(axes, (clip.numpy(), seen, made.numpy()), strict=True):
            axis.imshow(cells.T, origin="lower", aspect="auto", vmin=low, vmax=high, extent=_extent(cells))
            axis.set_facecolor("0.85")
        axes[0].set_ylabel("mel channel")
        axes[0].set_title(title, fontsize=8, loc="left")
    for axis, name in zip(rows[0], columns, strict=True):
        axis.set_title(f"{name}\n{axis.get_title(loc='left')}" if axis is rows[0][0] else name, fontsize=9, loc="left")
    for axis in rows[-1]:
        axis.set_xlabel("seconds")
    figure.supxlabel(note, fontsize=8)
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    FigureCanvasAgg(figure)
    figure.savefig(path, dpi=110)


def _extent(cells: np.ndarray) -> tuple[float, float, float, float]:
    """(frames, mels) → the axes' limits in seconds and channels."""
    return 0.0, cells.shape[0] / 100, 0.0, float(cells.shape[1])
