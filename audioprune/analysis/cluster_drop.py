"""Removal of whole clusters of patches at a block: which loudness does a model need, and up to which block?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..core import ops
from ..core.tokens import Evidence, Reduction, Tokens
from ..methods import Method
from ..methods.base import block_at
from ..methods.fates import keep_ragged
from .batches import FULL, AnalysisBatch, metric_name
from .observe import BARELY
from .paired_stats import Outcomes, hundredths, points, share
from .question import Finding, Table

BASELINE = "unpruned"


@dataclass(frozen=True)
class IntensityInterval(Method):
    """Keeps only the tokens whose patch intensity is in (low, high]: the authors' cluster-drop ablation.

    low, high: patch means of the normalised log-mel; ±infinity by default. If no token of a clip is in the interval,
    the nearest token stays; if several are equally near, the first of them.
    """

    keep_rate: float | Sequence[float] = BARELY
    low: float = float("-inf")
    high: float = float("inf")

    static: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.low < self.high:
            raise ValueError(f"no intensity is between {self.low} and {self.high}; low must be less than high")

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"intensity"})

    def stays(self, intensity: Tensor) -> Tensor:
        """Mask of the tokens that stay: (batch, n), at least one True in each row. intensity: (batch, n)."""
        intensity = ops.widest(intensity)  # the bounds are float64: if rounded, they would select other tokens
        inside = (intensity > self.low) & (intensity <= self.high)
        distance = torch.maximum(self.low - intensity, intensity - self.high).clamp_min(0)
        nearest = torch.zeros_like(inside).scatter(1, distance.argmin(dim=1, keepdim=True), True)
        return torch.where(inside.any(dim=1, keepdim=True), inside, nearest)

    def reduce(self, tokens: Tokens, evidence: Evidence, keep_rate: float) -> Reduction:
        assert evidence.intensity is not None
        kept, lengths = ops.positions(self.stays(evidence.intensity))
        return Reduction(keep_ragged(tokens, kept), kept, evidence.intensity, lengths=lengths)


@dataclass(frozen=True)
class Removal:
    """A set of clusters to remove.

    Args:
        name: such as "C1–C2".
        side: "quiet" or "loud".
        count: number of clusters.
        low: only patches above this intensity stay.
        high: only patches up to this intensity stay.
    """

    name: str
    side: str
    count: int
    low: float
    high: float

    def at(self, block: int) -> IntensityInterval:
        return IntensityInterval(layers=(block,), low=self.low, high=self.high)


def removals(boundaries: Sequence[float]) -> tuple[Removal, ...]:
    """Removals of the quietest clusters (C1; C1–C2; …) and of the loudest (C5; C4–C5; …), never of all.

    boundaries: intensities between neighbouring clusters, ascending; one fewer than the number of clusters."""
    clusters = len(boundaries) + 1
    removals = []
    for count in range(1, clusters):
        name = "C1" if count == 1 else f"C1–C{count}"
        removals.append(Removal(name, "quiet", count, float(boundaries[count - 1]), float("inf")))
    for count in range(1, clusters):
        first = clusters - count + 1
        name = f"C{clusters}" if count == 1 else f"C{first}–C{clusters}"
        removals.append(Removal(name, "loud", count, float("-inf"), float(boundaries[clusters - count - 1])))
    return tuple(removals)


def blocks_of(depth: int) -> tuple[int, ...]:
    """Blocks (0-based) after whose attention clusters are removed: the first, and one at each quarter of the depth."""
    return tuple(sorted({block for i in range(4) if (block := block_at(depth, i, 4)) < depth}))


class ClusterDrop:
    """Accuracy of an otherwise unpruned model without its quietest or its loudest patches, from several blocks on."""

    name = "cluster_drop"
    title = "How much of the quiet, and of the loud, can go?"
    how = (
        "Each line is a block after whose attention all patches of some clusters are removed; further right, more "
        "clusters are removed. If a line stays high, the model does not need these patches after that block."
    )

    def __init__(self, boundaries: Sequence[float], depth: int, multi_label: bool = False) -> None:
        """boundaries: intensities between neighbouring clusters, ascending. depth: number of blocks of the model."""
        self.boundaries = tuple(sorted(set(map(float, boundaries))))
        self.blocks, self.multi_label = blocks_of(depth), multi_label
        self.removals = removals(self.boundaries)
        names = [self._name(removed, block) for removed in self.removals for block in self.blocks]
        self._outcomes = Outcomes((BASELINE, *names), multi_label)
        self._gone = dict.fromkeys((removed.name for removed in self.removals), 0)
        self._patches = 0

    @staticmethod
    def _name(removed: Removal, block: int) -> str:
        return f"{removed.name} at {block}"

    def update(self, batch: AnalysisBatch) -> None:
        logits = {BASELINE: batch.full}
        for removed in self.removals:
            stays = removed.at(0).stays(batch.intensity)
            self._gone[removed.name] += int((~stays).sum())
            for block in self.blocks:
                logits[self._name(removed, block)] = batch.forward(FULL, removed.at(block))
        self._patches += batch.intensity.numel()
        self._outcomes.update(logits, batch.labels, batch.full)

    def answer(self) -> Finding:
        if not self._outcomes.clips:
            return Finding(note="no clip was analysed")
        if not self.removals:
            return Finding(note="all patches are equally loud, so there are no clusters to remove")
        values = {
            "boundaries": list(self.boundaries),
            "blocks": list(self.blocks),
            "metric": metric_name(self.multi_label),
            "clips": self._outcomes.clips,
            BASELINE: {"score": self._outcomes.score(BASELINE).as_dict()},
            "removed": [self._values(removed) for removed in self.removals],
        }
        return Finding(tuple(self._sentences()), (self._table(),), values)

    def state(self) -> dict[str, Any]:
        return {"outcomes": self._outcomes.state(), "gone": self._gone, "patches": self._patches}

    def load(self, state: dict[str, Any]) -> None:
        self._outcomes.load(state["outcomes"])
        self._gone, self._patches = state["gone"], state["patches"]

    def _share(self, removed: Removal) -> float:
        """Share of all patches that a removal removes."""
        return self._gone[removed.name] / self._patches

    def _values(self, removed: Removal) -> dict[str, Any]:
        values: dict[str, Any] = {
            "clusters": removed.name,
            "side": removed.side,
            "count": removed.count,
            "share": self._share(removed),
            "blocks": [],
        }
        for block in self.blocks:
            name = self._name(removed, block)
            values["blocks"].append({
                "block": block,
                "score": self._outcomes.score(name).as_dict(),
                "change": self._outcomes.score({name: 1.0, BASELINE: -1.0}).as_dict(),
                "agreement": self._outcomes.agreement(name).as_dict(),
            })  # fmt: skip
        return values

    def _sentences(self) -> list[str]:
        base = share(self._outcomes.score(BASELINE))
        sentences = [f"The unpruned model's {metric_name(self.multi_label)} is {base} on {self._outcomes.clips} clips."]
        for side, word in (("quiet", "quietest"), ("loud", "loudest")):
            one = next(removed for removed in self.removals if removed.side == side)
            changes = {
                block: self._outcomes.score({self._name(one, block): 1.0, BASELINE: -1.0})
                for block in (self.blocks[0], self.blocks[-1])
            }
            sentences.append(
                f"Without the {word} cluster ({one.name}, {100 * self._share(one):.1f} % of the patches) it changes by "
                + " and by ".join(f"{points(change)} from block {block + 1} on" for block, change in changes.items())
                + "."
            )
        return [*sentences, *self._compared()]

    def _compared(self) -> list[str]:
        """Sentence that compares the quietest cluster with the loudest, at the first block."""
        quiet, loud = (next(r for r in self.removals if r.side == side) for side in ("quiet", "loud"))
        block = self.blocks[0]
        gap = self._outcomes.score({self._name(quiet, block): 1.0, self._name(loud, block): -1.0})
        if not gap.clear:
            return [f"At block {block + 1}, removing one or the other makes no clear difference ({points(gap)})."]
        worse = loud if (gap.mean or 0) > 0 else quiet
        return [f"At block {block + 1}, removing {worse.name} costs more, by {points(gap).lstrip('+-')}."]

    def _table(self) -> Table:
        columns = ("removed", "patches, %", *(f"after block {block + 1}, %" for block in self.blocks))
        score = self._outcomes.score
        rows: list[tuple[Any, ...]] = [("nothing", 0.0, *[hundredths(score(BASELINE).mean)] * len(self.blocks))]
        for removed in self.removals:
            cells = (hundredths(score(self._name(removed, block)).mean) for block in self.blocks)
            rows.append((removed.name, hundredths(self._share(removed)), *cells))
        what = metric_name(self.multi_label)
        caption = f"{what} without clusters of patches, C1 the quietest, removed after a block's attention."
        return Table("cluster_drop", caption[0].upper() + caption[1:], columns, tuple(rows))
