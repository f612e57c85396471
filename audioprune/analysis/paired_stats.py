"""Scores of several settings on the same clips, and their paired differences with standard errors.

For accuracy, counts are enough: the number of clips that two settings both classify correctly. They give a share, a
mean over seeds, a difference of two settings, and the standard error of each. The mAP needs the logits of every clip.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..compare.agreement import same_top

Weights = Mapping[str, float]
"""Setting → weight: {"a": 1} is one score, {"a": 1, "b": -1} a difference, {"a": ½, "b": ½} a mean over seeds."""


FEW = 4
"""A difference of at most so many clips is never clear: a few clips may all differ alike, without any spread."""


class Estimate(NamedTuple):
    """A share in [0, 1], or a difference of shares, with its standard error; None without data.

    The error is over clips; for an mAP, over classes. least: smaller means are never clear.
    """

    mean: float | None
    error: float | None
    least: float = 0.0

    @property
    def clear(self) -> bool:
        """Whether the mean is more than two standard errors, and more than `least`, away from 0."""
        return self.mean is not None and self.error is not None and abs(self.mean) > max(2 * self.error, self.least)

    def as_dict(self) -> dict[str, float | None]:
        return {"mean": self.mean, "error": self.error}


NOTHING = Estimate(None, None)


class Outcomes:
    """Scores of several settings on the same clips.

    names: names of the settings. multi_label: whether a clip may have several labels; if so, the score is the mAP,
    otherwise the accuracy. Memory: settings², and for the mAP clips × classes of every setting.
    """

    def __init__(self, names: Sequence[str], multi_label: bool = False) -> None:
        self.names, self.multi_label = tuple(names), multi_label
        self.clips = 0
        self._right = np.zeros((len(names), len(names)), dtype=np.int64)
        self._agree = np.zeros_like(self._right)
        self._logits: list[np.ndarray] = []
        self._labels: list[np.ndarray] = []
        self._precisions: np.ndarray | None = None

    def update(self, logits: Mapping[str, Tensor], labels: Tensor, full: Tensor) -> None:
        """Add a batch.

        logits: (batch, classes) of each setting. labels: (batch, classes), ones and zeros. full: (batch, classes), the
        unpruned model's logits."""
        every = torch.stack([logits[name] for name in self.names])
        agree = same_top(every, full).long().numpy()
        self._agree += agree @ agree.T
        self.clips += len(full)
        if self.multi_label:
            self._logits.append(every.numpy())
            self._labels.append(labels.numpy() > 0.5)
            self._precisions = None
        else:
            right = same_top(every, labels).long().numpy()
            self._right += right @ right.T

    def score(self, weights: Weights | str) -> Estimate:
        """Accuracy or mAP of a setting, or a weighted sum over several settings."""
        if not self.multi_label:
            return self._contrast(self._right, weights)
        precisions = self._vector(weights) @ self._average_precisions()
        count = len(precisions)
        if count == 0:
            return NOTHING
        return Estimate(float(precisions.mean()), _error(float(precisions.var()), count))

    def agreement(self, weights: Weights | str) -> Estimate:
        """Share of clips with the unpruned model's top label, or a weighted sum over several settings."""
        return self._contrast(self._agree, weights)

    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = {"clips": self.clips, "right": self._right, "agree": self._agree}
        if self._logits:
            state |= {"logits": np.concatenate(self._logits, axis=1), "labels": np.concatenate(self._labels)}
        return state

    def load(self, state: dict[str, Any]) -> None:
        self.clips, self._right, self._agree = int(state["clips"]), state["right"], state["agree"]
        self._logits = [state["logits"]] if "logits" in state else []
        self._labels = [state["labels"]] if "labels" in state else []
        self._precisions = None

    def _vector(self, weights: Weights | str) -> np.ndarray:
        weights = {weights: 1.0} if isinstance(weights, str) else weights
        return np.array([weights.get(name, 0.0) for name in self.names])

    def _contrast(self, both: np.ndarray, weights: Weights | str) -> Estimate:
        """Mean over clips of Σ wᵢxᵢ with xᵢ 1 or 0, and its error, from the counts of clips where two xᵢ are both 1."""
        if self.clips == 0:
            return NOTHING
        vector = self._vector(weights)
        mean = float(vector @ both.diagonal()) / self.clips
        square = float(vector @ both @ vector) / self.clips
        return Estimate(mean, _error(square - mean * mean, self.clips), FEW / self.clips)

    def _average_precisions(self) -> np.ndarray:
        """Average precisions, (settings, classes that occur)."""
        if self._precisions is None:
            from sklearn.metrics import average_precision_score

            if not self._labels:
                return np.zeros((len(self.names), 0))
            labels, logits = np.concatenate(self._labels), np.concatenate(self._logits, axis=1)
            occurs = labels.any(axis=0)
            self._precisions = np.array([
                [average_precision_score(labels[:, c], one[:, c]) for c in np.flatnonzero(occurs)] for one in logits
            ])  # fmt: skip
        return self._precisions


def _error(variance: float, count: int) -> float | None:
    """Standard error √(variance / n); None for a single value, because it has no spread."""
    return None if count < 2 else math.sqrt(max(0.0, variance) / count)


def points(estimate: Estimate, digits: int = 1) -> str:
    """Difference as text: -0.012 ± 0.004 → "-1.2 ± 0.4 points"."""
    if estimate.mean is None:
        return "–"
    error = "" if estimate.error is None else f" ± {100 * estimate.error:.{digits}f}"
    return f"{100 * estimate.mean:+.{digits}f}{error} points"


def share(estimate: Estimate, digits: int = 1) -> str:
    """Share as text: 0.987 ± 0.004 → "98.7 ± 0.4 %"."""
    if estimate.mean is None:
        return "–"
    error = "" if estimate.error is None else f" ± {100 * estimate.error:.{digits}f}"
    return f"{100 * estimate.mean:.{digits}f}{error} %"


def hundredths(value: float | None) -> float | None:
    """Percentage for a table: 0.12345 → 12.35."""
    return None if value is None else round(100 * value, 2)
