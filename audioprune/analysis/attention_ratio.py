"""How much more attention kept tokens receive than pruned ones (section 4.2; Table 3; Figs. 6, 9, 13 and 15)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from .observe import Block, Observation
from .question import Answer, Table
from .survey import RunningSums, Spread, apart, ratio

KINDS = ("signal", "background")


class AttentionRatio:
    """γ(l, R_s) and γ(l, R_b): the average score of the retained signal, or background, tokens at block l divided by
    that of the pruned tokens; and Γ, their average over the blocks of a group.

    A group reaches from one pruning block, exclusive, to the next, inclusive, whose choice says for all its blocks
    which tokens are retained and which pruned. Blocks after the last pruning block have no ratio. A clip that lacks a
    set (no background among the retained, say) is left out, for that ratio only.

    values: tau; rates: {keep rate as text: {layers: 0-based, of the blocks that have a ratio; stages: 0-based layers of
    the pruning blocks; gamma: {mean, std, n}, lists by (signal, background) and block; Gamma: {mean, std, n}, by
    (signal, background) and group; more: {mean, std, n} by group, Γ of signal minus Γ of background in the clips that
    have both; growth: {mean, std, n} by (signal, background), Γ of the last group minus Γ of the first; clips: number
    of, n of them having the ratio}}.
    """

    name = "attention_ratio"
    title = "How much attention do kept tokens receive?"
    how = (
        "Above 1, tokens that survive the next pruning stage receive more attention than those that it drops; dashed "
        "lines are the stages."
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
        of_groups = [_gammas(group, signal) for group in groups(observation.blocks)]
        averages = torch.stack([gammas.mean(2) for gammas in of_groups], 2)
        self.sums.add(
            rate,
            gamma=torch.cat(of_groups, 2),
            Gamma=averages,
            more=averages[:, 0] - averages[:, 1],
            growth=averages[:, :, -1] - averages[:, :, 0],
        )
        self.layers[rate] = [block.layer for group in groups(observation.blocks) for block in group]
        self.stages[rate] = [stage.layer for stage in observation.stages]

    def answer(self) -> Answer:
        if not self.sums.rates:
            return Answer(note="No tokens were pruned.")
        found = [sentence for rate in self.sums.rates for sentence in self._found(rate)]
        found += self._across_rates()
        values = {"tau": self.tau, "rates": {str(rate): self._values(rate) for rate in self.sums.rates}}
        return Answer(tuple(found), (self._groups_table(), self._blocks_table()), values, self._note())

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

    def _cells(self, rate: float, name: str, *where: int) -> tuple[Any, ...]:
        spread = self.sums[rate][name].at(*where)
        return spread.mean, spread.std, spread.n, self._clips(rate) - spread.n

    def _found(self, rate: float) -> Iterator[str]:
        last = len(self.stages[rate]) - 1
        for i, kind in enumerate(KINDS):
            spread = self.sums[rate]["Gamma"].at(i, last)
            growth = self.sums[rate]["growth"].at(i)
            yield f"At keep rate {rate:g}, {_level(spread, kind)}{_growth(growth) if last else ''}."
        yield f"At keep rate {rate:g}, {_more(self.sums[rate]['more'].at(last))}."

    def _across_rates(self) -> Iterator[str]:
        """Whether the model tells tokens apart more clearly where it keeps more of them."""
        high, low = self.sums.rates[0], self.sums.rates[-1]
        for i, kind in enumerate(KINDS):
            most, least = (self.sums[rate]["Gamma"].at(i, len(self.stages[rate]) - 1) for rate in (high, low))
            if high != low and (side := apart(most, least)) is not None:
                numbers = f"{most.mean:.2f} at keep rate {high:g}, {least.mean:.2f} at {low:g}"
                yield {
                    1: f"The more tokens stay, the more retained {kind} stands out, as in the paper: {numbers}.",
                    -1: f"The more tokens stay, the less retained {kind} stands out, unlike in the paper: {numbers}.",
                    0: f"How far retained {kind} stands out does not clearly depend on the keep rate: {numbers}.",
                }[side]

    def _note(self) -> str | None:
        # A set may be there at one keep rate and not at another.
        empty = [
            kind
            for i, kind in enumerate(KINDS)
            if all(self.sums[rate]["Gamma"].at(i, 0).n == 0 for rate in self.sums.rates)
        ]
        return f"No clip retains {' or '.join(empty)} tokens beside pruned ones." if empty else None


def groups(blocks: tuple[Block, ...]) -> list[list[Block]]:
    """The blocks up to and including each one that prunes; those after the last are left out."""
    found: list[list[Block]] = []
    group: list[Block] = []
    for block in blocks:
        group.append(block)
        if block.kept is not None:
            found.append(group)
            group = []
    return found


def _gammas(group: list[Block], signal: Tensor) -> Tensor:
    """(clips, 2, blocks of the group): γ of signal and of background, NaN without one. signal: (clips, patches)."""
    stage = group[-1]
    assert stage.kept is not None
    survivors = torch.zeros_like(signal).scatter(1, stage.patch.gather(1, stage.kept), True)
    of_blocks = []
    for block in group:
        loud, survives = (mask.gather(1, block.patch) for mask in (signal, survivors))
        pruned = _average(block.score, ~survives)
        kept = torch.stack([_average(block.score, survives & kind) for kind in (loud, ~loud)], 1)
        of_blocks.append(ratio(kept, pruned[:, None].expand_as(kept)))
    return torch.stack(of_blocks, 2)


def _average(score: Tensor, among: Tensor) -> Tensor:
    """(clips, n), of which some → (clips,) mean score of those, NaN where there are none."""
    return ratio((score.double() * among).sum(1), among.sum(1))


def _level(spread: Spread, kind: str) -> str:
    """Where Γ of the last group stands."""
    if spread.mean is None:
        return f"no clip retains {kind} tokens to the end"
    if spread.error is None:
        return f"one clip with retained {kind} tokens ({spread.mean:.2f} times) is too few to say"
    times = f"{spread.mean:.2f} ± {spread.error:.2f} times"
    than = f"the attention of pruned ones in the last group ({spread.n} clips)"
    return {
        1: f"retained {kind} tokens receive {times} {than}, which is more",
        -1: f"retained {kind} tokens receive {times} {than}, which is less",
        0: f"retained {kind} tokens receive {times} {than}, which is no clear difference",
    }[spread.side(1.0) or 0]


def _growth(growth: Spread) -> str:
    """How Γ changes from the first group to the last."""
    return {
        1: ", and the ratio has grown since the first group",
        -1: ", and the ratio has shrunk since the first group",
        0: ", and the ratio has not clearly changed since the first group",
        None: "",
    }[growth.side()]


def _more(more: Spread) -> str:
    """Whether retained signal stands out more than retained background."""
    if more.side() is None:
        return "too few clips retain both signal and background to tell the two apart"
    gap = f"by {abs(more.mean or 0):.2f} ± {more.error:.2f} in the last group, over {more.n} clips"
    return {
        1: f"retained signal stands out more than retained background ({gap})",
        -1: f"retained background stands out more than retained signal ({gap})",
        0: f"neither retained signal nor retained background clearly stands out more (apart {gap})",
    }[more.side() or 0]
