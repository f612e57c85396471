"""Pictures: a spectrogram, what each stage kept of it, and the scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from .audio import SAMPLE_RATE
from .features import HOP, mel_frequencies
from .trace import Trace

FRAME_SECONDS = HOP / SAMPLE_RATE
HERTZ_TICKS = (100, 500, 1000, 2000, 4000, 7000)


def explain_figure(log_mel: np.ndarray, trace: Trace, *, title: str = "", clip_seconds: float | None = None) -> Figure:
    """One row for the input and one a stage: what was kept on the left, the scores on the right.

    log_mel: (frames, mels), what the model heard. trace: of that one clip (batch of one). clip_seconds: where the
    sound ends and padding begins.
    """
    stages = len(trace.kept)
    rows = 1 + stages
    figure = Figure(figsize=(11, 0.9 + 2.25 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, 2, squeeze=False, sharex=True, sharey=True)
    _spectrogram(axes[0, 0], log_mel)
    _finish(axes[0, 0], log_mel, "input: log-mel spectrogram", clip_seconds)
    axes[0, 1].set_visible(False)
    time, frequency = trace.grid
    for stage in range(stages):
        mask = trace.mask(stage)[0].cpu().numpy()
        scores = trace.score_map(stage)[0].cpu().numpy()
        # Blocks are 0-based in code and counted from 1 in the papers.
        name = f"after the attention of block {trace.layers[stage] + 1}"
        left, right = axes[stage + 1]
        _spectrogram(left, log_mel)
        _veil(left, ~mask, log_mel.shape)
        _finish(left, log_mel, f"{name}: {int(mask.sum())} of {time * frequency} patches kept", clip_seconds)
        _heat_map(right, scores, log_mel.shape)
        _finish(right, log_mel, f"scores of the {int(np.isfinite(scores).sum())} candidates", clip_seconds)
    axes[-1, 0].set_xlabel("time (s)")
    axes[-1, 1].set_xlabel("time (s)")
    figure.suptitle(title, fontsize=11, parse_math=False)
    return figure


def check_suffix(path: Path) -> Path:
    """The path, where its suffix names a format that is written. Raises `ValueError` otherwise."""
    if path.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise ValueError(f"{path}: pictures are written as .png, .svg or .pdf")
    return path


def save(figure: Figure, path: Path) -> None:
    """Write PNG, SVG or PDF by the suffix. Raises `ValueError` for another."""
    check_suffix(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


# Overlapping patches do not tile the spectrogram evenly; spread over it they are right to within a patch.
def _extent(shape: tuple[int, ...]) -> tuple[float, float, float, float]:
    return 0.0, shape[0] * FRAME_SECONDS, 0.0, float(shape[1])


def _spectrogram(axes: Axes, log_mel: np.ndarray) -> None:
    axes.imshow(log_mel.T, origin="lower", aspect="auto", cmap="magma", extent=_extent(log_mel.shape))


def _veil(axes: Axes, dropped: np.ndarray, shape: tuple[int, ...]) -> None:
    """Cover the patches that were dropped with light grey."""
    veil = np.zeros((*dropped.T.shape, 4))
    veil[dropped.T] = (0.93, 0.93, 0.93, 0.9)
    axes.imshow(veil, origin="lower", aspect="auto", extent=_extent(shape), interpolation="nearest")


def _heat_map(axes: Axes, scores: np.ndarray, shape: tuple[int, ...]) -> None:
    axes.set_facecolor("0.93")
    known = scores[np.isfinite(scores)]
    # A few tokens receive most of the attention: on a linear scale the rest would look alike.
    shares = known.size > 0 and known.min() > 0 and known.max() > 1.01 * known.min()
    image = axes.imshow(
        np.ma.masked_invalid(scores.T),
        origin="lower",
        aspect="auto",
        cmap="viridis",
        extent=_extent(shape),
        interpolation="nearest",
        norm=LogNorm() if shares else None,
    )
    bar = axes.figure.colorbar(image, ax=axes, fraction=0.04, pad=0.01)
    bar.ax.tick_params(labelsize=7, which="both")


def _finish(axes: Axes, log_mel: np.ndarray, title: str, clip_seconds: float | None) -> None:
    axes.set_title(title, fontsize=9, loc="left")
    axes.set_ylabel("frequency (Hz)", fontsize=8)
    centres = mel_frequencies(log_mel.shape[1])
    axes.set_yticks([float(np.interp(hertz, centres, np.arange(len(centres)) + 0.5)) for hertz in HERTZ_TICKS])
    axes.set_yticklabels([f"{hertz:,}" for hertz in HERTZ_TICKS])
    axes.tick_params(labelsize=8, labelbottom=True, labelleft=True)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.set_xlim(0, log_mel.shape[0] * FRAME_SECONDS)
    axes.set_ylim(0, log_mel.shape[1])
    if clip_seconds is not None and clip_seconds < log_mel.shape[0] * FRAME_SECONDS - 0.2:
        axes.axvline(clip_seconds, color="white", linestyle=":", linewidth=1.2)
        axes.axvline(clip_seconds, color="black", linestyle=(1, (1, 3)), linewidth=1.2)
