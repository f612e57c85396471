"""Figures of the papers' questions, from `Answer.values`: one function a question."""

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
    "retained_signal": "Means and standard deviations over clips; dashes are where a choice at random would come out.",
    "retained_signal_distribution": "In how many clips the retained signal is such a share, after each stage.",
    "attention_ratio": "Means over clips; ribbons are standard errors; dashed lines are the blocks that prune.",
    "norm_ratio": "Left: means, with ribbons of a standard deviation. Right: means per the unpruned model's.",
    "rank_correlation": "Above: τ-b. Below: the paper's statistic, for which pairs that tie agree.",
    "mean_variation": "How many patches of such a mean and standard deviation are there, after each block that prunes.",
    "kept_by_cluster": "Share of each cluster's patches that is left; dotted: a choice at random. C1 is the quietest.",
    "tradeoff": "Each point is a keep rate, with the standard error of its score.",
    "ranking": "Left: the score. Right: how often the top label stays that of the unpruned model.",
    "perturbation": "Left: the score. Right: its change; both with standard errors over the clips.",
    "cluster_drop": "Dashed: the model with all its patches. Points of several blocks stand side by side.",
}
"""Figure → a sentence below it."""


def draw(name: str, values: Values) -> dict[str, Figure]:
    """File name → figure, of a question's `Answer.values`; none where there are no values, or no such question."""
    return FIGURES[name](values) if values and name in FIGURES else {}
