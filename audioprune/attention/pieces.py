"""Attention in pieces that fit the caches, with each key's score as it goes; and attention with a policy."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

CELLS = 2**19
"""Entries of each attention map that are computed at once on a device, and in a graph."""
CELLS_OF_THREAD = 2**17
"""Entries of attention maps that a CPU's thread computes at once: 512 KiB in float32, which fits into its cache."""


def score_dtype(x: Tensor) -> torch.dtype:
    # Shares of attention are close to 1/N, so in half precision many would be equal.
    return torch.promote_types(x.dtype, torch.float32)


def attend_and_score(
    query: Tensor,
    key: Tensor,
    value: Tensor | None,
    scaling: float,
    mask: Tensor | None,
    special: int,
    voters: Tensor | None = None,
    dropout: float = 0.0,
    cells: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute attention and attention received, in one pass over the queries.

    Args:
        query: (batch, heads, N, head_dim).
        key: (batch, heads, N, head_dim).
        value: (batch, heads, N, head_dim); None computes no context.
        scaling: factor of the logits.
        mask: additive, broadcastable to (batch, heads, N, N), or None.
        special: number of leading tokens that neither vote nor are scored.
        voters: (batch, N − special), 0 for queries whose attention does not count, or None.
        dropout: dropout of the attention.
        cells: approximate number of entries of the map in a piece; None for what is fast.

    Returns the context (batch, heads, N, head_dim), empty without values, and the attention received by each patch in
    each head (batch, heads, N − special).
    """
    n = query.shape[2]
    votes = query.new_ones(query.shape[0], n - special, dtype=score_dtype(query)) if voters is None else voters
    counted = nn.functional.pad(votes.to(score_dtype(query)), (special, 0))
    # A graph has a node for every piece, so the number of pieces must not depend on the batch.
    by_rows = torch.compiler.is_compiling() or query.device.type != "cpu"
    if by_rows:
        context, received = _attend_to_rows(query, key, value, scaling, mask, counted, dropout, cells or CELLS)
    else:
        patch_votes = None if voters is None else counted
        context, received = attend_to_heads(query, key, value, scaling, mask, special, patch_votes, dropout, cells)
    return context, received[..., special:] / votes.sum(dim=1)[:, None, None]


def _attend_to_rows(
    query: Tensor,
    key: Tensor,
    value: Tensor | None,
    scaling: float,
    mask: Tensor | None,
    votes: Tensor,
    dropout: float,
    cells: int,
) -> tuple[Tensor, Tensor]:
    """Attention in pieces of some queries of all heads, with `cells` entries of each map.

    The arguments are those of `attend_and_score`, except votes: (batch, N), weight of each query. The scores are sums
    over queries."""
    n = query.shape[2]
    transposed, query = key.transpose(2, 3), query * scaling
    contexts, received = [], torch.zeros((), device=query.device)
    rows = max(1, min(n, cells // n))
    for start in range(0, n, rows):
        logits = query[:, :, start : start + rows] @ transposed
        if mask is not None:
            logits = logits + (mask[:, :, start : start + rows] if mask.shape[2] > 1 else mask)
        weights = logits.softmax(dim=-1, dtype=score_dtype(logits))
        received = received + (weights * votes[:, None, start : start + rows, None]).sum(dim=2)
        if value is not None:
            contexts.append(_mean_of(value, weights, dropout))
    if value is None:
        return query.new_empty(0), received
    return contexts[0] if len(contexts) == 1 else torch.cat(contexts, dim=2), received


def attend_to_heads(
    query: Tensor,
    key: Tensor,
    value: Tensor | None,
    scaling: float,
    mask: Tensor | None,
    special: int | None = None,
    votes: Tensor | None = None,
    dropout: float = 0.0,
    cells: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Attention in pieces of some heads and, for long clips, of some of their queries, with `cells` entries in all.

    A piece of the map is then still in cache when it is normalised, summed and multiplied. The arguments are those of
    `_attend_to_rows`, except special: number of leading queries that do not vote, None for no scores (they are then 0);
    and votes: None if all other queries have the same weight."""
    batch, heads, n, dim = query.shape
    if cells is None:
        cells = CELLS_OF_THREAD * torch.get_num_threads()
    if torch.is_grad_enabled():  # a backward pass keeps the whole map anyway
        cells = batch * heads * n * n
    rows = max(1, min(n, cells // n))
    bias = None if mask is None else mask.to(query.dtype).expand(batch, heads, -1, n)
    # In the order in which the next layer reads it: heads next to each other.
    context = query.new_empty(0) if value is None else value.new_empty(batch, n, heads, dim)
    received = query.new_zeros(batch, heads, n, dtype=score_dtype(query))
    for clips, some in _boxes(batch, heads, group=max(1, round(cells / (rows * n)))):
        q, k = (x[clips, some].flatten(0, 1) for x in (query, key.transpose(2, 3)))
        v = None if value is None else value[clips, some].flatten(0, 1)
        b = None if bias is None else bias[clips, some].flatten(0, 1)
        box = query[clips, some].shape[:2]
        for start in range(0, n, rows):
            piece = slice(start, start + rows)
            logits = _logits(q[:, piece], k, scaling, b if b is None or b.shape[1] == 1 else b[:, piece])
            weights = logits.softmax(dim=-1, dtype=score_dtype(logits))
            if votes is not None:
                received[clips, some] += (weights.unflatten(0, box) * votes[clips, None, piece, None]).sum(dim=2)
            elif special is not None:  # without a product, which would count as work
                received[clips, some] += weights[:, max(special - start, 0) :].sum(dim=1).unflatten(0, box)
            if v is not None:
                context[clips, piece, some] = _mean_of(v, weights, dropout).unflatten(0, box).transpose(1, 2)
    return context if value is None else context.transpose(1, 2), received


def _mean_of(value: Tensor, weights: Tensor, dropout: float) -> Tensor:
    """Average the values (…, N, head_dim) by the attention of some queries (…, rows, N), with dropout in training."""
    return nn.functional.dropout(weights.to(value.dtype), dropout, training=dropout > 0) @ value


def _boxes(batch: int, heads: int, group: int) -> Iterator[tuple[slice, slice]]:
    """Slices of clips and heads of `group` maps each: some heads of one clip (without a copy), or some clips."""
    clips, some = max(1, group // heads), min(group, heads)
    for clip in range(0, batch, clips):
        for head in range(0, heads, some):
            yield slice(clip, clip + clips), slice(head, head + some)


def _logits(query: Tensor, key: Tensor, scaling: float, bias: Tensor | None) -> Tensor:
    """Logits: query (maps, rows, head_dim) @ key (maps, head_dim, N) · scaling + bias (maps, 1 or rows, N)."""
    if bias is None:  # with beta = 0, the first argument is not used
        return torch.baddbmm(query[:1, :1, :1], query, key, beta=0, alpha=scaling)
    return torch.baddbmm(bias, query, key, alpha=scaling)


def attend_by_policy(
    query: Tensor, key: Tensor, value: Tensor, scaling: float, mask: Tensor | None, policy: Tensor, dropout: float = 0.0
) -> Tensor:
    """Attention with keys weighted by a policy, which does not apply to a token's own key.

    The softmax is over exp(logits) · (policy + (1 − policy) · I) (DynamicViT, arXiv 2106.02034, eqs. 9–11).

    Args:
        query: (batch, heads, N, head_dim).
        key: (batch, heads, N, head_dim).
        value: (batch, heads, N, head_dim).
        scaling: factor of the logits.
        mask: additive mask, or None.
        policy: (batch, N).
        dropout: dropout of the attention.

    Returns the context (batch, heads, N, head_dim).
    """
    logits = (query @ key.transpose(2, 3)).to(score_dtype(query)) * scaling
    if mask is not None:
        logits = logits + mask
    n, epsilon = logits.shape[-1], 1e-6
    allowed = policy.to(logits.dtype)[:, None, None, :]
    allowed = allowed + (1 - allowed) * torch.eye(n, dtype=logits.dtype, device=logits.device)
    weights = (logits - logits.amax(dim=-1, keepdim=True).detach()).exp() * allowed
    weights = (weights + epsilon / n) / (weights.sum(dim=-1, keepdim=True) + epsilon)
    return nn.functional.dropout(weights.to(value.dtype), dropout, training=dropout > 0) @ value
