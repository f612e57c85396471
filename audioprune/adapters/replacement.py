"""Replacement of a method on one model instance, which can be undone."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from torch import nn


class Replacement:
    """Replaces a method of one model instance by a function.

    It is an object, not a function, so that it is part of copies and pickles of the model.

    Args:
        module: the model.
        name: name of the method.
        run: function that takes the original method and its arguments.
        own_signature: whether callers see the signature of `run`, without its first argument, instead of the method's.
    """

    def __init__(self, module: nn.Module, name: str, run: Callable[..., Any], own_signature: bool = False) -> None:
        self._module, self._name, self._run, self._own_signature = module, name, run, own_signature
        self._before = module.__dict__.get(name)  # for example, from accelerate
        self._active = True
        setattr(module, name, self)

    @property
    def own(self) -> Callable[..., Any]:
        """The original method."""
        return self._before or functools.partial(getattr(type(self._module), self._name), self._module)

    @property
    def __signature__(self) -> inspect.Signature:
        if not self._own_signature:
            return inspect.signature(self.own)
        signature = inspect.signature(self._run)
        return signature.replace(parameters=list(signature.parameters.values())[1:])

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._run(self.own, *args, **kwargs) if self._active else self.own(*args, **kwargs)

    def undo(self) -> None:
        """Restore the method. If another object has wrapped this one since, calls go on to the original method."""
        self._active = False
        if self._module.__dict__.get(self._name) is self:
            delattr(self._module, self._name)
            if self._before is not None:
                setattr(self._module, self._name, self._before)
