"""Statistics of the sounds before any model runs, and the running sums that all questions use."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from .clusters import CLUSTERS, FINE, LIMIT, Clusters, FineHistogram
from .question import Finding, Table, join_words, percent
from .sums import Moments


class RunningSums:
    """Moments of several named values per clip, separately for each keep rate."""

    def __init__(self) -> None:
        self.by_rate: dict[float, dict[str, Moments]] = {}

    def add(self, keep_rate: float, **values: Tensor | np.ndarray) -> None:
        """Add values of clips, (clips, …) each."""
        moments = self.by_rate.setdefault(keep_rate, {})
        for name, value in values.items():
            moments.setdefault(name, Moments()).add(value)

    @property
    def rates(self) -> list[float]:
        """Keep rates, highest first, as in the paper's tables."""
        return sorted(self.by_rate, reverse=True)

    def __getitem__(self, keep_rate: float) -> dict[str, Moments]:
        return self.by_rate[keep_rate]

    def state(self) -> dict[str, Any]:
        return {
            str(rate): {name: {"sums": part.sums, "seen": part.seen} for name, part in moments.items()}
            for rate, moments in self.by_rate.items()
        }

    def load(self, state: dict[str, Any]) -> None:
        self.by_rate = {}
        for rate, moments in state.items():
            for name, part in moments.items():
                loaded = self.by_rate.setdefault(float(rate), {}).setdefault(name, Moments())
                loaded.sums, loaded.seen = np.array(part["sums"], dtype=np.float64), int(part["seen"])


BINS = 10
"""Bins of the figure, and of τ."""


