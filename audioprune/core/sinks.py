"""Attention sinks: the places at which a model keeps a few tokens of great norm that every query attends to.

Xiao et al., arXiv 2309.17453; of the norms: Sun et al., arXiv 2402.17762. In Whisper they lie in the padding.
"""

from __future__ import annotations

from collections.abc import Hashable
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ..adapters import find_adapter
from ..adapters.blocks.adapter import BlockAdapter
from .twin import is_offloaded, twin

TIMES_MEDIAN = 4
"""A sink is a token whose norm after some block is so many times the median of all tokens."""

_found: WeakKeyDictionary[nn.Module, tuple[Hashable, Tensor | None]] = WeakKeyDictionary()


def find_sinks(adapter: BlockAdapter) -> Tensor | None:
    """Patches that are attention sinks in a silent clip, (patches,) booleans; None if that cannot be told.

    The unpruned model runs on silence once, and again only if its weights have changed.
    """
    tower, silence = adapter.tower, adapter.silence()
    weights = list(tower.parameters())
    if silence is None or (any(weight.is_meta for weight in weights) and not is_offloaded(tower)):
        return None
    state = tuple((weight.data_ptr(), 0 if weight.is_inference() else weight._version) for weight in weights)
    known, sinks = _found.get(tower, (None, None))
    if known != state:
        sinks = _sinks_in(tower, silence)
        _found[tower] = state, sinks
    return sinks


@torch.no_grad()
def _sinks_in(tower: nn.Module, clip: dict[str, Tensor]) -> Tensor | None:
    """Sinks in one clip, (patches,) booleans. clip: the arguments of the tower."""
    try:
        copied = twin(tower)
    except ValueError:  # it cannot be copied
        return None
    adapter = find_adapter(copied)
    assert isinstance(adapter, BlockAdapter)
    norms: list[Tensor] = []

    def note(block: nn.Module, arguments: object, output: Tensor | tuple[Tensor, ...]) -> None:
        hidden = output[0] if isinstance(output, tuple) else output
        norms.append(hidden[0, adapter.special :].float().norm(dim=-1))

    for layer in adapter.layers:
        layer.register_forward_hook(note)
    copied(**clip)
    return torch.stack([norm > TIMES_MEDIAN * norm.median() for norm in norms]).any(dim=0)
