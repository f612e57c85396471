"""How a model family is entered: the adapter contract, what is changed in a model, and the registry.

An adapter knows where a model keeps its blocks and how it numbers its patches. Of the method at work it knows only
the `Reducer` protocol.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable
from typing import Any, ClassVar

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils.output_capturing import _CAN_RECORD_REGISTRY

from ..attention import scoring as attention
from ..core.tokens import Grid, Reducer, Shape
from .entering import ATTACHMENT, Entering, entering_subclass
from .swapped import refuse_unequal

LEARNED = "audioprune_method"
"""Name under which what a method learns is a module of the encoder."""


class UnsupportedModelError(TypeError):
    """No adapter enters this model. The message says which families there are."""


class Adapter(ABC):
    """One model, entered.

    Subclasses set `encoder` (the module whose forward runs the blocks and passes unknown keyword arguments on to
    them), `layers`, `special` (leading tokens that are not patches), and name the classes that they swap: those of
    the blocks, and those in which a pass begins (`Entering`).
    """

    family: ClassVar[str]
    """What the family is called in messages."""
    swaps: ClassVar[dict[type[nn.Module], type[nn.Module]]]
    """Class of a module in the model → the subclass that it becomes while pruned."""

    encoder: Any
    layers: Any
    special: int
    grid: Grid | None = None
    """Of the patches of every clip; None where clips differ in length."""
    once: ClassVar[bool] = False
    """Whether tokens are reduced in one place and not in blocks, to a number that does not depend on the sound."""
    positions: str = "renumber"
    """Where tokens are reduced once: whether positions close up over the gaps, or ("keep") stay as they were."""

    @classmethod
    @abstractmethod
    def find(cls, model: nn.Module) -> list[Adapter]:
        """An adapter for each encoder of this family in the model."""

    @abstractmethod
    def patch_statistics(self, kwargs: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each input patch, (batch, patches) each, from the encoder's arguments."""

    @abstractmethod
    def check_input(self, kwargs: dict[str, Any], reducer: Reducer) -> None:
        """Raise `ValueError` for arguments of the encoder that cannot be served while tokens are dropped."""

    def check_method(self, needs: frozenset[str]) -> None:
        """Raise `ValueError` where a method needs to look at something that the model does not have."""
        if self.special == 0 and needs & {"cls", "cls_heads"}:
            raise ValueError(
                f"this model ({self.family}) has no CLS token whose attention could rank tokens; "
                'use score="attention", what each token received from all others'
            )

    def grid_of(self, tokens: int) -> Grid:
        """The patches of a forward that begins with so many droppable tokens."""
        return self.grid or Grid(tokens, 1, frequency_major=False)

    def lengths(self, kwargs: dict[str, Any]) -> Tensor | None:
        """(batch,), how many of the droppable tokens of each clip are no padding, None where all are. Padding follows
        the clip, and the model must mask it too."""
        return None

    @property
    def tower(self) -> Any:
        """The module whose output's `last_hidden_state` is what the head reads."""
        return self.encoder

    @property
    def shape(self) -> Shape:
        """The model's, for a method that learns something."""
        config = self.encoder.config
        return Shape(config.hidden_size, config.num_attention_heads, len(self.layers), self.special, None)

    @property
    def implementation(self) -> str:
        """Name of the attention that the model runs when left alone."""
        return self.encoder.config._attn_implementation or "eager"

    @property
    def pooled_by(self) -> nn.Module | None:
        """The layer of a head that is followed by a mean over tokens, None if no such head was swapped."""
        return None

    @property
    def eager(self) -> Callable[..., Any]:
        """The eager attention function of the model's own module."""
        return attention.eager_of(self.attention_of(self.layers[0]))

    def attention_of(self, layer: Any) -> Any:
        """A block's attention module, whose `config` names the attention to run."""
        return layer.attention

    def swap_of(self, module: nn.Module) -> type[nn.Module] | None:
        """The class that a module becomes while pruned; None if it stays what it is, or must not be pruned.

        A block must be of a known class, for its forward is written anew. A head or an encoder may be of a subclass.
        """
        if type(module) in self.swaps:
            return self.swaps[type(module)]
        pruned = (self.swaps[base] for base in type(module).__mro__ if base in self.swaps)
        nearest: Any = next(pruned, None)
        own: Any = type(module)
        return entering_subclass(nearest, own) if nearest is not None and issubclass(nearest, Entering) else None

    def attach(self, reducer: Reducer) -> Attachment:
        """Swap classes and attention. The returned object undoes it all."""
        self._check_classes()
        attention.register()
        return Attachment(self, reducer)

    def _check_classes(self) -> None:
        """Raise `UnsupportedModelError` if a module would not be swapped, and so would run unpruned unnoticed, or if a
        block is not this encoder's alone."""
        times = Counter(id(layer) for layer in self.layers)
        if max(times.values()) > 1:
            raise UnsupportedModelError(
                f"one block is used {max(times.values())} times among the {len(self.layers)} of this model, and tokens "
                "that it drops in one place would be missing in the others; give each place a block of its own "
                "(copy.deepcopy), or leave the model unpruned"
            )
        parts: list[tuple[str, nn.Module]] = list(self.encoder.named_modules())
        for path, module in parts:
            name = path or type(module).__name__
            if hasattr(module, ATTACHMENT) or type(module) in self.swaps.values():
                raise UnsupportedModelError(
                    f"{name} is pruned already, with another model that shares it; "
                    "remove() that model's handle first, or give this model a copy of its own (copy.deepcopy)"
                )
            if not isinstance(module, tuple(self.swaps)):
                continue
            if self.swap_of(module) is None:
                raise UnsupportedModelError(
                    f"{name} is a {type(module).__name__}, a subclass of what audioprune knows how to replace; "
                    "prune the model before it is wrapped (FSDP and the like), or add an adapter for the subclass"
                )
            if "forward" in module.__dict__:
                raise UnsupportedModelError(
                    f"{name}.forward was replaced on the instance (offloading hooks and "
                    "accelerate do so), which would hide the pruned one; prune the model before that"
                )


