"""Swap tests: retained tokens are replaced by pruned ones, to see which kind matters (arXiv 2504.01690, §5.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from ..core import ops
from ..core.tokens import Evidence, Reduction, Tokens
from ..methods import TopK
from ..methods.fates import keep
from ..methods.scores import SCORES
from .batches import AnalysisBatch, metric_name
from .paired_stats import Outcomes, hundredths, points, share
from .question import Finding, Table, join_words

Kind = Literal["signal", "background"]

TESTS: dict[str, tuple[Kind, Kind]] = {
    "I": ("signal", "signal"),
    "II": ("background", "background"),
    "III": ("background", "signal"),
}
"""Test → the kind of retained tokens that are removed, and of pruned tokens that replace them."""


def perturb(x: Sequence[int], y: Sequence[int]) -> list[int]:
    """Algorithm 1: the new list X after the swap, of the same length. Both lists are sorted by descending score."""
    if len(x) <= len(y):
        return list(y[: len(x)])
    n = len(x) - len(y)
    return [*x[:n], *y]


@dataclass(frozen=True)
class Perturbed(TopK):
    """Top-K that then swaps retained tokens of one kind for pruned tokens, at every pruning stage. K does not change.

    Token Pruning in Audio Transformers (Lee & Lee, arXiv 2504.01690, §5.1, Algorithm 1, Table 4).

    test: "I" swaps retained signal for pruned signal, "II" background for background, "III" retained background for
    pruned signal. tau: a token is signal if the mean of its patch is greater, in units of the normalised log-mel.
    swapped: for each stage, the number of swapped tokens and the number of retained tokens.
    """

    test: Literal["I", "II", "III"] = "I"
    tau: float = 0.0
    swapped: list[tuple[int, int]] = field(default_factory=list, compare=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.test not in TESTS:
            raise ValueError(f"test is {self.test!r}; it must be one of {', '.join(TESTS)}")
        if self.segments is not None or self.dropped != "discard":
            raise ValueError('swaps need TopK over the whole clip: leave out segments, and set dropped to "discard"')

    @property
    def needs(self) -> frozenset[str]:
        return super().needs | {"intensity"}

    def reduce(self, tokens: Tokens, evidence: Evidence, keep_rate: float) -> Reduction:
        assert evidence.intensity is not None
        scores = SCORES[self.score].compute(evidence, self.seed)
        chosen = ops.top_k(scores.detach(), ops.budget(keep_rate, tokens.count))
        kept = swap(scores.detach(), chosen, evidence.intensity > self.tau, self.test)
        before = torch.zeros_like(scores, dtype=torch.bool).scatter(1, chosen, True)
        self.swapped.append((int((~before.gather(1, kept)).sum()), kept.numel()))
        return Reduction(keep(tokens, kept), kept, scores)


def swap(scores: Tensor, chosen: Tensor, signal: Tensor, test: str) -> Tensor:
    """Positions of the kept tokens after a test: (batch, K), ascending.

    Args:
        scores: (batch, n).
        chosen: (batch, K), positions before the test.
        signal: (batch, n), whether each token is signal.
        test: key of `TESTS`.
    """
    order = scores.argsort(dim=1, descending=True, stable=True).tolist()
    rows = zip(order, chosen.tolist(), signal.tolist(), strict=True)
    return torch.tensor([_swap_row(*row, test) for row in rows], device=chosen.device, dtype=chosen.dtype)


def _swap_row(order: list[int], chosen: list[int], signal: list[bool], test: str) -> list[int]:
    """The same for one clip. order: all positions by descending score."""
    leaving, coming = (kind == "signal" for kind in TESTS[test])
    retained = set(chosen)
    x = [i for i in order if i in retained and signal[i] == leaving]
    y = [i for i in order if i not in retained and signal[i] == coming]
    return sorted(retained.difference(x).union(perturb(x, y)))


class Perturbation:
    """Accuracy in tests I to III and of the pruned model, at each keep rate (Table 4)."""

    name = "perturbation"
    title = "Does it matter which tokens of a kind are kept?"
    how = (
        "The further a test is below the baseline, the more the removed tokens matter. Test I swaps retained signal "
        "for pruned signal, II retained background for pruned background, III retained background for pruned signal. "
        "A difference is clear if it is more than two standard errors, and more than four clips."
    )

    def __init__(self, keep_rates: Sequence[float], tau: float, multi_label: bool = False) -> None:
        """keep_rates: the rates below 1.0. tau: patches with a higher mean are signal."""
        self.keep_rates, self.tau, self.multi_label = tuple(keep_rates), tau, multi_label
        self._outcomes = {rate: Outcomes(("baseline", *TESTS), multi_label) for rate in keep_rates}
        self._swapped = {rate: {test: [0, 0] for test in TESTS} for rate in keep_rates}

    def update(self, batch: AnalysisBatch) -> None:
        for rate, outcomes in self._outcomes.items():
            logits = {"baseline": batch.logits[rate]}
            for test in TESTS:
                method = self._method(batch.methods[rate], test)
                logits[test] = batch.forward(rate, method)
                for i in (0, 1):
                    self._swapped[rate][test][i] += sum(stage[i] for stage in method.swapped)
            outcomes.update(logits, batch.labels, batch.full)

    def _method(self, method: TopK, test: Any) -> Perturbed:
        return Perturbed(method.keep_rate, method.layers, method.score, seed=method.seed, test=test, tau=self.tau)

    def answer(self) -> Finding:
        if not any(outcomes.clips for outcomes in self._outcomes.values()):
            return Finding(note="no clip was analysed at a keep rate below 1.0, so there was nothing to swap")
        values = {
            "tau": self.tau,
            "metric": metric_name(self.multi_label),
            "clips": next(iter(self._outcomes.values())).clips,
            "rates": [self._values(rate) for rate in self.keep_rates],
        }
        sentences = [self._moved(rate) for rate in self.keep_rates]
        return Finding(tuple(filter(None, [*self._absent(), *sentences])), (self._table(),), values)

    def state(self) -> dict[str, Any]:
        return {"outcomes": [one.state() for one in self._outcomes.values()], "swapped": self._swapped}

    def load(self, state: dict[str, Any]) -> None:
        for outcomes, one in zip(self._outcomes.values(), state["outcomes"], strict=True):
            outcomes.load(one)
        self._swapped = state["swapped"]

    def _share(self, rate: float, test: str) -> float | None:
        """Share of the retained tokens that a test swapped, over all stages and clips."""
        swapped, retained = self._swapped[rate][test]
        return swapped / retained if retained else None

    def _values(self, rate: float) -> dict[str, Any]:
        outcomes = self._outcomes[rate]
        values: dict[str, Any] = {"keep_rate": rate, "tests": {}}
        for name in outcomes.names:
            values["tests"][name] = {
                "score": outcomes.score(name).as_dict(),
                "agreement": outcomes.agreement(name).as_dict(),
            }
        for test in TESTS:
            change = {test: 1.0, "baseline": -1.0}
            values["tests"][test] |= {
                "change": outcomes.score(change).as_dict(),
                "agreement_change": outcomes.agreement(change).as_dict(),
                "swapped": self._share(rate, test),
            }
        values["III_minus_II"] = outcomes.score({"III": 1.0, "II": -1.0}).as_dict()
        return values

    def _absent(self) -> list[str]:
        """Sentences on the tests that had nothing to swap at any keep rate."""
        sentences = []
        for test, (leaving, coming) in TESTS.items():
            if not any(self._swapped[rate][test][0] for rate in self.keep_rates):
                sentences.append(
                    f"Test {test} swapped nothing: with signal above {self.tau:.3f}, no clip had both retained "
                    f"{leaving} and pruned {coming} tokens."
                )
        return sentences

    def _moved(self, rate: float) -> str | None:
        outcomes = self._outcomes[rate]
        tests = [test for test in TESTS if self._swapped[rate][test][0]]
        if not tests:
            return None
        changes = {test: outcomes.score({test: 1.0, "baseline": -1.0}) for test in tests}
        sentence = (
            f"At keep rate {rate:g}, {metric_name(self.multi_label)} is {share(outcomes.score('baseline'))} and "
            f"changes by {join_words([f'{points(change)} in test {test}' for test, change in changes.items()])}"
        )
        clear = [test for test, change in changes.items() if change.clear]
        if not clear:
            return f"{sentence}: none of them clearly."
        return f"{sentence}: clearly in {join_words(clear)}."

    def _table(self) -> Table:
        columns = ("test", *(f"keep rate {rate:g}" for rate in self.keep_rates))
        score, agrees = f"{metric_name(self.multi_label)}, %", "agreement with unpruned, %"
        rows: list[tuple[Any, ...]] = []
        for name in ("baseline", *TESTS):
            label = name if name == "baseline" else f"Test {name}"
            every = self._outcomes.values()
            rows.append((f"{label}: {score}", *(hundredths(one.score(name).mean) for one in every)))
            rows.append((f"{label}: {agrees}", *(hundredths(one.agreement(name).mean) for one in every)))
            if name in TESTS:
                shares = (self._share(rate, name) for rate in self.keep_rates)
                rows.append((f"{label}: retained tokens swapped, %", *map(hundredths, shares)))
        caption = "Retained tokens swapped for pruned tokens of one kind, by Algorithm 1, at every pruning stage."
        return Table("perturbation", caption, columns, tuple(rows))
