"""Clusters of patches by a statistic of theirs: k-means over a fine histogram, C1 the lowest."""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

LIMIT, FINE, CLUSTERS = 4.0, 8192, 5
"""Fine histograms go from -LIMIT to LIMIT in FINE bins; patches are divided into CLUSTERS."""

CENTERS = -LIMIT + 2 * LIMIT / FINE * (np.arange(FINE) + 0.5)


class FineHistogram:
    """Histogram of values with bins of width 2 · LIMIT / FINE, and the exact least and greatest value."""

    def __init__(self) -> None:
        self.counts = np.zeros(FINE, dtype=np.int64)
        self.low, self.high = math.inf, -math.inf

    def add(self, values: Tensor) -> None:
        values = values.double().flatten()
        if not values.isfinite().all():
            raise ValueError("some log-mel values are infinite or NaN; all must be finite numbers")
        bins = ((values + LIMIT) * (FINE / (2 * LIMIT))).long().clamp(0, FINE - 1)
        self.counts += torch.bincount(bins, minlength=FINE).numpy()
        self.low, self.high = min(self.low, values.min().item()), max(self.high, values.max().item())

    @property
    def total(self) -> int:
        return int(self.counts.sum())

    def points(self) -> tuple[np.ndarray, np.ndarray]:
        """Values that occur, (k,), ascending, and their counts, (k,)."""
        some = self.counts > 0
        return CENTERS[some].clip(self.low, self.high), self.counts[some]

    def state(self) -> dict[str, Any]:
        return {"counts": self.counts.copy(), "low": self.low, "high": self.high}

    def load(self, state: dict[str, Any]) -> None:
        self.counts = np.array(state["counts"], dtype=np.int64)
        self.low, self.high = float(state["low"]), float(state["high"])


class Clusters:
    """k-means clusters of the values of a histogram, by their nearest center.

    The authors cluster the values themselves, with one start of k-means. Ten starts on bins of a thousandth find a
    minimum that is at least as good, in one pass over the sounds.
    """

    def __init__(self, histogram: FineHistogram) -> None:
        self._histogram = histogram

    @cached_property
    def centers(self) -> np.ndarray:
        """Mean of each cluster, ascending, (5,) or fewer."""
        from sklearn.cluster import KMeans

        points, counts = self._histogram.points()
        means = KMeans(min(CLUSTERS, len(points)), n_init=10, random_state=0)
        return np.sort(means.fit(points[:, None], sample_weight=counts).cluster_centers_[:, 0])

    @property
    def boundaries(self) -> np.ndarray:
        """Midpoints between neighbouring clusters, (4,) or fewer."""
        return (self.centers[1:] + self.centers[:-1]) / 2

    @property
    def shares(self) -> list[float]:
        """Share of the values in each cluster."""
        points, counts = self._histogram.points()
        which = self.of(torch.from_numpy(points)).numpy()
        return (np.bincount(which, weights=counts, minlength=len(self.centers)) / counts.sum()).tolist()

    def of(self, values: Tensor) -> Tensor:
        """Cluster of each value, in the same shape; 0 is C1, the lowest."""
        return torch.bucketize(values.double(), torch.from_numpy(self.boundaries))