class Attachment:
    """What was changed in a model, and how to change it back.

    `reducer` may be replaced between forwards: each reads it once, where it begins.
    """

    def __init__(self, adapter: Adapter, reducer: Reducer) -> None:
        self.adapter, self.reducer = adapter, reducer
        self.eager = adapter.eager
        self._swapped: list[tuple[nn.Module, type[nn.Module]]] = []
        for module in adapter.encoder.modules():
            if (pruned := adapter.swap_of(module)) is not None:
                self._swap(module, pruned)
        for index, layer in enumerate(adapter.layers):
            layer._audioprune_index = index
            attend = adapter.attention_of(layer)
            setattr(attend, attention.OWN_CONFIG, attend.config)
            # Blocks share one config: each gets its own copy, so that nothing else sees the changed attention.
            attend.config = copy.copy(attend.config)
            attend.config._attn_implementation = attention.NAME
        # Who calls a head's own forward, which it kept from before, must not get a plain mean of merged tokens.
        if adapter.pooled_by is not None:
            adapter.pooled_by.register_forward_pre_hook(refuse_unequal)
        if reducer.learned is not None:
            # In the model it trains, moves and is saved with it.
            adapter.encoder.add_module(LEARNED, reducer.learned)

    def _swap(self, module: nn.Module, pruned: type[nn.Module]) -> None:
        self._swapped.append((module, type(module)))
        module.__class__ = pruned
        if issubclass(pruned, Entering):
            setattr(module, ATTACHMENT, self)
        if isinstance(module, PreTrainedModel):
            # transformers looks up by class which outputs can be recorded, and the class may be a new one.
            _CAN_RECORD_REGISTRY[module] = module._can_record_outputs

    def __setstate__(self, state: dict[str, Any]) -> None:
        # In another process (a worker, a pickled model) transformers does not know the attention yet.
        self.__dict__.update(state)
        attention.register()

    def detach(self) -> None:
        """Give every module its class and its config back."""
        for layer in self.adapter.layers:
            attend = self.adapter.attention_of(layer)
            attend.config = getattr(attend, attention.OWN_CONFIG)
            delattr(attend, attention.OWN_CONFIG)
            del layer._audioprune_index
        if self.adapter.pooled_by is not None:
            hooks = self.adapter.pooled_by._forward_pre_hooks
            # Not by the handle of the registration: quantisation puts another layer, with the same hooks, in its place.
            for key in [key for key, hook in hooks.items() if hook is refuse_unequal]:
                del hooks[key]
        for module, original in self._swapped:
            module.__class__ = original
            module.__dict__.pop(ATTACHMENT, None)
        if self.reducer.learned is not None:
            delattr(self.adapter.encoder, LEARNED)
        self._swapped = []


_REGISTRY: list[type[Adapter]] = []


def register_adapter(adapter: type[Adapter]) -> type[Adapter]:
    """Class decorator: `find_adapter` will ask this family too."""
    _REGISTRY.append(adapter)
    return adapter


def find_adapter(model: nn.Module) -> Adapter:
    """The adapter that enters this model. Raises `UnsupportedModelError` where there is none."""
    if not isinstance(model, nn.Module):
        hint = f"; load it first: audioprune.load({model!r})" if isinstance(model, str) else ""
        raise UnsupportedModelError(f"expected a PyTorch model, got {type(model).__name__}{hint}")
    found = [adapter for family in _REGISTRY for adapter in family.find(model)]
    if len(found) > 1:
        raise UnsupportedModelError(
            f"{type(model).__name__} holds {len(found)} encoders; prune the one that is meant, by itself"
        )
    if found:
        return found[0]
    families = "; ".join(adapter.family for adapter in _REGISTRY)
    raise UnsupportedModelError(
        f"{type(model).__name__} holds no encoder that audioprune can enter. It enters: {families}. "
        "CONTRIBUTING.md tells how to add a family"
    )
