"""Attention that also tells how much each token received.

Where received attention is asked for, the map of all pairs is made piece by piece, with one softmax for both the
context and the scores: scoring adds no matrix product, and in inference memory grows with N, not N². On a GPU
`kernels` do it, where Triton is installed. Elsewhere the model's own attention runs.
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
"""Under this name the function is registered with transformers' `AttentionInterface`."""

OWN_CONFIG = "_audioprune_config"
"""Attribute of an attention module of a pruned model: the config that it had, which names the model's own attention."""

CELLS = 2**19
"""Entries of attention maps that are worked on at once: 2 MiB in float32, which stays in a CPU's cache."""


@dataclass
class AttentionCall:
    """One layer's order to its attention, and what it answered.

    implementation: the attention that the model runs when it is left alone; eager: its module's own eager function.
    special: number of leading tokens that neither vote nor are scored. bias: (batch, 1, 1, N), added to the logits
    of the keys, or None; -inf for keys that are filler. voters: (batch, N − special), 0 for queries that are filler
    and do not vote, or None. policy: (batch, N), by which a key's weight is multiplied for every query but itself, or
    None. wants: names of `Evidence` fields; found: the answers, over the N − special patches.
    differentiable: whether gradients flow through the scores.
    """

    implementation: str
    eager: Callable[..., Any]
    special: int
    bias: Tensor | None = None
    voters: Tensor | None = None
    policy: Tensor | None = None
    wants: frozenset[str] = frozenset()
    differentiable: bool = False
    found: dict[str, Tensor] = field(default_factory=dict)


def eager_of(module: nn.Module) -> Callable[..., Any]:
    """The eager attention function of the model that an attention module is a part of."""
    return sys.modules[type(module).__module__].eager_attention_forward


def register() -> None:
    """Make the function known to transformers. Idempotent; called when a model is pruned, never at import."""
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
    """transformers' attention signature: query, key, value are (batch, heads, N, head_dim).

    Returns the context (batch, N, heads, head_dim) and what the model's own attention returns as weights.
    """
    if attention_call is None:  # nothing is reduced, or a block is called outside its encoder
        implementation = getattr(module, OWN_CONFIG)._attn_implementation or "eager"
        own = ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager_of(module))
        return own(module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **kwargs)
    call = attention_call
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    mask = attention_mask if call.bias is None else call.bias.to(query.dtype)
    _look(call, query, key, value, scaling, mask)
    if call.policy is not None:
        return attend_by_policy(query, key, value, scaling, mask, call.policy, dropout).transpose(1, 2), None
    heads = bool(call.wants & {"attention", "attention_heads"})
    if heads and call.implementation != "eager":
        if kernels.available(query, mask, dropout, call.differentiable):
            context, received = kernels.attend_and_score(query, key, value, scaling, mask, call.special, call.voters)
        else:
            context, received = attend_and_score(query, key, value, scaling, mask, call.special, call.voters, dropout)
        _note_received(call, received)
        return context.transpose(1, 2).contiguous(), None
    if call.implementation == "sdpa" and dropout == 0 and pieces_beat_sdpa(query):
        return _attend_to_heads(query, key, value, scaling, mask)[0].transpose(1, 2).contiguous(), None
    context, weights = _own_attention(call)(module, query, key, value, mask, scaling=scaling, dropout=dropout, **kwargs)
    if heads:
        if dropout > 0:  # the map that eager attention returns has lost entries: scores are of the whole one
            _, received = attend_and_score(query, key, value, scaling, mask, call.special, call.voters)
        else:
            received = received_attention(weights, call.special, call.voters)
        _note_received(call, received)
    return context, weights


def _look(call: AttentionCall, query: Tensor, key: Tensor, value: Tensor, scaling: float, mask: Tensor | None) -> None:
    """Note what needs no attention map, or one row of it."""
    if "keys" in call.wants:
        call.found["keys"] = key.mean(dim=1)[:, call.special :]
    if "values" in call.wants:
        call.found["values"] = value.transpose(1, 2).flatten(2)[:, call.special :]
    if call.wants & {"cls", "cls_heads"}:
        row = cls_attention(query, key, scaling, mask, call.special)
        _note(call, "cls_heads", row)
        _note(call, "cls", row.mean(dim=1))


