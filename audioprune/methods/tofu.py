"""ToFu: tokens are matched as in ToMe; early blocks prune what was matched, later ones merge it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..core import ops
from ..core.tokens import Evidence, Tokens
from .fates import join
from .tome import ToMe


@dataclass(frozen=True)
class ToFu(ToMe):
    """Token Fusion (Kim et al., arXiv 2312.01026): pruning where a model answers interpolated tokens badly, merging
    where it is nearly linear.

    ToMe's bipartite matching. In the blocks of the first `pruned_share` of the depth the source of each pair is
    pruned, its weight going to the other; in later ones the pair is merged by MLERP: the mean's direction, the
    greatest norm of those merged. The paper reads the turning point off each model's linearity; a half is ours.
    """

    pruned_share: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.pruned_share <= 1:
            raise ValueError(f"pruned_share is {self.pruned_share!r}; it is a share of the depth, from 0 to 1")

    def merge(self, tokens: Tokens, evidence: Evidence, kept: Tensor, dropped: Tensor, target: Tensor) -> Tokens:
        prunes = evidence.layer < self.pruned_share * evidence.depth
        return join(tokens, kept, dropped, target, ops.absorb if prunes else ops.merge_keeping_norm)
