"""How a model family is entered: the adapter contract, the registry, and one forward's book-keeping.

An adapter knows where a model keeps its blocks and how it numbers its patches. Of the method at work it knows only
the `Reducer` protocol.
"""

from __future__ import annotations

import copy
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .. import attention
from ..attention import AttentionCall
from ..tokens import Evidence, Grid, Reducer, Stage, Tokens

KWARG = "token_pass"
"""Keyword argument in which a forward's `TokenPass` travels through the encoder, from block to block."""


class UnsupportedModelError(TypeError):
    """No adapter enters this model. The message says which families there are."""


@dataclass(frozen=True)
class TokenState:
    """Patch number (batch, n) and size (batch, n) or None of the droppable tokens entering a block."""

    patch: Tensor
    size: Tensor | None


class Adapter(ABC):
    """One model, entered.

    Subclasses set `encoder` (the module whose forward runs the blocks and passes unknown keyword arguments on to
    them), `layers`, `special` (leading tokens that are not patches) and `grid`, and name the classes that they swap.
    """

    family: ClassVar[str]
    """What the family is called in messages."""
    swaps: ClassVar[dict[type[nn.Module], type[nn.Module]]]
    """Class of a module in the model → the subclass that it becomes while pruned."""

    encoder: Any
    layers: Any
    special: int
    grid: Grid

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
        self._hooks, self._configs, self._swapped = [], [], []

    def _begin(self, encoder: Any, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        names = (encoder.main_input_name, "attention_mask")
        inputs = {**dict(zip(names, args, strict=False)), **kwargs}
        self.adapter.check_input(inputs)
        return args, {**kwargs, KWARG: TokenPass(self, inputs)}

    def _end(self, encoder: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
        for sink in self.sinks:
            sink(kwargs[KWARG])


class TokenPass:
    """The tokens' fate in one forward.

    What each block finds on entering is kept by block, not overwritten, so that a block which is computed again
    (gradient checkpointing) finds what it found the first time. Nothing outlives the forward.
    """

    def __init__(self, attachment: Attachment, inputs: dict[str, Any]) -> None:
        self.attachment = attachment
        self.inputs = inputs
        self.entering: dict[int, TokenState] = {}
        self.stages: dict[int, Stage] = {}

    @property
    def adapter(self) -> Adapter:
        return self.attachment.adapter

    @property
    def final_size(self) -> Tensor | None:
        """(batch, n) sizes of the tokens that leave the last block, None where all are 1."""
        return self.entering[len(self.adapter.layers)].size

    def order(self, layer: int, hidden: Tensor) -> AttentionCall:
        """What block `layer` must ask of its attention. hidden: (batch, special + n, width), the block's input."""
        adapter, reducer = self.adapter, self.attachment.reducer
        if layer == 0:
            patch = torch.arange(hidden.shape[1] - adapter.special, device=hidden.device)
            self.entering[0] = TokenState(patch.expand(hidden.shape[0], -1), None)
        state = self.entering[layer]
        bias = None
        if state.size is not None:
            ones = state.size.new_ones(state.size.shape[0], adapter.special)
            bias = torch.cat((ones, state.size), dim=1).log()[:, None, None, :]
        return AttentionCall(
            implementation=adapter.implementation,
            eager=self.attachment.eager,
            special=adapter.special,
            bias=bias,
            wants=reducer.needs(layer) & {"attention", "cls", "keys"},
            differentiable=reducer.needs_gradient,
        )

    def reduce(self, layer: int, hidden: Tensor, call: AttentionCall) -> Tensor:
        """(batch, special + n, width) after attention → the tokens that go on, special ones first."""
        state, reducer = self.entering[layer], self.attachment.reducer
        if not reducer.prunes(layer):
            self.entering[layer + 1] = state
            return hidden
        special = self.adapter.special
        tokens = Tokens(hidden[:, special:], state.patch, state.size)
        reduction = reducer.reduce(tokens, self._evidence(layer, state, call))
        self.stages[layer] = Stage(state.patch.gather(1, reduction.kept), reduction.scores)
        self.entering[layer + 1] = TokenState(reduction.tokens.patch, reduction.tokens.size)
        return torch.cat((hidden[:, :special], reduction.tokens.hidden), dim=1)

    def _evidence(self, layer: int, state: TokenState, call: AttentionCall) -> Evidence:
        found = dict(call.found)
        for name, statistic in self._statistics(layer):
            gathered = statistic.gather(1, state.patch.clamp_min(0))
            # A fused token is no patch of the input: it ranks as an average one.
            average = statistic.mean(dim=1, keepdim=True)
            found[name] = torch.where(state.patch < 0, average, gathered)
        grid = self.adapter.grid
        return Evidence(layer, state.patch, grid.column(state.patch), grid.time, **found)

    def _statistics(self, layer: int) -> Iterator[tuple[str, Tensor]]:
        needs = self.attachment.reducer.needs(layer) & {"intensity", "variation"}
        if needs:
            pair = self.adapter.patch_statistics(self.inputs)
            yield from ((n, s) for n, s in zip(("intensity", "variation"), pair, strict=True) if n in needs)


_REGISTRY: list[type[Adapter]] = []


def register_adapter(adapter: type[Adapter]) -> type[Adapter]:
    """Class decorator: `find_adapter` will ask this family too."""
    _REGISTRY.append(adapter)
    return adapter


def find_adapter(model: nn.Module) -> Adapter:
    """The adapter that enters this model. Raises `UnsupportedModelError` where there is none."""
    if not isinstance(model, nn.Module):
        raise UnsupportedModelError(f"expected a PyTorch model, got {type(model).__name__}")
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
