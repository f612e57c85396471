"""Pictures of a pre-training: its loss curve, and spectrograms with the model's input and its reconstruction."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor


def loss_curve(losses: Sequence[float], path: Path, title: str) -> None:
    """Draw the loss curve. losses: one for each epoch."""
    figure = Figure(figsize=(6, 3.2), layout="constrained")
    axes: Axes = figure.subplots()
    axes.plot(np.arange(1, len(losses) + 1), losses, linewidth=1.2)
    axes.set(xlabel="epoch", ylabel="mean squared error of hidden patches")
    axes.set_title(title, parse_math=False)
    axes.grid(alpha=0.3)
    _save(figure, path)


def reconstructions(
    features: Tensor, hidden: Tensor, drawn: Tensor, titles: Sequence[str], path: Path, note: str = ""
) -> None:
    """Draw spectrograms, their visible part and their reconstruction.

    Args:
        features: (clips, frames, mels).
        hidden: (clips, frames, mels), True for values that the model did not see.
        drawn: (clips, frames, mels), the model's reconstructions.
        titles: title of each clip.
        path: file to write.
        note: text below the figure.
    """
    columns = ("input", "visible part", "reconstruction")
    figure = Figure(figsize=(11, 1.9 * len(features)), layout="constrained")
    rows = figure.subplots(len(features), 3, squeeze=False, sharex=True)
    for axes, clip, mask, reconstruction, title in zip(rows, features, hidden, drawn, titles, strict=True):
        # The clip sets the scale of all three: another scale could make a bad reconstruction look good.
        low, high = np.quantile(clip.numpy(), (0.01, 0.99))
        visible = np.where(mask.numpy(), np.nan, clip.numpy())
        for axis, cells in zip(axes, (clip.numpy(), visible, reconstruction.numpy()), strict=True):
            axis.imshow(cells.T, origin="lower", aspect="auto", vmin=low, vmax=high, extent=_extent(cells))
            axis.set_facecolor("0.85")
        axes[0].set_ylabel("mel channel")
        axes[0].set_title(title, fontsize=8, loc="left", parse_math=False)
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
    """Limits of the axes in seconds and channels, of a spectrogram (frames, mels)."""
    return 0.0, cells.shape[0] / 100, 0.0, float(cells.shape[1])
