"""The modules of a pruned model in which a `TokenPass` begins."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from ..observers import observers_of
from .swapped import mark_unequal
from .token_pass import TokenPass

if TYPE_CHECKING:
    from .attachment import BlockAttachment

KWARG = "token_pass"
"""Keyword argument that passes a forward's `TokenPass` through the encoder, from block to block."""

ATTACHMENT = "_audioprune_attachment"
"""Attribute of such a module: the `Attachment` of its model."""


class Entering:
    """A head or an encoder that begins a `TokenPass` and passes it on.

    This happens in its `forward`, so any way of calling works: `model(x)`, `model.forward(x)`, compiled, or from a
    head. Inside a pass that began in an outer module, it continues that pass. If nothing is reduced, only the module's
    own forward runs.

    The class that a subclass replaces is the last of its bases. `with_pass`: the function that runs with a pass, if it
    is not the module's own forward; it takes the same arguments and `token_pass`.
    """

    with_pass: ClassVar[Callable[..., Any] | None] = None
    forward: Callable[..., Any]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        own: Any = cls.__bases__[-1]
        cls.forward = _entering(own.forward, cls.with_pass)


@functools.cache
def entering_subclass(pruned: type[Entering], own: type) -> type:
    """Pruned version of `own`, a subclass of the class that the `Entering` class `pruned` replaces."""
    bases = tuple(base for base in pruned.__bases__[:-1] if base is not Entering)
    return type(own.__name__, (Entering, *bases, own), {"with_pass": pruned.with_pass, "__module__": own.__module__})


def _entering(own: Callable[..., Any], with_pass: Callable[..., Any] | None) -> Callable[..., Any]:
    names = list(inspect.signature(own).parameters)[1:]
    reducing = with_pass or own

    @functools.wraps(own)  # transformers reads the signature
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        if KWARG in kwargs:
            return reducing(self, *args, **kwargs)
        attachment: BlockAttachment | None = self.__dict__.get(ATTACHMENT)
        if attachment is None:  # pruning was removed, but the caller still has this forward
            return own(self, *args, **kwargs)
        # Read once, because another thread may set the keep rate.
        adapter, reducer = attachment.adapter, attachment.reducer
        arguments = {**dict(zip(names, args, strict=False)), **kwargs}
        token_pass = TokenPass(adapter, reducer, attachment.eager, arguments)
        if reducer.reduces:
            adapter.check_input(arguments, reducer)
            output = reducing(self, *args, **{**kwargs, KWARG: token_pass})
            if adapter.pooled_by is not None and self is not adapter.encoder:
                mark_unequal(output, token_pass)
        else:
            output = own(self, *args, **kwargs)
        for observer in observers_of(attachment):
            observer(token_pass)
        return output

    return forward
