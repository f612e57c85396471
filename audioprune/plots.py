"""Pictures of what each stage kept of a sound."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import FuncFormatter

from .audio.features import HOP, mel_frequencies, picture_of
from .audio.files import SAMPLE_RATE
from .core.trace import Trace
from .files import draft

FRAME_SECONDS = HOP / SAMPLE_RATE
HERTZ_TICKS = (100, 500, 1000, 2000, 4000, 7000)


def explain_figure(log_mel: np.ndarray, trace: Trace, *, title: str = "", clip_seconds: float | None = None) -> Figure:
    """Draw the input and the stages of one clip, one row each.

    On the left are the kept patches, with merged patches at their mean, and on the right the scores. If there are many
    stages, four are drawn.

    Args:
        log_mel: (frames, mels), what the model heard.
        trace: trace of this clip (a batch of one).
        title: title of the figure.
        clip_seconds: end of the sound, where padding begins.
    """
    figure = Figure(figsize=(11, 0.9 + height_of(trace)), layout="constrained")
    FigureCanvasAgg(figure)
    draw_stages(figure, log_mel, trace, clip_seconds)
    figure.suptitle(title, fontsize=11, parse_math=False)
    return figure


def height_of(trace: Trace) -> float:
    """Height in inches of what `draw_stages` draws."""
    return 2.25 * (1 + len(_stages_to_draw(len(trace.kept))))


def draw_stages(
    figure: Figure | SubFigure, log_mel: np.ndarray, trace: Trace, clip_seconds: float | None = None
) -> None:
    """As `explain_figure`, into a figure or a part of one."""
    stages = _stages_to_draw(len(trace.kept))
    axes = figure.subplots(1 + len(stages), 2, squeeze=False, sharex=True, sharey=True)
    _spectrogram(axes[0, 0], log_mel)
    _finish(axes[0, 0], log_mel, "input: log-mel spectrogram", clip_seconds)
    axes[0, 1].set_visible(False)
    for row, stage in enumerate(stages, start=1):
        left, right = axes[row]
        _finish(left, log_mel, f"{trace.place(stage)}: {_draw_tokens(left, log_mel, trace, stage)}", clip_seconds)
        _finish(right, log_mel, _draw_scores(right, log_mel, trace, stage), clip_seconds)
    axes[-1, 0].set_xlabel("time (s)")
    axes[-1, 1].set_xlabel("time (s)")


def _stages_to_draw(stages: int, most: int = 4) -> list[int]:
    """Stages to draw: the last, and others at even distances before it."""
    return [stages * (i + 1) // most - 1 for i in range(most)] if stages > most else list(range(stages))


def _draw_tokens(axes: Axes, log_mel: np.ndarray, trace: Trace, stage: int) -> str:
    """Draw the spectrogram as tokens: merged patches in the colour of their mean, dropped ones veiled. Returns a text.

    Args:
        axes: axes to draw on.
        log_mel: (frames, mels).
        trace: trace of the clip.
        stage: index of the stage.
    """
    time, frequency = trace.grid
    holder = trace.holder_map(stage)[0].cpu().numpy()
    sizes = trace.size_map(stage)[0].cpu().numpy()
    tokens = len(np.unique(holder[holder >= 0]))
    drawn = average_tokens(log_mel, np.where(sizes > 1, holder, -1))
    _spectrogram(axes, drawn, (log_mel.min(), log_mel.max()))
    _veil(axes, holder < 0, log_mel.shape)
    parts = "patches" if frequency > 1 else "positions"
    if sizes.max() > 1:
        return f"{time * frequency} {parts} in {tokens} tokens"
    return f"{tokens} of {time * frequency} {parts} kept"


def average_tokens(log_mel: np.ndarray, holder: np.ndarray) -> np.ndarray:
    """Spectrogram with the patches of each token at their mean; patches in no token (-1) do not change.

    log_mel: (frames, mels). holder: (time, frequency), number of the token that contains each patch.
    """
    cells = [
        np.minimum(np.arange(length) * count // length, count - 1)
        for length, count in zip(log_mel.shape, holder.shape, strict=True)
    ]
    token = holder[np.ix_(*cells)]
    drawn = log_mel.copy()
    for number in np.unique(token[token >= 0]):
        drawn[token == number] = log_mel[token == number].mean()
    return drawn


def _draw_scores(axes: Axes, log_mel: np.ndarray, trace: Trace, stage: int) -> str:
    """Draw the scores of a stage or, if the method has none, the number of patches in each token. Returns a title.

    Args:
        axes: axes to draw on.
        log_mel: (frames, mels).
        trace: trace of the clip.
        stage: index of the stage.
    """
    scores = trace.score_map(stage)[0].cpu().numpy()
    known = scores[np.isfinite(scores)]
    if known.size and known.min() < known.max():
        _heat_map(axes, scores, log_mel.shape, "score")
        return f"scores of the {known.size} candidates"
    sizes = trace.size_map(stage)[0].cpu().numpy().astype(float)
    parts = "patches" if trace.grid[1] > 1 else "positions"
    _heat_map(axes, np.where(sizes > 0, sizes, np.nan), log_mel.shape, parts)
    return f"{parts} in each token"


def check_suffix(path: Path) -> Path:
    """Return the path if its suffix is a supported format. Raises `ValueError` otherwise."""
    if path.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise ValueError(f"{path}: pictures are written as .png, .svg or .pdf")
    return path


def save(figure: Figure, path: Path) -> None:
    """Write PNG, SVG or PDF, by the suffix. Raises `ValueError` for another suffix."""
    check_suffix(path)
    with draft(path) as draft_path:
        figure.savefig(draft_path, dpi=110, format=path.suffix.lower()[1:])


# Overlapping patches do not tile the spectrogram evenly. Spread over it, they are correct to within a patch.
def _extent(shape: tuple[int, ...]) -> tuple[float, float, float, float]:
    return 0.0, shape[0] * FRAME_SECONDS, 0.0, float(shape[1])


def _spectrogram(axes: Axes, log_mel: np.ndarray, limits: tuple[float, float] | None = None) -> None:
    low, high = limits or (None, None)
    extent = _extent(log_mel.shape)
    axes.imshow(log_mel.T, origin="lower", aspect="auto", cmap="magma", extent=extent, vmin=low, vmax=high)


def _veil(axes: Axes, dropped: np.ndarray, shape: tuple[int, ...]) -> None:
    """Cover the dropped patches with light grey."""
    veil = np.zeros((*dropped.T.shape, 4))
    veil[dropped.T] = (0.93, 0.93, 0.93, 0.9)
    axes.imshow(veil, origin="lower", aspect="auto", extent=_extent(shape), interpolation="nearest")


def _heat_map(axes: Axes, scores: np.ndarray, shape: tuple[int, ...], unit: str) -> None:
    """Draw scores, (time, frequency), with a bar of their colours. unit: what the bar counts."""
    axes.set_facecolor("0.93")
    known = scores[np.isfinite(scores)]
    # A few tokens receive most of the attention. On a linear scale, the others would all look the same.
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
    bar.set_label(f"{unit}, logarithmic" if shares else unit, fontsize=8)


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


KEPT_COLOUR = "tab:orange"


def moments_figure(waveform: np.ndarray, trace: Trace | None, *, title: str = "") -> Figure:
    """Draw the moments that an audio-language model kept, over the waveform and the spectrogram, and the scores.

    waveform: (samples,) at 16 kHz, of one clip. trace: trace of this clip; None if nothing was pruned.
    """
    seconds = len(waveform) / SAMPLE_RATE
    scored = trace is not None and float(trace.scores[0][0].min()) < float(trace.scores[0][0].max())
    figure = Figure(figsize=(11, 7.2 if scored else 5.2), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(3 if scored else 2, 1, sharex=True)
    log_mel = picture_of(waveform)
    kept = np.empty((0, 2)) if trace is None else trace.seconds().numpy()
    panels[0].plot(np.arange(len(waveform)) / SAMPLE_RATE, waveform, linewidth=0.4, color="0.25")
    for start, end in _join_spans(kept):
        panels[0].axvspan(start, end, color=KEPT_COLOUR, alpha=0.4, linewidth=0)
    _spectrogram(panels[1], log_mel)
    count, veiled = "every moment is read", "log-mel spectrogram"
    if trace is not None:
        read = trace.holders[0][0] >= 0
        count, veiled = (
            f"{len(kept)} of {len(read)} audio tokens kept (shaded)",
            f"{veiled}: dropped moments are veiled",
        )
        if int(read.sum()) > len(kept):
            count = f"{int(read.sum())} audio tokens merged into {len(kept)} (shaded)"
            veiled = "log-mel spectrogram: merged moments are read" + (
                "" if read.all() else ", dropped ones are veiled"
            )
        spans = trace.all_seconds().numpy()[read.cpu().numpy()]
        frames = (np.arange(log_mel.shape[0]) + 0.5) * FRAME_SECONDS
        inside = [any(start <= frame < end for start, end in spans) for frame in frames]
        _veil(panels[1], ~np.array(inside)[:, None], log_mel.shape)
    panels[0].set_title(f"waveform: {count}", fontsize=9, loc="left")
    _finish(panels[1], log_mel, veiled, None)
    if scored:
        assert trace is not None
        _draw_moment_scores(panels[2], trace)
    panels[0].set_xlim(0, seconds)
    panels[-1].set_xlabel("time (s)")
    figure.suptitle(title, fontsize=11, parse_math=False)
    return figure


def _join_spans(spans: np.ndarray) -> list[tuple[float, float]]:
    """Spans (n, 2) in seconds, ascending, with neighbours joined."""
    joined: list[tuple[float, float]] = []
    for start, end in spans.tolist():
        if joined and start <= joined[-1][1] + 1e-6:
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    return joined


def _draw_moment_scores(axes: Axes, trace: Trace) -> None:
    """Draw each token's score at its time, with marks on the kept tokens."""
    times = trace.all_seconds().numpy()
    scores = trace.scores[0][0, : len(times)].float().cpu().numpy()
    middle = times.mean(axis=1)
    kept = trace.kept[0][0].cpu().numpy()
    axes.plot(middle, scores, linewidth=0.8, color="0.5", drawstyle="steps-mid")
    axes.plot(middle[kept], scores[kept], linestyle="none", marker="o", markersize=3, color=KEPT_COLOUR)
    if scores.min() > 0:
        axes.set_yscale("log")
    axes.set_title("scores of all tokens; kept tokens are marked", fontsize=9, loc="left")
    axes.grid(color="0.92")
    axes.tick_params(labelsize=8)
