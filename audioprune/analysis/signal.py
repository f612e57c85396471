"""Share of the signal that survives pruning (section 4.1; Tables 2 and 5; Figs. 5, 11 and 14)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from .observe import Block, Observation
from .question import Finding, Table, percent
from .sums import Spread, ratio
from .survey import RunningSums

BINS = 20
PER_STAGE = ("a", "b", "kept", "random_a", "random_b", "excess")


class RetainedSignal:
    """Ratios A and B of retained signal tokens, at each pruning stage i and keep rate.

    A = |R_sⁱ| / (tokens before stage i), B = |R_sⁱ| / |N_s|. R_sⁱ are the signal tokens that stage i keeps; N_s are
    those of the input. A token is signal if its patch's mean is above τ (section 4.1). A clip without signal has no
    B. A random choice would keep K of N patches of both kinds: A = |N_s| · K / (N · n), B = K / N.

    values: tau; edges (21) of the distributions; rates: {keep rate as text: {layers: 0-based, of the stages;
    a, b: Tables 2 and 5; kept: share of signal among the kept; random_a, random_b: A and B of a random choice;
    excess: kept minus the input's share, over clips that have both signal and background: each {mean, std, n}, lists
    by stage; input: {mean, std, n}, share of signal among the clip's patches; distribution_a, distribution_b: (stages)
    lists of 20 numbers of clips}}.
    """

    name = "retained_signal"
    title = "Do the kept tokens hold the signal?"
    how = (
        "Each curve shows how many clips have a given share of retained signal among the tokens before a stage (A) or "
        "among the clip's signal (B)."
    )

    def __init__(self, tau: float) -> None:
        self.tau = tau
        self.sums = RunningSums()
        self.distributions: dict[float, np.ndarray] = {}
        self.layers: dict[float, list[int]] = {}

    def update(self, observation: Observation) -> None:
        if not observation.stages:
            return
        rate = observation.keep_rate
        signal = observation.intensity > self.tau
        stage_ratios = [self._stage_ratios(stage, signal) for stage in observation.stages]
        per_stage = {name: torch.stack([stage[name] for stage in stage_ratios], 1) for name in PER_STAGE}
        self.sums.add(rate, input=signal.double().mean(1), **per_stage)
        counts = np.stack([_counts(per_stage["a"]), _counts(per_stage["b"])])
        self.distributions[rate] = self.distributions.get(rate, 0) + counts
        self.layers[rate] = [stage.layer for stage in observation.stages]

    def answer(self) -> Finding:
        if not self.sums.rates:
            return Finding(note="No tokens were pruned.")
        values = {
            "tau": self.tau,
            "edges": np.linspace(0, 1, BINS + 1).tolist(),
            "rates": {str(rate): self._values(rate) for rate in self.sums.rates},
        }
        return Finding(tuple(self._sentence(rate) for rate in self.sums.rates), (self._table(),), values, self._note())

    def state(self) -> dict[str, Any]:
        return {
            "sums": self.sums.state(),
            "distributions": {str(rate): counts.copy() for rate, counts in self.distributions.items()},
            "layers": {str(rate): list(layers) for rate, layers in self.layers.items()},
        }

    def load(self, state: dict[str, Any]) -> None:
        self.sums.load(state["sums"])
        self.distributions = {float(rate): np.array(it, dtype=np.int64) for rate, it in state["distributions"].items()}
        self.layers = {float(rate): list(layers) for rate, layers in state["layers"].items()}

    def _stage_ratios(self, stage: Block, signal: Tensor) -> dict[str, Tensor]:
        """Ratios of one stage, (clips,) each. signal: (clips, patches)."""
        assert stage.kept is not None
        before, kept = stage.patch.shape[1], stage.kept.shape[1]
        retained = signal.gather(1, stage.patch.gather(1, stage.kept)).sum(1).double()
        input_signal, patches = signal.sum(1).double(), signal.shape[1]
        share = retained / kept
        mixed = (input_signal > 0) & (input_signal < patches)
        return {
            "a": retained / before,
            "b": ratio(retained, input_signal),
            "kept": share,
            "random_a": input_signal * kept / (patches * before),
            "random_b": ratio(input_signal * kept, input_signal * patches),
            "excess": torch.where(mixed, share - input_signal / patches, torch.nan),
        }

    def _values(self, rate: float) -> dict[str, Any]:
        a, b = self.distributions[rate].tolist()
        lists = {name: moments.lists() for name, moments in self.sums[rate].items()}
        return {"layers": self.layers[rate], **lists, "distribution_a": a, "distribution_b": b}

    def _table(self) -> Table:
        columns = ("A", "A ±", "B", "B ±", "random A", "random B", "signal of kept", "signal of kept ±")
        return Table(
            "retained_signal",
            "Retained signal tokens per tokens before each stage (A) and per signal tokens of the input (B): mean and "
            "standard deviation over clips.",
            ("keep rate", "stage", "block", *columns, "signal of input", "clips", "clips with signal"),
            tuple(self._row(rate, i) for rate in self.sums.rates for i in range(len(self.layers[rate]))),
        )

    def _row(self, rate: float, stage: int) -> tuple[Any, ...]:
        a, b, kept, random_a, random_b = (self.sums[rate][name].at(stage) for name in PER_STAGE[:-1])
        numbers = (a.mean, a.std, b.mean, b.std, random_a.mean, random_b.mean, kept.mean, kept.std)
        return (rate, stage + 1, self.layers[rate][stage] + 1, *numbers, self.sums[rate]["input"].at().mean, a.n, b.n)

    def _sentence(self, rate: float) -> str:
        sums, last = self.sums[rate], len(self.layers[rate]) - 1
        kept, before = (percent(spread.mean) for spread in (sums["kept"].at(last), sums["input"].at()))
        shares = (
            f"At keep rate {rate:g}, {kept} of the tokens that the last stage keeps are signal, against {before} of "
            "the input"
        )
        return f"{shares}: {_verdict(sums['excess'].at(last))}."

    def _note(self) -> str | None:
        sums = self.sums[self.sums.rates[0]]
        if sums["b"].at(0).n == 0:
            return f"No clip has a patch above τ = {self.tau:.2f}: there is no signal to retain."
        if sums["excess"].at(0).n == 0:
            return f"No clip has patches on both sides of τ = {self.tau:.2f}: there is nothing to compare."
        return None


def _verdict(excess: Spread) -> str:
    """Sentence part on the share of signal among the kept tokens minus its share of the input."""
    if excess.mean is None:
        return "no clip has both signal and background, so there is no statement"
    if excess.error is None:
        return "one clip with both signal and background is too few for a statement"
    by = f"{100 * excess.mean:+.1f} ± {100 * excess.error:.1f} points over {excess.n} clips that have both"
    return {
        1: f"kept tokens follow intensity ({by})",
        -1: f"kept tokens avoid intensity ({by})",
        0: f"kept tokens do not clearly differ from a random choice ({by})",
    }[excess.side() or 0]


def _counts(values: Tensor) -> np.ndarray:
    """Numbers of clips by share: (clips, stages) in [0, 1] or NaN → (stages, 20)."""
    return np.stack([np.histogram(column[np.isfinite(column)], BINS, (0, 1))[0] for column in values.numpy().T])
