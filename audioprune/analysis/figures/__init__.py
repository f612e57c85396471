"""Figures of the papers' questions, drawn from `Finding.values`: one function for each question."""

from __future__ import annotations

from collections.abc import Callable

from matplotlib.figure import Figure

from .blocks import attention_ratio, norm_ratio, rank_correlation
from .heat import mean_variation
from .signal import retained_signal
from .style import Values
from .survey import survey
from .trials import cluster_drop, perturbation, ranking, tradeoff

FIGURES: dict[str, Callable[[Values], dict[str, Figure]]] = {
    "survey": survey,
    "retained_signal": retained_signal,
    "attention_ratio": attention_ratio,
    "norm_ratio": norm_ratio,
    "rank_correlation": rank_correlation,
    "mean_variation": mean_variation,
    "tradeoff": tradeoff,
    "ranking": ranking,
    "perturbation": perturbation,
    "cluster_drop": cluster_drop,
}


CAPTIONS = {
    "survey": "Left: all values of the spectrograms. Right: the means of their patches, coloured by cluster.",
    "retained_signal": "Means and standard deviations over clips; dashes mark the result of a random choice.",
    "retained_signal_distribution": "Share of clips by their retained signal, after each stage.",
    "attention_ratio": "Means over clips; ribbons are standard errors; dashed lines are the blocks that prune.",
    "norm_ratio": "Left: means, with ribbons of a standard deviation. Right: means relative to the unpruned model.",
    "rank_correlation": "Above: τ-b. Below: the paper's statistic, which counts ties as agreement.",
    "mean_variation": "Number of patches by mean and standard deviation, after each block that prunes.",
    "kept_by_cluster": "Share of each cluster's patches that is left; dotted: a random choice. C1 is the quietest.",
    "tradeoff": "Each point is a keep rate, with the standard error of its score.",
    "ranking": "Left: the score. Right: how often the top label stays that of the unpruned model.",
    "perturbation": "Left: the score. Right: its change; both with standard errors over the clips.",
    "cluster_drop": "Dashed: the model with all its patches. Points of several blocks are drawn side by side.",
}
"""Figure → its caption."""


def draw(name: str, values: Values) -> dict[str, Figure]:
    """Figures by file name, from a question's `Finding.values`; empty if there are no values or no such question."""
    return FIGURES[name](values) if values and name in FIGURES else {}
