"""Turns of visitors: one sound is computed at a time, until the page ends."""

from __future__ import annotations

from threading import Event, Lock
from typing import Any

PATIENCE = 10.0
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

    def end(self) -> None:
        """Let nobody begin, and wait until the present one has stopped: Python must not end while it computes."""
        self._ended.set()
        if self._lock.acquire(timeout=PATIENCE):
            self._lock.release()
