"""docs/bad-inputs.md."""

from __future__ import annotations

import re
from pathlib import Path

from .cases import Case
from .meeting import Outcome, portable

PAGE = Path(__file__).parents[2] / "docs" / "bad-inputs.md"


INTRODUCTION = """# When something is refused

This page lists what audioprune says about wrong or odd inputs, and what happens to earlier results. A test gives each
input to the command line, and to the Python functions that take such an input. The test writes this page:
`python -m tests.bad_inputs > docs/bad-inputs.md`.

Exit codes:

- 0: all well.
- 1: some clips failed. Each failed clip has a row with its error, and the other clips are done.
- 2: a mistake. The message says how to correct it.

No error shows a traceback, except with `AUDIOPRUNE_DEBUG=1`. In Python the same messages come as `AudioError`,
`CheckpointError`, `ValueError` and `OSError`. `tiny` is a small model of four blocks and 64 tokens. An … stands for the
words of another library.
"""


def shown(case: Case, outcome: Outcome) -> str:
    """Return a message for the page, without the words of another library."""
    found = re.search(case.said, outcome.said, re.DOTALL)
    said = outcome.said
    if found and found.groupdict().get("theirs"):
        start, end = found.span("theirs")
        said = f"{said[:start]}…{said[end:]}"
    return said


def page(outcomes: dict[str, list[tuple[Case, Outcome]]]) -> str:
    """Make docs/bad-inputs.md."""
    lines = [INTRODUCTION]
    for group, found in outcomes.items():
        lines += [f"## {group}", "", "| given | said | exit code | what stays |", "|---|---|---|---|"]
        for case, outcome in found:
            words = portable(case.words.replace(" --json", ""), "{port}")
            cells = (f"{case.given}: `audioprune {words}`", shown(case, outcome), str(outcome.code), outcome.stays)
            lines.append(f"| {' | '.join(map(_cell, cells))} |")
        lines.append("")
    return "\n".join(lines)


def _cell(text: str) -> str:
    # What is in backquotes stays as it is; elsewhere a name of a class or a file is no formatting.
    parts = text.replace("|", "\\|").split("`")
    parts[1::2] = [part.replace("\n", "⏎") for part in parts[1::2]]
    parts[::2] = [re.sub(r"([<>*_\[\]])", r"\\\1", part) for part in parts[::2]]
    return "`".join(parts).replace("\n", "<br>")
