"""Figures over the blocks: attention ratios (Figs. 6, 9, 13, 15), norm ratios (Figs. 7, 10), rank correlation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from .style import (
    KIND_COLOURS,
    Values,
    band,
    blocks_axis,
    errors,
    legend,
    numbers,
    panels,
    rate_style,
    rates_of,
    set_titles,
    some,
)

WIDE = 6.0
"""Ratio of the greatest to the least value from which an axis is logarithmic."""


def attention_ratio(values: Values) -> dict[str, Figure]:
    rates = some(rates_of(values))
    figure, axes = panels(1, len(rates), 3.3, sharey=True)
    for one, (rate, entry) in zip(axes[0], rates, strict=True):
        for i, kind in enumerate(("signal", "background")):
            _gamma(one, entry, i, kind)
        blocks_axis(one, entry["layers"], entry["stages"])
        one.axhline(1, color="black", linewidth=0.8)
        set_titles(one, f"keep rate {rate:g}", "block")
    axes[0, 0].set_ylabel("attention: retained / pruned", fontsize=9.5)
    _logarithmic(axes[0, 0], [x for _, entry in rates for row in entry["gamma"]["mean"] for x in row])
    axes[0, -1].plot([], [], color="0.45", linestyle="--", linewidth=1, label="blocks that prune")
    legend(figure, axes[0, -1])
    return {"attention_ratio": figure}


def _gamma(axes: Axes, entry: Values, i: int, kind: str) -> None:
    x = [layer + 1 for layer in entry["layers"]]
    middle = numbers(entry["gamma"]["mean"][i])
    around = errors({name: entry["gamma"][name][i] for name in ("std", "n")})
    style: dict[str, Any] = {
        "color": KIND_COLOURS[kind],
        "marker": "o" if i == 0 else "s",
        "markersize": 5,
        "linewidth": 1.4,
    }
    axes.plot(x, middle, label=f"retained {kind} (± standard error)", **style)
    # A logarithmic axis cannot show values that are not above 0.
    band(axes, x, middle, np.minimum(np.nan_to_num(around), 0.95 * np.nan_to_num(middle)), KIND_COLOURS[kind])


def _logarithmic(axes: Axes, values: list[float | None]) -> None:
    known = [value for value in values if value is not None]
    if known and min(known) > 0 and max(known) > WIDE * min(known):
        axes.set_yscale("log", base=2)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())


def norm_ratio(values: Values) -> dict[str, Figure]:
    rates = rates_of(values)
    figure, axes = panels(1, 2, 3.4)
    left, right = axes[0]
    for place, (rate, entry) in enumerate(rates):
        style, x = rate_style(place, len(rates)), [layer + 1 for layer in entry["layers"]]
        middle = numbers(entry["ratio"]["mean"])
        left.plot(x, middle, label="unpruned" if rate == 1 else f"keep rate {rate:g}", **style)
        band(left, x, middle, numbers(entry["ratio"]["std"]), style["color"])
        right.plot(x, numbers(entry["relative"]), **style)
    for one in (left, right):
        blocks_axis(one, rates[0][1]["layers"])
    set_titles(left, "mean, and standard deviation over clips", "block", "‖x‖ / ‖self-attention(x)‖")
    set_titles(right, "relative to the unpruned model", "block", "times the unpruned model's")
    left.set_ylim(bottom=0)
    right.axhline(1, color="black", linewidth=0.8, zorder=0)
    legend(figure, left)
    return {"norm_ratio": figure}


STATISTICS = {"tau_b": "Kendall's τ-b", "paper": "as published"}


def rank_correlation(values: Values) -> dict[str, Figure]:
    rates, features = rates_of(values), values["features"]
    figure, axes = panels(len(STATISTICS), len(features), 2.6, sharex=True, sharey="row")
    for row, (name, title) in zip(axes, STATISTICS.items(), strict=True):
        for i, feature in enumerate(features):
            for place, (rate, entry) in enumerate(rates):
                _correlation(
                    row[i], entry, name, i, "unpruned" if rate == 1 else f"keep rate {rate:g}", place, len(rates)
                )
            set_titles(row[i], f"attention and {feature}: {title}")
            row[i].axhline(0, color="black", linewidth=0.8, zorder=0)
            if name == "paper":
                _unrelated(row[i], rates, i)
            blocks_axis(row[i], rates[0][1]["layers"])
        row[0].set_ylabel("rank correlation", fontsize=9.5)
    for one in axes[-1]:
        one.set_xlabel("block (ribbons: standard error)", fontsize=9.5)
    legend(figure, axes[-1, 0])
    return {"rank_correlation": figure}


def _unrelated(axes: Axes, rates: Sequence[tuple[float, Values]], feature: int) -> None:
    """Dots where unrelated scores would be, at each keep rate: the share of tied pairs."""
    for place, (_, entry) in enumerate(rates):
        x = [layer + 1 for layer in entry["layers"]]
        color = rate_style(place, len(rates))["color"]
        label = "unrelated scores" if place == 0 else None
        axes.plot(x, numbers(entry["ties"]["mean"][feature]), ":", color=color, linewidth=1, label=label)


def _correlation(axes: Axes, entry: Values, name: str, feature: int, label: str, place: int, count: int) -> None:
    x = [layer + 1 for layer in entry["layers"]]
    style = rate_style(place, count)
    middle = numbers(entry[name]["mean"][feature])
    axes.plot(x, middle, label=label, **style)
    band(axes, x, middle, errors({part: entry[name][part][feature] for part in ("std", "n")}), style["color"])
