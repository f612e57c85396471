"""ToMe and FastAST: similar tokens are merged, none is dropped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Self

from torch import Tensor
from torch.nn import functional as F

from ..core import ops
from ..core.tokens import Evidence, LossInputs, Reduction, Tokens
from .base import BUDGETS, LATER, Method
from .fates import join, merged_into


@dataclass(frozen=True)
class ToMe(Method):
    """Token Merging (Bolya et al., arXiv 2210.09461): the r most similar pairs of tokens become one token each.

    Tokens are split into even and odd ones; each even one proposes to the odd one of highest cosine between keys
    (mean over heads), and the r = n − ceil(keep_rate · n) best pairs are merged by size-weighted mean. Half of the
    tokens can go in a pass at most: with one pass a block, the paper's way, keep_rate is at least 0.5.

    proportional: add log(size) to the logits of attention. The paper leaves it out for masked autoencoders that were
    not fine-tuned with it.
    metric: what is compared, "keys" (the paper's) or the "hidden" states themselves.
    passes: how often pairs may be matched in a block, each time among what the pass before has left; two passes can
        leave a quarter. Ours.
    budget: see `Method.budget`.
    before: merge before a block, and not between its attention and its MLP; there are no keys yet, so that the metric
    is "hidden". Ours.

    Unlike the official code, special tokens take no part in the split. There, one CLS token makes the odd patches
    propose to the even ones; and merged tokens follow those that are alone, where here all stay in the order of the
    patches, so that later splits differ too.

    `ToMe.constant(r=13, patches=256, depth=12)` is the paper's schedule, r pairs in every block.
    """

    choices: ClassVar = {"metric": ("keys", "hidden"), "budget": BUDGETS}

    proportional: bool = True
    metric: str = "keys"
    passes: int = field(default=1, metadata={LATER: True})
    budget: str = field(default="layer", metadata={LATER: True})
    before: bool = field(default=False, kw_only=True, metadata={LATER: True})

    def __post_init__(self) -> None:
        super().__post_init__()
        if type(self.before) is not bool:
            raise ValueError(f"before is {self.before!r}; it is True or False")
        if self.before and self.metric == "keys":
            raise ValueError('before is True, and before a block there are no keys yet; compare by metric="hidden"')
        if type(self.passes) is not int or self.passes < 1:
            raise ValueError(f"passes is {self.passes!r}; it is how often pairs are matched in a block, 1 or more")
        rates = self.keep_rate if isinstance(self.keep_rate, Sequence) else [self.keep_rate]
        if min(rates) < self.least_rate:
            raise ValueError(
                f"keep_rate is {self.keep_rate!r}, but {type(self).__name__} merges pairs: at most half of the tokens "
                f"can go in one pass, so that it is at least {self.least_rate:g}; give more layers to go further, or "
                "more passes"
            )

    @property
    def least_rate(self) -> float:
        return 0.5**self.passes

    @classmethod
    def constant(cls, r: int, patches: int, depth: int) -> Self:
        """r pairs merged in every block of a model of `depth` blocks over so many patches.

        Raises `ValueError` where a block would have fewer than 2r tokens.
        """
        rates, n = [], patches
        for layer in range(depth):
            if not 0 <= r <= n // 2:
                raise ValueError(
                    f"r is {r}, but block {layer} has {n} tokens left, and at most half of them can be merged; with "
                    f"{patches} patches and {depth} blocks r is at most {most_merged(patches, depth)}"
                )
            rates.append((n - r) / n)
            n -= r
        return cls(rates, layers=range(depth))

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"keys"} if self.metric == "keys" else ())

    def reduce(self, tokens: Tokens, evidence: Evidence, keep_rate: float) -> Reduction:
        compared = tokens.hidden if self.metric == "hidden" else evidence.keys
        assert compared is not None
        k = self.left(tokens.count, evidence, keep_rate)
        match = ops.bipartite_passes(compared.detach(), tokens.size, k)
        return merged_into(tokens, *match, how=lambda tokens, *match: self.merge(tokens, evidence, *match))

    def merge(self, tokens: Tokens, evidence: Evidence, kept: Tensor, dropped: Tensor, target: Tensor) -> Tokens:
        """Each dropped token goes into its target."""
        return join(tokens, kept, dropped, target)


def most_merged(patches: int, depth: int) -> int:
    """The greatest r that every one of `depth` blocks can merge."""
    # The last block has patches − (depth − 1)·r tokens left, of which 2r must be there.
    return patches // (depth + 1)


@dataclass(frozen=True)
class FastAST(ToMe):
    """FastAST (Behera et al., arXiv 2406.07676): ToMe inside AST, its special tokens left alone, and in training the
    unpruned model's answers as a second target: + λ · BCE(logits, σ(teacher's logits)), λ = 0.1."""

    distillation: float = 0.1

    needs_teacher: ClassVar[bool] = True
    learns: ClassVar[bool] = False  # its loss reads the answers alone

    def loss(self, learning: LossInputs) -> Tensor:
        assert learning.teacher_logits is not None
        target = learning.teacher_logits.float().sigmoid()
        return self.distillation * F.binary_cross_entropy_with_logits(learning.logits.float(), target)
