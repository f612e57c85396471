"""Where commands print: results on stdout, everything else on stderr."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

# Markup is off: what is printed holds file names, and `[` is a letter in them.
out = Console(highlight=False, markup=False)
err = Console(stderr=True, highlight=False, markup=False)


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
