"""The adapter contract: connections to models, the changes in a model, and the registry of families.

There are two kinds of adapters: those that reduce tokens inside the blocks of an encoder (`blocks/`), and those that
shorten the prompt of an audio-language model (`audio_lm/`). Both know no more of a method than the `Reducer` and
`MethodTraits` protocols.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from torch import Tensor, nn

from ..core.tokens import Grid, MethodTraits, ModelShape, Reducer


class UnsupportedModelError(TypeError):
    """Raised if no adapter supports the model. The message lists the families."""


class Attachment(ABC):
    """Changes in a model, and the way to undo them.

    `reducer` may be replaced between forwards: each forward reads it once, at its beginning.
    """

    reducer: Reducer

    @abstractmethod
    def detach(self) -> None:
        """Restore the model exactly."""


class Adapter(ABC):
    """Connects pruning to one model.

    encoder: the module whose forward begins the reduction. tower: the module whose `last_hidden_state` the head reads.
    special: leading tokens that are not patches. depth: number of places at which tokens can be reduced.
    grid: the patches of every clip; None if clips differ in length.
    """

    family: ClassVar[str]
    """Name of the family in messages."""

    encoder: Any
    special: int
    grid: Grid | None = None
    sinks: Tensor | None = None
    """Tokens that are attention sinks in silence, (tokens,) booleans; None if there are none, or nobody looked."""

    @classmethod
    @abstractmethod
    def find(cls, model: nn.Module) -> list[Adapter]:
        """An adapter for each encoder of this family in the model."""

    @abstractmethod
    def check_method(self, method: MethodTraits) -> None:
        """Raise `ValueError` if this model cannot serve the method."""

    @abstractmethod
    def attach(self, reducer: Reducer) -> Attachment:
        """Change the model so that it reduces its tokens."""

    @property
    @abstractmethod
    def shape(self) -> ModelShape:
        """Size of the model, for a method that learns."""

    @property
    def tower(self) -> Any:
        return self.encoder

    @property
    def depth(self) -> int:
        return self.shape.depth

    @property
    def has_cls(self) -> bool:
        """Whether the attention of a CLS token can rank tokens."""
        return self.special > 0


_REGISTRY: list[type[Adapter]] = []


def register_adapter(adapter: type[Adapter]) -> type[Adapter]:
    """Class decorator that adds a family to `find_adapter`."""
    _REGISTRY.append(adapter)
    return adapter


def find_adapter(model: nn.Module) -> Adapter:
    """Adapter of a model. Raises `UnsupportedModelError` if there is none."""
    if not isinstance(model, nn.Module):
        hint = f"; load it first: audioprune.load({model!r})" if isinstance(model, str) else ""
        raise UnsupportedModelError(f"expected a PyTorch model, got {type(model).__name__}{hint}")
    adapters = [adapter for family in _REGISTRY for adapter in family.find(model)]
    if len(adapters) > 1:
        raise UnsupportedModelError(
            f"{type(model).__name__} contains {len(adapters)} encoders; pass the one to prune, by itself"
        )
    if adapters:
        return adapters[0]
    families = "; ".join(adapter.family for adapter in _REGISTRY)
    raise UnsupportedModelError(
        f"{type(model).__name__} contains no encoder that audioprune supports. Supported are: {families}. "
        "CONTRIBUTING.md explains how to add a family"
    )
