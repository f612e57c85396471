"""One run at a time: locks of files and folders. The system ends them with their process, however that ends."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

try:
    import fcntl
except ImportError:  # Windows has no advisory locks of this kind
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"
"""File in a folder that is claimed; it is locked, and deleted at the end."""


def lock(file: IO[Any]) -> bool:
    """Lock an open file against other processes until it is closed.

    False if another process holds the lock. True also if the system or the file system has no locks."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # the file system decides which of the two
        return False
    except OSError:
        return True
    return True


def open_locked(path: Path) -> IO[bytes] | None:
    """Open a file to read and to append, locked until it is closed; None if another process has it.

    The folder of the file is created if it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        file = open(path, "a+b")  # noqa: SIM115  (closed by the caller)
        if not lock(file):
            file.close()
            return None
        with suppress(OSError):
            if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                return file
        file.close()  # its last owner deleted it, after it was opened here and before it was locked


def delete_locked(path: Path, file: IO[bytes]) -> None:
    """Delete a file that this process has locked, and close it."""
    with suppress(OSError):  # Windows deletes no open file
        path.unlink()
    file.close()
    if fcntl is None:
        path.unlink(missing_ok=True)


def in_use(path: Path) -> str:
    """What a run is told that finds another one at its output."""
    return f"{path}: another run is writing to it; wait for it, or choose another --out"


@contextmanager
def claim(folder: Path) -> Iterator[bool]:
    """Claim a folder, which is created if it is missing: yields True if this process has it alone.

    The claim ends at the latest with the process."""
    file = open_locked(folder / LOCK)
    try:
        yield file is not None
    finally:
        if file is not None:
            delete_locked(folder / LOCK, file)
            with suppress(OSError):
                folder.rmdir()  # if it is empty: nothing came of the run


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Claim a folder, or raise `ValueError` that names it. Of processes that a launcher began, the first claims it."""
    if os.environ.get("RANK", "0") != "0":
        yield
        return
    with claim(folder) as mine:
        if not mine:
            raise ValueError(in_use(folder))
        yield
