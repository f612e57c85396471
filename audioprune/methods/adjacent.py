"""A-ToMe and FastAdaSP: neighbours in time that are alike become one token, so that the order of time stays."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from ..core import neighbours, ops
from ..core.tokens import Evidence, Reduction, Tokens
from .base import BUDGETS, LATER, Method
from .fates import join_ragged, merged_into


@dataclass(frozen=True)
class AdjacentMerging(Method):
    """K runs of neighbours along the frequency rows, each averaged by size; which runs, the subclass says.

    A run never leaves its row: of so many rows at least one token each stays. Sizes are carried on.

    proportional: add log(size) to the logits of attention.
    metric: what is compared, the "hidden" states or the attention "keys" (mean over heads).
    budget: see `Method.budget`.

    `reduce` raises `ValueError` where K is less than the number of rows.
    """

    choices: ClassVar = {"metric": ("keys", "hidden"), "budget": BUDGETS}

    proportional: bool = True
    metric: str = "hidden"
    budget: str = field(default="layer", metadata={LATER: True})

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"keys"} if self.metric == "keys" else ())

    @abstractmethod
    def runs(self, x: Tensor, size: Tensor, row: Tensor, k: int, rows: int) -> Tensor:
        """The run of each token, (batch, n), from 0 to k − 1, ascending.

        x: (batch, n, dim), what is compared; size, row: (batch, n); all in time order, row by row, of `rows`.
        """

    def reduce(self, tokens: Tokens, evidence: Evidence, keep_rate: float) -> Reduction:
        n, k = tokens.count, self.left(tokens.count, evidence, keep_rate)
        if k == n:
            nothing = tokens.patch[:, :0]
            return merged_into(tokens, torch.arange(n, device=nothing.device).expand_as(tokens.patch), nothing, nothing)
        self._check(n, k, evidence)
        order = neighbours.time_order(evidence.row, evidence.column, evidence.columns)
        return merged_into(tokens, *neighbours.run_targets(order, self._runs(tokens, evidence, order, k), k))

    def _check(self, n: int, k: int, evidence: Evidence) -> None:
        if k < (rows := _rows(evidence)):
            raise ValueError(
                f"{type(self).__name__} merges neighbours in time and never across frequency rows, of which there are "
                f"{rows}: of {n} tokens at block {evidence.layer} it cannot leave {k}; raise keep_rate or prune at "
                "fewer layers, or use AveragePooling or ToMe, which merge across rows"
            )

    def _compared(self, tokens: Tokens, evidence: Evidence) -> Tensor:
        compared = tokens.hidden if self.metric == "hidden" else evidence.keys
        assert compared is not None
        return compared.detach()

    def _runs(self, tokens: Tokens, evidence: Evidence, order: Tensor, k: int) -> Tensor:
        size = torch.ones_like(tokens.patch, dtype=torch.float32) if tokens.size is None else tokens.size
        x = ops.gather_tokens(self._compared(tokens, evidence), order)
        return self.runs(x, size.gather(1, order), evidence.row.gather(1, order), k, _rows(evidence))


def _rows(evidence: Evidence) -> int:
    """Frequency rows of the clip. Every one still has a token: merging along rows leaves one at least."""
    return evidence.patches // evidence.columns


@dataclass(frozen=True)
class AToMe(AdjacentMerging):
    """Adjacent Token Merging (Li et al., Interspeech 2023, arXiv 2306.16009): pairs of neighbours (2i, 2i + 1), the
    most similar by cosine, become their size-weighted means.

    A pass leaves half of the tokens at least; passes follow, on what was merged, until K are left. Pairs are counted
    from the start of each row. The paper compares attention keys (`metric="keys"`), and merges where a threshold or a
    ratio says, in many blocks; here K says it, in as many passes as it takes.

    threshold: merge only pairs whose cosine exceeds it, in one pass. The sound then decides how many tokens stay, K at
    least.

    Raises `ValueError` for a threshold outside −1 … 1.
    """

    threshold: float | None = field(default=None, metadata={LATER: True})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.threshold is not None and not -1 <= self.threshold <= 1:
            raise ValueError(f"threshold is {self.threshold!r}; it is a cosine, from -1 to 1, or None")

    @property
    def static(self) -> bool:  # type: ignore[override]
        return self.threshold is None

    def reduce(self, tokens: Tokens, evidence: Evidence, keep_rate: float) -> Reduction:
        if self.threshold is None:
            return super().reduce(tokens, evidence, keep_rate)
        order = neighbours.time_order(evidence.row, evidence.column, evidence.columns)
        most = tokens.count - self.left(tokens.count, evidence, keep_rate)
        x = ops.gather_tokens(self._compared(tokens, evidence), order)
        joins = neighbours.similar_pairs(x, evidence.row.gather(1, order), self.threshold, most)
        stays = torch.ones_like(joins).scatter(1, order, ~joins)
        before = order.gather(1, neighbours.last_true(~joins))
        holder = torch.zeros_like(order).scatter(1, order, before)
        scores = torch.zeros_like(tokens.patch, dtype=torch.float32)
        return join_ragged(tokens, stays, holder, scores, share=1.0)

    def runs(self, x: Tensor, size: Tensor, row: Tensor, k: int, rows: int) -> Tensor:
        return neighbours.paired_runs(x, size, row, k, rows)


@dataclass(frozen=True)
class FastAdaSP(AdjacentMerging):
    """The n − K most similar links between neighbours i, i + 1 are joined, and each run of joined tokens becomes its
    size-weighted mean.

    After the merging of FastAdaSP (Lu et al., arXiv 2410.03007), which does so in the blocks of a speech language
    model, by weights of its own.
    """

    def runs(self, x: Tensor, size: Tensor, row: Tensor, k: int, rows: int) -> Tensor:
        return neighbours.linked_runs(x, row, k)


@dataclass(frozen=True)
class PeakSegments(AdjacentMerging):
    """Segments between peaks of dissimilarity become their size-weighted means.

    Unsupervised segmentation (Bhati et al., arXiv 2511.20973): the dissimilarity of neighbours, 1 − cosine, has a peak
    where it is greater than before and after. There a segment ends. The paper takes all peaks. Here K decides: the
    K − 1 highest peaks and, if there are fewer, the highest dissimilarities that are no peaks. (Its other form, plain
    pooling, is `AveragePooling`. The paper fine-tunes the language model with either.)
    """

    def runs(self, x: Tensor, size: Tensor, row: Tensor, k: int, rows: int) -> Tensor:
        return neighbours.segment_runs(x, row, k)
