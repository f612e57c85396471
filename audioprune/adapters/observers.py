"""Observers of the forwards of a pruned model: each caller sees its own forwards, and no others.

A served model is called from many threads, or many tasks of an event loop, at once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch

Observer = Callable[[Any], None]
"""Called with the record of a forward: a `TokenPass` or a `PromptPass`."""

ObserverPairs = tuple[tuple[object, Observer], ...]
"""Pairs of an attachment and its observer."""


class _ThreadState(threading.local):
    pairs: ObserverPairs = ()


_OBSERVERS: ContextVar[ObserverPairs] = ContextVar("audioprune_observed", default=())
# A graph of torch.compile can have guards on thread-local values, but cannot read a context variable.
_THREAD = _ThreadState()


def observers_of(attachment: object) -> list[Observer]:
    """Observers of a model's forwards in the caller's context."""
    return [observer for other, observer in _current() if other is attachment]


@contextmanager
def observing(attachment: object, observer: Observer) -> Iterator[None]:
    """Call an observer for all forwards of a model inside the context."""
    entry = (attachment, observer)
    _set((*_current(), entry))
    try:
        yield
    finally:
        # Do not restore the old value: another observer may have started since, and may end elsewhere.
        _set(tuple(other for other in _current() if other is not entry))


@contextmanager
def unobserved() -> Iterator[None]:
    """Call no observers inside the context."""
    before = _current()
    _set(())
    try:
        yield
    finally:
        _set(before)


def _current() -> ObserverPairs:
    return _THREAD.pairs if torch.compiler.is_compiling() else _OBSERVERS.get()


def _set(pairs: ObserverPairs) -> None:
    if not torch.compiler.is_compiling():
        _OBSERVERS.set(pairs)
    _THREAD.pairs = pairs
