"""Files that outlive a kill, written whole or row by row, and the check that a run goes on with its own files."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, NoReturn

try:
    import fcntl
except ImportError:  # Windows has no advisory locks of this kind
    fcntl = None  # type: ignore[assignment]

Row = dict[str, Any]
Earlier = Mapping[str, Callable[[], Any]]
"""Setting → what an earlier version wrote for it, computed only if what was written is not today's value."""

DRAFT = ".part"
"""Suffix of a draft. A killed run leaves it; its name begins with a dot."""


@contextmanager
def draft(path: Path, folder: Path | None = None) -> Iterator[Path]:
    """Yield a path to write to; at the end of the block that file becomes `path`. After an error it is removed.

    folder: holds the draft, on the same disk as `path`; None for the folder of `path`, which is made if it is missing.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    made = (folder or path.parent) / f".{path.name}.{uuid.uuid4().hex[:8]}{DRAFT}"
    try:
        yield made
        move(made, path)
    finally:
        with suppress(OSError):
            made.unlink()


def move(made: Path, path: Path) -> None:
    """Replace `path` by a finished file, whose content is on the disk before its new name is."""
    with open(made, "r+b") as file:
        os.fsync(file.fileno())
    os.replace(made, path)


def write_text(path: Path, text: str) -> None:
    """Write a file in UTF-8, whole or not at all."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all."""
    with draft(path) as made:
        made.write_bytes(content)


def write_json(path: Path, content: Any, **options: Any) -> None:
    """Write a JSON file, indented, whole or not at all. options: of `json.dumps`."""
    write_text(path, json.dumps(content, indent=1, **options) + "\n")


def check_same(
    path: Path,
    begun: Row,
    asked: Row,
    error: type[ValueError],
    another: str = "another --out",
    *,
    only_shared: bool = False,
    earlier: Earlier | None = None,
) -> None:
    """Raise `error`, which names what differs, if a file or folder was begun with other settings.

    another: what the user may choose instead. The rest: see `differences`.
    """
    other = differences(begun, asked, only_shared=only_shared, earlier=earlier)
    if other:
        raise error(f"{path}: begun with {', '.join(other)}; give the same settings to go on, or {another}")


def differences(
    begun: Row, asked: Row, *, only_shared: bool = False, earlier: Earlier | None = None, within: str = ""
) -> list[str]:
    """Settings that are not the same, as "recipe.epochs=10 (not 20)"; [] if all are. Tuples are lists, as in JSON.

    only_shared: compare the settings that both have; a missing one has its default. Otherwise a missing one is None.
    earlier: values that are the same too. within: what precedes the names.
    """
    found, asked = [], json.loads(json.dumps(asked))
    for key in sorted({*begun} & {*asked} if only_shared else {*begun, *asked}):
        was, now = begun.get(key), asked.get(key)
        if isinstance(was, dict) and isinstance(now, dict):
            found += differences(was, now, only_shared=only_shared, within=f"{within}{key}.")
        elif was != now and not (earlier and key in earlier and was == earlier[key]()):
            found.append(f"{within}{key}={_shown(was)} (not {_shown(now)})")
    return found


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:99]}…"


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
