"""Recording of attention received and keys in a tower's last attention."""

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

from ...attention.scoring import attend_with_scores, eager_of, score_keys

NAME = "audioprune_tapped"
"""Name of the function in transformers' `AttentionInterface`."""

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

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, scaling: float | None, mask: object
    ) -> tuple[Tensor, None] | None:
        """Record one call, with the arguments of the attention.

        query, key, value: (rows, heads, frames, head_dim). Returns the attention's result if it was computed on the
        way, with one softmax for both; else None.
        """
        scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
        real, frames = None, key.shape[2]
        if self._lengths is not None and bool((self._lengths < frames).any()):
            real = torch.arange(frames, device=key.device) < self._lengths.to(key.device)[:, None]
        self.keys.append(key.detach().mean(dim=1))
        # Without padding, a tower's own mask hides nothing. In training the model's own attention must run.
        hides = real is not None or (mask is not None and self._lengths is None)
        if self.tap.implementation == "sdpa" and not hides and not torch.is_grad_enabled():
            context, received = attend_with_scores(query, key, value, scaling)
            self.received.append(received * frames)
            return context.transpose(1, 2).contiguous(), None
        # A tower that masks no padding has a mask only if stand-ins count for several frames (`encoder_padding`).
        bias = mask if isinstance(mask, Tensor) and not self._masked else None
        with torch.no_grad():
            self.received.append(summed_scores(query, key, scaling, real, self._masked, bias))
        return None


def summed_scores(
    query: Tensor,
    key: Tensor,
    scaling: float,
    real: Tensor | None = None,
    masked: bool = True,
    bias: Tensor | None = None,
) -> Tensor:
    """Compute the attention received by each key in each head, summed over the queries: (rows, heads, frames).

    Args:
        query: (rows, heads, frames, head_dim).
        key: (rows, heads, frames, head_dim).
        scaling: factor of the logits.
        real: (rows, frames), False for padding, whose queries do not count; None without padding.
        masked: whether padding also receives no attention.
        bias: (rows, 1, 1, frames), added to the logits of the keys; or None.
    """
    if real is None:
        return score_keys(query, key, scaling, bias) * key.shape[2]
    mask = query.new_zeros(real.shape).masked_fill(~real, float("-inf"))[:, None, None] if masked else bias
    voters = real.to(torch.promote_types(query.dtype, torch.float32))
    count = voters.sum(dim=1)[:, None, None]
    # In a row of padding only, no query votes, so the mean is NaN.
    return torch.where(count > 0, score_keys(query, key, scaling, mask, voters) * count, 0.0)


class _ThreadState(threading.local):
    """The record of this thread. A served model may run in many threads at once, and each records its own calls."""

    record: TapRecord | None = None


_THREAD = _ThreadState()


class AttentionTap:
    """A tap on an attention module, active inside `recording`.

    Without padding and gradients, one pass gives the module's output and the scores: the output is that of SDPA, to
    rounding. Else the model's own attention runs, and `score_keys` multiplies queries and keys again. Both work piece
    by piece or in a kernel, so that the map of all pairs is never in memory.
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
    """Record queries and keys, and attend. It has transformers' attention signature."""
    tap: AttentionTap = getattr(module, TAP)
    record = _THREAD.record
    if record is not None and record.tap is tap:
        computed = record.attend(query, key, value, scaling, attention_mask)
        if computed is not None:
            return computed
    own = ALL_ATTENTION_FUNCTIONS.get_interface(tap.implementation, tap.eager)
    return own(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
