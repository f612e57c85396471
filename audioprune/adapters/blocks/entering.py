"""The modules of a pruned model in which a forward's book-keeping begins."""

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
"""Keyword argument in which a forward's `TokenPass` travels through the encoder, from block to block."""

ATTACHMENT = "_audioprune_attachment"
"""Attribute of such a module: the `Attachment` of the model that it belongs to."""


class Entering:
    """A head or an encoder, made to begin a `TokenPass` and to hand it on.

    It does so in its `forward`, so that it does not matter how it is called: as `model(x)`, as `model.forward(x)`,
    compiled, or from a head. Within a pass that began further out it goes on with that one. Where nothing is reduced
    the module's own forward runs, and nothing else.

    The class that a subclass replaces is the last of its bases. `with_pass`: what runs with a pass, if it is not the
    own forward; it takes the same arguments and `token_pass`.
    """

    with_pass: ClassVar[Callable[..., Any] | None] = None
    forward: Callable[..., Any]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        own: Any = cls.__bases__[-1]
        cls.forward = _entering(own.forward, cls.with_pass)


@functools.cache
def entering_subclass(pruned: type[Entering], own: type) -> type:
    """What an `Entering` class makes of a subclass of the class that it replaces."""
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
        if attachment is None:  # pruning was removed, and somebody holds this forward still
            return own(self, *args, **kwargs)
        # Read once: the keep rate may be set from another thread.
        adapter, reducer = attachment.adapter, attachment.reducer
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        token_pass = TokenPass(adapter, reducer, attachment.eager, given)
        if reducer.reduces:
            adapter.check_input(given, reducer)
            output = reducing(self, *args, **{**kwargs, KWARG: token_pass})
            if adapter.pooled_by is not None and self is not adapter.encoder:
                mark_unequal(output, token_pass)
        else:
            output = own(self, *args, **kwargs)
        for observer in observers_of(attachment):
            observer(token_pass)
        return output

    return forward
