"""Figures of the model under other pruning: swaps (Table 4), removed clusters, other rankings, costs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .style import MARKERS, PALETTE, Values, legend, metric_label, numbers, panels, set_titles, stage_style, whiskers

TEST_NAMES = {
    "baseline": "as pruned",
    "I": "test I: signal for signal",
    "II": "test II: background for background",
    "III": "test III: background for signal",
}
TEST_COLOURS = dict(zip(TEST_NAMES, ("0.6", *PALETTE[:3]), strict=True))
SCORE_COLOURS = dict(zip(("attention", "cls", "intensity", "variation", "random"), (*PALETTE[:4], "0.45"), strict=True))


def perturbation(values: Values) -> dict[str, Figure]:
    rates = values["rates"]
    figure, axes = panels(1, 2, 3.6)
    _bars(axes[0, 0], rates, list(TEST_NAMES), "score")
    _bars(axes[0, 1], rates, list(TEST_NAMES)[1:], "change")
    axes[0, 0].set_ylim(0, 105)
    axes[0, 1].axhline(0, color="black", linewidth=0.8)
    set_titles(axes[0, 0], "with the swaps", "keep rate", metric_label(values))
    set_titles(axes[0, 1], "change by the swaps, on the same clips", "keep rate", "change (points)")
    legend(figure, axes[0, 0], most=4)
    return {"perturbation": figure}


def _bars(axes: Axes, rates: Sequence[Values], tests: Sequence[str], what: str) -> None:
    width = 0.8 / len(tests)
    for i, test in enumerate(tests):
        estimates = [rate["tests"][test][what] for rate in rates]
        x = np.arange(len(rates)) + width * (i - (len(tests) - 1) / 2)
        means = numbers([one["mean"] for one in estimates], 100)
        around = np.nan_to_num(numbers([one["error"] for one in estimates], 100))
        style: dict[str, Any] = {
            "color": TEST_COLOURS[test],
            "label": TEST_NAMES[test],
            "edgecolor": "white",
            "linewidth": 0.5,
        }
        axes.bar(x, means, width, yerr=around, capsize=2.5, error_kw={"elinewidth": 1, "ecolor": "0.2"}, **style)
    axes.set_xticks(range(len(rates)), [f"{rate['keep_rate']:g}" for rate in rates])
    axes.grid(False, axis="x")


def ranking(values: Values) -> dict[str, Figure]:
    rates = values["rates"]
    figure, axes = panels(1, 2, 3.6)
    names = list(rates[0]["scores"])
    for i, name in enumerate(names):
        # Shifted, because whiskers would cover each other.
        x = np.arange(len(rates)) + 0.08 * (i - (len(names) - 1) / 2)
        style: dict[str, Any] = {"color": SCORE_COLOURS[name], "marker": MARKERS[i], "markersize": 5, "linewidth": 1.4}
        style |= {"linestyle": ":" if name == "random" else "-", "label": name}
        for one, what in zip(axes[0], ("score", "agreement"), strict=True):
            whiskers(one, x, [rate["scores"][name][what] for rate in rates], **style)
    for one in axes[0]:
        one.set_xticks(range(len(rates)), [f"{rate['keep_rate']:g}" for rate in rates])
    set_titles(
        axes[0, 0],
        f"{values['clips']} clips; random: mean of {values['seeds']} seeds",
        "keep rate",
        metric_label(values),
    )
    set_titles(axes[0, 1], "agreement with the unpruned model", "keep rate", "clips with its top label (%)")
    legend(figure, axes[0, 0])
    return {"ranking": figure}


def cluster_drop(values: Values) -> dict[str, Figure]:
    figure, axes = panels(1, 2, 3.7, sharey=True)
    base = values["unpruned"]["score"]
    for one, (side, title) in zip(axes[0], (("quiet", "the quietest"), ("loud", "the loudest")), strict=True):
        removed = [entry for entry in values["removed"] if entry["side"] == side]
        for i, block in enumerate(values["blocks"]):
            estimates = [base, *(entry["blocks"][i]["score"] for entry in removed)]
            x = np.arange(len(estimates)) + 0.07 * (i - (len(values["blocks"]) - 1) / 2)
            label = f"after block {block + 1}"
            whiskers(one, x, estimates, label=label, **stage_style(i, len(values["blocks"])))
        names = ["nothing", *(f"{entry['clusters']}\n{100 * entry['share']:.0f} %" for entry in removed)]
        one.set_xticks(range(len(names)), names)
        if base["mean"] is not None:
            one.axhline(100 * base["mean"], color="black", linestyle="--", linewidth=1, zorder=0)
        set_titles(one, f"{title} patches removed", "clusters removed, and their share of the patches")
    axes[0, 0].set_ylabel(metric_label(values), fontsize=9.5)
    legend(figure, axes[0, 0])
    return {"cluster_drop": figure}


def tradeoff(values: Values) -> dict[str, Figure]:
    rates = values["rates"]
    timed = all(rate["clips_per_second"] for rate in rates)
    figure, axes = panels(1, 1 + timed, 3.5, sharey=True)
    _costs(axes[0, 0], rates, [rate["macs"] / 1e9 for rate in rates])
    set_titles(axes[0, 0], "work: left is cheaper", "multiply-accumulates of a clip (billions)", metric_label(values))
    if timed:
        _costs(axes[0, 1], rates, [rate["clips_per_second"] for rate in rates])
        title = f"speed, {values['batch_size']} clips at once: right is faster"
        set_titles(axes[0, 1], title, "throughput (clips/s)")
    return {"tradeoff": figure}


def _costs(axes: Axes, rates: Sequence[Values], costs: Sequence[float]) -> None:
    whiskers(axes, costs, [rate["score"] for rate in rates], color=PALETTE[0], marker="o", markersize=6, linewidth=1.4)
    for rate, cost in zip(rates, costs, strict=True):
        if rate["score"]["mean"] is not None:
            place = (cost, 100 * rate["score"]["mean"])
            text = "unpruned" if rate["keep_rate"] == 1 else f"{rate['keep_rate']:g}"
            axes.annotate(text, place, (5, 6), textcoords="offset points", fontsize=9)
    axes.margins(y=0.15)
    axes.set_xlim(0, 1.2 * max(costs))
