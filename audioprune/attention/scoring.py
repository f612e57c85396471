"""Attention that also computes the attention received by each token.

If received attention is requested, the map of all pairs is computed in pieces, with one softmax for both the context
and the scores. So scoring adds no matrix product, and in inference, memory grows with N, not N². On a GPU with Triton,
`kernels` do this. Otherwise the model's own attention runs.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from . import kernels
from .pieces import attend_and_score, attend_by_policy, attend_to_heads, score_dtype

NAME = "audioprune"
"""Name of the function in transformers' `AttentionInterface`."""

OWN_CONFIG = "_audioprune_config"
"""Attribute of an attention module of a pruned model: its original config, which names the model's own attention."""


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
        return attend_to_heads(query, key, value, scaling, mask)[0].transpose(1, 2).contiguous(), None
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
    cells: int | None = None,
) -> Tensor:
    """Compute the attention received by each key in each head, without a context. Memory grows with N, not N².

    Args:
        query: (batch, heads, N, head_dim).
        key: (batch, heads, N, head_dim).
        scaling: factor of the logits.
        mask: additive, broadcastable to (batch, heads, N, N), or None.
        voters: (batch, N), 0 for queries whose attention does not count, or None.
        cells: approximate number of entries of the map in a piece; None for what is fast.

    Returns the mean over the queries that vote, (batch, heads, N), without gradient. It is NaN if no query votes.
    """
    if kernels.available(query, mask):
        return kernels.attend_and_score(query, key, None, scaling, mask, 0, voters)[1]
    return attend_and_score(query, key, None, scaling, mask, 0, voters, cells=cells)[1]


def attend_with_scores(query: Tensor, key: Tensor, value: Tensor, scaling: float) -> tuple[Tensor, Tensor]:
    """Attention without a mask, and the attention received by each key in each head, with one softmax for both.

    query, key, value: (batch, heads, N, head_dim). Returns the context, of the same shape, and the mean over the
    queries, (batch, heads, N).
    """
    if kernels.available(query):
        return kernels.attend_and_score(query, key, value, scaling, None, 0, None)
    return attend_and_score(query, key, value, scaling, None, 0)


def received_attention(weights: Tensor, special: int, voters: Tensor | None = None) -> Tensor:
    """Attention received (eq. 2a) over the patches: map (batch, heads, N, N) → (batch, heads, N − special)."""
    votes = weights[:, :, special:, special:].to(score_dtype(weights))
    if voters is None:
        return votes.mean(dim=2)
    return (votes * voters[:, None, :, None]).sum(dim=2) / voters.sum(dim=1)[:, None, None]


def cls_attention(query: Tensor, key: Tensor, scaling: float, mask: Tensor | None, special: int) -> Tensor:
    """Attention of token 0 to each patch (eq. 2b), one row of the map: (batch, heads, N − special), float32."""
    logits = query[:, :, :1] @ key.transpose(2, 3)
    logits = logits.to(score_dtype(logits)) * scaling
    if mask is not None:
        logits = logits + mask[:, :, :1]
    return logits.softmax(dim=-1)[:, :, 0, special:]
