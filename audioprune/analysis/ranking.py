"""Comparison of rankings: tokens ranked by attention, by their patch's statistics, and at random."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..methods import TopK
from .batches import AnalysisBatch, metric_name
from .paired_stats import Estimate, Outcomes, Weights, hundredths, points, share
from .question import Finding, Table, join_words

SEEDS = range(5)
"""Seeds of the random ranking; its numbers are means over them."""


class Ranking:
    """Accuracy of Top-K by each score at each keep rate, on the same clips."""

    name = "ranking"
    title = "Is loudness as good a score as attention?"
    how = (
        "Each line is a score that ranks tokens: the higher it is at a low keep rate, the better it finds the tokens "
        "that matter. Whiskers are standard errors over the clips. "
        "A difference is clear if it is more than two of them, and more than four clips."
    )

    def __init__(self, keep_rates: Sequence[float], score: str, cls: bool, multi_label: bool = False) -> None:
        """Prepare the statistic.

        Args:
            keep_rates: the rates below 1.0.
            score: the score by which the models are pruned, "attention" or "cls".
            cls: whether the model has a CLS token.
            multi_label: whether a clip may have several labels.
        """
        self.keep_rates, self.score, self.multi_label = tuple(keep_rates), score, multi_label
        self.scores = ("attention", *(("cls",) if cls else ()), "intensity", "variation", "random")
        single = [name for name in self.scores if name != "random"]
        self._names = (*single, *map(_seeded, SEEDS))
        self._outcomes = {rate: Outcomes(self._names, multi_label) for rate in keep_rates}

    def update(self, batch: AnalysisBatch) -> None:
        for rate, outcomes in self._outcomes.items():
            logits = {self.score: batch.logits[rate]}
            for name, method in self._methods(batch.methods[rate]).items():
                logits[name] = batch.forward(rate, method)
            outcomes.update(logits, batch.labels, batch.full)

    def _methods(self, base: TopK) -> dict[str, TopK]:
        options: dict[str, Any] = {name: {"score": name} for name in self.scores if name not in (self.score, "random")}
        options |= {_seeded(seed): {"score": "random", "seed": seed} for seed in SEEDS}
        return {name: TopK(base.keep_rate, base.layers, **settings) for name, settings in options.items()}

    def answer(self) -> Finding:
        if not any(outcomes.clips for outcomes in self._outcomes.values()):
            return Finding(note="no clip was analysed at a keep rate below 1.0, so there was nothing to rank")
        values = {
            "metric": metric_name(self.multi_label),
            "clips": next(iter(self._outcomes.values())).clips,
            "score": self.score,
            "seeds": len(SEEDS),
            "rates": [self._values(rate) for rate in self.keep_rates],
        }
        sentences = [sentence for rate in self.keep_rates for sentence in self._sentences(rate)]
        return Finding(tuple(sentences), (self._table(),), values)

    def state(self) -> dict[str, Any]:
        return {"outcomes": [one.state() for one in self._outcomes.values()]}

    def load(self, state: dict[str, Any]) -> None:
        for outcomes, one in zip(self._outcomes.values(), state["outcomes"], strict=True):
            outcomes.load(one)

    @staticmethod
    def _weights(name: str, sign: float = 1.0) -> dict[str, float]:
        return dict.fromkeys(map(_seeded, SEEDS), sign / len(SEEDS)) if name == "random" else {name: sign}

    def _against(self, name: str, other: str) -> Weights:
        return self._weights(name) | self._weights(other, -1.0)

    def _values(self, rate: float) -> dict[str, Any]:
        outcomes, scores = self._outcomes[rate], {}
        for name in self.scores:
            weights = self._weights(name)
            scores[name] = {
                "score": outcomes.score(weights).as_dict(),
                "agreement": outcomes.agreement(weights).as_dict(),
            }
            if name != self.score:
                change = self._against(name, self.score)
                scores[name]["change"] = outcomes.score(change).as_dict()
                scores[name]["agreement_change"] = outcomes.agreement(change).as_dict()
        each = [outcomes.score(_seeded(seed)).mean for seed in SEEDS]
        scores["random"]["each"] = each  # type: ignore[assignment]
        return {"keep_rate": rate, "scores": scores}

    def _sentences(self, rate: float) -> list[str]:
        outcomes, what = self._outcomes[rate], metric_name(self.multi_label)
        others = [name for name in self.scores if name != self.score]
        changes = {name: outcomes.score(self._against(name, self.score)) for name in others}
        agrees = {name: outcomes.agreement(self._against(name, self.score)) for name in others}
        parts = [f"{points(change)} with {name}" for name, change in changes.items()]
        return [
            f"At keep rate {rate:g}, ranked by {self.score}, {what} is {share(outcomes.score(self.score))}; on the "
            f"same clips it differs by {join_words(parts)}. {_verdict(what, self.score, changes)} "
            f"{_verdict('agreement with the unpruned model', self.score, agrees)}"
        ]

    def _table(self) -> Table:
        columns = ("ranked by", *(f"{title} at {rate:g}" for rate in self.keep_rates for title in self._titles()))
        rows = []
        for name in self.scores:
            cells: list[Any] = [name]
            for rate in self.keep_rates:
                outcomes, weights = self._outcomes[rate], self._weights(name)
                score = outcomes.score(weights)
                cells += [hundredths(score.mean), hundredths(score.error), hundredths(outcomes.agreement(weights).mean)]
            rows.append(tuple(cells))
        caption = f"Top-K by each score; random is the mean over {len(SEEDS)} seeds; ± is a standard error."
        return Table("ranking", caption, columns, tuple(rows))

    def _titles(self) -> tuple[str, str, str]:
        return f"{metric_name(self.multi_label)}, %", "±", "agreement, %"


def _seeded(seed: int) -> str:
    return f"random {seed}"


def _verdict(what: str, score: str, changes: dict[str, Estimate]) -> str:
    """Sentence on the scores that are clearly worse or better than the one that prunes the model."""
    worse = [name for name, change in changes.items() if change.clear and (change.mean or 0) < 0]
    better = [name for name, change in changes.items() if change.clear and (change.mean or 0) > 0]
    if not worse and not better:
        return f"In {what} none clearly differs from {score}."
    parts = []
    if worse:
        parts.append(f"{join_words(worse)} {'loses' if len(worse) == 1 else 'lose'}")
    if better:
        parts.append(f"{join_words(better)} {'gains' if len(better) == 1 else 'gain'}")
    return f"In {what} {' and '.join(parts)} clearly against {score}."
