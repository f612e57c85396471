"""Costs and savings of pruning: accuracy or mAP against multiply-accumulates and throughput (Tables 1, 7)."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ..compare.benchmark import in_turn
from ..core.cost import macs
from ..core.pruning import prune
from ..methods import TopK
from ..timing import Ratio
from .batches import FULL, AnalysisBatch, metric_name
from .paired_stats import Outcomes, hundredths, points, share
from .question import Finding, Table


class Tradeoff:
    """Accuracy and cost of a clip, at each keep rate."""

    name = "tradeoff"
    title = "What does pruning cost, and what does it save?"
    how = (
        "Up is more accurate, left is cheaper. A point that is left of another and not lower saves work without loss. "
        "Whiskers are standard errors over the clips. "
        "A difference is clear if it is more than two of them, and more than four clips."
    )

    def __init__(self, keep_rates: Sequence[float], multi_label: bool = False) -> None:
        """keep_rates: the rates below 1.0; the unpruned model is added first."""
        self.keep_rates, self.multi_label = (FULL, *keep_rates), multi_label
        self._outcomes = Outcomes(tuple(map(_name, self.keep_rates)), multi_label)
        self._macs: dict[float, int] = {}
        self._timing: dict[str, Any] | None = None

    def update(self, batch: AnalysisBatch) -> None:
        if not self._macs:
            for rate in self.keep_rates:
                with prune(batch.models[rate], batch.methods[rate]):
                    self._macs[rate] = macs(batch.models[rate])
        self._outcomes.update({_name(rate): batch.logits[rate] for rate in self.keep_rates}, batch.labels, batch.full)

    @property
    def timed(self) -> bool:
        return self._timing is not None

    def time(self, models: Mapping[float, Any], methods: Mapping[float, TopK], clips: Tensor, seconds: float) -> None:
        """Measure the throughput of all keep rates in turn.

        Args:
            models: keep rate → model.
            methods: keep rate → pruning method.
            clips: (batch, frames, mels).
            seconds: time for each keep rate.
        """
        settings = []
        for rate in self.keep_rates:
            model = models[rate]
            inputs = clips.to(model.device, model.dtype)
            settings.append((model, None if rate == FULL else methods[rate], inputs))
        taken = dict(zip(self.keep_rates, in_turn(settings, seconds), strict=True))
        self._timing = {
            "batch_size": len(clips),
            "seconds": {rate: statistics.median(times) for rate, times in taken.items()},
            "sure": {rate: Ratio.between(taken[FULL], times).is_sure for rate, times in taken.items()},
        }

    def answer(self) -> Finding:
        if not self._outcomes.clips:
            return Finding(note="no clip was analysed")
        rows = [self._values(rate) for rate in self.keep_rates]
        values = {
            "metric": metric_name(self.multi_label),
            "clips": self._outcomes.clips,
            "batch_size": self._timing and self._timing["batch_size"],
            "rates": rows,
        }
        sentences = [self._sentence(rate, row) for rate, row in zip(self.keep_rates, rows, strict=True)]
        return Finding(tuple(sentences), (self._table(rows),), values)

    def state(self) -> dict[str, Any]:
        return {"outcomes": self._outcomes.state(), "macs": self._macs, "timing": self._timing}

    def load(self, state: dict[str, Any]) -> None:
        self._outcomes.load(state["outcomes"])
        self._macs, self._timing = state["macs"], state["timing"]

    def _values(self, rate: float) -> dict[str, Any]:
        name, outcomes = _name(rate), self._outcomes
        values: dict[str, Any] = {
            "keep_rate": rate,
            "score": outcomes.score(name).as_dict(),
            "agreement": outcomes.agreement(name).as_dict(),
            "change": None if rate == FULL else outcomes.score({name: 1.0, _name(FULL): -1.0}).as_dict(),
            "macs": self._macs[rate],
            "macs_share": self._macs[rate] / self._macs[FULL],
            "clips_per_second": None,
            "speed_up": None,
        }
        if self._timing:
            seconds = self._timing["seconds"]
            values["clips_per_second"] = self._timing["batch_size"] / seconds[rate]
            # Version 0.1 did not tell how sure it was.
            is_sure = self._timing.get("sure", {}).get(rate, True)
            values["speed_up"] = seconds[FULL] / seconds[rate] if is_sure else None
        return values

    def _sentence(self, rate: float, row: dict[str, Any]) -> str:
        what, cost = metric_name(self.multi_label), f"{row['macs'] / 1e9:.3g} GMACs a clip"
        if rate == FULL:
            score = share(self._outcomes.score(_name(rate)))
            return f"Unpruned, {what} is {score} on {self._outcomes.clips} clips, for {cost}."
        change = self._outcomes.score({_name(rate): 1.0, _name(FULL): -1.0})
        sentence = (
            f"At keep rate {rate:g} it costs {100 * row['macs_share']:.1f} % of that ({cost}) and {what} changes by "
            f"{points(change)}"
        )
        sentence += ", clearly" if change.clear else ", not clearly"
        return sentence + (f"; it runs {row['speed_up']:.2f} times as fast." if row["speed_up"] else ".")

    def _table(self, rows: Sequence[dict[str, Any]]) -> Table:
        columns: tuple[str, ...] = (
            "keep rate",
            f"{metric_name(self.multi_label)}, %",
            "±",
            "agreement, %",
            "GMACs",
            "MACs, %",
        )
        columns += ("clips/s", "times as fast") if self._timing else ()
        cells = []
        for row in rows:
            cell: tuple[Any, ...] = (
                row["keep_rate"],
                hundredths(row["score"]["mean"]),
                hundredths(row["score"]["error"]),
                hundredths(row["agreement"]["mean"]),
                round(row["macs"] / 1e9, 3),
                hundredths(row["macs_share"]),
            )
            if self._timing:
                cell += (round(row["clips_per_second"], 1), row["speed_up"] and round(row["speed_up"], 2))
            cells.append(cell)
        caption = "Score and cost of a clip; agreement is with the unpruned model's top label."
        return Table("tradeoff", caption, columns, tuple(cells))


def _name(rate: float) -> str:
    return f"{rate:g}"
