"""JSON Lines files that survive a kill, each written by one run at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NoReturn

try:
    import fcntl
except ImportError:  # Windows has no advisory locks of this kind
    fcntl = None  # type: ignore[assignment]

Row = dict[str, Any]


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


class Journal:
    """A locked JSON Lines file. Rows are appended, and a run that was killed continues from it.

    Args:
        path: the file; its folder is created.
        error: exception to raise if another run writes to the file, or if its content is not as expected.
        holds: name of the content of a line, for messages.
        begins: beginning of every line, also of an incomplete last line after a kill.
    """

    def __init__(self, path: Path, error: type[ValueError], holds: str, begins: bytes = b"{") -> None:
        self.path = path
        self._error, self._holds, self._begins = error, holds, begins
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(path, "a+b")  # noqa: SIM115  (closed by `close`)
        if not lock(self._file):
            self._file.close()
            raise error(f"{path}: another run is writing to it; wait for it, or choose another --out")

    def read(self) -> Iterator[tuple[int, Row]]:
        """Yield the number, from 1, and the row of each line. An incomplete last line is cut off at the end."""
        self._file.seek(0)
        good = 0
        for number, line in enumerate(self._file, start=1):
            if not line.endswith(b"\n"):
                if not line.startswith(self._begins[: len(line)]):
                    self.refuse(number)
                self._file.truncate(good)
                return
            yield number, self._parsed(number, line)
            good += len(line)

    def append(self, rows: Sequence[Row]) -> None:
        """Append rows in one write. They are on disk when this returns."""
        # ASCII, because a file name may not be valid Unicode.
        self._file.write("".join(f"{json.dumps(row)}\n" for row in rows).encode())
        self._file.flush()

    def clear(self) -> None:
        self._file.truncate(0)

    def close(self) -> None:
        self._file.close()

    def refuse(self, number: int) -> NoReturn:
        """Raise the error for a line with unexpected content."""
        raise self._error(
            f"{self.path}: line {number} is not {self._holds}; choose another --out, nothing was changed"
        ) from None

    def _parsed(self, number: int, line: bytes) -> Row:
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            self.refuse(number)
        return row