def _note_received(call: AttentionCall, received: Tensor) -> None:
    _note(call, "attention_heads", received)
    _note(call, "attention", received.mean(dim=1))


def _note(call: AttentionCall, name: str, scores: Tensor) -> None:
    if name in call.wants:
        call.found[name] = scores if call.differentiable else scores.detach()


def _own_attention(call: AttentionCall) -> Callable[..., Any]:
    # Flash and flex attention take no additive bias on the keys; SDPA computes the same function and does.
    if call.bias is not None and call.implementation != "eager":
        return sdpa_attention_forward
    return ALL_ATTENTION_FUNCTIONS.get_interface(call.implementation, call.eager)


def pieces_beat_sdpa(query: Tensor) -> bool:
    """Whether attention in pieces is the faster one: PyTorch's fused attention has no fast bfloat16 products on CPUs
    without tiles, where it takes twice as long as plain ones. query: (batch, heads, N, head_dim)."""
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


def received_attention(weights: Tensor, special: int, voters: Tensor | None = None) -> Tensor:
    """Equation 2a over the patches, from the attention map: (batch, heads, N, N) → (batch, heads, N − special)."""
    votes = weights[:, :, special:, special:].to(_score_dtype(weights))
    if voters is None:
        return votes.mean(dim=2)
    return (votes * voters[:, None, :, None]).sum(dim=2) / voters.sum(dim=1)[:, None, None]


def cls_attention(query: Tensor, key: Tensor, scaling: float, mask: Tensor | None, special: int) -> Tensor:
    """Equation 2b: attention of token 0 to each patch. One row of the map: (batch, heads, N − special), float32."""
    logits = query[:, :, :1] @ key.transpose(2, 3)
    logits = logits.to(_score_dtype(logits)) * scaling
    if mask is not None:
        logits = logits + mask[:, :, :1]
    return logits.softmax(dim=-1)[:, :, 0, special:]


def _score_dtype(x: Tensor) -> torch.dtype:
    # Shares of attention are near 1/N: in half precision many would tie.
    return torch.promote_types(x.dtype, torch.float32)


def attend_and_score(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scaling: float,
    mask: Tensor | None,
    special: int,
    voters: Tensor | None = None,
    dropout: float = 0.0,
    cells: int = CELLS,
) -> tuple[Tensor, Tensor]:
    """Context (batch, heads, N, head_dim) and attention received by each patch in each head (batch, heads,
    N − special), in one pass over the queries.

    mask: additive, broadcastable to (batch, heads, N, N), or None. voters: (batch, N − special), 0 for queries whose
    attention does not count, or None. cells: entries of the map in a piece, about.
    """
    n = query.shape[2]
    votes = query.new_ones(query.shape[0], n - special, dtype=_score_dtype(query)) if voters is None else voters
    counted = nn.functional.pad(votes.to(_score_dtype(query)), (special, 0))
    # A graph has a node for every piece, and their number must not hang on the batch.
    by_rows = torch.compiler.is_compiling() or query.device.type != "cpu"
    if by_rows:
        context, received = _attend_to_rows(query, key, value, scaling, mask, counted, dropout, cells)
    else:
        of_patches = None if voters is None else counted
        context, received = _attend_to_heads(query, key, value, scaling, mask, special, of_patches, dropout, cells)
    return context, received[..., special:] / votes.sum(dim=1)[:, None, None]


def _attend_to_rows(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scaling: float,
    mask: Tensor | None,
    votes: Tensor,
    dropout: float,
    cells: int,
) -> tuple[Tensor, Tensor]:
    """Some queries of all heads at a time; `cells` of each map. votes: (batch, N), how much each query counts. Of the
    scores, the sum over queries."""
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
        weights = nn.functional.dropout(weights.to(value.dtype), dropout, training=dropout > 0)
        contexts.append(weights @ value)
    return contexts[0] if len(contexts) == 1 else torch.cat(contexts, dim=2), received


