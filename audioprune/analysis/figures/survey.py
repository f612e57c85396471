"""Figure of the data set's log-mel values: Figs. 4 and 8."""

from __future__ import annotations

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .style import KIND_COLOURS, Values, minus, panels, set_titles

FINE = 60
"""Number of bars in the histogram of patch means."""


def survey(values: Values) -> dict[str, Figure]:
    figure, axes = panels(1, 2, 3.3)
    _histogram(axes[0, 0], values)
    _patches(axes[0, 1], values)
    return {"survey": figure}


def _histogram(axes: Axes, values: Values) -> None:
    edges = np.array(values["edges"])
    colours = [KIND_COLOURS["background" if edge < values["tau"] - 1e-9 else "signal"] for edge in edges[:-1]]
    heights = 100 * np.array(values["shares"])
    axes.bar(edges[:-1], heights, np.diff(edges), align="edge", color=colours, edgecolor="white", linewidth=0.8)
    _tau(axes, values["tau"])
    for kind, side in (("background", "up to τ"), ("signal", "above τ")):
        axes.bar(edges[:1], [0], color=KIND_COLOURS[kind], label=f"{kind}: {side}")
    axes.legend(frameon=False, fontsize=8, loc="upper right")
    set_titles(axes, f"values of {values['clips']} clips", "normalised log-mel value", "values (%)")


def _patches(axes: Axes, values: Values) -> None:
    """Draw the histogram of patch means; each cluster has its colour, the quietest the darkest."""
    points, counts = np.array(values["patch_centers"]), np.array(values["patch_counts"], dtype=float)
    edges = np.linspace(points.min(), points.max(), FINE + 1) if len(points) > 1 else points[0] + np.array([-0.5, 0.5])
    heights, _ = np.histogram(points, edges, weights=100 * counts / counts.sum())
    cluster = np.searchsorted(values["boundaries"], (edges[1:] + edges[:-1]) / 2)
    last = max(1, len(values["centers"]) - 1)
    for i, (center, share) in enumerate(zip(values["centers"], values["cluster_shares"], strict=True)):
        own = cluster == i
        label = f"C{i + 1}, at {minus(center)}: {100 * share:.1f} %"
        colour = colormaps["cividis"](0.9 * i / last)
        axes.bar(edges[:-1][own], heights[own], np.diff(edges)[own], align="edge", color=colour, label=label)
    _tau(axes, values["tau"])
    signal = f"{100 * values['signal_share']:.1f} % of {values['patches']:,} patches are signal"
    set_titles(axes, signal, "mean of a patch", "patches (%)")
    axes.legend(frameon=False, fontsize=8)


def _tau(axes: Axes, tau: float) -> None:
    axes.axvline(tau, color="black", linestyle="--", linewidth=1.2)
    axes.margins(y=0.12)
    place = (tau, 0.97)
    axes.annotate(
        f"τ = {minus(tau)}",
        place,
        (4, 0),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        va="top",
        fontsize=9,
    )
