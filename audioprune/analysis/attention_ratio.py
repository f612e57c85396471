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

    A clip whose pruned tokens receive almost no attention has an enormous ratio, and decides the mean of the ratios. So
    Γ is given pooled too: per block, the mean over clips of the retained tokens' average score divided by the mean over
    the same clips of the pruned ones'. A statement is made only if both agree.

    values: tau; rates: {keep rate as text: {layers: 0-based, of the blocks that have a ratio; stages: 0-based layers of
    the pruning blocks; gamma: {mean, std, n}, lists by (signal, background) and block; Gamma: {mean, std, n}, by
    (signal, background) and group; pooled: Γ pooled over clips, lists by (signal, background) and group; more: {mean,
    std, n} by group, Γ of signal minus Γ of background in the clips that have both; growth: {mean, std, n} by (signal,
    background), Γ of the last group minus Γ of the first; clips: number of clips, of which n have the ratio}}.
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
        scores = [_scores(group, signal) for group in groups(observation.blocks)]
        averages = torch.stack([ratio(kept, pruned).mean(2) for kept, pruned in scores], 2)
        kept, pruned = (torch.cat(parts, 2) for parts in zip(*scores, strict=True))
        self.sums.add(
            rate,
            gamma=ratio(kept, pruned),
            kept=kept,
            pruned=pruned,
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
        named = ((name, moments) for name, moments in self.sums[rate].items() if name not in ("kept", "pruned"))
        lists: dict[str, Any] = {name: moments.lists() for name, moments in named}
        groups = range(len(self.stages[rate]))
        lists["pooled"] = [[self._pooled(rate, kind, group) for group in groups] for kind in range(len(KINDS))]
        return {"layers": self.layers[rate], "stages": self.stages[rate], **lists, "clips": self._clips(rate)}

    def _pooled(self, rate: float, kind: int, group: int) -> float | None:
        """Γ of a group, pooled over clips: the mean over its blocks; None if no clip has both kinds of tokens."""
        last = self.stages[rate][group]
        before = self.stages[rate][group - 1] if group else -1
        ratios = []
        for at, layer in enumerate(self.layers[rate]):
            if before < layer <= last:
                kept, pruned = (self.sums[rate][name].at(kind, at).mean for name in ("kept", "pruned"))
                if kept is None or not pruned:
                    return None
                ratios.append(kept / pruned)
        return sum(ratios) / len(ratios)

    def _clips(self, rate: float) -> int:
        return self.sums[rate]["Gamma"].seen

    def _groups_table(self) -> Table:
        rows = (
            (rate, kind, f"G{group + 1}", self._pooled(rate, i, group), *self._cells(rate, "Gamma", i, group))
            for rate in self.sums.rates
            for i, kind in enumerate(KINDS)
            for group in range(len(self.stages[rate]))
        )
        return Table(
            "attention_ratio",
            "Γ, the attention of retained tokens per attention of pruned ones, averaged over groups of blocks: pooled "
            "over clips, and mean and standard deviation of the clips' ratios.",
            ("keep rate", "retained", "group", "Γ pooled", "Γ", "Γ ±", "clips", "clips left out"),
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
        pooled = [[self._pooled(rate, i, group) for group in (0, last)] for i in range(len(KINDS))]
        for i, kind in enumerate(KINDS):
            level = _level(self.sums[rate]["Gamma"].at(i, last), pooled[i][1], kind)
            growth = _growth(self.sums[rate]["growth"].at(i), *pooled[i]) if last else ""
            yield f"At keep rate {rate:g}, {level}{growth}."
        yield f"At keep rate {rate:g}, {_more(self.sums[rate]['more'].at(last), pooled[0][1], pooled[1][1])}."

    def _across_rates(self) -> Iterator[str]:
        """Sentences on whether the model tells tokens apart more clearly at a higher keep rate."""
        high, low = self.sums.rates[0], self.sums.rates[-1]
        if high == low:
            return
        for i, kind in enumerate(KINDS):
            ends = [(rate, len(self.stages[rate]) - 1) for rate in (high, low)]
            most, least = (self.sums[rate]["Gamma"].at(i, last) for rate, last in ends)
            pooled = [self._pooled(rate, i, last) for rate, last in ends]
            side = _agreed(compare_means(most, least), *pooled)
            if side is not None:
                numbers = (
                    f"{most.mean:.2f} (pooled {pooled[0]:.2f}) at keep rate {high:g}, "
                    f"{least.mean:.2f} (pooled {pooled[1]:.2f}) at {low:g}"
                )
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


def _scores(group: list[Block], signal: Tensor) -> tuple[Tensor, Tensor]:
    """Average scores of the retained signal and background, and of the pruned tokens: (clips, 2, blocks of the group)
    each, NaN in both where a clip lacks either. signal: (clips, patches)."""
    stage = group[-1]
    assert stage.kept is not None
    survivors = torch.zeros_like(signal).scatter(1, stage.patch.gather(1, stage.kept), True)
    block_kept, block_pruned = [], []
    for block in group:
        loud, survives = (mask.gather(1, block.patch) for mask in (signal, survivors))
        kept = torch.stack([_average(block.score, survives & kind) for kind in (loud, ~loud)], 1)
        pruned = _average(block.score, ~survives)[:, None].expand_as(kept)
        has_both = kept.isfinite() & pruned.isfinite()
        block_kept.append(kept.where(has_both, torch.nan))
        block_pruned.append(pruned.where(has_both, torch.nan))
    return torch.stack(block_kept, 2), torch.stack(block_pruned, 2)


def _average(score: Tensor, among: Tensor) -> Tensor:
    """Mean score (clips,) of the tokens that `among` marks, NaN if it marks none. score, among: (clips, n)."""
    return ratio((score.double() * among).sum(1), among.sum(1))


def _agreed(side: int | None, one: float | None, other: float | None) -> int | None:
    """The side of a comparison if the pooled values are on the same, else 0; None stays."""
    if not side or one is None or other is None:
        return side
    return side if (one - other) * side > 0 else 0


def _level(spread: Spread, pooled: float | None, kind: str) -> str:
    """Sentence part that compares Γ of the last group with 1."""
    if spread.mean is None or pooled is None:
        return f"no clip retains {kind} tokens up to the last stage"
    if spread.error is None:
        return f"only one clip retains {kind} tokens ({spread.mean:.2f} times), which is too few for a statement"
    times = f"{spread.mean:.2f} ± {spread.error:.2f} times (pooled over clips: {pooled:.2f} times)"
    than = f"the attention of pruned ones in the last group ({spread.n} clips)"
    return {
        1: f"retained {kind} tokens receive {times} {than}, which is more",
        -1: f"retained {kind} tokens receive {times} {than}, which is less",
        0: f"retained {kind} tokens receive {times} {than}, which is no clear difference",
    }[_agreed(spread.side(1.0), pooled, 1.0) or 0]


def _growth(growth: Spread, first: float | None, last: float | None) -> str:
    """Sentence part on the change of Γ from the first group to the last. first, last: pooled."""
    return {
        1: ", and the ratio has grown since the first group",
        -1: ", and the ratio has shrunk since the first group",
        0: ", and the ratio has not clearly changed since the first group",
        None: "",
    }[_agreed(growth.side(), last, first)]


def _more(more: Spread, signal: float | None, background: float | None) -> str:
    """Sentence part that compares retained signal with retained background. signal, background: pooled."""
    if more.side() is None or signal is None or background is None:
        return "too few clips retain both signal and background to compare the two"
    gap = (
        f"by {abs(more.mean or 0):.2f} ± {more.error:.2f} in the last group, over {more.n} clips; pooled, {signal:.2f} "
        f"and {background:.2f}"
    )
    return {
        1: f"retained signal stands out more than retained background ({gap})",
        -1: f"retained background stands out more than retained signal ({gap})",
        0: f"neither retained signal nor retained background clearly stands out more (difference {gap})",
    }[_agreed(more.side(), signal, background) or 0]
