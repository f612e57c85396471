"""docs/bad-inputs.md."""

from __future__ import annotations

import re
from pathlib import Path

from .cases import Case
from .meeting import Outcome, portable

PAGE = Path(__file__).parents[2] / "docs" / "bad-inputs.md"


INTRODUCTION = """# When something is refused

What audioprune says of inputs that are wrong, or merely odd, and what becomes of earlier results. A test gives each of
these to the command line, and to the Python functions where they take such a thing, and this page is what came of it:
`python -m tests.bad_inputs > docs/bad-inputs.md`.

Exit codes: 0 all well, 1 some clips failed (each has a row with its error, and the others are done), 2 a mistake that
the message tells how to mend. Nothing is shown as a traceback; with `AUDIOPRUNE_DEBUG=1` a mistake has its traceback
too. In Python the same messages are those of `AudioError`, `CheckpointError`, `ValueError` and `OSError`.
`tiny` is a small model of four blocks and 64 tokens; an … stands for what another library said.
"""


def shown(case: Case, outcome: Outcome) -> str:
    """A message as the page has it: what another library says is left out."""
    found = re.search(case.said, outcome.said, re.DOTALL)
    said = outcome.said
    if found and found.groupdict().get("theirs"):
        start, end = found.span("theirs")
        said = f"{said[:start]}…{said[end:]}"
    return said


def page(outcomes: dict[str, list[tuple[Case, Outcome]]]) -> str:
    """docs/bad-inputs.md."""
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
