"""Where commands print: results on stdout, everything else on stderr."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Container, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

# Markup is off: what is printed holds file names, and `[` is a letter in them.
out = Console(highlight=False, markup=False)
err = Console(stderr=True, highlight=False, markup=False)

INTERRUPTED = 130
"""Exit code of a command that Ctrl-C ended."""


def progress(unit: str, brief: bool = False) -> Progress:
    """A bar on stderr with counts, elapsed and remaining time; plain lines where stderr is no terminal.

    brief: for what takes seconds. Shown on a terminal alone, and gone at the end.
    """
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=err,
        disable=brief and not err.is_terminal,
        transient=brief,
        redirect_stdout=False,  # results are not for the bar's console
    )


def count(clips: int) -> str:
    return f"{clips} clip" if clips == 1 else f"{clips} clips"


PACKAGE = Path(__file__).parent.parent


@contextmanager
def own_warnings() -> Iterator[None]:
    """Show audioprune's own warnings as notes, and none of other libraries', of which a user can mend nothing; with
    AUDIOPRUNE_DEBUG set all are shown."""
    if os.environ.get("AUDIOPRUNE_DEBUG"):
        yield
        return

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if PACKAGE in Path(filename).parents:
            err.print(f"note: {message}", soft_wrap=True)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


@contextmanager
def own_threads(told: Container[int]) -> Iterator[None]:
    """Show no traceback of another library's thread that the system refused something, such as TensorBoard's on a full
    disk: the command tells it by itself. With AUDIOPRUNE_DEBUG set all are shown.

    told: numbers of the system's errors.
    """
    before = threading.excepthook

    def show(stopped: threading.ExceptHookArgs) -> None:
        error = stopped.exc_value
        if os.environ.get("AUDIOPRUNE_DEBUG") or not isinstance(error, OSError) or error.errno not in told:
            before(stopped)

    threading.excepthook = show
    try:
        yield
    finally:
        threading.excepthook = before


@contextmanager
def warnings_as_notes() -> Iterator[None]:
    """Show what the library warns of as a command's own notes."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: err.print(f"note: {message}", soft_wrap=True)
        yield


@contextmanager
def resumable(state: Path) -> Iterator[None]:
    """Show warnings as notes, and say after Ctrl-C where the run goes on from."""
    with warnings_as_notes():
        try:
            yield
        except KeyboardInterrupt:
            err.print(f"What was heard so far is in {state}; the same command goes on with it", soft_wrap=True)
            raise


def compact_table(title: str | None = None, *captions: str) -> Table:
    """A table without columns yet, which takes little room: figures and all fit a terminal of 80 columns.

    captions: what is below it, a line each; empty ones are left out.
    """
    caption = "\n".join(filter(None, captions))
    return Table(
        title=title,
        title_justify="left",
        caption=caption or None,
        caption_justify="left",
        box=SIMPLE_HEAD,
        show_edge=False,
        padding=0,
    )
