"""Changes in a model while its blocks reduce tokens."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from torch import nn
from transformers import PreTrainedModel
from transformers.utils.output_capturing import _CAN_RECORD_REGISTRY

from ...attention import scoring as attention
from ...core.tokens import Reducer
from ..base import Attachment
from .entering import ATTACHMENT, Entering
from .swapped import refuse_unequal

if TYPE_CHECKING:
    from .adapter import BlockAdapter

LEARNED = "audioprune_method"
"""Name of the module in the encoder that contains what the method learns."""


class BlockAttachment(Attachment):
    """Swapped classes and attention of an encoder, and the module that the method learns."""

    def __init__(self, adapter: BlockAdapter, reducer: Reducer) -> None:
        self.adapter, self.reducer = adapter, reducer
        self.eager = adapter.eager
        self._swapped: list[tuple[nn.Module, type[nn.Module]]] = []
        for module in adapter.root.modules():
            if (pruned := adapter.swap_of(module)) is not None:
                self._swap(module, pruned)
        for index, layer in enumerate(adapter.layers):
            layer._audioprune_index = index
            attend = adapter.attention_of(layer)
            setattr(attend, attention.OWN_CONFIG, attend.config)
            # Blocks share one config. Each gets its own copy, so that other modules keep their attention.
            attend.config = copy.copy(attend.config)
            attend.config._attn_implementation = attention.NAME
        # A caller who kept a head's original forward must not get a plain mean of merged tokens.
        if adapter.pooled_by is not None:
            adapter.pooled_by.register_forward_pre_hook(refuse_unequal)
        if reducer.learned is not None:
            # As part of the model it is trained, moved and saved with the model.
            adapter.encoder.add_module(LEARNED, reducer.learned)

    def _swap(self, module: nn.Module, pruned: type[nn.Module]) -> None:
        self._swapped.append((module, type(module)))
        module.__class__ = pruned
        if issubclass(pruned, Entering):
            setattr(module, ATTACHMENT, self)
        if isinstance(module, PreTrainedModel):
            # transformers looks up the recordable outputs by class, and the class may be new.
            _CAN_RECORD_REGISTRY[module] = module._can_record_outputs

    def __setstate__(self, state: dict[str, Any]) -> None:
        # In another process (a worker, a pickled model), the attention is not registered yet.
        self.__dict__.update(state)
        attention.register()

    def detach(self) -> None:
        """Restore the class and the config of every module."""
        for layer in self.adapter.layers:
            attend = self.adapter.attention_of(layer)
            attend.config = getattr(attend, attention.OWN_CONFIG)
            delattr(attend, attention.OWN_CONFIG)
            del layer._audioprune_index
        if self.adapter.pooled_by is not None:
            hooks = self.adapter.pooled_by._forward_pre_hooks
            # Not through the registration's handle: quantisation replaces the layer by another with the same hooks.
            for key in [key for key, hook in hooks.items() if hook is refuse_unequal]:
                del hooks[key]
        for module, original in self._swapped:
            module.__class__ = original
            module.__dict__.pop(ATTACHMENT, None)
        if self.reducer.learned is not None:
            delattr(self.adapter.encoder, LEARNED)
        self._swapped = []
