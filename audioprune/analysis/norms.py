"""Norm of a block's input relative to the norm of its attention output (section 4.3; Figs. 7 and 10)."""

from __future__ import annotations

from typing import Any

import torch

from .observe import Observation
from .question import Finding, Table
from .sums import Spread, compare_means, ratio
from .survey import RunningSums


class NormRatio:
    """Ratio R(x) = ‖x‖₂ / ‖self_attention(x)‖₂ of each block, where x is the block's input.

    R is small if attention contributes much. Relative to the unpruned model: the mean of R over the clips divided by
    its mean at keep rate 1.0, if the same clips went through both models.

    values: rates: {keep rate as text: {layers: 0-based; ratio: {mean, std, n}, lists by block; change: {mean, std, n},
    R of the last third of the blocks minus R of the first, per clip; relative: list by block, None if there is nothing
    to compare with}}.
    """

    name = "norm_ratio"
    title = "How much does attention add?"
    how = "The lower the curve, the more attention adds to its input. Right: relative to the unpruned model."

    def __init__(self) -> None:
        self.sums = RunningSums()
        self.layers: dict[float, list[int]] = {}
        # Number of clips, sum and sum of squares of their numbers: equal if the clips are equal.
        self.clips: dict[float, list[int]] = {}

    def update(self, observation: Observation) -> None:
        rate, blocks = observation.keep_rate, observation.blocks
        ratios = torch.stack([ratio(block.residual, block.attended) for block in blocks], 1)
        third = max(1, len(blocks) // 3)
        early, late = ratios[:, :third].mean(1), ratios[:, -third:].mean(1)
        self.sums.add(rate, ratio=ratios, early=early, late=late, change=late - early)
        self.layers[rate] = [block.layer for block in blocks]
        numbers = observation.clips.long()
        counts = (len(numbers), int(numbers.sum()), int((numbers**2).sum()))
        self.clips[rate] = [old + new for old, new in zip(self.clips.get(rate, [0, 0, 0]), counts, strict=True)]

    def answer(self) -> Finding:
        if not self.sums.rates:
            return Finding(note="No clips were observed.")
        values = {"rates": {str(rate): self._values(rate) for rate in self.sums.rates}}
        sentences = [self._trend(rate) for rate in self.sums.rates]
        sentences += [
            self._against_unpruned(rate) for rate in self.sums.rates if rate != 1.0 and self._comparable(rate)
        ]
        return Finding(tuple(sentences), (self._table(),), values, self._note())

    def state(self) -> dict[str, Any]:
        return {
            "sums": self.sums.state(),
            "layers": {str(rate): list(layers) for rate, layers in self.layers.items()},
            "clips": {str(rate): list(clips) for rate, clips in self.clips.items()},
        }

    def load(self, state: dict[str, Any]) -> None:
        self.sums.load(state["sums"])
        self.layers = {float(rate): list(layers) for rate, layers in state["layers"].items()}
        self.clips = {float(rate): list(clips) for rate, clips in state["clips"].items()}

    def _comparable(self, rate: float) -> bool:
        """Whether the unpruned model saw the same clips."""
        return 1.0 in self.clips and self.clips[rate] == self.clips[1.0]

    def _relative(self, rate: float) -> list[float | None]:
        """Mean R of each block divided by the unpruned model's mean R."""
        return [self._relative_at(rate, i) for i in range(len(self.layers[rate]))]

    def _relative_at(self, rate: float, block: int) -> float | None:
        if not self._comparable(rate):
            return None
        pruned, unpruned = (self.sums[at]["ratio"].at(block).mean for at in (rate, 1.0))
        return pruned / unpruned if pruned is not None and unpruned else None

    def _values(self, rate: float) -> dict[str, Any]:
        lists = {name: self.sums[rate][name].lists() for name in ("ratio", "change")}
        return {"layers": self.layers[rate], **lists, "relative": self._relative(rate)}

    def _table(self) -> Table:
        def row(rate: float, i: int) -> tuple[Any, ...]:
            spread = self.sums[rate]["ratio"].at(i)
            return rate, self.layers[rate][i] + 1, spread.mean, spread.std, self._relative_at(rate, i), spread.n

        return Table(
            "norm_ratio",
            "Norm of a block's input divided by the norm of its attention output: mean and standard deviation over "
            "clips, and the mean relative to the unpruned model.",
            ("keep rate", "block", "ratio", "ratio ±", "relative", "clips"),
            tuple(row(rate, i) for rate in self.sums.rates for i in range(len(self.layers[rate]))),
        )

    def _trend(self, rate: float) -> str:
        sums, third = self.sums[rate], max(1, len(self.layers[rate]) // 3)
        if len(self.layers[rate]) == 1:
            return f"At keep rate {rate:g}, there is only one block, so there is no later one to compare with."
        early, late, change = (sums[name].at() for name in ("early", "late", "change"))
        if change.mean is None:
            return f"At keep rate {rate:g}, attention adds nothing, so there is no ratio."
        levels = f"{early.mean:.2f} in the first {_blocks(third)} and {late.mean:.2f} in the last"
        return f"At keep rate {rate:g}, the ratio is {levels}: {_direction(change)}."

    def _against_unpruned(self, rate: float) -> str:
        last = len(self.layers[rate]) - 1
        times = self._relative_at(rate, last)
        if times is None:
            return f"At keep rate {rate:g}, there is no ratio in the last block to compare with the unpruned model's."
        start = f"At keep rate {rate:g}, the ratio in the last block is {times:.2f} times the unpruned model's"
        return (
            start
            + {
                1: ": attention adds less once tokens are pruned.",
                -1: ": attention adds more once tokens are pruned, as in the paper.",
                0: ", which is no clear difference.",
                None: "; one clip is too few for more.",
            }[compare_means(self.sums[rate]["ratio"].at(last), self.sums[1.0]["ratio"].at(last))]
        )

    def _note(self) -> str | None:
        pruned = [rate for rate in self.sums.rates if rate != 1.0]
        if pruned and 1.0 not in self.clips:
            return "Without keep rate 1.0, nothing can be compared with the unpruned model."
        if others := [f"{rate:g}" for rate in pruned if not self._comparable(rate)]:
            return (
                f"Keep rate {', '.join(others)}: other clips than at 1.0, so there is no comparison with the unpruned "
                "model."
            )
        return None


def _direction(change: Spread) -> str:
    """Sentence part on R of the later blocks minus R of the earlier blocks."""
    if change.error is None:
        return "one clip is too few to say whether it falls or rises"
    by = f"{change.mean:+.2f} ± {change.error:.2f} over {change.n} clips"
    return {
        1: f"it rises, so attention contributes less in later blocks, unlike in the paper ({by})",
        -1: f"it falls, so attention contributes more in later blocks, as in the paper ({by})",
        0: f"it neither clearly falls nor rises ({by})",
    }[change.side() or 0]


def _blocks(count: int) -> str:
    return "block" if count == 1 else f"{count} blocks"
