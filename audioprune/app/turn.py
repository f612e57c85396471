"""Turns of visitors: one sound is computed at a time, until the page ends."""

from __future__ import annotations

from threading import Event, Lock
from typing import Any

PATIENCE = 3.0
"""Seconds to wait at the end for a sound that is being computed. Between two windows of a long one it is told."""


class Turn:
    """A lock, to enter with `with`, that ends what it guards.

    A thread that computes calls `check` now and then. After `end`, it and `with` raise `InterruptedError`.
    """

    def __init__(self) -> None:
        self._lock, self._ended = Lock(), Event()

    def __enter__(self) -> Turn:
        self._lock.acquire()
        try:
            self.check()
        except InterruptedError:
            self._lock.release()
            raise
        return self

    def __exit__(self, *_: Any) -> None:
        self._lock.release()

    def check(self) -> None:
        if self._ended.is_set():
            raise InterruptedError("the page has ended")

    def end(self) -> bool:
        """Let nobody begin, and wait a little until the present one has stopped. Returns whether it has."""
        self._ended.set()
        is_free = self._lock.acquire(timeout=PATIENCE)
        if is_free:
            self._lock.release()
        return is_free
