"""Padding in the encoder of an audio-language model: what its blocks need not compute.

A processor pads every clip to the encoder's window (30 s). An encoder that masks padding is left the frames of the
longest clip: nothing attends to the others, so that the answer stays the same to rounding. In an encoder that does not
mask it, padding may be merged before the first block, by a method that asks for it. After the last block, each frame
gets the output of the frame that it was merged into, so that the number of audio tokens stays.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ...core.tokens import Place, Reducer, Reduction
from .spans import in_time

HIDDEN, MASK, ROTARY = "hidden_states", "attention_mask", "position_embeddings"
"""Arguments of a block, the first two in this order."""


class Shorter(Protocol):
    """The frames of one call of an encoder that its blocks compute."""

    def frames(self, hidden: Tensor) -> Tensor:
        """(rows, n, …) → (rows, shorter, …)."""

    def mask(self, mask: Tensor | None) -> Tensor | None:
        """The attention mask of these frames."""

    def positions(self, rotary: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Rotary embeddings, (1, n, head_dim) each, of these frames."""

    def restore(self, hidden: Tensor) -> Tensor:
        """(rows, shorter, width) → (rows, n, width)."""


class LeftOut:
    """The first frames of each row: the others are padding, which the encoder masks.

    What is put in their place is 0: nothing reads it.
    """

    def __init__(self, whole: int, count: int) -> None:
        self.whole, self.count = whole, count

    def frames(self, hidden: Tensor) -> Tensor:
        return hidden[:, : self.count]

    def mask(self, mask: Tensor | None) -> Tensor | None:
        if mask is None or mask.ndim == 2:
            return None if mask is None else mask[:, : self.count]
        return mask[:, :, : self.count, : self.count]

    def positions(self, rotary: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(part[:, : self.count] for part in rotary)

    def restore(self, hidden: Tensor) -> Tensor:
        return nn.functional.pad(hidden, (0, 0, 0, self.whole - self.count))


class Merged:
    """Frames of which some stand for several, in an encoder without a mask. reduction: what a method made of them."""

    def __init__(self, reduction: Reduction) -> None:
        self._tokens = reduction.tokens
        self._kept = reduction.kept.clamp_min(0)
        self._destination = reduction.destination
        size, filler = reduction.tokens.size, reduction.kept < 0
        exact = torch.promote_types(reduction.tokens.hidden.dtype, torch.float32)
        bias = torch.zeros_like(filler, dtype=exact) if size is None else size.to(exact).clamp_min(1).log()
        # log(size) to the logits of a key: it counts as often as it stands for frames.
        self._bias = bias.masked_fill(filler, float("-inf"))[:, None, None]

    def frames(self, hidden: Tensor) -> Tensor:
        return self._tokens.hidden

    def mask(self, mask: Tensor | None) -> Tensor | None:
        return self._bias.to(self._tokens.hidden.dtype)

    def positions(self, rotary: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(part.expand(len(self._kept), -1, -1).gather(1, self._index(part)) for part in rotary)

    def restore(self, hidden: Tensor) -> Tensor:
        if self._destination is None:
            return hidden
        return hidden.gather(1, self._destination[..., None].expand(-1, -1, hidden.shape[2]))

    def _index(self, part: Tensor) -> Tensor:
        return self._kept[..., None].expand(-1, -1, part.shape[2])


@dataclass
class EncoderCall:
    """One call of an encoder whose padding is skipped.

    reducer: the method at work. real: (rows,), frames of each row that are no padding. place: where the method merges
    the padding; None if the encoder masks it. sinks: (frames,) booleans, attention sinks in silence; None for none.
    """

    reducer: Reducer
    real: Tensor
    place: Place | None = None
    sinks: Tensor | None = None
    shorter: Shorter | None = None

    def begin(self, hidden: Tensor, mask: object) -> None:
        """Decide what the blocks compute. hidden: (rows, n, width) and mask come into the first block."""
        self.shorter = self._left_out(hidden, mask) if self.place is None else self._merged(self.place, hidden)

    def _left_out(self, hidden: Tensor, mask: object) -> Shorter | None:
        count = int(self.real.max())
        # Without a mask there is no padding. Masks of another kind (flex attention's) cannot be cut.
        if not isinstance(mask, Tensor) or not 0 < count < hidden.shape[1]:
            return None
        return LeftOut(hidden.shape[1], count)

    def _merged(self, place: Place, hidden: Tensor) -> Shorter | None:
        rows, n = hidden.shape[:2]
        padding = torch.arange(n, device=hidden.device).expand(rows, -1) >= self.real.to(hidden.device)[:, None]
        if not bool(padding.any()):
            return None
        sinks = torch.zeros_like(padding)
        if self.sinks is not None:
            known = self.sinks[:n].to(sinks.device)
            sinks[:, : len(known)] = known
        return Merged(self.reducer.reduce(*in_time(hidden, place, padding=padding, sinks=sinks)))


class _ThreadState(threading.local):
    """The call that runs in this thread. A served model may run in many threads at once."""

    current: tuple[EncoderPadding, EncoderCall] | None = None


_THREAD = _ThreadState()


class EncoderPadding:
    """Hooks on the blocks of an audio encoder. They do nothing outside of `skipped`."""

    def __init__(self, tower: Any) -> None:
        self._first, self._last = tower.layers[0], tower.layers[-1]
        self._hooks = [
            layer.register_forward_pre_hook(self._enter, with_kwargs=True, prepend=True) for layer in tower.layers
        ]
        self._hooks.append(self._last.register_forward_hook(self._leave, prepend=True))

    def remove(self) -> None:
        for hook in self._hooks:
            hook.remove()

    @contextmanager
    def skipped(self, call: EncoderCall | None) -> Iterator[None]:
        """Skip the padding of the encoder's call in this thread, inside the context. call: None skips nothing."""
        before = _THREAD.current
        _THREAD.current = None if call is None else (self, call)
        try:
            yield
        finally:
            _THREAD.current = before

    @property
    def is_active(self) -> bool:
        """Whether padding is skipped in this thread now."""
        return self._call is not None

    @property
    def _call(self) -> EncoderCall | None:
        padding, call = _THREAD.current or (None, None)
        return call if padding is self else None

    def _enter(self, layer: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]] | None:
        call = self._call
        if call is None:
            return None
        arguments = dict(zip((HIDDEN, MASK), args, strict=False)) | kwargs
        if layer is self._first:
            call.begin(arguments[HIDDEN], arguments.get(MASK))
        if call.shorter is None:
            return None
        if layer is self._first:
            arguments[HIDDEN] = call.shorter.frames(arguments[HIDDEN])
        arguments[MASK] = call.shorter.mask(arguments.get(MASK))
        if arguments.get(ROTARY) is not None:
            arguments[ROTARY] = call.shorter.positions(arguments[ROTARY])
        return (arguments.pop(HIDDEN),), arguments

    def _leave(self, layer: nn.Module, args: tuple, output: Tensor | tuple) -> Tensor | tuple | None:
        call = self._call
        if call is None or call.shorter is None:
            return None
        if isinstance(output, tuple):
            return (call.shorter.restore(output[0]), *output[1:])
        return call.shorter.restore(output)
