"""What a tower's last attention says of each of its frames, without changing what it computes."""

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
"""Under this name the function is registered with transformers' `AttentionInterface`."""

LOGITS_AT_ONCE = 2**23
"""Attention logits that are in memory at a time (32 MiB in float32): queries go through in chunks."""

TAP = "_audioprune_tap"
"""Attribute of an attention module under watch."""


class TapRecord:
    """What one call of a tower said.

    received: for each call of the attention, (rows, heads, frames), the attention that each frame received, summed
    over the queries that are no padding. keys: (rows, frames, head_dim) each, the mean over heads.
    """

    def __init__(self, watch: AttentionTap, lengths: Tensor | None, masked: bool) -> None:
        self.watch, self._lengths, self._masked = watch, lengths, masked
        self.received: list[Tensor] = []
        self.keys: list[Tensor] = []

    @torch.no_grad()
    def add(self, query: Tensor, key: Tensor, scaling: float | None) -> None:
        """Note one call. query, key: (rows, heads, frames, head_dim)."""
        scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
        real = None
        if self._lengths is not None:
            real = torch.arange(key.shape[2], device=key.device) < self._lengths.to(key.device)[:, None]
        self.received.append(column_sums(query, key, scaling, real, self._masked))
        self.keys.append(key.mean(dim=1))


class _OfThread(threading.local):
    """A model that is served runs in many threads at once: each takes notes of its own call."""

    notes: TapRecord | None = None


_OF_THREAD = _OfThread()


class AttentionTap:
    """An attention module under watch, while somebody takes `notes`.

    The module computes what it always did, by the attention that the model runs; beside it, queries and keys are
    multiplied once more, in chunks, so that the map of all pairs is never in memory.
    """

    def __init__(self, module: Any) -> None:
        AttentionInterface.register(NAME, tapped_attention)
        self.module, self._config = module, module.config
        self.eager = eager_of(module)
        # Blocks share one config: the watched one gets its own copy, so that nothing else sees the changed attention.
        module.config = copy.copy(module.config)
        module.config._attn_implementation = NAME
        setattr(module, TAP, self)

    @property
    def implementation(self) -> str:
        """The attention that the model runs, which may be changed while it is pruned."""
        return self._config._attn_implementation or "eager"

    def __setstate__(self, state: dict[str, Any]) -> None:
        # In another process transformers does not know the attention yet.
        self.__dict__.update(state)
        AttentionInterface.register(NAME, tapped_attention)

    def remove(self) -> None:
        """Give the module its config back."""
        self.module.config = self._config
        delattr(self.module, TAP)

    @contextmanager
    def notes(self, lengths: Tensor | None, masked: bool) -> Iterator[TapRecord]:
        """Note the calls that this thread makes meanwhile.

        lengths: (rows,), frames of each row of a padded batch that are no padding; None: the tower packs its rows,
        without padding. masked: whether the tower masks the others itself.
        """
        before, _OF_THREAD.notes = _OF_THREAD.notes, TapRecord(self, lengths, masked)
        try:
            yield _OF_THREAD.notes
        finally:
            _OF_THREAD.notes = before


def tapped_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """transformers' attention signature: the model's own attention, after a look at the queries and keys."""
    watch: AttentionTap = getattr(module, TAP)
    notes = _OF_THREAD.notes
    if notes is not None and notes.watch is watch:
        notes.add(query, key, scaling)
    own = ALL_ATTENTION_FUNCTIONS.get_interface(watch.implementation, watch.eager)
    return own(module, query, key, value, attention_mask, scaling=scaling, **kwargs)


def column_sums(
    query: Tensor,
    key: Tensor,
    scaling: float,
    real: Tensor | None = None,
    masked: bool = True,
    chunk: int | None = None,
) -> Tensor:
    """Attention that each key received, summed over queries: Σ_n A[b, h, n, i], (batch, heads, n) in float32.

    query, key: (batch, heads, n, head_dim). real: (batch, n), False for padding, which does not vote; where `masked`,
    it gets no attention either. Memory grows with n, not n²: `chunk` queries go through at a time.
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
            # Rows that are padding altogether are all −inf: not a number times no vote is still not a number.
            weights = weights.masked_fill(~real[:, None, start : start + chunk, None], 0.0)
        sums += weights.sum(dim=2)
    return sums
