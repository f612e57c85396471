"""Which loudness does a model need, and until when? Whole clusters of patches are removed at a block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..core import ops
from ..core.tokens import Evidence, Reduction, Tokens
from ..methods import Method
from ..methods.fates import keep_ragged
from .batches import FULL, AnalysisBatch, metric_name
from .observe import BARELY
from .paired_stats import Outcomes, hundredths, points, share
from .question import Answer, Table

BASELINE = "unpruned"


@dataclass(frozen=True)
class IntensityInterval(Method):
    """Only tokens whose patch is of an intensity in (low, high] stay: the authors' cluster-drop ablation.

    low, high: means of patches of the normalised log-mel; ±infinity by default. Where no token of a clip lies between,
    the one that is nearest stays, of equals the first.
    """

    keep_rate: float | Sequence[float] = BARELY
    low: float = float("-inf")
    high: float = float("inf")

    static: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.low < self.high:
            raise ValueError(f"intensities from {self.low} to {self.high} hold nothing; low must be less than high")

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"intensity"})

    def stays(self, intensity: Tensor) -> Tensor:
        """(batch, n) booleans, at least one true in each row. intensity: (batch, n)."""
        intensity = ops.widest(intensity)  # the ends are float64: rounded, they would take other tokens in
        inside = (intensity > self.low) & (intensity <= self.high)
        distance = torch.maximum(self.low - intensity, intensity - self.high).clamp_min(0)
        nearest = torch.zeros_like(inside).scatter(1, distance.argmin(dim=1, keepdim=True), True)
        return torch.where(inside.any(dim=1, keepdim=True), inside, nearest)

    def reduce(self, tokens: Tokens, evidence: Evidence, keep_rate: float) -> Reduction:
        assert evidence.intensity is not None
        kept, lengths = ops.positions(self.stays(evidence.intensity))
        return Reduction(keep_ragged(tokens, kept), kept, evidence.intensity, lengths=lengths)


@dataclass(frozen=True)
class Removed:
    """A set of clusters that is removed. name: "C1–C2"; side: "quiet" or "loud"; count: of clusters."""

    name: str
    side: str
    count: int
    low: float
    high: float

    def at(self, block: int) -> IntensityInterval:
        return IntensityInterval(layers=(block,), low=self.low, high=self.high)


def removals(boundaries: Sequence[float]) -> tuple[Removed, ...]:
    """The quietest clusters (C1; C1–C2; …) and the loudest (C5; C4–C5; …), never all. boundaries: ascending, of
    neighbouring clusters, one fewer than there are."""
    clusters = len(boundaries) + 1
    found = []
    for count in range(1, clusters):
        name = "C1" if count == 1 else f"C1–C{count}"
        found.append(Removed(name, "quiet", count, float(boundaries[count - 1]), float("inf")))
    for count in range(1, clusters):
        first = clusters - count + 1
        name = f"C{clusters}" if count == 1 else f"C{first}–C{clusters}"
        found.append(Removed(name, "loud", count, float("-inf"), float(boundaries[clusters - count - 1])))
    return tuple(found)


def blocks_of(depth: int) -> tuple[int, ...]:
    """0-based blocks after whose attention clusters are removed: the first, and at each quarter of the depth."""
    return tuple(sorted({block for i in range(4) if (block := round(depth * i / 4)) < depth}))


class ClusterDrop:
    """Accuracy of an otherwise unpruned model without its quietest or its loudest patches, from each of some blocks."""

    name = "cluster_drop"
    title = "How much of the quiet, and of the loud, can go?"
    how = (
        "Each line is a block after whose attention all patches of some clusters leave the model: the further right, "
        "the more clusters; where a line stays high, the model had no use for them from there on."
    )

    def __init__(self, boundaries: Sequence[float], depth: int, multi_label: bool = False) -> None:
        """boundaries: intensities between neighbouring clusters, ascending. depth: blocks of the model."""
        self.boundaries = tuple(sorted(set(map(float, boundaries))))
        self.blocks, self.multi_label = blocks_of(depth), multi_label
        self.removals = removals(self.boundaries)
        names = [self._name(removed, block) for removed in self.removals for block in self.blocks]
        self._outcomes = Outcomes((BASELINE, *names), multi_label)
        self._gone = dict.fromkeys((removed.name for removed in self.removals), 0)
        self._patches = 0

    @staticmethod
    def _name(removed: Removed, block: int) -> str:
        return f"{removed.name} at {block}"

    def update(self, heard: AnalysisBatch) -> None:
        logits = {BASELINE: heard.full}
        for removed in self.removals:
            stays = removed.at(0).stays(heard.intensity)
            self._gone[removed.name] += int((~stays).sum())
            for block in self.blocks:
                logits[self._name(removed, block)] = heard.forward(FULL, removed.at(block))
        self._patches += heard.intensity.numel()
        self._outcomes.update(logits, heard.labels, heard.full)

    def answer(self) -> Answer:
        if not self._outcomes.clips:
            return Answer(note="no clip was heard")
        if not self.removals:
            return Answer(note="all patches are equally loud, so that there are no clusters to remove")
        values = {
            "boundaries": list(self.boundaries),
            "blocks": list(self.blocks),
            "metric": metric_name(self.multi_label),
            "clips": self._outcomes.clips,
            BASELINE: {"score": self._outcomes.score(BASELINE).as_dict()},
            "removed": [self._values(removed) for removed in self.removals],
        }
        return Answer(tuple(self._found()), (self._table(),), values)

    def state(self) -> dict[str, Any]:
        return {"outcomes": self._outcomes.state(), "gone": self._gone, "patches": self._patches}

    def load(self, state: dict[str, Any]) -> None:
        self._outcomes.load(state["outcomes"])
        self._gone, self._patches = state["gone"], state["patches"]

    def _share(self, removed: Removed) -> float:
        """Share of all patches that a removal takes."""
        return self._gone[removed.name] / self._patches

    def _values(self, removed: Removed) -> dict[str, Any]:
        found: dict[str, Any] = {
            "clusters": removed.name,
            "side": removed.side,
            "count": removed.count,
            "share": self._share(removed),
            "blocks": [],
        }
        for block in self.blocks:
            name = self._name(removed, block)
            found["blocks"].append({
                "block": block,
                "score": self._outcomes.score(name).as_dict(),
                "change": self._outcomes.score({name: 1.0, BASELINE: -1.0}).as_dict(),
                "agreement": self._outcomes.agreement(name).as_dict(),
            })  # fmt: skip
        return found

    def _found(self) -> list[str]:
        base = share(self._outcomes.score(BASELINE))
        found = [f"The unpruned model's {metric_name(self.multi_label)} is {base} on {self._outcomes.clips} clips."]
        for side, word in (("quiet", "quietest"), ("loud", "loudest")):
            one = next(removed for removed in self.removals if removed.side == side)
            changes = {
                block: self._outcomes.score({self._name(one, block): 1.0, BASELINE: -1.0})
                for block in (self.blocks[0], self.blocks[-1])
            }
            found.append(
                f"Without the {word} cluster ({one.name}, {100 * self._share(one):.1f} % of the patches) it changes by "
                + " and by ".join(f"{points(change)} from block {block + 1} on" for block, change in changes.items())
                + "."
            )
        return [*found, *self._compared()]

    def _compared(self) -> list[str]:
        """The quietest cluster against the loudest, at the first block."""
        quiet, loud = (next(r for r in self.removals if r.side == side) for side in ("quiet", "loud"))
        block = self.blocks[0]
        gap = self._outcomes.score({self._name(quiet, block): 1.0, self._name(loud, block): -1.0})
        if not gap.clear:
            return [f"Which of the two goes at block {block + 1} makes no clear difference ({points(gap)})."]
        worse = loud if (gap.mean or 0) > 0 else quiet
        return [f"At block {block + 1} the loss of {worse.name} costs more, by {points(gap).lstrip('+-')}."]

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
