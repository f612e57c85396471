"""Attention and attention received on a GPU, in Triton: no N×N map in memory, and none written.

`available` tells whether the kernels can serve a call, and `attend_and_score` serves it. Triton is imported with the
first call that is served, never before; nothing here knows the rest of the package.
"""

from __future__ import annotations

from importlib.util import find_spec

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
WIDEST = 256
"""Of the heads that the kernels' tiles are made for: beyond, they would not fit into shared memory."""

_TRITON = find_spec("triton") is not None
_interpreting = False
"""Whether the kernels serve the CPU too: only within `interpreter.interpreted`."""


def available(query: Tensor, mask: Tensor | None = None, dropout: float = 0.0, differentiable: bool = False) -> bool:
    """Whether `attend_and_score` can serve a call.

    query: (batch, heads, N, head_dim). mask: additive; only one that is the same for all queries can be served,
    (batch or 1, heads or 1, 1, N). differentiable: whether gradients are to flow through the scores, which the
    kernels have none of. In a program that is being exported there would be an operator that only this package knows.
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
    value: Tensor,
    scaling: float,
    mask: Tensor | None,
    special: int,
    voters: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Context (batch, heads, N, head_dim), in value's dtype, and attention received by each patch in each head
    (batch, heads, N − special), float32 and without gradient.

    query, key, value: (batch, heads, N, head_dim) of any strides and one dtype. mask: (batch or 1, heads or 1, 1, N),
    added to the logits of each key, -inf for filler, or None. special: leading tokens that neither vote nor are
    scored. voters: (batch, N − special), how much each query's attention counts, not negative, or None. A query that
    has nothing but -inf to look at gets a context of 0 and gives no attention. Raises ValueError for other shapes.
    """
    from .operator import attend

    _check(query, key, value, mask, special, voters)
    bias, voters = (None if x is None else x.detach() for x in (mask, voters))
    inputs = (query, key, value) if mask is None else (query, key, value, mask)
    if torch.is_grad_enabled() and any(x.requires_grad for x in inputs):
        # SDPA brings its own backward, in memory that grows with N; only the scores are left to do.
        _, received = attend(query.detach(), key.detach(), None, bias, voters, scaling, special)
        mask = None if mask is None else mask.to(query.dtype)
        return scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scaling), received
    return attend(query, key, value, bias, voters, scaling, special)


@torch.compiler.assume_constant_result
def _is_recent(device: int) -> bool:
    # Older GPUs have no bfloat16, and Triton no promise for them. Constant, as a compiler cannot trace the question.
    return torch.cuda.get_device_capability(device) >= (8, 0)


def _is_of_keys(mask: Tensor) -> bool:
    return mask.dim() == 4 and mask.shape[2] == 1 and mask.is_floating_point()


def _exporting() -> bool:
    # torch 2.6 cannot tell exporting from compiling.
    return getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)()


def _check(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, special: int, voters: Tensor | None) -> None:
    batch, heads, n, _ = query.shape
    for name, other in (("key", key), ("value", value)):
        if other.shape != query.shape or other.dtype != query.dtype:
            raise ValueError(
                f"{name} is {tuple(other.shape)}, {other.dtype}: it should be as query is, {tuple(query.shape)}, "
                f"{query.dtype}"
            )
    if not 0 <= special <= n:
        raise ValueError(f"special = {special}: it should be from 0 to the {n} tokens that there are")
    if mask is not None and not (
        _is_of_keys(mask) and mask.shape[0] in (1, batch) and mask.shape[1] in (1, heads) and mask.shape[3] in (1, n)
    ):
        raise ValueError(
            f"mask is {tuple(mask.shape)}, {mask.dtype}: it should be ({batch} or 1, {heads} or 1, 1, {n}) and "
            "floating point"
        )
    if voters is not None and voters.shape != (batch, n - special):
        raise ValueError(f"voters is {tuple(voters.shape)}: it should be ({batch}, {n - special})")
