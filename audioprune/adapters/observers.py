"""Who looks at the forwards of a pruned model: each caller sees those that it makes itself, and no others.

A model that is served is called from many threads, or from many tasks of an event loop, at once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch

Observer = Callable[[Any], None]
"""Is given what a forward did with its tokens: a `TokenPass`, or a `PromptPass`."""

Watched = tuple[tuple[object, Observer], ...]
"""Pairs of an attachment and who looks at it."""


class _OfThread(threading.local):
    watched: Watched = ()


_WATCHED: ContextVar[Watched] = ContextVar("audioprune_tapped", default=())
# A graph of torch.compile is guarded by what a thread has, and cannot read a context variable.
_OF_THREAD = _OfThread()


def observers_of(attachment: object) -> list[Observer]:
    """Those that look at a model's forwards, as the caller makes them."""
    return [observer for other, observer in _current() if other is attachment]


@contextmanager
def observing(attachment: object, observer: Observer) -> Iterator[None]:
    """Show an observer all forwards that are made here meanwhile."""
    entry = (attachment, observer)
    _set((*_current(), entry))
    try:
        yield
    finally:
        # Not as it was before: another one may have begun since, and it may end elsewhere.
        _set(tuple(other for other in _current() if other is not entry))


@contextmanager
def unobserved() -> Iterator[None]:
    """Show nobody what is made here meanwhile."""
    before = _current()
    _set(())
    try:
        yield
    finally:
        _set(before)


def _current() -> Watched:
    return _OF_THREAD.watched if torch.compiler.is_compiling() else _WATCHED.get()


def _set(watched: Watched) -> None:
    if not torch.compiler.is_compiling():
        _WATCHED.set(watched)
    _OF_THREAD.watched = watched
