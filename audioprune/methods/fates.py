"""Fates: what becomes of the tokens that are not kept. The third of a method's three choices."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .. import ops
from ..tokens import NO_PATCH, Evidence, Tokens


@dataclass(frozen=True)
class Fate:
    """apply(tokens, evidence, kept, weights) → the tokens that go on.

    kept: (batch, K) positions; weights: (batch, n), each token's share of attention, or 1/(dropped) where scores are
    no shares. needs: what it reads from `Evidence`. adds: tokens it appends.
    """

    apply: Callable[[Tokens, Evidence, Tensor, Tensor], Tokens]
    needs: frozenset[str] = frozenset()
    adds: int = 0


def discard(tokens: Tokens, evidence: Evidence, kept: Tensor, weights: Tensor) -> Tokens:
    """They are forgotten (TopK)."""
    size = None if tokens.size is None else tokens.size.gather(1, kept)
    return Tokens(ops.gather_tokens(tokens.hidden, kept), tokens.patch.gather(1, kept), size)


def fuse(tokens: Tokens, evidence: Evidence, kept: Tensor, weights: Tensor) -> Tokens:
    """One more token, their weighted sum, goes on as an ordinary one (EViT, arXiv 2202.07800)."""
    rest = discard(tokens, evidence, kept, weights)
    fused = ops.fuse(tokens.hidden, weights, ops.complement(kept, tokens.count))
    nowhere = torch.full_like(rest.patch[:, :1], NO_PATCH)
    return Tokens(torch.cat((rest.hidden, fused), 1), torch.cat((rest.patch, nowhere), 1))


def merge(tokens: Tokens, evidence: Evidence, kept: Tensor, weights: Tensor) -> Tokens:
    """Each joins the kept token of highest key cosine, as a size-weighted mean (after arXiv 2210.09461)."""
    assert evidence.keys is not None
    size = tokens.size
    if size is None:
        size = torch.ones_like(tokens.patch, dtype=torch.float32)
    dropped = ops.complement(kept, tokens.count)
    target = ops.nearest(evidence.keys, kept, dropped)
    hidden, size = ops.merge(tokens.hidden, size, kept, dropped, target)
    return Tokens(hidden, tokens.patch.gather(1, kept), size)


FATES = {
    "discard": Fate(discard),
    "fuse": Fate(fuse, adds=1),
    "merge": Fate(merge, needs=frozenset({"keys"})),
}
