"""The picture of a comparison: score, agreement and divergence against work."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

MARKERS = "osD^v<>PXphd8H"
LEAST_SPAN = 10.0
"""Percent points that an axis of shares shows at least."""


def pareto_figure(result: Mapping[str, Any], *, title: str = "") -> Figure:
    """Draw score, agreement and KL divergence of methods against their share of the unpruned model's MACs.

    result: the result of `audioprune.compare.comparison.compare`. A line joins the keep rates of a method; fine-tuned
    models are stars.
    """
    rows = [row for row in result["rows"] if "refused" not in row]
    names = list(dict.fromkeys((row["method"], row["fine_tuned"]) for row in rows))
    figure = Figure(figsize=(17, 5.8), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 3, sharex=True)
    for place, (name, tuned) in enumerate(names):
        own = sorted((row for row in rows if (row["method"], row["fine_tuned"]) == (name, tuned)), key=_cost)
        style = _stars(place, name) if tuned else _line(place, name)
        for axes, field, scale in zip(panels, ("score", "agreement", "kl"), (100, 100, 1), strict=True):
            # A logarithmic axis cannot show a divergence of 0.
            means = [scale * row[field]["mean"] if field != "kl" or row[field]["mean"] > 0 else np.nan for row in own]
            stds = [scale * row[field].get("std", 0.0) for row in own]
            axes.errorbar([_cost(row) for row in own], means, yerr=stds if any(stds) else None, **style)
    _reference(panels[0], result)
    panels[1].axhline(100, color="black", linestyle="--", linewidth=1)
    panels[2].set_yscale("log", nonpositive="mask")
    metric = "mAP (%)" if result["metric"] == "map" else "accuracy (%)"
    titles = (metric, "clips with the unpruned model's top label (%)", "KL(unpruned ‖ pruned) in nats: less is better")
    for axes, about in zip(panels, titles, strict=True):
        axes.set_title(about, fontsize=10, loc="left")
        axes.set_xlabel("multiply-accumulates (% of unpruned)")
        _widen(axes)
        axes.grid(color="0.92")
        axes.set_axisbelow(True)
    handles, labels = panels[0].get_legend_handles_labels()
    columns = 1 + (len(labels) > 24)
    legend = figure.legend(handles, labels, loc="outside right center", fontsize=9, frameon=False, ncols=columns)
    for text in legend.get_texts():
        text.set_parse_math(False)  # a name may be that of a file
    figure.suptitle(title, fontsize=11, parse_math=False)
    return figure


def _widen(axes: Axes) -> None:
    """Show the work from none to all, and shares over at least `LEAST_SPAN`: a range that fits the points would show a
    single one, or differences of a few clips, over the whole width."""
    axes.set_xlim(0, max(100.0, axes.get_xlim()[1]))
    low, high = axes.get_ylim()
    if axes.get_yscale() == "linear" and high - low < LEAST_SPAN:
        middle = (low + high) / 2
        axes.set_ylim(middle - LEAST_SPAN / 2, middle + LEAST_SPAN / 2)


def _reference(axes: Axes, result: Mapping[str, Any]) -> None:
    """Draw the unpruned model's score, its standard error, and the front."""
    score, clips = result["unpruned"]["score"], result["clips"]
    front = sorted((row for row in result["rows"] if row.get("front")), key=_cost)
    costs, means = [_cost(row) for row in front], [100 * row["score"]["mean"] for row in front]
    steps: dict[str, Any] = {"drawstyle": "steps-post", "linewidth": 5, "solid_capstyle": "round"}
    steps |= {"marker": "o", "markersize": 11, "color": "0.6", "alpha": 0.45, "zorder": 0}
    axes.plot(costs, means, label="best for its MACs", **steps)
    axes.axhline(100 * score, color="black", linestyle="--", linewidth=1, label="unpruned")
    if result["metric"] == "accuracy":
        error = 100 * (score * (1 - score) / clips) ** 0.5
        name = f"± {error:.1f}: its standard error\non {clips} clips"
        axes.axhspan(100 * score - error, 100 * score + error, color="0.95", zorder=-1, linewidth=0, label=name)


def _line(place: int, name: str) -> dict[str, Any]:
    """Line style of a method: ten colours, then the same ten with hollow marks and dashed lines."""
    colour, again = colormaps["tab10"](place % 10), place // 10 % 2 == 1
    style: dict[str, Any] = {"color": colour, "marker": MARKERS[place % len(MARKERS)], "markersize": 7, "label": name}
    style |= {"linewidth": 1, "linestyle": "--" if again else "-", "capsize": 2, "elinewidth": 0.8, "alpha": 0.85}
    return style | {"markerfacecolor": "none" if again else colour, "markeredgewidth": 1.4 if again else 0}


def _stars(place: int, name: str) -> dict[str, Any]:
    style: dict[str, Any] = {
        "color": colormaps["tab10"](place % 10),
        "linestyle": "none",
        "label": f"{name} (fine-tuned)",
    }
    return style | {"marker": "*", "markersize": 15, "markeredgecolor": "black", "markeredgewidth": 0.7, "zorder": 4}


def _cost(row: Mapping[str, Any]) -> float:
    """Percent of the unpruned model's multiply-accumulates."""
    return 100 / row["macs_ratio"]
