"""Recording of attention received and keys in a tower's last attention, without changing its output."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ...attention.scoring import eager_of

NAME = "audioprune_tapped"
"""Name of the function in transformers' `AttentionInterface`."""

LOGITS_AT_ONCE = 2**23
"""Most attention logits in memory at a time (32 MiB in float32); queries are processed in chunks."""

TAP = "_audioprune_tap"
"""Attribute of an attention module that has a tap."""


class TapRecord:
    """Record of one call of a tower.

    received: (rows, heads, frames) for each call of the attention: attention received by each frame, summed over the
    queries without padding. keys: (rows, frames, head_dim) for each call, the mean over heads.
    """

    def __init__(self, tap: AttentionTap, lengths: Tensor | None, masked: bool) -> None:
        self.tap, self._lengths, self._masked = tap, lengths, masked
        self.received: list[Tensor] = []
        self.keys: list[Tensor] = []

    @torch.no_grad()
    def add(self, query: Tensor, key: Tensor, scaling: float | None) -> None:
        """Record one call. query, key: (rows, heads, frames, head_dim)."""
        scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
        real = None
        if self._lengths is not None:
            real = torch.arange(key.shape[2], device=key.device) < self._lengths.to(key.device)[:, None]
        self.received.append(column_sums(query, key, scaling, real, self._masked))
        self.keys.append(key.mean(dim=1))


class _ThreadState(threading.local):
    """The record of this thread. A served model may run in many threads at once, and each records its own calls."""

    record: TapRecord | None = None


_THREAD = _ThreadState()


class AttentionTap:
    """A tap on an attention module, active inside `recording`.

    The module's output does not change: it still uses the model's own attention. In addition, queries and keys are
    multiplied again in chunks, so that the map of all pairs is never in memory.
    """

    def __init__(self, module: Any) -> None:
        AttentionInterface.register(NAME, tapped_attention)
        self.module, self._config = module, module.config
        self.eager = eager_of(module)
        # Blocks share one config. This module gets its own copy, so that the others keep their attention.
        module.config = copy.copy(module.config)
        module.config._attn_implementation = NAME
        setattr(module, TAP, self)

    @property
    def implementation(self) -> str:
        """Name of the model's own attention. It may be changed while the model is pruned."""
        return self._config._attn_implementation or "eager"

    def __setstate__(self, state: dict[str, Any]) -> None:
        # In another process, the attention is not registered yet.
        self.__dict__.update(state)
        AttentionInterface.register(NAME, tapped_attention)

    def remove(self) -> None:
        """Remove the tap and restore the module's config."""
        self.module.config = self._config
        delattr(self.module, TAP)

    @contextmanager
    def recording(self, lengths: Tensor | None, masked: bool) -> Iterator[TapRecord]:
        """Record the calls of this thread inside the context.

        lengths: (rows,), frames of each row without padding; None if the tower packs its rows without padding. masked:
        whether the tower masks padding itself.
        """
        before, _THREAD.record = _THREAD.record, TapRecord(self, lengths, masked)
        try:
            yield _THREAD.record
        finally:
            _THREAD.record = before


def tapped_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Record queries and keys, then run the model's own attention. It has transformers' attention signature."""
    tap: AttentionTap = getattr(module, TAP)
    record = _THREAD.record
    if record is not None and record.tap is tap:
        record.add(query, key, scaling)
    own = ALL_ATTENTION_FUNCTIONS.get_interface(tap.implementation, tap.eager)
    return own(module, query, key, value, attention_mask, scaling=scaling, **kwargs)


def column_sums(
    query: Tensor,
    key: Tensor,
    scaling: float,
    real: Tensor | None = None,
    masked: bool = True,
    chunk: int | None = None,
) -> Tensor:
    """Attention received by each key, summed over queries: Σ_n A[b, h, n, i], (batch, heads, n) in float32.

    Memory grows with n, not n², because queries are processed in chunks.

    Args:
        query: (batch, heads, n, head_dim).
        key: (batch, heads, n, head_dim).
        scaling: factor of the logits.
        real: (batch, n), False for padding, whose queries do not count; None without padding.
        masked: whether padding also receives no attention.
        chunk: number of queries at a time.
    """
    batch, heads, n, _ = query.shape
    if chunk is None:
        chunk = max(1, LOGITS_AT_ONCE // (batch * heads * n))
    wide = torch.promote_types(query.dtype, torch.float32)
    blocked = None if real is None or not masked else ~real[:, None, None, :]
    transposed, sums = key.transpose(2, 3), torch.zeros(batch, heads, n, dtype=wide, device=query.device)
    for start in range(0, n, chunk):
        logits = (query[:, :, start : start + chunk] @ transposed).to(wide) * scaling
        if blocked is not None:
            logits = logits.masked_fill(blocked, float("-inf"))
        weights = logits.softmax(dim=-1)
        if real is not None:
            # Rows of padding only are all −inf, so their softmax is NaN. A product with 0 would still be NaN.
            weights = weights.masked_fill(~real[:, None, start : start + chunk, None], 0.0)
        sums += weights.sum(dim=2)
    return sums
