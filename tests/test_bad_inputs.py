"""Every bad input of `bad_inputs`, on the command line and through Python, and the page that tells of them."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from .bad_inputs import CASES, PAGE, Case, Outcome, everything, page, stage
from .families import audiomae
from .processes import COMMAND
from .processes import run as fresh

CAUGHT = (ValueError, TypeError, OSError, RuntimeError)
"""What the library may raise: every other class is a traceback on the command line."""


def wrong(case: Case, outcome: Outcome) -> list[str]:
    """What is not as it should be."""
    return [
        what
        for what, failed in {
            f"exit code {outcome.code}, not {case.code}": outcome.code != case.code,
            "a traceback": "Traceback" in outcome.printed,
            f"no {case.said!r} in what is said": not re.search(case.said, outcome.said, re.DOTALL),
            f"{outcome.said.count(chr(10)) + 1} lines": outcome.said.count("\n") >= case.lines,
            f"{outcome.lost} lost": bool(outcome.lost),
            "this machine's folders": str(Path.cwd()) in outcome.said or str(Path.home()) in outcome.said,
        }.items()
        if failed
    ]


def wrong_in_python(case: Case) -> list[str]:
    if case.python is None:
        return []
    try:
        case.python()
    except CAUGHT as error:
        said = case.python_said or case.said
        return [] if re.search(said, str(error), re.DOTALL) else [f"Python says {error!s}, without {said!r}"]
    return ["Python raises nothing"]


def test_bad_inputs_and_their_page() -> None:
    """In one test, as the files they name and the models they load are made once."""
    with stage() as folder:
        outcomes = everything()
        found = {
            f"{group}: {case.given} [{case.words}]: {problem}, in {outcome.said!r}"
            for group, pairs in outcomes.items()
            for case, outcome in pairs
            for problem in [*wrong(case, outcome), *wrong_in_python(case)]
        }
        assert not (folder / "executed").exists(), "a pickle's code was run"
    assert not found, "\n".join(sorted(found))
    if all(case.is_met for cases in CASES.values() for case in cases):
        written = page(outcomes)
        if os.environ.get("AUDIOPRUNE_WRITE"):
            PAGE.write_text(written)
        assert PAGE.read_text() == written, "python -m tests.bad_inputs > docs/bad-inputs.md writes it anew"


def test_there_are_many() -> None:
    cases = [case for group in CASES.values() for case in group]
    assert len(cases) >= 45
    assert len({case.words for case in cases}) == len(cases)


def test_a_file_that_may_not_be_read(run, clips, monkeypatch) -> None:
    if os.geteuid() == 0:  # who may read everything
        allowed = os.access
        monkeypatch.setattr(
            os, "access", lambda path, *rest, **more: "tone0" not in str(path) and allowed(path, *rest, **more)
        )
    (clips / "tone0.wav").chmod(0)
    code, out, err = run("tag", clips, "--keep-rate", "0.5", "--json")
    assert code == 1, err
    assert "tone0.wav: may not be read; change its permissions" in out
    assert out.count('"labels": ') == 5, "the others are tagged"


def test_a_disk_that_is_full(run, clips) -> None:
    """What was written before stays, the row that did not fit is cut off, and the same command goes on."""
    pytest.importorskip("resource")
    audiomae().save_pretrained("tiny")
    words = ["tag", str(clips), "--model", "tiny", "--keep-rate", "0.5", "--batch-size", "1", "--out", "a.jsonl"]
    assert run("tag", clips / "tone0.wav", *words[2:])[0] == 0
    earlier = Path("a.jsonl").read_bytes()
    limit = len(earlier) * 5 // 2
    assert fresh(COMMAND, *words, said=Path("said.txt"), most_bytes=limit) == 2
    said = Path("said.txt").read_text()
    assert "files may not grow so large here" in said
    assert "Traceback" not in said
    assert Path("a.jsonl").read_bytes().startswith(earlier)
    assert run(*words)[0] == 0
    rows = [json.loads(line) for line in Path("a.jsonl").read_text().splitlines()]
    assert sorted(Path(row["path"]).name for row in rows) == [f"tone{i}.wav" for i in range(6)]
