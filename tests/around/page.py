"""docs/around-your-model.md."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from .cases import CASES, Case
from .subjects import KINDS, SUBJECTS, UnservedError

PAGE = Path(__file__).parents[2] / "docs" / "around-your-model.md"

INTRODUCTION = """# Around your model

This page lists what people do to a model before and after `ap.prune`, and the result. A test tries each of these on
tiny models of every kind. It compares the answers with those of a fresh copy that was only pruned. The test writes this
page: `python -m tests.around > docs/around-your-model.md`.

- **Works** means that the pruned model gives the right answers.
- **Refused** means that an error says what to do instead, before anything is changed.
- The models are AST and AudioMAE; Wav2Vec2, HuBERT and Whisper's encoder; Qwen2-Audio and Qwen3-ASR.

audioprune gives two guarantees.

- **The data of one forward belong to that call.** Threads and tasks may share a pruned model. Each forward reads the
  keep rate once, when it begins. `ap.trace` sees only the forwards of its own thread or task.
- **A packed layer computes with the weights that it has.** Each product compares the weight with the packed one, number
  by number. So it does not matter who changed the weight, or how. `ap.pack(model, frozen=True)` leaves out this check.
  It is your promise that nobody writes to a weight in a way that PyTorch does not notice.

Only one thing runs unpruned: a single block that is called by itself, outside its encoder.
"""

TOPICS = (
    "LoRA (peft)",
    "Averages and merges of weights",
    "Quantisation",
    "`torch.compile`",
    "Ways to call it",
    "Copies, files and processes",
    "Threads, streams and shared parts",
    "accelerate and DDP",
    "Training",
)


def said(case: Case, kind: str) -> str:
    """Try a case with the models of a kind. Return "works", "refused: …", or "–" if the kind has no such case.

    Raises `AssertionError` for a wrong answer, and if models of one kind differ.
    """
    if kind not in case.kinds:
        return "–"
    found = set()
    subjects = [subject for subject in SUBJECTS if subject.kind == kind]
    for subject in [subjects[0].shallow()] if case.is_slow else subjects:
        torch.manual_seed(0)
        try:
            case.attempt(subject)
        except UnservedError:
            continue
        except AssertionError as error:
            raise AssertionError(f"{case.topic}, {case.what}, {subject.name}: {error}") from error
        except (ValueError, TypeError, RuntimeError) as error:
            if not type(error).__module__.startswith("audioprune") and not _is_ours(error):
                raise
            found.add(f"refused: {_shown(error)}")
        else:
            found.add("works")
    assert len(found) == 1, f"{case.topic}, {case.what}: {found}"
    return found.pop()


def row(case: Case) -> str:
    """Make a row of the page."""
    outcomes = [said(case, kind) for kind in KINDS]
    refusals = sorted({outcome.removeprefix("refused: ") for outcome in outcomes if outcome.startswith("refused")})
    notes = [f"“{refusal}”" for refusal in refusals] + ([case.note] if case.note else [])
    cells = [case.what, *(outcome.partition(":")[0] for outcome in outcomes), "<br>".join(notes)]
    return f"| {' | '.join(cells)} |"


def page() -> str:
    """Make the page again. Rows of cases whose packages are missing stay as they are."""
    stand = PAGE.read_text().splitlines() if PAGE.exists() else []
    lines = [INTRODUCTION]
    for topic in TOPICS:
        lines += [f"## {topic}", "", f"| | {' | '.join(KINDS)} | |", "|---|---|---|---|---|"]
        for case in (case for case in CASES if case.topic == topic):
            here = [line for line in stand if line.startswith(f"| {case.what} |")]
            lines += [row(case)] if case.is_met else here
        lines.append("")
    return "\n".join(lines)


def _is_ours(error: BaseException) -> bool:
    """Tell whether the package itself raised an error, and not a library that it calls."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and "/audioprune/" in trace.tb_frame.f_code.co_filename.replace("\\", "/")


def _shown(error: BaseException) -> str:
    """Return the message of an error, with one name for the modules of all models."""
    message = " ".join(str(error).split())
    message = re.sub(r"^[\w.]+(?=\.forward was| is pruned already)", "…", message)
    message = re.sub(r"(?<=is used )\d+ times among the \d+", "several times among those", message)
    message = re.sub(r"^\w+ForConditionalGeneration(?=: its audio)", "…", message)
    return re.sub(r"([<>*_\[\]|])", r"\\\1", message)
