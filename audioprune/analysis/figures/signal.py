"""Figures of the retained signal: Table 2; Figs. 5, 11 and 14."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .style import Values, legend, numbers, panels, rate_style, rates_of, set_titles, some, stage_style

RATIOS = {
    "a": ("A: retained signal of the tokens before a stage", "retained signal (% of tokens)"),
    "b": ("B: retained signal of the clip's signal", "retained signal (% of input)"),
}


def retained_signal(values: Values) -> dict[str, Figure]:
    return {"retained_signal": _means(values), "retained_signal_distribution": _distributions(values)}


def _means(values: Values) -> Figure:
    rates = rates_of(values)
    figure, axes = panels(1, 2, 3.6, sharey=True)
    for one, (name, (title, y)) in zip(axes[0], RATIOS.items(), strict=True):
        for place, (rate, entry) in enumerate(rates):
            _line(one, entry, name, f"keep rate {rate:g}", place, len(rates))
        layers = rates[0][1]["layers"]
        one.set_xticks(range(len(layers)), [f"stage {i + 1}\nblock {layer + 1}" for i, layer in enumerate(layers)])
        set_titles(one, title, "", y)
        one.set_ylim(0, 105)
    one.plot([], [], color="0.3", marker="_", markersize=13, linestyle="none", label="a random choice")
    legend(figure, one)
    return figure


def _line(axes: Axes, entry: Values, name: str, label: str, place: int, count: int) -> None:
    """Draw means with standard deviations over clips, and dashes for the result of a random choice."""
    x = np.arange(len(entry["layers"])) + 0.09 * (place - (count - 1) / 2)
    middle, around = numbers(entry[name]["mean"], 100), np.nan_to_num(numbers(entry[name]["std"], 100))
    style = rate_style(place, count)
    axes.errorbar(x, middle, yerr=around, capsize=2.5, elinewidth=1, label=label, **style)
    chance = numbers(entry[f"random_{name}"]["mean"], 100)
    axes.plot(x, chance, color="0.3", marker="_", markersize=13, linestyle="none", zorder=3)


def _distributions(values: Values) -> Figure:
    rates = some(rates_of(values))
    figure, axes = panels(2, len(rates), 2.2, sharex=True, sharey="row")
    for row, (name, (_, x)) in zip(axes, RATIOS.items(), strict=True):
        for one, (rate, entry) in zip(row, rates, strict=True):
            _steps(one, entry, np.array(values["edges"]), name)
            set_titles(one, f"{name.upper()} at keep rate {rate:g}", x if len(rates) < 4 else "retained signal (%)")
        row[0].set_ylabel("clips (%)", fontsize=9.5)
    legend(figure, axes[0, 0])
    return figure


def _steps(axes: Axes, entry: Values, edges: np.ndarray, name: str) -> None:
    stages = entry[f"distribution_{name}"]
    for i, (layer, counts) in enumerate(zip(entry["layers"], stages, strict=True)):
        share = 100 * np.array(counts, dtype=float) / max(1, sum(counts))
        style = {"color": stage_style(i, len(stages))["color"], "linestyle": ("-", "--", ":", "-.")[i % 4]}
        axes.stairs(share, 100 * edges, linewidth=1.6, label=f"stage {i + 1} (block {layer + 1})", **style)
    axes.set_xlim(0, 100)