class Survey:
    """Threshold τ between background and signal patches, and clusters of patches by mean intensity, in one pass.

    The clusters are C1 (quietest) to C5.

    τ is the lower edge of the second of the histogram's ten bins (Fig. 4: "we pick τ from the 2nd bin"). As in
    matplotlib, the bins go from the least to the greatest value. The floor of a log-mel, ln(2⁻²³) = −15.94, normalised
    as (x − mean) / (2 · std), is −0.82, −0.87, −1.56 and −1.28 for SPC-2, ESC-50, VoxCeleb-1 and AS-20K. The paper's
    −0.65, −0.65, −1.25 and −1.0 are a tenth of a range of 1.7 to 3.1 above it. If all values are equal, τ is above
    them: silence is background.

    The clusters come from k-means over the fine histogram of all patch means. Patches are clustered by their standard
    deviation too, for the rank correlation as published.

    values: edges (11), counts (10) and shares (10) of the histogram of log-mel values; minimum, maximum; tau;
    signal_share, of all patches; clips, patches: their numbers; centers (5), boundaries (4) and cluster_shares (5) of
    the clusters, from C1 on, fewer if patches have fewer different means; patch_centers (k), patch_counts (k): the
    nonzero bins of the fine histogram of patch means; variation_boundaries (4): between clusters by standard deviation.
    """

    name = "survey"
    title = "What do the sounds look like?"
    how = "Each bar is a tenth of the range of log-mel values. Patches with a mean to the right of τ count as signal."

    def __init__(self) -> None:
        self.log_mel, self.patch_means, self.patch_variations = FineHistogram(), FineHistogram(), FineHistogram()
        self.clips = 0
        self._cluster()

    def update(self, log_mel: Tensor, intensity: Tensor, variation: Tensor) -> None:
        """Add a batch. log_mel: (clips, frames, mels), the model's input. intensity, variation: (clips, patches), mean
        and standard deviation of each patch."""
        self.log_mel.add(log_mel)
        self.patch_means.add(intensity)
        self.patch_variations.add(variation)
        self.clips += len(log_mel)
        self._cluster()

    def _cluster(self) -> None:
        self._by_intensity, self._by_variation = Clusters(self.patch_means), Clusters(self.patch_variations)

    @property
    def by_intensity(self) -> Clusters:
        """Clusters of patches by mean, C1 the quietest."""
        self._check()
        return self._by_intensity

    @property
    def by_variation(self) -> Clusters:
        """Clusters of patches by standard deviation, C1 the most even."""
        self._check()
        return self._by_variation

    @property
    def edges(self) -> np.ndarray:
        """Edges of the histogram's bins, (11,)."""
        self._check()
        low, high = self.log_mel.low, self.log_mel.high
        return np.linspace(low, high, BINS + 1) if low < high else np.linspace(low - 0.5, high + 0.5, BINS + 1)

    @property
    def tau(self) -> float:
        """Patches with a higher mean are signal."""
        # A silent patch's mean may differ from its values in the last bit.
        return float(self.edges[1]) if not self.silent else self.log_mel.high + 2 * LIMIT / FINE

    @property
    def silent(self) -> bool:
        """Whether all values are the same."""
        return self.log_mel.low == self.log_mel.high

    @property
    def signal_share(self) -> float:
        """Share of signal among all patches, to within a bin of the fine histogram."""
        points, counts = self.patch_means.points()
        return float(counts[points > self.tau].sum() / counts.sum())

    @property
    def intensity_range(self) -> tuple[float, float]:
        """Least and greatest patch mean."""
        self._check()
        return self.patch_means.low, self.patch_means.high

    @property
    def variation_range(self) -> tuple[float, float]:
        """Range of patch standard deviations: none exceeds half the range of the values (Popoviciu)."""
        self._check()
        return 0.0, (self.log_mel.high - self.log_mel.low) / 2

    def answer(self) -> Finding:
        if not self.clips:
            return Finding(note="No sounds were surveyed.")
        edges, counts = self.edges, self._counts()
        shares = (counts / counts.sum()).tolist()
        clusters = self.by_intensity
        centers, boundaries, cluster_shares = clusters.centers.tolist(), clusters.boundaries.tolist(), clusters.shares
        points, counts_of_points = self.patch_means.points()
        values = {
            "edges": edges.tolist(),
            "counts": counts.tolist(),
            "shares": shares,
            "minimum": self.log_mel.low,
            "maximum": self.log_mel.high,
            "tau": self.tau,
            "signal_share": self.signal_share,
            "clips": self.clips,
            "patches": self.patch_means.total,
            "centers": centers,
            "boundaries": boundaries,
            "cluster_shares": cluster_shares,
            "patch_centers": points.tolist(),
            "patch_counts": counts_of_points.tolist(),
            "variation_boundaries": self.by_variation.boundaries.tolist(),
        }
        bounds = [self.patch_means.low, *boundaries, self.patch_means.high]
        tables = (
            Table(
                "survey_histogram",
                "How often log-mel values fall into each tenth of their range.",
                ("bin", "from", "to", "count", "share"),
                tuple(
                    (i + 1, *row)
                    for i, row in enumerate(zip(edges[:-1].tolist(), edges[1:].tolist(), counts.tolist(), shares))
                ),
            ),
            Table(
                "survey_clusters",
                "Clusters of patches by mean intensity, C1 the quietest.",
                ("cluster", "from", "to", "center", "share"),
                tuple((f"C{i + 1}", *row) for i, row in enumerate(zip(bounds, bounds[1:], centers, cluster_shares))),
            ),
        )
        return Finding(self._sentences(cluster_shares), tables, values, self._note())

    def state(self) -> dict[str, Any]:
        return {
            "log_mel": self.log_mel.state(),
            "patch_means": self.patch_means.state(),
            "patch_variations": self.patch_variations.state(),
            "clips": self.clips,
        }

    def load(self, state: dict[str, Any]) -> None:
        self.log_mel.load(state["log_mel"])
        self.patch_means.load(state["patch_means"])
        self.patch_variations.load(state["patch_variations"])
        self.clips = int(state["clips"])
        self._cluster()

    def _check(self) -> None:
        if not self.clips:
            raise ValueError("nothing was surveyed yet; call `update` with every batch first")

    def _counts(self) -> np.ndarray:
        """Counts of the histogram's bins, (10,)."""
        points, counts = self.log_mel.points()
        return np.histogram(points, self.edges, weights=counts)[0].astype(np.int64)

    def _sentences(self, cluster_shares: list[float]) -> tuple[str, ...]:
        if self.silent:
            return (f"All values of {self.clips} clips are the same ({self.log_mel.low:.2f}): there is no signal.",)
        clusters = join_words([f"C{i + 1} {percent(share)}" for i, share in enumerate(cluster_shares)])
        return (
            f"Values go from {self.log_mel.low:.2f} to {self.log_mel.high:.2f}; the threshold τ between background "
            f"and signal is {self.tau:.2f}.",
            f"{percent(self.signal_share)} of the {self.patch_means.total} patches of {self.clips} clips are signal.",
            f"Clusters of patches by intensity: {clusters}.",
        )

    def _note(self) -> str | None:
        if self.silent:
            return "All values are the same: no patch is signal, and there is nothing to cluster."
        if (found := len(self.by_intensity.centers)) < CLUSTERS:
            return f"Patches have only {found} different means, so there are fewer than {CLUSTERS} clusters."
        return None
