"""Fates: what becomes of the tokens that are not kept. The third of a method's three choices."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..core import ops
from ..core.tokens import NO_PATCH, Evidence, Reduction, Tokens

Outcome = tuple[Tokens, Tensor | None]


@dataclass(frozen=True)
class Fate:
    """apply(tokens, evidence, kept, weights) → the tokens that go on, and their `Reduction.destination`.

    kept: (batch, K) positions; weights: (batch, n), each token's share of attention, or 1/(dropped) where scores are
    no shares. needs: what it reads from `Evidence`. adds: tokens it appends.
    """

    apply: Callable[[Tokens, Evidence, Tensor, Tensor], Outcome]
    needs: frozenset[str] = frozenset()
    adds: int = 0


def discard(tokens: Tokens, evidence: Evidence, kept: Tensor, weights: Tensor) -> Outcome:
    """They are forgotten (TopK)."""
    return keep(tokens, kept), None


def fuse(tokens: Tokens, evidence: Evidence, kept: Tensor, weights: Tensor) -> Outcome:
    """One more token, their weighted sum, goes on as an ordinary one (EViT, arXiv 2202.07800)."""
    dropped = ops.complement(kept, tokens.count)
    rest, fused = keep(tokens, kept), ops.fuse(tokens.hidden, weights, dropped)
    nowhere = torch.full_like(rest.patch[:, :1], NO_PATCH)
    into_fused = torch.full_like(dropped, kept.shape[1])
    size = tokens.size
    if size is not None:  # of an earlier method
        size = torch.cat((size.gather(1, kept), torch.ones_like(size[:, :1])), 1)
    return (
        Tokens(torch.cat((rest.hidden, fused), 1), torch.cat((rest.patch, nowhere), 1), size),
        ops.destination(kept, dropped, into_fused),
    )


def merge(tokens: Tokens, evidence: Evidence, kept: Tensor, weights: Tensor) -> Outcome:
    """Each joins the kept token of highest key cosine, as a size-weighted mean (after arXiv 2210.09461)."""
    assert evidence.keys is not None
    dropped = ops.complement(kept, tokens.count)
    target = ops.nearest(evidence.keys, kept, dropped)
    return join(tokens, kept, dropped, target), ops.destination(kept, dropped, target)


def keep(tokens: Tokens, kept: Tensor) -> Tokens:
    """The kept tokens, as they are."""
    size, policy = (None if x is None else x.gather(1, kept) for x in (tokens.size, tokens.policy))
    return replace(
        tokens,
        hidden=ops.gather_tokens(tokens.hidden, kept),
        patch=tokens.patch.gather(1, kept),
        size=size,
        policy=policy,
    )


def keep_ragged(tokens: Tokens, kept: Tensor) -> Tokens:
    """As `keep`, where rows differ in length: -1 in kept is filler, and becomes a token of zeros without a patch."""
    rest, real = keep(tokens, kept.clamp_min(0)), kept >= 0
    return replace(
        rest,
        hidden=rest.hidden * real[..., None],
        patch=torch.where(real, rest.patch, NO_PATCH),
        size=None if rest.size is None else rest.size * real,
    )


def join(
    tokens: Tokens,
    kept: Tensor,
    dropped: Tensor,
    target: Tensor,
    how: Callable[..., tuple[Tensor, Tensor]] = ops.merge,
) -> Tokens:
    """The kept tokens and, in each, the dropped ones whose target it is."""
    size = tokens.size
    if size is None:
        size = torch.ones_like(tokens.patch, dtype=torch.float32)
    hidden, size = how(tokens.hidden, size, kept, dropped, target)
    return Tokens(hidden, tokens.patch.gather(1, kept), size)


def merged_into(
    tokens: Tokens, kept: Tensor, dropped: Tensor, target: Tensor, how: Callable[..., Tokens] = join
) -> Reduction:
    """What is left where each dropped token goes into its target. how: makes the tokens, with the arguments of `join`.

    kept, dropped, target: as `ops.bipartite_match` has them.
    """
    # No token is better than another here: what a trace shows is that each counts as often as it was merged.
    scores = torch.zeros_like(tokens.patch, dtype=torch.float32)
    if dropped.shape[1] == 0:
        return Reduction(tokens, kept, scores)
    return Reduction(how(tokens, kept, dropped, target), kept, scores, ops.destination(kept, dropped, target))


def join_ragged(tokens: Tokens, stays: Tensor, holder: Tensor, scores: Tensor, share: float) -> Reduction:
    """Tokens stay, and their sizes grow by those of the tokens that join them; rows may differ in length.

    stays: (batch, n) booleans. holder: (batch, n), position of the token that each joins, itself if it stays.
    scores: (batch, n), as in `Reduction`. share: 1 makes a token the size-weighted mean of all that join it, 0 leaves
    it as it is; between 0 and 1 it lies between the two.
    """
    kept, lengths = ops.positions(stays)
    destination = (stays.cumsum(dim=1) - 1).gather(1, holder)
    size = ops.wide(torch.ones_like(scores) if tokens.size is None else tokens.size)
    left, alone = keep_ragged(replace(tokens, size=size), kept), size.gather(1, kept.clamp_min(0)) * (kept >= 0)
    total = torch.zeros_like(size[:, : kept.shape[1]]).scatter_add(1, destination, size)
    if share:
        into = destination[..., None].expand_as(tokens.hidden)
        sums = ops.wide(torch.zeros_like(left.hidden)).scatter_add(1, into, ops.wide(tokens.hidden) * size[..., None])
        mean = sums / total.clamp_min(1)[..., None]
        own = ops.wide(left.hidden)
        # A token that nothing joined stays exactly as it is.
        hidden = torch.where((total == alone)[..., None], own, torch.lerp(own, mean, share))
        left = replace(left, hidden=hidden.to(left.hidden.dtype))
    return Reduction(replace(left, size=total), kept, scores, destination, lengths)


FATES = {
    "discard": Fate(discard),
    "fuse": Fate(fuse, adds=1),
    "merge": Fate(merge, needs=frozenset({"keys"})),
}
