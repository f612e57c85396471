"""Two kernels: attention that stores each row's log-sum-exp, and the column sums of the same map.

The first kernel is FlashAttention-2's forward pass (arXiv 2307.08691, algorithm 1). A program has a block of queries.
It iterates over the keys with a running maximum and a running sum, and writes the context and, for each query, the
logarithm of the softmax denominator. From that logarithm, any entry of the map can be computed again. The second kernel
does this by columns: a program has a block of keys, iterates over the queries, and adds. Each sum is computed by one
program in a fixed order, so the same input gives the same bits.

Logarithms and exponentials have base 2, as in the hardware.
"""

# mypy: allow-untyped-defs

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .operator import empty_context

LOG2_E = tl.constexpr(1.4426950408889634)

# Lengths differ between the layers of a pruned model. A kernel must not be compiled again for each length.
_FREE = ["heads", "count", "special", "blocks", "bias_batch", "bias_head", "voters_batch"]


@triton.jit
def _add(a, b):
    return a + b


@triton.jit
def _larger(a, b):
    return tl.maximum(a, b)


@triton.jit(do_not_specialize=_FREE)
def _attend(
    query,  # (batch, heads, count, WIDTH), as are key and value
    key,
    value,
    bias,  # (batch, heads, 1, count)
    context,  # as query
    levels,  # (batch · heads, count): base-2 log-sum-exp of each row of logits
    scale,  # of the logits, to base 2
    heads,
    count,
    blocks,  # of queries
    query_batch,  # strides, here and below
    query_head,
    query_row,
    query_column,
    key_batch,
    key_head,
    key_row,
    key_column,
    value_batch,
    value_head,
    value_row,
    value_column,
    bias_batch,
    bias_head,
    bias_row,
    context_batch,
    context_head,
    context_row,
    context_column,
    WIDTH: tl.constexpr,
    PADDED: tl.constexpr,  # WIDTH, to the next power of two
    HELD: tl.constexpr,  # queries of a program
    STREAMED: tl.constexpr,  # keys at a time
    PRECISION: tl.constexpr,
    BIASED: tl.constexpr,
    ATTENDING: tl.constexpr,  # whether to compute the context, or only the levels
):
    pair = tl.program_id(0) // blocks
    # 64 bits: a tensor may have more than 2^31 numbers.
    batch, head = (pair // heads).to(tl.int64), (pair % heads).to(tl.int64)
    rows = (tl.program_id(0) % blocks) * HELD + tl.arange(0, HELD)
    columns = tl.arange(0, PADDED)
    wide = rows.to(tl.int64)
    query += batch * query_batch + head * query_head
    key += batch * key_batch + head * key_head
    value += batch * value_batch + head * value_head
    bias += batch * bias_batch + head * bias_head
    context += batch * context_batch + head * context_head
    within = (rows[:, None] < count) & (columns[None, :] < WIDTH)
    queries = tl.load(query + wide[:, None] * query_row + columns[None, :] * query_column, mask=within, other=0.0)
    highest = tl.full([HELD], float("-inf"), tl.float32)
    total = tl.full([HELD], 0.0, tl.float32)
    sums = tl.full([HELD, PADDED], 0.0, tl.float32)
    for start in range(0, count, STREAMED):
        keys = start + tl.arange(0, STREAMED)
        far = keys.to(tl.int64)
        there = keys < count
        turned = tl.load(
            key + far[None, :] * key_row + columns[:, None] * key_column,
            mask=there[None, :] & (columns[:, None] < WIDTH),
            other=0.0,
        )
        if BIASED:
            extra = tl.load(bias + far * bias_row, mask=there, other=float("-inf")).to(tl.float32) * LOG2_E
        else:
            extra = tl.where(there, 0.0, float("-inf"))
        logits = tl.dot(queries, turned, input_precision=PRECISION) * scale + extra[None, :]
        higher = tl.maximum(highest, tl.reduce(logits, 1, _larger))
        # While a row has only -inf so far, -inf minus -inf would be NaN.
        level = tl.where(higher == float("-inf"), 0.0, higher)
        weights = tl.exp2(logits - level[:, None])
        fading = tl.exp2(highest - level)
        total = total * fading + tl.reduce(weights, 1, _add)
        if ATTENDING:
            values = tl.load(
                value + far[:, None] * value_row + columns[None, :] * value_column,
                mask=there[:, None] & (columns[None, :] < WIDTH),
                other=0.0,
            )
            sums = tl.dot(weights.to(values.dtype), values, sums * fading[:, None], input_precision=PRECISION)
        highest = higher
    empty = total == 0
    total = tl.where(empty, 1.0, total)
    # Infinity for a row with only -inf, so that the second kernel gives all its weights as 0.
    level = tl.where(empty, float("inf"), highest + tl.log2(total))
    tl.store(levels + pair.to(tl.int64) * count + rows, level, mask=rows < count)
    if ATTENDING:
        tl.store(
            context + wide[:, None] * context_row + columns[None, :] * context_column,
            (sums / total[:, None]).to(context.dtype.element_ty),
            mask=within,
        )


@triton.jit(do_not_specialize=_FREE)
def _receive(
    query,  # (batch, heads, count, WIDTH), as is key
    key,
    bias,  # (batch, heads, 1, count)
    levels,  # (batch · heads, count), of `_attend`
    voters,  # (batch, count − special)
    received,  # (batch · heads, count − special): sum over all voters for each key
    scale,  # of the logits, to base 2
    heads,
    count,
    special,
    blocks,  # of keys
    query_batch,  # strides, here and below
    query_head,
    query_row,
    query_column,
    key_batch,
    key_head,
    key_row,
    key_column,
    bias_batch,
    bias_head,
    bias_row,
    voters_batch,
    voters_row,
    WIDTH: tl.constexpr,
    PADDED: tl.constexpr,  # WIDTH, to the next power of two
    HELD: tl.constexpr,  # keys of a program
    STREAMED: tl.constexpr,  # queries at a time
    PRECISION: tl.constexpr,
    BIASED: tl.constexpr,
    VOTING: tl.constexpr,  # whether voters are given
):
    pair = tl.program_id(0) // blocks
    batch, head = (pair // heads).to(tl.int64), (pair % heads).to(tl.int64)
    keys = special + (tl.program_id(0) % blocks) * HELD + tl.arange(0, HELD)
    columns = tl.arange(0, PADDED)
    wide = keys.to(tl.int64)
    query += batch * query_batch + head * query_head
    key += batch * key_batch + head * key_head
    bias += batch * bias_batch + head * bias_head
    voters += batch * voters_batch
    levels += pair.to(tl.int64) * count
    received += pair.to(tl.int64) * (count - special)
    there = keys < count
    # Keys are the rows of this tile, so that each sum below is inside a row, which few threads share.
    held = tl.load(
        key + wide[:, None] * key_row + columns[None, :] * key_column,
        mask=there[:, None] & (columns[None, :] < WIDTH),
        other=0.0,
    )
    if BIASED:
        extra = tl.load(bias + wide * bias_row, mask=there, other=0.0).to(tl.float32) * LOG2_E
    else:
        extra = tl.full([HELD], 0.0, tl.float32)
    sums = tl.full([HELD], 0.0, tl.float32)
    for start in range(0, count, STREAMED):
        rows = start + tl.arange(0, STREAMED)
        far = rows.to(tl.int64)
        counting = (rows >= special) & (rows < count)
        turned = tl.load(
            query + far[None, :] * query_row + columns[:, None] * query_column,
            mask=counting[None, :] & (columns[:, None] < WIDTH),
            other=0.0,
        )
        # The weight of a vote is part of the exponent. No vote means a level of infinity, and a weight of 0.
        level = tl.load(levels + rows, mask=counting, other=float("inf"))
        if VOTING:
            vote = tl.load(voters + (far - special) * voters_row, mask=counting, other=0.0).to(tl.float32)
            level = tl.where(vote > 0, level - tl.log2(tl.where(vote > 0, vote, 1.0)), float("inf"))
        logits = tl.dot(held, turned, input_precision=PRECISION) * scale + extra[:, None]
        sums += tl.reduce(tl.exp2(logits - level[None, :]), 1, _add)
    tl.store(received + keys - special, sums, mask=there)


def launch(
    query: Tensor,
    key: Tensor,
    value: Tensor | None,
    bias: Tensor | None,
    voters: Tensor | None,
    scaling: float,
    special: int,
) -> tuple[Tensor, Tensor]:
    """Launch both kernels.

    The arguments are those of `operator.attend`. Returns the context (batch, heads, N, head_dim), empty if value is
    None, and the sum of attention received over all voters (batch, heads, N − special), float32."""
    batch, heads, count, width = query.shape
    levels = query.new_empty(batch * heads, count, dtype=torch.float32)
    received = query.new_empty(batch, heads, count - special, dtype=torch.float32)
    context = empty_context(value, query)
    if levels.numel() == 0:
        return context, received
    scale = scaling * LOG2_E.value
    padded = max(16, triton.next_power_of_2(width))
    held, streamed, options = tiles(padded, query.dtype)
    biases = None if bias is None else bias.expand(batch, heads, 1, count)
    bias_strides = (0, 0, 0) if biases is None else (biases.stride(0), biases.stride(1), biases.stride(3))
    # Missing tensors are never read, so query is passed in their place.
    values, contexts = (query, query) if value is None else (value, context)
    shape = {"WIDTH": width, "PADDED": padded, "HELD": held, "STREAMED": streamed, "BIASED": bias is not None}
    shape |= {"PRECISION": "ieee" if query.dtype == torch.float32 else "tf32"} | options
    blocks = triton.cdiv(count, held)
    _attend[(batch * heads * blocks,)](
        query, key, values, query if biases is None else biases, contexts, levels, scale, heads, count, blocks,
        *query.stride(), *key.stride(), *values.stride(), *bias_strides, *contexts.stride(),
        ATTENDING=value is not None, **shape,
    )  # fmt: skip
    if received.numel() == 0:
        return context, received
    blocks = triton.cdiv(count - special, held)
    votes = query if voters is None else voters.float()
    votes_strides = (0, 0) if voters is None else votes.stride()
    _receive[(batch * heads * blocks,)](
        query, key, query if biases is None else biases, levels, votes, received,
        scale, heads, count, special, blocks,
        *query.stride(), *key.stride(), *bias_strides, *votes_strides,
        VOTING=voters is not None, **shape,
    )  # fmt: skip
    return context, received


def tiles(padded: int, dtype: torch.dtype) -> tuple[int, int, dict[str, Any]]:
    """Rows that a program holds, rows that it streams, and its compile options.

    padded: padded width of a head. Held and streamed tiles together fit into the shared memory of a GPU with 99 KiB per
    program, and the sums fit into registers. In float32, no tensor cores are used, and less fits.
    """
    if dtype == torch.float32:
        held, streamed, warps, stages = {128: (32, 32, 8, 2), 256: (32, 16, 8, 2)}.get(padded, (64, 32, 8, 2))
    else:
        held, streamed, warps, stages = {128: (128, 64, 8, 2), 256: (64, 32, 4, 2)}.get(padded, (128, 64, 4, 3))
    # Logits are a product and a sum, which can be one instruction.
    return held, streamed, {"num_warps": warps, "num_stages": stages, "enable_fp_fusion": True}
