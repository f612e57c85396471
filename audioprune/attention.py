"""Attention that also tells how much each token received.

Where received attention is asked for, queries go through in chunks with one softmax for both the context and the
scores: scoring adds no matrix product, and in inference memory grows with N, not N². Elsewhere the model's own
attention runs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

NAME = "audioprune"
"""Under this name the function is registered with transformers' `AttentionInterface`."""

QUERY_CHUNK = 128


@dataclass
class AttentionCall:
    """One layer's order to its attention, and what it answered.

    implementation: the attention that the model runs when it is left alone; eager: its module's own eager function.
    special: number of leading tokens that neither vote nor are scored. bias: (batch, 1, 1, N), added to the logits
    of the keys, or None. wants: any of "attention", "cls", "keys"; found: the answers, over the N − special patches.
    differentiable: whether gradients flow through the scores.
    """

    implementation: str
    eager: Callable[..., Any]
    special: int
    bias: Tensor | None = None
    wants: frozenset[str] = frozenset()
    differentiable: bool = False
    found: dict[str, Tensor] = field(default_factory=dict)


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
    if attention_call is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **kwargs)
    call = attention_call
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    mask = attention_mask if call.bias is None else call.bias.to(query.dtype)
    if "keys" in call.wants:
        call.found["keys"] = key.mean(dim=1)[:, call.special :]
    if "cls" in call.wants:
        call.found["cls"] = cls_attention(query, key, scaling, mask, call.special)
    if "attention" in call.wants and call.implementation != "eager":
        context, received = attend_and_score(query, key, value, scaling, mask, call.special, dropout)
        call.found["attention"] = received if call.differentiable else received.detach()
        return context.transpose(1, 2).contiguous(), None
    context, weights = _own_attention(call)(module, query, key, value, mask, scaling=scaling, dropout=dropout, **kwargs)
    if "attention" in call.wants:
        if dropout > 0:  # the map that eager attention returns has lost entries: scores are of the whole one
            _, received = attend_and_score(query, key, value, scaling, mask, call.special)
        else:
            received = received_attention(weights, call.special)
        call.found["attention"] = received if call.differentiable else received.detach()
    return context, weights


def _own_attention(call: AttentionCall) -> Callable[..., Any]:
    # Flash and flex attention take no additive bias on the keys; SDPA computes the same function and does.
    if call.bias is not None and call.implementation != "eager":
        return sdpa_attention_forward
    return ALL_ATTENTION_FUNCTIONS.get_interface(call.implementation, call.eager)


def received_attention(weights: Tensor, special: int) -> Tensor:
    """Equation 2a over the patches, from the attention map: (batch, heads, N, N) → (batch, N − special), float32."""
    return weights[:, :, special:, special:].to(_score_dtype(weights)).mean(dim=(1, 2))


def cls_attention(query: Tensor, key: Tensor, scaling: float, mask: Tensor | None, special: int) -> Tensor:
    """Equation 2b: attention of token 0 to each patch, mean over heads. One row of the map: (batch, N − special)."""
    logits = query[:, :, :1] @ key.transpose(2, 3)
    logits = logits.to(_score_dtype(logits)) * scaling
    if mask is not None:
        logits = logits + mask[:, :, :1]
    return logits.softmax(dim=-1)[:, :, 0, special:].mean(dim=1)


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
    dropout: float = 0.0,
    chunk: int = QUERY_CHUNK,
) -> tuple[Tensor, Tensor]:
    """Context (batch, heads, N, head_dim) and received attention (batch, N − special) in one pass over the queries.

    mask: additive, broadcastable to (batch, heads, N, N), or None.
    """
    n = query.shape[2]
    transposed = key.transpose(2, 3)
    query = query * scaling
    contexts, received = [], torch.zeros((), device=query.device)
    for start in range(0, n, chunk):
        logits = query[:, :, start : start + chunk] @ transposed
        if mask is not None:
            rows = slice(start, start + chunk) if mask.shape[2] > 1 else slice(None)
            logits = logits + mask[:, :, rows]
        weights = logits.softmax(dim=-1, dtype=_score_dtype(logits))
        received = received + weights[:, :, max(special - start, 0) :, special:].sum(dim=(1, 2))
        weights = nn.functional.dropout(weights.to(value.dtype), dropout, training=dropout > 0)
        contexts.append(weights @ value)
    return torch.cat(contexts, dim=2), received / (query.shape[1] * (n - special))
