"""Common style of a report's figures: size, colours that colour-blind readers can tell apart, plain axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

WIDTH = 9.0
"""Inches: 900 pixels at 100 dots per inch."""
# Okabe and Ito's palette, without its yellow, which is hard to see on white.
BLUE, VERMILION, GREEN, ORANGE, SKY, PURPLE = "#0072B2", "#D55E00", "#009E73", "#E69F00", "#56B4E9", "#CC79A7"
PALETTE = (BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY)
KIND_COLOURS = {"signal": VERMILION, "background": BLUE}
MARKERS = "osD^vPX*"
MOST_PANELS = 4
"""Most keep rates that are drawn if each takes a panel; the tables contain all."""

Values = Mapping[str, Any]


def panels(rows: int, columns: int, height: float, **shared: Any) -> tuple[Figure, np.ndarray]:
    """A figure and its (rows, columns) axes. height: height of a row in inches."""
    figure = Figure(figsize=(WIDTH, height * rows + 0.3), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False, **shared)
    for one in axes.flat:
        one.spines[["top", "right"]].set_visible(False)
        one.grid(color="0.92", linewidth=0.8)
        one.set_axisbelow(True)
        one.tick_params(labelsize=9)
    return figure, axes


def set_titles(axes: Axes, title: str, x: str = "", y: str = "") -> None:
    axes.set_title(title, fontsize=10, loc="left", parse_math=False)
    axes.set_xlabel(x, fontsize=9.5)
    axes.set_ylabel(y, fontsize=9.5)


def legend(figure: Figure, axes: Axes, most: int = 5) -> None:
    """Draw one legend for all panels, below them. most: entries in a row."""
    handles, labels = axes.get_legend_handles_labels()
    # Matplotlib lists lines with whiskers last; the entry that explains dashes belongs after them.
    order = sorted(range(len(handles)), key=lambda i: isinstance(handles[i], Line2D))
    handles, labels = [handles[i] for i in order], [labels[i] for i in order]
    if handles:
        figure.legend(
            handles, labels, loc="outside lower center", ncols=min(most, len(labels)), frameon=False, fontsize=9
        )


def rates_of(values: Values) -> list[tuple[float, Values]]:
    """The keep rates of a question's values and the values of each, highest rate first."""
    entries = ((float(rate), entry) for rate, entry in values["rates"].items())
    return sorted(entries, reverse=True, key=lambda pair: pair[0])


def some(items: Sequence[Any], most: int = MOST_PANELS) -> list[Any]:
    """At most `most` items at even distances, including the first and the last."""
    if len(items) <= most:
        return list(items)
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


def rate_style(place: int, count: int) -> dict[str, Any]:
    """Line style of a keep rate: darkest for the highest, with its own marker."""
    colour = colormaps["viridis"](0.88 * place / max(1, count - 1))
    return {"color": colour, "marker": MARKERS[place % len(MARKERS)], "markersize": 5, "linewidth": 1.4}


def stage_style(place: int, count: int) -> dict[str, Any]:
    """Line style of a pruning stage, by the same rule in other colours."""
    colour = colormaps["cividis"](0.85 * place / max(1, count - 1))
    return {"color": colour, "marker": MARKERS[place % len(MARKERS)], "markersize": 5, "linewidth": 1.4}


def numbers(values: Sequence[float | None], scale: float = 1.0) -> np.ndarray:
    """Array (n,) of the values, with NaN for None."""
    return np.array([np.nan if value is None else scale * value for value in values], dtype=float)


def errors(spread: Values, scale: float = 1.0) -> np.ndarray:
    """Standard errors (n,) from a {mean, std, n} of lists; NaN if there are too few clips."""
    std, count = numbers(spread["std"], scale), numbers(spread["n"])
    return std / np.sqrt(np.where(count > 0, count, np.nan))


def band(axes: Axes, x: Sequence[float], middle: np.ndarray, around: np.ndarray, colour: Any) -> None:
    """Draw a pale ribbon around a line."""
    around = np.nan_to_num(around)
    axes.fill_between(x, middle - around, middle + around, color=colour, alpha=0.15, linewidth=0)


def whiskers(axes: Axes, x: Any, estimates: Sequence[Values], scale: float = 100.0, **style: Any) -> None:
    """Draw a line through {mean, error} estimates, with their errors."""
    means = numbers([one["mean"] for one in estimates], scale)
    around = np.nan_to_num(numbers([one["error"] for one in estimates], scale))
    axes.errorbar(x, means, yerr=around, capsize=2.5, elinewidth=1, **style)


def blocks_axis(axes: Axes, layers: Sequence[int], stages: Sequence[int] = ()) -> None:
    """Number the blocks from 1, as in the paper, and draw dashed lines at the blocks that prune."""
    places = [layer + 1 for layer in layers]
    axes.set_xticks(places if len(places) <= 12 else places[:: -(-len(places) // 12)])
    for stage in stages:
        axes.axvline(stage + 1, color="0.45", linestyle="--", linewidth=1, zorder=0)


def minus(value: float) -> str:
    """Number with two decimals, and the same minus sign as on axes."""
    return f"{value:.2f}".replace("-", "−")


def metric_label(values: Values) -> str:
    return "mAP (%)" if values["metric"] == "mAP" else "accuracy (%)"
