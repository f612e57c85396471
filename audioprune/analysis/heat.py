"""Patches that stay, by mean and variation, and by cluster of intensity."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from .clusters import CLUSTERS
from .observe import Block, Observation
from .question import Finding, Table, join_words, percent
from .sums import Spread, ratio
from .survey import RunningSums

BINS = 40


class MeanVariation:
    """Histograms of patches by mean × standard deviation, and the share of each cluster's patches that is left.

    Both are taken before pruning and after each stage. A clip without patches of a cluster does not count for it. A
    random choice would keep K of N patches of each cluster.

    Args:
        cluster_of: patch means → cluster numbers; see `Survey.cluster_of`.
        intensity_range: range of the histograms, from the survey; values outside count in the outermost bins.
        variation_range: the same for the standard deviation.
        clusters: number of clusters that the survey separates.

    values: intensity_edges, variation_edges (41 each); clusters: ["C1", …]; rates: {keep rate as text: {layers:
    0-based, of the stages; histograms: numbers of patches by (before pruning, after each stage), mean and variation,
    40 × 40; kept: {mean, std, n}, lists by stage and cluster, share of the input's patches; random: list by stage;
    louder: {mean, std, n} by stage, share kept of the loudest cluster minus that of the quietest, in clips with both;
    shift: {mean, std, n} by stage and (mean, variation), of the kept patches minus all of the clip}}; keep rate 1.0 has
    the first histogram only, and no stages.
    """

    name = "mean_variation"
    title = "Which patches stay?"
    how = "Each map shows the number of patches by mean (across) and standard deviation (up) at a stage."

    def __init__(
        self,
        cluster_of: Callable[[Tensor], Tensor],
        intensity_range: tuple[float, float],
        variation_range: tuple[float, float],
        clusters: int = CLUSTERS,
    ) -> None:
        self.cluster_of, self.clusters = cluster_of, clusters
        self.ranges = (intensity_range, variation_range)
        self.sums = RunningSums()
        self.histograms: dict[float, np.ndarray] = {}
        self.layers: dict[float, list[int]] = {}

    def update(self, observation: Observation) -> None:
        rate, stages = observation.keep_rate, observation.stages
        features = torch.stack([observation.intensity, observation.variation], 2)
        kept = [_patches(stage) for stage in stages]
        bins = _bins(features, self.ranges)
        counts = np.stack([_histogram(bins), *(_histogram(bins.gather(1, patches)) for patches in kept)])
        self.histograms[rate] = self.histograms.get(rate, 0) + counts
        self.layers[rate] = [stage.layer for stage in stages]
        if kept:
            clusters = functional.one_hot(self.cluster_of(observation.intensity), self.clusters)
            shares = torch.stack([ratio(_take(clusters, patches).sum(1), clusters.sum(1)) for patches in kept], 1)
            self.sums.add(
                rate,
                kept=shares,
                louder=shares[..., -1] - shares[..., 0],
                random=_rows([patches.shape[1] / features.shape[1] for patches in kept], len(features)),
                shift=torch.stack([_mean(_take(features, patches)) - _mean(features) for patches in kept], 1),
            )

    def answer(self) -> Finding:
        if not self.histograms:
            return Finding(note="No clips were observed.")
        edges = (np.linspace(*limits, BINS + 1).tolist() for limits in self.ranges)
        values = {
            **dict(zip(("intensity_edges", "variation_edges"), edges, strict=True)),
            "clusters": self._names(),
            "rates": {str(rate): self._values(rate) for rate in sorted(self.histograms, reverse=True)},
        }
        if not self.sums.rates:
            return Finding(values=values, note="No tokens were pruned.")
        sentences = tuple(sentence for rate in self.sums.rates for sentence in self._sentences(rate))
        return Finding(sentences, (self._table(),), values, self._note())

    def state(self) -> dict[str, Any]:
        return {
            "sums": self.sums.state(),
            "histograms": {str(rate): counts.copy() for rate, counts in self.histograms.items()},
            "layers": {str(rate): list(layers) for rate, layers in self.layers.items()},
        }

    def load(self, state: dict[str, Any]) -> None:
        self.sums.load(state["sums"])
        self.histograms = {float(rate): np.array(it, dtype=np.int64) for rate, it in state["histograms"].items()}
        self.layers = {float(rate): list(layers) for rate, layers in state["layers"].items()}

    def _names(self) -> list[str]:
        return [f"C{i + 1}" for i in range(self.clusters)]

    def _values(self, rate: float) -> dict[str, Any]:
        values: dict[str, Any] = {"layers": self.layers[rate], "histograms": self.histograms[rate].tolist()}
        if rate not in self.sums.by_rate:
            return values
        lists = {name: moments.lists() for name, moments in self.sums[rate].items()}
        return {**values, **lists, "random": lists["random"]["mean"]}

    def _table(self) -> Table:
        def row(rate: float, stage: int) -> tuple[Any, ...]:
            spreads = [self.sums[rate]["kept"].at(stage, i) for i in range(self.clusters)]
            cells = (cell for spread in spreads for cell in (spread.mean, spread.std))
            return (rate, stage + 1, self.layers[rate][stage] + 1, *cells, self.sums[rate]["random"].at(stage).mean)

        return Table(
            "kept_by_cluster",
            "Share of each cluster's patches that is left after each stage: mean and standard deviation over the clips "
            "that have such patches.",
            (
                "keep rate",
                "stage",
                "block",
                *(cell for name in self._names() for cell in (name, f"{name} ±")),
                "random",
            ),
            tuple(row(rate, i) for rate in self.sums.rates for i in range(len(self.layers[rate]))),
        )

    def _sentences(self, rate: float) -> Iterator[str]:
        sums, last = self.sums[rate], len(self.layers[rate]) - 1
        shares = [f"{name} {percent(sums['kept'].at(last, i).mean)}" for i, name in enumerate(self._names())]
        chance = percent(sums["random"].at(last).mean)
        left = f"{join_words(shares)} of the patches are left; a random choice would leave {chance}"
        yield f"At keep rate {rate:g}, {left}: {_loudness(sums['louder'].at(last), self._names())}."
        for i, feature in enumerate(("intensity", "variation")):
            yield f"At keep rate {rate:g}, {_tendency(sums['shift'].at(last, i), feature)}."

    def _note(self) -> str | None:
        kept = self.sums[self.sums.rates[0]]["kept"]
        if empty := [name for i, name in enumerate(self._names()) if kept.at(0, i).n == 0]:
            return f"No clip has patches of {', '.join(empty)}."
        return None


def _patches(stage: Block) -> Tensor:
    """Patches that a stage keeps, (clips, K)."""
    assert stage.kept is not None
    return stage.patch.gather(1, stage.kept)


def _take(values: Tensor, patches: Tensor) -> Tensor:
    """Values of some patches: (clips, patches, width) → (clips, K, width)."""
    return values.gather(1, patches[..., None].expand(-1, -1, values.shape[2]))


def _mean(values: Tensor) -> Tensor:
    """Mean over tokens: (clips, n, width) → (clips, width)."""
    return values.double().mean(1)


def _rows(values: list[float], clips: int) -> np.ndarray:
    """The same row for every clip: (n,) → (clips, n)."""
    return np.tile(np.array(values), (clips, 1))


def _bins(features: Tensor, ranges: tuple[tuple[float, float], ...]) -> Tensor:
    """Bin number of each patch, mean · 40 + variation: (clips, patches, 2) → (clips, patches)."""
    low, high = torch.tensor(ranges, dtype=torch.float64).T
    width = torch.where(high > low, high - low, 1.0) / BINS
    mean, variation = ((features.double() - low) / width).long().clamp(0, BINS - 1).unbind(2)
    return mean * BINS + variation


def _histogram(bins: Tensor) -> np.ndarray:
    """Counts by mean and variation: (clips, n) bin numbers → (40, 40)."""
    return torch.bincount(bins.flatten(), minlength=BINS * BINS).view(BINS, BINS).numpy()


def _loudness(louder: Spread, names: list[str]) -> str:
    """Sentence part on the kept share of the loudest cluster minus that of the quietest."""
    loudest, quietest = names[-1], names[0]
    if louder.mean is None or len(names) == 1:
        return "no clip has both the quietest and the loudest patches"
    if louder.error is None:
        return f"one clip with both {quietest} and {loudest} is too few for a statement"
    by = f"{100 * louder.mean:+.1f} ± {100 * louder.error:.1f} points over {louder.n} clips that have both"
    return {
        1: f"more of the loudest ({loudest}) than of the quietest ({quietest}) patches are kept ({by})",
        -1: f"fewer of the loudest ({loudest}) than of the quietest ({quietest}) patches are kept ({by})",
        0: f"the loudest ({loudest}) and the quietest ({quietest}) patches are not kept clearly differently ({by})",
    }[louder.side() or 0]


def _tendency(shift: Spread, feature: str) -> str:
    """Sentence part on the mean of the kept patches minus the mean of all."""
    if shift.mean is None or shift.error is None:
        return f"one clip is too few to say whether kept patches have a higher {feature}"
    by = f"{shift.mean:+.3f} ± {shift.error:.3f} over {shift.n} clips"
    return {
        1: f"kept patches have a higher {feature} than the clip's average ({by})",
        -1: f"kept patches have a lower {feature} than the clip's average ({by})",
        0: f"kept patches do not clearly differ in {feature} from the clip's average ({by})",
    }[shift.side() or 0]
