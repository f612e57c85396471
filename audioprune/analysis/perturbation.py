"""Do background tokens matter? Retained tokens are swapped for pruned ones of a kind (arXiv 2504.01690, §5.1)."""

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
from .question import Answer, Table, listed

Kind = Literal["signal", "background"]

TESTS: dict[str, tuple[Kind, Kind]] = {
    "I": ("signal", "signal"),
    "II": ("background", "background"),
    "III": ("background", "signal"),
}
"""Test → the kind of retained tokens that go, and of pruned tokens that come in their place."""


def perturb(x: Sequence[int], y: Sequence[int]) -> list[int]:
    """Algorithm 1: what becomes of the list X. Both are sorted by descending score; as many leave it as it holds."""
    if len(x) <= len(y):
        return list(y[: len(x)])
    n = len(x) - len(y)
    return [*x[:n], *y]


@dataclass(frozen=True)
class Perturbed(TopK):
    """Top-K, and then retained tokens of a kind are swapped for pruned ones, at every pruning stage. K is unchanged.

    Token Pruning in Audio Transformers (Lee & Lee, arXiv 2504.01690, §5.1, Algorithm 1, Table 4).

    test: "I" swaps retained signal for pruned signal, "II" background for background, "III" retained background for
    pruned signal. tau: a token is signal where the mean of its patch is greater, in units of the normalised log-mel.
    swapped: a record, of each stage that ran how many tokens were swapped, of how many that were retained.
    """

    test: Literal["I", "II", "III"] = "I"
    tau: float = 0.0
    swapped: list[tuple[int, int]] = field(default_factory=list, compare=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.test not in TESTS:
            raise ValueError(f"test is {self.test!r}; there are {', '.join(TESTS)}")
        if self.segments is not None or self.dropped != "discard":
            raise ValueError("tokens are swapped where the whole clip competes and the rest is forgotten")

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
    """(batch, K) positions, ascending: `chosen` (batch, K) after a test. scores, signal: (batch, n)."""
    order = scores.argsort(dim=1, descending=True, stable=True).tolist()
    rows = zip(order, chosen.tolist(), signal.tolist(), strict=True)
    return torch.tensor([_swap_row(*row, test) for row in rows], device=chosen.device, dtype=chosen.dtype)


def _swap_row(order: list[int], chosen: list[int], signal: list[bool], test: str) -> list[int]:
    """order: all positions by descending score."""
    leaving, coming = (kind == "signal" for kind in TESTS[test])
    retained = set(chosen)
    x = [i for i in order if i in retained and signal[i] == leaving]
    y = [i for i in order if i not in retained and signal[i] == coming]
    return sorted(retained.difference(x).union(perturb(x, y)))


class Perturbation:
    """Accuracy of tests I to III beside the pruned model's, at each keep rate (Table 4)."""

    name = "perturbation"
    title = "Does it matter which tokens of a kind are kept?"
    how = (
        "The further a test falls below the baseline, the more the tokens that it takes away matter: I retained signal "
        "for pruned signal, II retained background for pruned background, III retained background for pruned signal. "
        "What is clear is more than two standard errors, and more than four clips."
    )

    def __init__(self, keep_rates: Sequence[float], tau: float, multi_label: bool = False) -> None:
        """keep_rates: those that prune. tau: signal is what lies above."""
        self.keep_rates, self.tau, self.multi_label = tuple(keep_rates), tau, multi_label
        self._outcomes = {rate: Outcomes(("baseline", *TESTS), multi_label) for rate in keep_rates}
        self._swapped = {rate: {test: [0, 0] for test in TESTS} for rate in keep_rates}

    def update(self, heard: AnalysisBatch) -> None:
        for rate, outcomes in self._outcomes.items():
            logits = {"baseline": heard.logits[rate]}
            for test in TESTS:
                method = self._method(heard.methods[rate], test)
                logits[test] = heard.forward(rate, method)
                for i in (0, 1):
                    self._swapped[rate][test][i] += sum(stage[i] for stage in method.swapped)
            outcomes.update(logits, heard.labels, heard.full)

    def _method(self, of: TopK, test: Any) -> Perturbed:
        return Perturbed(of.keep_rate, of.layers, of.score, seed=of.seed, test=test, tau=self.tau)

    def answer(self) -> Answer:
        if not any(outcomes.clips for outcomes in self._outcomes.values()):
            return Answer(note="no clip was heard at a keep rate below 1.0, so that there was nothing to swap")
        values = {
            "tau": self.tau,
            "metric": metric_name(self.multi_label),
            "clips": next(iter(self._outcomes.values())).clips,
            "rates": [self._values(rate) for rate in self.keep_rates],
        }
        found = [self._moved(rate) for rate in self.keep_rates]
        return Answer(tuple(filter(None, [*self._absent(), *found])), (self._table(),), values)

    def state(self) -> dict[str, Any]:
        return {"outcomes": [one.state() for one in self._outcomes.values()], "swapped": self._swapped}

    def load(self, state: dict[str, Any]) -> None:
        for outcomes, one in zip(self._outcomes.values(), state["outcomes"], strict=True):
            outcomes.load(one)
        self._swapped = state["swapped"]

    def _share(self, rate: float, test: str) -> float | None:
        """Share of the retained tokens that a test swapped, over stages and clips."""
        swapped, retained = self._swapped[rate][test]
        return swapped / retained if retained else None

    def _values(self, rate: float) -> dict[str, Any]:
        outcomes = self._outcomes[rate]
        found: dict[str, Any] = {"keep_rate": rate, "tests": {}}
        for name in outcomes.names:
            found["tests"][name] = {
                "score": outcomes.score(name).as_dict(),
                "agreement": outcomes.agreement(name).as_dict(),
            }
        for test in TESTS:
            change = {test: 1.0, "baseline": -1.0}
            found["tests"][test] |= {
                "change": outcomes.score(change).as_dict(),
                "agreement_change": outcomes.agreement(change).as_dict(),
                "swapped": self._share(rate, test),
            }
        found["III_minus_II"] = outcomes.score({"III": 1.0, "II": -1.0}).as_dict()
        return found

    def _absent(self) -> list[str]:
        """A sentence for each test that had nothing to swap at any keep rate."""
        found = []
        for test, (leaving, coming) in TESTS.items():
            if not any(self._swapped[rate][test][0] for rate in self.keep_rates):
                found.append(
                    f"Test {test} swapped nothing: with signal above {self.tau:.3f} no clip had retained {leaving} "
                    f"and pruned {coming} tokens at once."
                )
        return found

    def _moved(self, rate: float) -> str | None:
        outcomes = self._outcomes[rate]
        tests = [test for test in TESTS if self._swapped[rate][test][0]]
        if not tests:
            return None
        changes = {test: outcomes.score({test: 1.0, "baseline": -1.0}) for test in tests}
        sentence = (
            f"At keep rate {rate:g}, {metric_name(self.multi_label)} is {share(outcomes.score('baseline'))} and "
            f"changes by {listed([f'{points(change)} in test {test}' for test, change in changes.items()])}"
        )
        clear = [test for test, change in changes.items() if change.clear]
        if not clear:
            return f"{sentence}: none of them clearly."
        return f"{sentence}: clearly in {listed(clear)}."

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
        caption = "Retained tokens swapped for pruned ones of a kind, by Algorithm 1, at every pruning stage."
        return Table("perturbation", caption, columns, tuple(rows))
