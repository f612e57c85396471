"""Attention sinks: the places at which a model keeps a few tokens of great norm that every query attends to.

Xiao et al., arXiv 2309.17453; of the norms: Sun et al., arXiv 2402.17762. In Whisper they lie in the padding.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ..adapters import Adapter, find_adapter
from ..adapters.audio_lm.adapter import PromptAdapter
from ..adapters.blocks.adapter import BlockAdapter
from .twin import is_offloaded, twin

TIMES_MEDIAN = 4
"""A sink is a token whose norm after some block is so many times the median of all tokens."""

_found: WeakKeyDictionary[nn.Module, tuple[Hashable, Tensor | None]] = WeakKeyDictionary()


Blocks = Callable[[Any], Iterable[nn.Module]]
"""The blocks of an encoder."""


def find_sinks(adapter: Adapter) -> Tensor | None:
    """Tokens of a model's encoder that are attention sinks in a silent clip, (tokens,) booleans; None if that cannot be
    told, or if the encoder masks its padding.

    The unpruned encoder runs on silence once, and again only if its weights have changed.
    """
    if isinstance(adapter, BlockAdapter):
        return _found_in(adapter.tower, adapter.silence(), _blocks_of, adapter.special)
    if isinstance(adapter, PromptAdapter) and adapter.pads and not adapter.entry.masked:
        return _found_in(adapter.audio_tower, adapter.silence(), lambda tower: tower.layers, 0)
    return None


def _blocks_of(tower: nn.Module) -> Iterable[nn.Module]:
    adapter = find_adapter(tower)
    assert isinstance(adapter, BlockAdapter)
    return adapter.layers


def _found_in(tower: nn.Module, silence: dict[str, Tensor] | None, blocks: Blocks, special: int) -> Tensor | None:
    weights = list(tower.parameters())
    if silence is None or (any(weight.is_meta for weight in weights) and not is_offloaded(tower)):
        return None
    state = tuple((weight.data_ptr(), 0 if weight.is_inference() else weight._version) for weight in weights)
    known, sinks = _found.get(tower, (None, None))
    if known != state:
        sinks = _sinks_in(tower, silence, blocks, special)
        _found[tower] = state, sinks
    return sinks


@torch.no_grad()
def _sinks_in(tower: nn.Module, clip: dict[str, Tensor], blocks: Blocks, special: int) -> Tensor | None:
    """Sinks in one clip, (tokens,) booleans. clip: the arguments of the tower."""
    try:
        copied = twin(tower)
    except ValueError:  # it cannot be copied
        return None
    norms: list[Tensor] = []

    def note(block: nn.Module, arguments: object, output: Tensor | tuple[Tensor, ...]) -> None:
        hidden = output[0] if isinstance(output, tuple) else output
        norms.append(hidden[0, special:].float().norm(dim=-1))

    for layer in blocks(copied):
        layer.register_forward_hook(note)
    copied(**clip)
    return torch.stack([norm > TIMES_MEDIAN * norm.median() for norm in norms]).any(dim=0)
