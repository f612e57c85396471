"""Attention of kept tokens relative to pruned tokens (section 4.2; Table 3; Figs. 6, 9, 13 and 15)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from .observe import Block, Observation
from .question import Finding, Table
from .sums import Spread, compare_means, ratio
from .survey import RunningSums

KINDS = ("signal", "background")


class AttentionRatio:
    """Ratios γ(l, R_s) and γ(l, R_b), and their average Γ over the blocks of a group.

    γ(l, R_s) is the average score of the retained signal tokens at block l, divided by that of the pruned tokens.
    γ(l, R_b) is the same for retained background tokens.

    A group starts after a pruning block and ends with the next pruning block. The choice of that block decides which
    tokens count as retained, and which as pruned, in the whole group. Blocks after the last pruning block have no
    ratio. If a clip lacks a set (for example, it retains no background), it is left out of that ratio only.

    values: tau; rates: {keep rate as text: {layers: 0-based, of the blocks that have a ratio; stages: 0-based layers of
    the pruning blocks; gamma: {mean, std, n}, lists by (signal, background) and block; Gamma: {mean, std, n}, by
    (signal, background) and group; more: {mean, std, n} by group, Γ of signal minus Γ of background in the clips that
    have both; growth: {mean, std, n} by (signal, background), Γ of the last group minus Γ of the first; clips: number
    of clips, of which n have the ratio}}.
    """

    name = "attention_ratio"
    title = "How much attention do kept tokens receive?"
    how = (
        "Above 1, the tokens that survive the next pruning stage receive more attention than the dropped tokens. "
        "Dashed lines mark the stages."
    )

    def __init__(self, tau: float) -> None:
        self.tau = tau
        self.sums = RunningSums()
        self.layers: dict[float, list[int]] = {}
        self.stages: dict[float, list[int]] = {}

    def update(self, observation: Observation) -> None:
        if not observation.stages:
            return
        rate, signal = observation.keep_rate, observation.intensity > self.tau
        group_gammas = [_gammas(group, signal) for group in groups(observation.blocks)]
        averages = torch.stack([gammas.mean(2) for gammas in group_gammas], 2)
        self.sums.add(
            rate,
            gamma=torch.cat(group_gammas, 2),
            Gamma=averages,
            more=averages[:, 0] - averages[:, 1],
            growth=averages[:, :, -1] - averages[:, :, 0],
        )
        self.layers[rate] = [block.layer for group in groups(observation.blocks) for block in group]
        self.stages[rate] = [stage.layer for stage in observation.stages]

    def answer(self) -> Finding:
        if not self.sums.rates:
            return Finding(note="No tokens were pruned.")
        sentences = [sentence for rate in self.sums.rates for sentence in self._sentences(rate)]
        sentences += self._across_rates()
        values = {"tau": self.tau, "rates": {str(rate): self._values(rate) for rate in self.sums.rates}}
        return Finding(tuple(sentences), (self._groups_table(), self._blocks_table()), values, self._note())

    def state(self) -> dict[str, Any]:
        return {
            "sums": self.sums.state(),
            "layers": {str(rate): list(layers) for rate, layers in self.layers.items()},
            "stages": {str(rate): list(layers) for rate, layers in self.stages.items()},
        }

    def load(self, state: dict[str, Any]) -> None:
        self.sums.load(state["sums"])
        self.layers = {float(rate): list(layers) for rate, layers in state["layers"].items()}
        self.stages = {float(rate): list(layers) for rate, layers in state["stages"].items()}

    def _values(self, rate: float) -> dict[str, Any]:
        lists = {name: moments.lists() for name, moments in self.sums[rate].items()}
        return {"layers": self.layers[rate], "stages": self.stages[rate], **lists, "clips": self._clips(rate)}

    def _clips(self, rate: float) -> int:
        return self.sums[rate]["Gamma"].seen

    def _groups_table(self) -> Table:
        rows = (
            (rate, kind, f"G{group + 1}", *self._cells(rate, "Gamma", i, group))
            for rate in self.sums.rates
            for i, kind in enumerate(KINDS)
            for group in range(len(self.stages[rate]))
        )
        return Table(
            "attention_ratio",
            "Γ, the attention of retained tokens per attention of pruned ones, averaged over groups of blocks: mean "
            "and standard deviation over clips.",
            ("keep rate", "retained", "group", "Γ", "Γ ±", "clips", "clips left out"),
            tuple(rows),
        )

    def _blocks_table(self) -> Table:
        rows = (
            (rate, kind, layer + 1, *self._cells(rate, "gamma", i, at))
            for rate in self.sums.rates
            for i, kind in enumerate(KINDS)
            for at, layer in enumerate(self.layers[rate])
        )
        return Table(
            "attention_ratio_blocks",
            "γ, the attention of retained tokens per attention of pruned ones, in each block.",
            ("keep rate", "retained", "block", "γ", "γ ±", "clips", "clips left out"),
            tuple(rows),
        )

    def _cells(self, rate: float, name: str, *index: int) -> tuple[Any, ...]:
        spread = self.sums[rate][name].at(*index)
        return spread.mean, spread.std, spread.n, self._clips(rate) - spread.n

    def _sentences(self, rate: float) -> Iterator[str]:
        last = len(self.stages[rate]) - 1
        for i, kind in enumerate(KINDS):
            spread = self.sums[rate]["Gamma"].at(i, last)
            growth = self.sums[rate]["growth"].at(i)
            yield f"At keep rate {rate:g}, {_level(spread, kind)}{_growth(growth) if last else ''}."
        yield f"At keep rate {rate:g}, {_more(self.sums[rate]['more'].at(last))}."

    def _across_rates(self) -> Iterator[str]:
        """Sentences on whether the model tells tokens apart more clearly at a higher keep rate."""
        high, low = self.sums.rates[0], self.sums.rates[-1]
        for i, kind in enumerate(KINDS):
            most, least = (self.sums[rate]["Gamma"].at(i, len(self.stages[rate]) - 1) for rate in (high, low))
            if high != low and (side := compare_means(most, least)) is not None:
                numbers = f"{most.mean:.2f} at keep rate {high:g}, {least.mean:.2f} at {low:g}"
                yield {
                    1: f"The more tokens stay, the more retained {kind} stands out, as in the paper: {numbers}.",
                    -1: f"The more tokens stay, the less retained {kind} stands out, unlike in the paper: {numbers}.",
                    0: f"How far retained {kind} stands out does not clearly depend on the keep rate: {numbers}.",
                }[side]

    def _note(self) -> str | None:
        # A set may exist at one keep rate and be missing at another.
        empty = [
            kind
            for i, kind in enumerate(KINDS)
            if all(self.sums[rate]["Gamma"].at(i, 0).n == 0 for rate in self.sums.rates)
        ]
        return f"No clip has both retained {' or '.join(empty)} tokens and pruned tokens." if empty else None


def groups(blocks: tuple[Block, ...]) -> list[list[Block]]:
    """Blocks grouped by stage: each group ends with the block that prunes. Blocks after the last stage are left out."""
    grouped: list[list[Block]] = []
    group: list[Block] = []
    for block in blocks:
        group.append(block)
        if block.kept is not None:
            grouped.append(group)
            group = []
    return grouped


def _gammas(group: list[Block], signal: Tensor) -> Tensor:
    """γ of signal and of background: (clips, 2, blocks of the group), NaN if undefined. signal: (clips, patches)."""
    stage = group[-1]
    assert stage.kept is not None
    survivors = torch.zeros_like(signal).scatter(1, stage.patch.gather(1, stage.kept), True)
    block_gammas = []
    for block in group:
        loud, survives = (mask.gather(1, block.patch) for mask in (signal, survivors))
        pruned = _average(block.score, ~survives)
        kept = torch.stack([_average(block.score, survives & kind) for kind in (loud, ~loud)], 1)
        block_gammas.append(ratio(kept, pruned[:, None].expand_as(kept)))
    return torch.stack(block_gammas, 2)


def _average(score: Tensor, among: Tensor) -> Tensor:
    """Mean score (clips,) of the tokens that `among` marks, NaN if it marks none. score, among: (clips, n)."""
    return ratio((score.double() * among).sum(1), among.sum(1))


def _level(spread: Spread, kind: str) -> str:
    """Sentence part that compares Γ of the last group with 1."""
    if spread.mean is None:
        return f"no clip retains {kind} tokens up to the last stage"
    if spread.error is None:
        return f"only one clip retains {kind} tokens ({spread.mean:.2f} times), which is too few for a statement"
    times = f"{spread.mean:.2f} ± {spread.error:.2f} times"
    than = f"the attention of pruned ones in the last group ({spread.n} clips)"
    return {
        1: f"retained {kind} tokens receive {times} {than}, which is more",
        -1: f"retained {kind} tokens receive {times} {than}, which is less",
        0: f"retained {kind} tokens receive {times} {than}, which is no clear difference",
    }[spread.side(1.0) or 0]


def _growth(growth: Spread) -> str:
    """Sentence part on the change of Γ from the first group to the last."""
    return {
        1: ", and the ratio has grown since the first group",
        -1: ", and the ratio has shrunk since the first group",
        0: ", and the ratio has not clearly changed since the first group",
        None: "",
    }[growth.side()]


def _more(more: Spread) -> str:
    """Sentence part that compares retained signal with retained background."""
    if more.side() is None:
        return "too few clips retain both signal and background to compare the two"
    gap = f"by {abs(more.mean or 0):.2f} ± {more.error:.2f} in the last group, over {more.n} clips"
    return {
        1: f"retained signal stands out more than retained background ({gap})",
        -1: f"retained background stands out more than retained signal ({gap})",
        0: f"neither retained signal nor retained background clearly stands out more (difference {gap})",
    }[more.side() or 0]
