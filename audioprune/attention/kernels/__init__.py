"""Attention and attention received on a GPU, in Triton, without an N×N map in memory.

`available` checks whether the kernels support a call, and `attend_and_score` runs it. Triton is imported at the first
such call, not before. This package does not use the rest of audioprune.
"""

from __future__ import annotations

from importlib.util import find_spec

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
WIDEST = 256
"""Greatest head width. With wider heads, the kernels' tiles would not fit into shared memory."""

_TRITON = find_spec("triton") is not None
_interpreting = False
"""Whether the kernels also run on the CPU: only inside `interpreter.interpreted`."""


def available(query: Tensor, mask: Tensor | None = None, dropout: float = 0.0, differentiable: bool = False) -> bool:
    """Whether `attend_and_score` supports a call.

    False inside an export, because the program would contain an operator that only this package knows.

    Args:
        query: (batch, heads, N, head_dim).
        mask: additive mask; only one that is the same for all queries is supported, (batch or 1, heads or 1, 1, N).
        dropout: dropout of the attention; only 0 is supported.
        differentiable: whether the scores need gradients, which the kernels do not give.
    """
    return (
        _TRITON
        and (_interpreting or (query.is_cuda and _is_recent(query.get_device())))
        and query.dtype in DTYPES
        and query.shape[-1] <= WIDEST
        and dropout == 0
        and not (differentiable and torch.is_grad_enabled())
        and (mask is None or _is_of_keys(mask))
        and not _exporting()
    )


def attend_and_score(
    query: Tensor,
    key: Tensor,
    value: Tensor | None,
    scaling: float,
    mask: Tensor | None,
    special: int,
    voters: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute attention and the attention received by each patch.

    A query whose logits are all -inf gets a context of 0 and gives no attention.

    Args:
        query: (batch, heads, N, head_dim), any strides.
        key: as query, of the same dtype.
        value: as query, of the same dtype; None computes no context.
        scaling: factor of the logits.
        mask: (batch or 1, heads or 1, 1, N), added to the logits of each key, -inf for filler; or None.
        special: number of leading tokens that neither vote nor are scored.
        voters: (batch, N − special), weight of each query's attention, not negative; or None.

    Returns the context (batch, heads, N, head_dim) in value's dtype, empty without values, and the attention received
    by each patch in each head (batch, heads, N − special), float32 and without gradient. Raises `ValueError` for other
    shapes.
    """
    from .operator import attend

    _check(query, key, value, mask, special, voters)
    bias, voters = (None if x is None else x.detach() for x in (mask, voters))
    inputs = [x for x in (query, key, value, mask) if x is not None]
    if value is not None and torch.is_grad_enabled() and any(x.requires_grad for x in inputs):
        # SDPA has its own backward, in memory that grows with N. So the kernels compute only the scores.
        _, received = attend(query.detach(), key.detach(), None, bias, voters, scaling, special)
        mask = None if mask is None else mask.to(query.dtype)
        return scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scaling), received
    return attend(query, key, value, bias, voters, scaling, special)


@torch.compiler.assume_constant_result
def _is_recent(device: int) -> bool:
    # Older GPUs have no bfloat16, and Triton does not support them. Constant, because a compiler cannot trace this.
    return torch.cuda.get_device_capability(device) >= (8, 0)


def _is_of_keys(mask: Tensor) -> bool:
    return mask.dim() == 4 and mask.shape[2] == 1 and mask.is_floating_point()


def _exporting() -> bool:
    # torch 2.6 cannot distinguish exporting from compiling.
    return getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)()


def _check(
    query: Tensor, key: Tensor, value: Tensor | None, mask: Tensor | None, special: int, voters: Tensor | None
) -> None:
    batch, heads, n, _ = query.shape
    for name, other in (("key", key), ("value", key if value is None else value)):
        if other.shape != query.shape or other.dtype != query.dtype:
            raise ValueError(
                f"{name} is {tuple(other.shape)}, {other.dtype}: it must equal query, {tuple(query.shape)}, "
                f"{query.dtype}"
            )
    if not 0 <= special <= n:
        raise ValueError(f"special is {special}; it must be from 0 to the number of tokens, {n}")
    if mask is not None and not (
        _is_of_keys(mask) and mask.shape[0] in (1, batch) and mask.shape[1] in (1, heads) and mask.shape[3] in (1, n)
    ):
        raise ValueError(
            f"mask is {tuple(mask.shape)}, {mask.dtype}; it must be ({batch} or 1, {heads} or 1, 1, {n}) and floating "
            "point"
        )
    if voters is not None and voters.shape != (batch, n - special):
        raise ValueError(f"voters is {tuple(voters.shape)}; it must be ({batch}, {n - special})")
