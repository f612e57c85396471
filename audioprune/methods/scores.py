"""Scores: how much a token matters. The first of a method's three choices."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..core import ops
from ..core.tokens import Evidence


@dataclass(frozen=True)
class Score:
    """compute(evidence, seed) → (batch, n), the higher the more worth keeping.

    needs: what it reads from `Evidence`. is_share: whether scores are shares of attention, which weigh a fused token.
    """

    needs: frozenset[str]
    compute: Callable[[Evidence, int], Tensor]
    is_share: bool = False


LEAST_SELECTIVE = 1e-6
"""Weight of a head that attends to all tokens alike, before weights are made to sum to 1."""
SCORES: dict[str, Score] = {}
"""Name → score. `names.SCORES` lists them without PyTorch."""

Compute = Callable[[Evidence, int], Tensor]


def score(*needs: str, is_share: bool = False) -> Callable[[Compute], Compute]:
    """Decorator: the function is a score, by its own name. needs, is_share: as in `Score`."""

    def register(compute: Compute) -> Compute:
        SCORES[compute.__name__] = Score(frozenset(needs), compute, is_share)
        return compute

    return register


@score("attention", is_share=True)
def attention(evidence: Evidence, seed: int) -> Tensor:
    """Attention received from all patches (arXiv 2504.01690, eq. 2a, over patch rows and columns)."""
    assert evidence.attention is not None
    return evidence.attention


@score("cls", is_share=True)
def cls(evidence: Evidence, seed: int) -> Tensor:
    """Attention received from the CLS token (eq. 2b)."""
    assert evidence.cls is not None
    return evidence.cls


@score("intensity")
def intensity(evidence: Evidence, seed: int) -> Tensor:
    """Mean of the token's patch of the log-mel: loud patches stay."""
    assert evidence.intensity is not None
    return evidence.intensity


@score("variation")
def variation(evidence: Evidence, seed: int) -> Tensor:
    """Standard deviation of the token's patch of the log-mel: varied patches stay."""
    assert evidence.variation is not None
    return evidence.variation


@score()
def random(evidence: Evidence, seed: int) -> Tensor:
    """The baseline that every score must beat: a draw per patch and layer, the same for every clip of a seed."""
    return ops.pseudo_random(evidence.patch, seed, evidence.layer)


@score("attention_heads", is_share=True)
def selective(evidence: Evidence, seed: int) -> Tensor:
    """Attention received, each head weighted by how selective it is: 1 less the entropy of its shares over log(n).

    After HeadRouter (He et al., arXiv 2604.23717), whose text we know in part. There, heads of the language model are
    weighted by profiles for semantic and for acoustic tasks, mixed by how selective the heads are for a sound. Here
    the heads are the encoder's, and no profile is known.
    """
    heads = evidence.attention_heads
    assert heads is not None
    share = ops.wide(heads)
    share = share / share.sum(dim=2, keepdim=True).clamp_min(torch.finfo(share.dtype).tiny)
    entropy = -torch.special.xlogy(share, share).sum(dim=2)
    # A rounded entropy may be a little more than log(n).
    selectivity = (1 - entropy / math.log(max(2, heads.shape[2]))).clamp_min(LEAST_SELECTIVE)
    weight = selectivity / selectivity.sum(dim=1, keepdim=True)
    return (weight[:, :, None] * heads).sum(dim=1)
