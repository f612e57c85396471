"""Attention that also computes the attention received by each token.

If received attention is requested, the map of all pairs is computed in pieces, with one softmax for both the context
and the scores. So scoring adds no matrix product, and in inference, memory grows with N, not N². On a GPU with Triton,
`kernels` do this. Otherwise the model's own attention runs.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from . import kernels

NAME = "audioprune"
"""Name of the function in transformers' `AttentionInterface`."""

OWN_CONFIG = "_audioprune_config"
"""Attribute of an attention module of a pruned model: its original config, which names the model's own attention."""

CELLS = 2**19
"""Entries of attention maps that are computed at once: 2 MiB in float32, which fits into a CPU's cache."""


@dataclass
class AttentionCall:
    """What a layer asks of its attention, and the results.

    Args:
        implementation: name of the attention of the unpruned model.
        eager: eager function of its module.
        special: number of leading tokens that neither vote nor are scored.
        bias: (batch, 1, 1, N), added to the logits of the keys, -inf for filler; or None.
        voters: (batch, N − special), 0 for queries that are filler and do not vote; or None.
        policy: (batch, N), factor of a key's weight for every query except itself; or None.
        wants: names of the requested `Evidence` fields.
        differentiable: whether gradients flow through the scores.
        results: name of an `Evidence` field → its value, over the N − special patches.
    """

    implementation: str
    eager: Callable[..., Any]
    special: int
    bias: Tensor | None = None
    voters: Tensor | None = None
    policy: Tensor | None = None
    wants: frozenset[str] = frozenset()
    differentiable: bool = False
    results: dict[str, Tensor] = field(default_factory=dict)


def eager_of(module: nn.Module) -> Callable[..., Any]:
    """Eager attention function of the model that contains an attention module."""
    return sys.modules[type(module).__module__].eager_attention_forward


def register() -> None:
    """Register the function with transformers. Idempotent; called when a model is pruned, never at import."""
    AttentionInterface.register(NAME, scoring_attention)


def scoring_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    attention_call: AttentionCall | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attention function in transformers' signature: query, key, value are (batch, heads, N, head_dim).

    Returns the context (batch, N, heads, head_dim), and the weights that the model's own attention returns.
    """
    if attention_call is None:  # nothing is reduced, or a block is called outside its encoder
        implementation = getattr(module, OWN_CONFIG)._attn_implementation or "eager"
        own = ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager_of(module))
        return own(module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **kwargs)
    call = attention_call
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    mask = attention_mask if call.bias is None else call.bias.to(query.dtype)
    _record_cheap(call, query, key, value, scaling, mask)
    if call.policy is not None:
        return attend_by_policy(query, key, value, scaling, mask, call.policy, dropout).transpose(1, 2), None
    heads = bool(call.wants & {"attention", "attention_heads"})
    if heads and call.implementation != "eager":
        if kernels.available(query, mask, dropout, call.differentiable):
            context, received = kernels.attend_and_score(query, key, value, scaling, mask, call.special, call.voters)
        else:
            context, received = attend_and_score(query, key, value, scaling, mask, call.special, call.voters, dropout)
        _record_received(call, received)
        return context.transpose(1, 2).contiguous(), None
    if call.implementation == "sdpa" and dropout == 0 and pieces_beat_sdpa(query):
        return _attend_to_heads(query, key, value, scaling, mask)[0].transpose(1, 2).contiguous(), None
    context, weights = _own_attention(call)(module, query, key, value, mask, scaling=scaling, dropout=dropout, **kwargs)
    if heads:
        if dropout > 0:  # eager attention returns a map after dropout, but the scores need the whole map
            _, received = attend_and_score(query, key, value, scaling, mask, call.special, call.voters)
        else:
            received = received_attention(weights, call.special, call.voters)
        _record_received(call, received)
    return context, weights


def _record_cheap(
    call: AttentionCall, query: Tensor, key: Tensor, value: Tensor, scaling: float, mask: Tensor | None
) -> None:
    """Record the results that need no attention map, or only one row of it."""
    if "keys" in call.wants:
        call.results["keys"] = key.mean(dim=1)[:, call.special :]
    if "values" in call.wants:
        call.results["values"] = value.transpose(1, 2).flatten(2)[:, call.special :]
    if call.wants & {"cls", "cls_heads"}:
        row = cls_attention(query, key, scaling, mask, call.special)
        _record(call, "cls_heads", row)
        _record(call, "cls", row.mean(dim=1))


def _record_received(call: AttentionCall, received: Tensor) -> None:
    _record(call, "attention_heads", received)
    _record(call, "attention", received.mean(dim=1))


def _record(call: AttentionCall, name: str, scores: Tensor) -> None:
    if name in call.wants:
        call.results[name] = scores if call.differentiable else scores.detach()


def _own_attention(call: AttentionCall) -> Callable[..., Any]:
    # Flash and flex attention accept no additive bias on the keys. SDPA does, and computes the same function.
    if call.bias is not None and call.implementation != "eager":
        return sdpa_attention_forward
    return ALL_ATTENTION_FUNCTIONS.get_interface(call.implementation, call.eager)


def pieces_beat_sdpa(query: Tensor) -> bool:
    """Whether attention in pieces is faster than SDPA. query: (batch, heads, N, head_dim).

    PyTorch's fused attention has no fast bfloat16 products on CPUs without tiles; there it takes twice as long as plain
    products."""
    return (
        query.device.type == "cpu"
        and query.dtype == torch.bfloat16
        and not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and not _has_tiles()
    )


@cache
def _has_tiles() -> bool:
    supported: Callable[[], bool] | None = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return supported is None or supported()


@torch.no_grad()
def score_keys(
    query: Tensor,
    key: Tensor,
    scaling: float,
    mask: Tensor | None = None,
    voters: Tensor | None = None,
    cells: int = CELLS,
) -> Tensor:
    """Compute the attention received by each key in each head, without a context. Memory grows with N, not N².

    Args:
        query: (batch, heads, N, head_dim).
        key: (batch, heads, N, head_dim).
        scaling: factor of the logits.
        mask: additive, broadcastable to (batch, heads, N, N), or None.
        voters: (batch, N), 0 for queries whose attention does not count, or None.
        cells: approximate number of entries of the map in a piece.

    Returns the mean over the queries that vote, (batch, heads, N), without gradient. It is NaN if no query votes.
    """
    if kernels.available(query, mask):
        return kernels.attend_and_score(query, key, None, scaling, mask, 0, voters)[1]
    return attend_and_score(query, key, None, scaling, mask, 0, voters, cells=cells)[1]


def received_attention(weights: Tensor, special: int, voters: Tensor | None = None) -> Tensor:
    """Attention received (eq. 2a) over the patches: map (batch, heads, N, N) → (batch, heads, N − special)."""
    votes = weights[:, :, special:, special:].to(_score_dtype(weights))
    if voters is None:
        return votes.mean(dim=2)
    return (votes * voters[:, None, :, None]).sum(dim=2) / voters.sum(dim=1)[:, None, None]


def cls_attention(query: Tensor, key: Tensor, scaling: float, mask: Tensor | None, special: int) -> Tensor:
    """Attention of token 0 to each patch (eq. 2b), one row of the map: (batch, heads, N − special), float32."""
    logits = query[:, :, :1] @ key.transpose(2, 3)
    logits = logits.to(_score_dtype(logits)) * scaling
    if mask is not None:
        logits = logits + mask[:, :, :1]
    return logits.softmax(dim=-1)[:, :, 0, special:]


def _score_dtype(x: Tensor) -> torch.dtype:
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
    cells: int = CELLS,
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
        cells: approximate number of entries of the map in a piece.

    Returns the context (batch, heads, N, head_dim), empty without values, and the attention received by each patch in
    each head (batch, heads, N − special).
    """
    n = query.shape[2]
    votes = query.new_ones(query.shape[0], n - special, dtype=_score_dtype(query)) if voters is None else voters
    counted = nn.functional.pad(votes.to(_score_dtype(query)), (special, 0))
    # A graph has a node for every piece, so the number of pieces must not depend on the batch.
    by_rows = torch.compiler.is_compiling() or query.device.type != "cpu"
    if by_rows:
        context, received = _attend_to_rows(query, key, value, scaling, mask, counted, dropout, cells)
    else:
        patch_votes = None if voters is None else counted
        context, received = _attend_to_heads(query, key, value, scaling, mask, special, patch_votes, dropout, cells)
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
        weights = logits.softmax(dim=-1, dtype=_score_dtype(logits))
        received = received + (weights * votes[:, None, start : start + rows, None]).sum(dim=2)
        if value is not None:
            contexts.append(_mean_of(value, weights, dropout))
    if value is None:
        return query.new_empty(0), received
    return contexts[0] if len(contexts) == 1 else torch.cat(contexts, dim=2), received


