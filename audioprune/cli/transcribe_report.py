"""What `audioprune transcribe` says of its rows, and how it ends."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import typer
from rich.progress import Progress
from rich.text import Text

from ..timing import UNSURE, Ratio
from .console import err, out
from .tag import printable

if TYPE_CHECKING:
    from ..bulk.log import ResultLog
    from ..transcribing.outputs import Output


@dataclass
class Totals:
    """Sums over the rows of this run."""

    files: int = 0
    good: int = 0
    seconds: float = 0.0
    computed: float = 0.0
    unpruned: list[float] = field(default_factory=list)
    pruned: list[float] = field(default_factory=list)
    same: int = 0
    differing: int = 0

    def add(self, row: dict[str, Any]) -> None:
        self.files += 1
        if "error" in row:
            return
        self.good += 1
        self.seconds += row["duration"]
        self.computed += row["compute_seconds"]
        if "unpruned" in row:
            self.unpruned.append(row["unpruned_compute_seconds"])
            self.pruned.append(row["compute_seconds"])
            self.same += not row["word_differences"]
            self.differing += row["word_differences"]

    def lines(self) -> list[str]:
        if not self.seconds:
            return []
        lines = [
            f"{files(self.good)}, {_length(self.seconds)} of sound, computed in {_length(self.computed)}: real-time "
            f"factor {self.computed / self.seconds:.3f}"
        ]
        if self.unpruned:
            ratio = Ratio.between(self.unpruned, [max(seconds, 1e-9) for seconds in self.pruned])
            faster = f"{ratio} as fast, by the median of files" + (f" ({UNSURE})" if not ratio.is_sure else "")
            lines.append(
                f"Pruned and unpruned: same words in {self.same} of {self.good}, {self.differing} words differ in all; "
                f"{faster} ({_length(sum(self.unpruned))} unpruned)"
            )
        return lines


def _length(seconds: float) -> str:
    """3.2 s, 4.0 min, 1.25 h."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.2f} h"


def show(row: dict[str, Any], bar: Progress, named: bool) -> None:
    """Print a row: through the bar where both are on one screen, so that it moves out of the way."""
    printer = bar.console if err.is_terminal and out.is_terminal else out
    for line in _lines(row, named):
        printer.print(line, soft_wrap=True)


def _lines(row: dict[str, Any], named: bool) -> list[Text]:
    """What a terminal shows of a row. named: whether to say which file it is of."""
    if "error" in row:
        return [Text(printable(row["error"]), style="red")]
    name = f"{printable(os.path.relpath(row['path']))}  " if named else ""
    if "segments" in row:
        cues = row.get("words") or row["segments"]
        lines = [
            Text.assemble(
                name, (f"{cue['start']:8.2f} {cue['end']:8.2f}  ", "dim"), printable(cue.get("word") or cue["text"])
            )
            for cue in cues
        ]
    else:
        lines = [Text(name + printable(row["text"]))]
    for ours, theirs in row.get("differences", ()):
        lines.append(Text(printable(f"    unpruned: {ours or '–'}   pruned: {theirs or '–'}"), style="yellow"))
    return lines


def files(number: int) -> str:
    return f"{number} file" if number == 1 else f"{number} files"


def finish_if_done(log: ResultLog, sounds: list[Path], output: Output | None) -> None:
    """Leave if every sound has a row."""
    if all(log.is_done(sound) for sound in sounds):
        failures = log.failures(sounds)
        finish(0, len(sounds) - failures, failures, output)


def finish(done: int, before: int, failures: int, output: Output | None) -> NoReturn:
    """Say what was done and leave, with exit code 1 where files failed.

    done: files with a text of this run. before: files with a text of earlier runs. failures: all files with errors.
    """
    where = "" if output is None else f" → {output.path}"
    earlier = f", {before} were done before" if before else ""
    err.print(f"{files(done)} done{earlier}{where}", soft_wrap=True)
    if failures:
        again = "" if output is None else f", and a row that is deleted from {output.journal} is tried again"
        err.print(f"{files(failures)} failed; each row has its error{again}", style="red", soft_wrap=True)
    raise typer.Exit(1 if failures else 0)
