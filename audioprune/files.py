"""JSON Lines files that outlive a kill, each written by one run at a time."""

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
    """Keep other processes from locking an open file until it is closed; False where one of them was sooner. True
    too where the system or the file system knows no locks."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # which of the two, depends on the file system
        return False
    except OSError:
        return True
    return True


class Journal:
    """A JSON Lines file, locked, to which rows are appended and from which a run that was killed goes on.

    error: what is raised where another run writes to the file, and where it holds other things. holds: what a line
    should be, in words. begins: how every line begins, and so what is left of a last one that a kill has torn.
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
        """Number, from 1, and row of each line. A torn last line is cut off, once all others were taken."""
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
        """In one write; on return the rows outlive the process."""
        # ASCII, because a file's name may be no valid Unicode.
        self._file.write("".join(f"{json.dumps(row)}\n" for row in rows).encode())
        self._file.flush()

    def clear(self) -> None:
        self._file.truncate(0)

    def close(self) -> None:
        self._file.close()

    def refuse(self, number: int) -> NoReturn:
        """Raise that a line is not what this file should hold."""
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
