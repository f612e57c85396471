"""Figures of the patches that stay: maps of mean × standard deviation, and shares by cluster."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from .style import Values, legend, numbers, panels, rates_of, set_titles, some, stage_style


def mean_variation(values: Values) -> dict[str, Figure]:
    pruned = [(rate, entry) for rate, entry in rates_of(values) if entry["layers"]]
    if not pruned:
        return {}
    return {"mean_variation": _maps(values, pruned), "kept_by_cluster": _clusters(values, pruned)}


def _maps(values: Values, rates: list[tuple[float, Values]]) -> Figure:
    """One row for each keep rate: all patches, and the patches left after each stage."""
    rates = some(rates)
    last = max(len(entry["layers"]) for _, entry in rates)
    shown = some(range(last + 1))
    figure, axes = panels(len(rates), len(shown), 1.9, sharex=True, sharey=True)
    counts = np.array(rates[0][1]["histograms"][0])
    norm = LogNorm(1, max(2, counts.max()))
    for row, (rate, entry) in zip(axes, rates, strict=True):
        for one, stage in zip(row, shown, strict=True):
            image = _map(one, np.array(entry["histograms"][stage]), values, norm)
            set_titles(one, f"keep rate {rate:g}, {_after(entry, stage)}" if stage else "all patches")
        row[0].set_ylabel("standard\ndeviation", fontsize=9.5)
    for one in axes[-1]:
        one.set_xlabel("mean of a patch", fontsize=9.5)
    _zoom(axes[0, 0], counts, values)
    figure.colorbar(image, ax=axes, fraction=0.02, pad=0.01, label="patches")
    return figure


def _after(entry: Values, stage: int) -> str:
    return f"block {entry['layers'][stage - 1] + 1}"


def _map(axes: Axes, counts: np.ndarray, values: Values, norm: LogNorm) -> AxesImage:
    """Draw a map of patch counts, (mean, variation)."""
    mean, variation = values["intensity_edges"], values["variation_edges"]
    extent = (mean[0], mean[-1], variation[0], variation[-1])
    axes.grid(False)
    drawn = np.ma.masked_equal(counts.T, 0)
    return axes.imshow(
        drawn, origin="lower", aspect="auto", extent=extent, cmap="cividis", norm=norm, interpolation="nearest"
    )


def _zoom(axes: Axes, counts: np.ndarray, values: Values) -> None:
    """Limit the axes to the range that contains patches."""
    for along, name, limit in ((1, "intensity_edges", axes.set_xlim), (0, "variation_edges", axes.set_ylim)):
        filled, edges = np.flatnonzero(counts.any(axis=along)), values[name]
        if len(filled) and edges[0] < edges[-1]:
            limit(edges[filled[0]], edges[filled[-1] + 1])


def _clusters(values: Values, rates: list[tuple[float, Values]]) -> Figure:
    rates = some(rates)
    figure, axes = panels(1, len(rates), 3.3, sharey=True)
    for one, (rate, entry) in zip(axes[0], rates, strict=True):
        for stage, layer in enumerate(entry["layers"]):
            _shares(one, entry, stage, f"after block {layer + 1}")
        one.set_xticks(range(len(values["clusters"])), values["clusters"])
        set_titles(one, f"keep rate {rate:g}", "cluster, C1 the quietest")
        one.set_ylim(0, 105)
    axes[0, 0].set_ylabel("patches left (%)", fontsize=9.5)
    axes[0, 0].plot([], [], color="0.4", linestyle=":", label="a random choice")
    legend(figure, axes[0, 0])
    return figure


def _shares(axes: Axes, entry: Values, stage: int, label: str) -> None:
    """Draw means with standard errors over the clips that have patches of a cluster."""
    kept, style = entry["kept"], stage_style(stage, len(entry["layers"]))
    middle, std, count = (numbers(kept[part][stage]) for part in ("mean", "std", "n"))
    around = np.nan_to_num(100 * std / np.sqrt(np.where(count > 0, count, np.nan)))
    x = np.arange(len(middle))
    axes.errorbar(x, 100 * middle, yerr=around, capsize=2.5, elinewidth=1, label=label, **style)
    axes.axhline(100 * entry["random"][stage], color=style["color"], linestyle=":", linewidth=1.2)
