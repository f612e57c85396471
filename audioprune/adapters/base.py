"""How a model family is entered: the adapter contract, what is changed in a model, and the registry.

An adapter knows where a model keeps its blocks and how it numbers its patches. Of the method at work it knows only
the `Reducer` protocol.
"""

from __future__ import annotations

import copy
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

from torch import Tensor, nn

from .. import attention
from ..tokens import Grid, Reducer, Shape
from .token_pass import TokenPass

KWARG = "token_pass"
"""Keyword argument in which a forward's `TokenPass` travels through the encoder, from block to block."""

LEARNED = "audioprune_method"
"""Name under which what a method learns is a module of the encoder."""


class UnsupportedModelError(TypeError):
    """No adapter enters this model. The message says which families there are."""


class Adapter(ABC):
    """One model, entered.

    Subclasses set `encoder` (the module whose forward runs the blocks and passes unknown keyword arguments on to
    them), `layers`, `special` (leading tokens that are not patches), and name the classes that they swap.
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
    def check_input(self, kwargs: dict[str, Any]) -> None:
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
    def eager(self) -> Callable[..., Any]:
        """The eager attention function of the model's own module."""
        return sys.modules[type(self.attention_of(self.layers[0])).__module__].eager_attention_forward

    def attention_of(self, layer: Any) -> Any:
        """A block's attention module, whose `config` names the attention to run."""
        return layer.attention

    def attach(self, reducer: Reducer) -> Attachment:
        """Swap classes and attention, and hook the encoder. The returned object undoes it all."""
        self._check_classes()
        attention.register()
        return Attachment(self, reducer)

    def _check_classes(self) -> None:
        """Raise `UnsupportedModelError` where a module would not be swapped, and so would run unpruned unnoticed."""
        for name, module in self.encoder.named_modules():
            if not isinstance(module, tuple(self.swaps)):
                continue
            if type(module) not in self.swaps:
                raise UnsupportedModelError(
                    f"{name} is a {type(module).__name__}, a subclass of what audioprune knows how to replace; "
                    "prune the model before it is wrapped (FSDP and the like), or add an adapter for the subclass"
                )
            if "forward" in module.__dict__:
                raise UnsupportedModelError(
                    f"{name}.forward was replaced on the instance (offloading hooks do so), which would hide the "
                    "pruned one; prune the model before that"
                )


class Attachment:
    """What was changed in a model, and how to change it back."""

    def __init__(self, adapter: Adapter, reducer: Reducer) -> None:
        self.adapter, self.reducer = adapter, reducer
        self.eager = adapter.eager
        self.sinks: list[Callable[[TokenPass], None]] = []
        self._swapped: list[tuple[nn.Module, type[nn.Module]]] = []
        self._configs: list[tuple[Any, Any]] = []
        for module in adapter.encoder.modules():
            if type(module) in adapter.swaps:
                self._swapped.append((module, type(module)))
                module.__class__ = adapter.swaps[type(module)]
        for index, layer in enumerate(adapter.layers):
            layer._audioprune_index = index
            attend = adapter.attention_of(layer)
            self._configs.append((attend, attend.config))
            # Blocks share one config: each gets its own copy, so that nothing else sees the changed attention.
            attend.config = copy.copy(attend.config)
            attend.config._attn_implementation = attention.NAME
        encoder = adapter.encoder
        if reducer.learned is not None:
            # In the model it trains, moves and is saved with it.
            encoder.add_module(LEARNED, reducer.learned)
        self._hooks = [
            encoder.register_forward_pre_hook(self._begin, with_kwargs=True),
            encoder.register_forward_hook(self._end, with_kwargs=True),
        ]

    def __setstate__(self, state: dict[str, Any]) -> None:
        # In another process (a worker, a pickled model) transformers does not know the attention yet.
        self.__dict__.update(state)
        attention.register()

    def detach(self) -> None:
        """Give every module its class, its config and its hooks back."""
        for hook in self._hooks:
            hook.remove()
        for module, config in self._configs:
            module.config = config
        for layer in self.adapter.layers:
            del layer._audioprune_index
        for module, original in self._swapped:
            module.__class__ = original
        if self.reducer.learned is not None:
            delattr(self.adapter.encoder, LEARNED)
        self._hooks, self._configs, self._swapped = [], [], []

    def _begin(self, encoder: Any, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        names = (encoder.main_input_name, "attention_mask")
        inputs = {**dict(zip(names, args, strict=False)), **kwargs}
        self.adapter.check_input(inputs)
        return args, {**kwargs, KWARG: TokenPass(self.adapter, self.reducer, self.eager, inputs)}

    def _end(self, encoder: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
        for sink in self.sinks:
            sink(kwargs[KWARG])


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
