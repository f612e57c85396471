"""Saving by libraries whose own errors do not tell that the disk is full."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .files import named

TORN = re.compile(r"iostream error|file write failed|unexpected pos \d+ vs \d+|PytorchStreamWriter failed")
"""What PyTorch says if a file could not be written whole."""
LITTLE = 1 << 20
"""Bytes: with less room a disk counts as full."""


@contextmanager
def named_if_full(folder: Path) -> Iterator[None]:
    """Raise `OSError` that names a folder if a file in it did not fit on the disk.

    safetensors and PyTorch raise errors of their own kinds, which name no file. Other errors pass.
    """
    try:
        with named(folder):
            yield
    except Exception as error:
        number = _number(error, folder)
        if number is None:
            raise
        raise OSError(number, os.strerror(number), str(folder)) from error


def _number(error: Exception, folder: Path) -> int | None:
    """The system's number for what a library could not write; None for another error."""
    found = re.search(r"\(os error (\d+)\)", str(error))
    if type(error).__name__ == "SafetensorError" and found:
        return int(found[1])
    if not isinstance(error, RuntimeError) or not TORN.search(str(error)):
        return None
    return errno.ENOSPC if shutil.disk_usage(folder).free < LITTLE else errno.EFBIG
