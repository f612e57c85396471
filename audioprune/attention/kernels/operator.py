"""The kernels as one operator of torch, which torch.compile puts into its graph unchanged."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor


@torch.library.custom_op(
    "audioprune::attend_and_score",
    mutates_args=(),
    schema="(Tensor query, Tensor key, Tensor? value, Tensor? bias, Tensor? voters, float scaling, SymInt special) "
    "-> (Tensor, Tensor)",
)
def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor | None,
    bias: Tensor | None,
    voters: Tensor | None,
    scaling: float,
    special: int,
) -> tuple[Tensor, Tensor]:
    """Compute attention and attention received, without gradients.

    Args:
        query: (batch, heads, N, head_dim).
        key: (batch, heads, N, head_dim).
        value: (batch, heads, N, head_dim), or None.
        bias: broadcastable to (batch, heads, 1, N), or None.
        voters: (batch, N − special), or None.
        scaling: factor of the logits.
        special: number of leading tokens that are not scored.

    Returns the context (batch, heads, N, head_dim), empty if value is None, and the attention received (batch, heads,
    N − special), float32.
    """
    from .triton_attention import launch

    count = query.shape[2] - special
    with torch.cuda.device(query.device) if query.is_cuda else nullcontext():
        context, received = launch(query, key, value, bias, voters, scaling, special)
    return context, received / (count if voters is None else voters.sum(dim=1)[:, None, None])


@attend.register_fake
def _(
    query: Tensor,
    key: Tensor,
    value: Tensor | None,
    bias: Tensor | None,
    voters: Tensor | None,
    scaling: float,
    special: int,
) -> tuple[Tensor, Tensor]:
    batch, heads, n, _ = query.shape
    return empty_context(value, query), query.new_empty(batch, heads, n - special, dtype=torch.float32)


def empty_context(value: Tensor | None, query: Tensor) -> Tensor:
    """Uninitialised context. Each token's heads are adjacent in memory, as the model's next layer reads them."""
    if value is None:
        return query.new_empty(0)
    batch, heads, n, width = value.shape
    return value.new_empty(batch, n, heads, width).transpose(1, 2)
