"""Files that survive a kill, written whole or row by row, and the check that a run continues its own files."""

from __future__ import annotations

import errno
import json
import os
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

from .locks import delete_locked, in_use, open_locked

Row = dict[str, Any]
Earlier = Mapping[str, Callable[[], Any]]
"""Setting → function that computes the value of an earlier version. It is called only if the values differ."""

DRAFT = ".part"
"""Suffix of a draft. Its name begins with a dot. A killed run may leave it behind."""


@contextmanager
def draft(path: Path, folder: Path | None = None) -> Iterator[Path]:
    """Yield a path to write to. At the end of the block, that file becomes `path`; after an error it is removed.

    folder: folder of the draft, on the same disk as `path`; None for the folder of `path`, which is created if missing.
    The system's errors name `path`, not the draft.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft_path = (folder or path.parent) / f".{path.name}.{uuid.uuid4().hex[:8]}{DRAFT}"
    try:
        with named(path, instead_of=draft_path):
            yield draft_path
            move(draft_path, path)
    finally:
        with suppress(OSError):
            draft_path.unlink()


@contextmanager
def named(path: Path, instead_of: Path | None = None) -> Iterator[None]:
    """Let the system's errors name a file: a write to an open file tells only that the disk is full.

    instead_of: another name of it, which users do not know.
    """
    try:
        yield
    except OSError as error:
        if error.errno is not None and (error.filename is None or str(error.filename) == str(instead_of)):
            error.filename = str(path)
        raise


def check_writable(*paths: Path | None) -> None:
    """Raise `OSError` now, before any work, if files cannot be written later. Nothing is left behind.

    paths: the files, whose folders may be missing; None is left out.
    """
    for path in filter(None, paths):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        folder = next(parent for parent in path.absolute().parents if parent.exists())
        if not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
        try:
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            error.filename = str(path)
            raise


def read_json(path: Path, remedy: str = "delete it, or choose another --out") -> Row:
    """Read a JSON file that contains an object. Raises `ValueError` that names the file if it contains anything else.

    remedy: what to do then.
    """
    try:
        content = json.loads(path.read_text())
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: is not a JSON object as this command writes it; {remedy}")
    return content


def move(finished: Path, path: Path) -> None:
    """Replace `path` by a finished file. The content is written to disk before the file gets its new name."""
    with open(finished, "r+b") as file:
        os.fsync(file.fileno())
    os.replace(finished, path)


def write_text(path: Path, text: str) -> None:
    """Write a file in UTF-8, whole or not at all."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all."""
    with draft(path) as draft_path:
        draft_path.write_bytes(content)


def write_json(path: Path, content: Any, **options: Any) -> None:
    """Write an indented JSON file, whole or not at all. options: arguments of `json.dumps`."""
    write_text(path, json.dumps(content, indent=1, **options) + "\n")


def check_same(
    path: Path,
    begun: Row,
    requested: Row,
    error: type[ValueError],
    another: str = "another --out",
    *,
    only_shared: bool = False,
    earlier: Earlier | None = None,
) -> None:
    """Raise `error`, which names the differences, if a file or folder was begun with other settings.

    Args:
        path: the file or folder.
        begun: the settings in it.
        requested: the settings of this run.
        error: exception to raise.
        another: alternative for the user, for the message.
        only_shared: see `differences`.
        earlier: see `differences`.
    """
    other = differences(begun, requested, only_shared=only_shared, earlier=earlier)
    if other:
        raise error(f"{path}: begun with {', '.join(other)}; give the same settings to continue, or {another}")


def differences(
    begun: Row, requested: Row, *, only_shared: bool = False, earlier: Earlier | None = None, within: str = ""
) -> list[str]:
    """Settings that differ, such as "recipe.epochs=10 (not 20)"; [] if all are equal. Tuples count as lists, as in
    JSON.

    Args:
        begun: the settings of a file or folder.
        requested: the settings of this run.
        only_shared: whether to compare only the settings that both have, because a missing one has its default.
            Otherwise a missing one is None.
        earlier: further values that count as equal.
        within: prefix of the names.
    """
    differing, requested = [], json.loads(json.dumps(requested))
    for key in sorted({*begun} & {*requested} if only_shared else {*begun, *requested}):
        was, now = begun.get(key), requested.get(key)
        if isinstance(was, dict) and isinstance(now, dict):
            differing += differences(was, now, only_shared=only_shared, within=f"{within}{key}.")
        elif was != now and not (earlier and key in earlier and was == earlier[key]()):
            differing.append(f"{within}{key}={_short_text(was)} (not {_short_text(now)})")
    return differing


def _short_text(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:99]}…"


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
        file = open_locked(path)
        if file is None:
            raise error(in_use(path))
        self._file = file

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
        """Append rows. They are on disk when this returns; if it raises, for example as the disk is full, none is."""
        # ASCII, because a file name may not be valid Unicode.
        left = memoryview("".join(f"{json.dumps(row)}\n" for row in rows).encode())
        end = os.fstat(self._file.fileno()).st_size
        try:
            with named(self.path):
                while left:  # not through the buffer, which would try again when the file is closed
                    left = left[os.write(self._file.fileno(), left) :]
        except BaseException:
            with suppress(OSError):
                os.ftruncate(self._file.fileno(), end)
            raise

    def clear(self, keep: int = 0) -> None:
        """Delete all but the first bytes."""
        self._file.truncate(keep)

    def remove(self) -> None:
        """Delete the file. It is locked up to then, so no other run loses it."""
        delete_locked(self.path, self._file)

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
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            self.refuse(number)
        return row
