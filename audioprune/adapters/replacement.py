"""A method of one model, replaced on the instance, and put back."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from torch import nn


class Replacement:
    """In place of a method of one model: what runs instead, given the method as it was.

    An object, and no function: copies and pickles of a model take it with them.

    run: takes the method as it was, and its arguments. shown: whether callers see its signature, without the first
    argument, instead of the method's own.
    """

    def __init__(self, module: nn.Module, name: str, run: Callable[..., Any], shown: bool = False) -> None:
        self._module, self._name, self._run, self._shown = module, name, run, shown
        self._before = module.__dict__.get(name)  # of accelerate's, for one
        self._active = True
        setattr(module, name, self)

    @property
    def own(self) -> Callable[..., Any]:
        """The method as it was."""
        return self._before or functools.partial(getattr(type(self._module), self._name), self._module)

    @property
    def __signature__(self) -> inspect.Signature:
        if not self._shown:
            return inspect.signature(self.own)
        signature = inspect.signature(self._run)
        return signature.replace(parameters=list(signature.parameters.values())[1:])

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._run(self.own, *args, **kwargs) if self._active else self.own(*args, **kwargs)

    def undo(self) -> None:
        """Put the method back. Who has wrapped this one meanwhile is handed on to it."""
        self._active = False
        if self._module.__dict__.get(self._name) is self:
            delattr(self._module, self._name)
            if self._before is not None:
                setattr(self._module, self._name, self._before)