def _attend_to_heads(
    query: Tensor,
    key: Tensor,
    value: Tensor | None,
    scaling: float,
    mask: Tensor | None,
    special: int | None = None,
    votes: Tensor | None = None,
    dropout: float = 0.0,
    cells: int = CELLS,
) -> tuple[Tensor, Tensor]:
    """Attention in pieces of some heads and, for long clips, of some of their queries, with `cells` entries in all.

    A piece of the map is then still in cache when it is normalised, summed and multiplied. The arguments are those of
    `_attend_to_rows`, except special: number of leading queries that do not vote, None for no scores (they are then 0);
    and votes: None if all other queries have the same weight."""
    batch, heads, n, dim = query.shape
    if torch.is_grad_enabled():  # a backward pass keeps the whole map anyway
        cells = batch * heads * n * n
    rows = max(1, min(n, cells // n))
    bias = None if mask is None else mask.to(query.dtype).expand(batch, heads, -1, n)
    # In the order in which the next layer reads it: heads next to each other.
    context = query.new_empty(0) if value is None else value.new_empty(batch, n, heads, dim)
    received = query.new_zeros(batch, heads, n, dtype=_score_dtype(query))
    for clips, some in _boxes(batch, heads, group=max(1, round(cells / (rows * n)))):
        q, k = (x[clips, some].flatten(0, 1) for x in (query, key.transpose(2, 3)))
        v = None if value is None else value[clips, some].flatten(0, 1)
        b = None if bias is None else bias[clips, some].flatten(0, 1)
        box = query[clips, some].shape[:2]
        for start in range(0, n, rows):
            piece = slice(start, start + rows)
            logits = _logits(q[:, piece], k, scaling, b if b is None or b.shape[1] == 1 else b[:, piece])
            weights = logits.softmax(dim=-1, dtype=_score_dtype(logits))
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
    logits = (query @ key.transpose(2, 3)).to(_score_dtype(query)) * scaling
    if mask is not None:
        logits = logits + mask
    n, epsilon = logits.shape[-1], 1e-6
    allowed = policy.to(logits.dtype)[:, None, None, :]
    allowed = allowed + (1 - allowed) * torch.eye(n, dtype=logits.dtype, device=logits.device)
    weights = (logits - logits.amax(dim=-1, keepdim=True).detach()).exp() * allowed
    weights = (weights + epsilon / n) / (weights.sum(dim=-1, keepdim=True) + epsilon)
    return nn.functional.dropout(weights.to(value.dtype), dropout, training=dropout > 0) @ value
