"""Picture of a long sound's labels over time, under its waveform."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import FuncFormatter, MultipleLocator

from .timeline import Timeline

MOST_LABELS = 8
"""Labels that a picture shows: those of the highest probability anywhere."""
COLUMNS = 2000
"""Columns of a waveform; each is drawn from its lowest to its highest sample."""
TICKS = 9
STEPS = (0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 21600, 43200, 86400)
"""Seconds between ticks."""
CLOCK_FROM = 120.0
"""Longer sounds have their times in minutes."""
MARK = "tab:orange"


def timeline_figure(
    timeline: Timeline, names: Sequence[str], *, title: str = "", marked: tuple[float, float] | None = None
) -> Figure:
    """Draw the probabilities of labels over time, under the waveform.

    names: of the labels, by their numbers. marked: start and end in seconds of a stretch to mark.
    """
    figure = Figure(figsize=(11, height_of(names)), layout="constrained")
    FigureCanvasAgg(figure)
    draw_timeline(figure, timeline, names, marked=marked)
    figure.suptitle(title, fontsize=11, parse_math=False)
    return figure


def height_of(names: Sequence[str]) -> float:
    """Height in inches of a picture of so many labels."""
    return 2.9 + 0.27 * min(MOST_LABELS, len(names))


def draw_timeline(
    figure: Figure | SubFigure,
    timeline: Timeline,
    names: Sequence[str],
    *,
    marked: tuple[float, float] | None = None,
) -> None:
    """As `timeline_figure`, into a figure or a part of one."""
    bounds, end = timeline.bounds, float(timeline.bounds[-1])
    shown = _shown(timeline)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(1.2, 0.4 + 0.27 * len(shown)))
    _draw_envelope(upper, timeline.envelope, end)
    upper.set_title("waveform", fontsize=9, loc="left")
    values = np.ma.array(timeline.probabilities[:, shown].T.numpy())
    values[:, timeline.silent] = np.ma.masked
    image = lower.pcolormesh(bounds, np.arange(len(shown) + 1), values, cmap="viridis", vmin=0, vmax=1)
    lower.set_facecolor("0.93")
    lower.set_yticks(np.arange(len(shown)) + 0.5, [names[i] for i in shown], parse_math=False)
    lower.invert_yaxis()
    lower.set_title(_about(timeline, names), fontsize=9, loc="left", parse_math=False)
    figure.colorbar(image, ax=lower, fraction=0.03, pad=0.01).ax.tick_params(labelsize=7)
    _time_axis(lower, end)
    for axes in (upper, lower):
        axes.tick_params(labelsize=8)
        if marked is not None:
            axes.axvspan(*marked, facecolor="none", edgecolor=MARK, linewidth=1.5)


def clock(seconds: float) -> str:
    """75.4 → "1:15"; 3675 → "1:01:15"."""
    whole = int(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


def _shown(timeline: Timeline) -> list[int]:
    """Labels to draw, the most probable on the whole first."""
    heard = timeline.probabilities.numpy() if timeline.is_silent else timeline.probabilities.numpy()[~timeline.silent]
    best = np.argsort(-heard.max(0), kind="stable")[:MOST_LABELS]
    return [int(i) for i in best[np.argsort(-heard.mean(0)[best], kind="stable")]]


def _about(timeline: Timeline, names: Sequence[str]) -> str:
    pooled = timeline.pooled()
    top = int(pooled.argmax())
    count = "1 window" if len(timeline) == 1 else f"{len(timeline)} windows"
    silent = f", {int(timeline.silent.sum())} of them silent (grey)" if timeline.silent.any() else ""
    answer = f"{timeline.pool}imum" if timeline.pool == "max" else timeline.pool
    return f"probability in {count}{silent}; their {answer}: {names[top]} {float(pooled[top]):.2f}"


def _time_axis(axes: Axes, end: float) -> None:
    is_long = end >= CLOCK_FROM
    axes.xaxis.set_major_locator(MultipleLocator(next((step for step in STEPS if end / step <= TICKS), end / TICKS)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: clock(x) if is_long else f"{x:g}"))
    unit = "h:mm:ss" if end >= 3600 else "m:ss" if is_long else "s"
    axes.set_xlabel(f"time ({unit})", fontsize=9)
    axes.set_xlim(0, end)


def _draw_envelope(axes: Axes, envelope: np.ndarray, end: float) -> None:
    each = -(-len(envelope) // COLUMNS)
    starts = np.arange(0, len(envelope), each)
    low, high = np.minimum.reduceat(envelope[:, 0], starts), np.maximum.reduceat(envelope[:, 1], starts)
    axes.fill_between((starts + each / 2) * end / len(envelope), low, high, color="0.35", linewidth=0.4)