def _attend_to_heads(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scaling: float,
    mask: Tensor | None,
    special: int | None = None,
    votes: Tensor | None = None,
    dropout: float = 0.0,
    cells: int = CELLS,
) -> tuple[Tensor, Tensor]:
    """As `_attend_to_rows`, but some heads at a time, and of long clips some of their queries, so that a piece of the
    map is still in cache when it is normalised, summed and multiplied: `cells` in all.

    special: leading queries that do not vote, None for no scores, which are then 0. votes: None where all others count
    alike."""
    batch, heads, n, dim = query.shape
    if torch.is_grad_enabled():  # what a backward pass needs is kept anyway
        cells = batch * heads * n * n
    rows = max(1, min(n, cells // n))
    bias = None if mask is None else mask.to(query.dtype).expand(batch, heads, -1, n)
    # As the next layer reads it: heads beside each other.
    context = value.new_empty(batch, n, heads, dim)
    received = query.new_zeros(batch, heads, n, dtype=_score_dtype(query))
    for clips, some in _boxes(batch, heads, group=max(1, round(cells / (rows * n)))):
        q, k, v = (x[clips, some].flatten(0, 1) for x in (query, key.transpose(2, 3), value))
        b = None if bias is None else bias[clips, some].flatten(0, 1)
        box = query[clips, some].shape[:2]
        for start in range(0, n, rows):
            of = slice(start, start + rows)
            logits = _logits(q[:, of], k, scaling, b if b is None or b.shape[1] == 1 else b[:, of])
            weights = logits.softmax(dim=-1, dtype=_score_dtype(logits))
            if votes is not None:
                received[clips, some] += (weights.unflatten(0, box) * votes[clips, None, of, None]).sum(dim=2)
            elif special is not None:  # no product, which would be counted as work
                received[clips, some] += weights[:, max(special - start, 0) :].sum(dim=1).unflatten(0, box)
            weights = nn.functional.dropout(weights.to(value.dtype), dropout, training=dropout > 0)
            context[clips, of, some] = (weights @ v).unflatten(0, box).transpose(1, 2)
    return context.transpose(1, 2), received


def _boxes(batch: int, heads: int, group: int) -> Iterator[tuple[slice, slice]]:
    """Clips and heads to work on at once, `group` maps: some heads of one clip (which are then no copy), or clips."""
    clips, some = max(1, group // heads), min(group, heads)
    for clip in range(0, batch, clips):
        for head in range(0, heads, some):
            yield slice(clip, clip + clips), slice(head, head + some)


def _logits(query: Tensor, key: Tensor, scaling: float, bias: Tensor | None) -> Tensor:
    """query (maps, rows, head_dim) @ key (maps, head_dim, N) · scaling + bias (maps, 1 or rows, N)."""
    if bias is None:  # beta = 0: the first argument is not read
        return torch.baddbmm(query[:1, :1, :1], query, key, beta=0, alpha=scaling)
    return torch.baddbmm(bias, query, key, alpha=scaling)


def attend_by_policy(
    query: Tensor, key: Tensor, value: Tensor, scaling: float, mask: Tensor | None, policy: Tensor, dropout: float = 0.0
) -> Tensor:
    """Context (batch, heads, N, head_dim) where a key counts as much as its policy (batch, N) says, and always for
    itself: softmax over exp(logits) · (policy + (1 − policy) · I) (DynamicViT, arXiv 2106.02034, eqs. 9–11)."""
    logits = (query @ key.transpose(2, 3)).to(_score_dtype(query)) * scaling
    if mask is not None:
        logits = logits + mask
    n, epsilon = logits.shape[-1], 1e-6
    allowed = policy.to(logits.dtype)[:, None, None, :]
    allowed = allowed + (1 - allowed) * torch.eye(n, dtype=logits.dtype, device=logits.device)
    weights = (logits - logits.amax(dim=-1, keepdim=True).detach()).exp() * allowed
    weights = (weights + epsilon / n) / (weights.sum(dim=-1, keepdim=True) + epsilon)
    return nn.functional.dropout(weights.to(value.dtype), dropout, training=dropout > 0) @ value
