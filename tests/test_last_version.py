"""What the last version wrote is still read, and its runs go on. `last_version` says how the files were made."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

import audioprune as ap
from audioprune.analysis.run import write_answers
from audioprune.analysis.state import StateError
from audioprune.bulk.log import ResultLogError
from audioprune.calibration.disagreement import Hearing
from audioprune.core.settings import describe
from audioprune.lm.answer_log import AnswersError
from audioprune.training import sweep
from audioprune.training.evaluation_table import finished, summarize

from . import last_version as before

CHANGE = 1e-3
"""Of one weight: the model is another one."""


@pytest.fixture
def left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the files. The working folder is another one."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return Path(shutil.copytree(Path(__file__).parent / "fixtures" / "last-version", tmp_path / "left"))


@pytest.mark.parametrize("name", ["tags.jsonl", "tags.parquet"])
def test_tagging_goes_on(left: Path, name: str) -> None:
    if name.endswith(".parquet"):
        pytest.importorskip("pyarrow")
    with pytest.raises(ResultLogError, match="keep_rate"):
        before.tag(left / name, keep_rate=0.7)
    heard: list[str] = []
    assert before.tag(left / name, heard.append) == (2, 0)
    assert heard == ["sound 3", "sound 4"]
    assert before.tag(left / name, heard.append) == (0, 0)


def test_a_calibration_goes_on(left: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = left / "calibration.jsonl"
    rows = [json.loads(line) for line in state.read_text().splitlines()]
    known = {(json.dumps(row["setting"]), place) for row in rows if "setting" in row for place in row["clips"]}
    asked, logits = set(), Hearing._logits

    def counted(self: Hearing, places: list[int]) -> torch.Tensor:
        if (pruned := ap.handle(self.model)) is not None:
            asked.update((json.dumps(describe(pruned.method)), place) for place in places)
        return logits(self, places)

    monkeypatch.setattr(Hearing, "_logits", counted)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert before.calibrate(state).method is not None
    assert asked
    assert len(known) == 48
    assert not known & asked, "what was heard is not heard again"
    assert not state.exists()


def test_a_calibration_of_another_model_is_begun_anew(left: Path) -> None:
    with pytest.warns(UserWarning, match=r"begun with model='.{16}' \(not '.{16}'\), and now begun anew"):
        before.calibrate(left / "calibration.jsonl", change=CHANGE)


def test_an_analysis_begins_anew(left: Path, tmp_path: Path) -> None:
    """The last version did not count what the rank correlation as published needs."""
    with pytest.raises(StateError, match="weights"):
        before.analysis(left / "analysis", before.clips(), CHANGE)
    with pytest.warns(UserWarning, match="begun by an earlier version, which counted less, and now begun anew"):
        again = before.analysis(left / "analysis", before.clips())
    assert (again.surveyed, again.analysed) == (0, 0)
    answers = json.loads(write_answers(tmp_path, again.run(), {}).read_text())["answers"]
    fresh = before.analysis(tmp_path / "fresh", before.clips())
    assert answers == json.loads(write_answers(tmp_path, fresh.run(), {}).read_text())["answers"]


def test_answers_are_not_asked_for_again(left: Path) -> None:
    with pytest.raises(AnswersError, match="weights"):
        before.answer(left / "evaluation", change=CHANGE)
    asked: list[str] = []
    result = before.answer(left / "evaluation", asked.append)
    assert asked == ["2", "3"]
    assert result["rows"][0]["score"] == 1.0
    before.answer(left / "evaluation", asked.append)
    assert asked == ["2", "3"]


def test_a_sweep_is_done(left: Path, tmp_path: Path) -> None:
    """The results are read, and nothing is trained: the model's weights are not among the files."""
    steps = before.trainings(left / "sweep", tmp_path)
    (result,) = sweep.run(steps)
    assert finished(left / "sweep") == [result]
    (row,) = summarize([result])
    assert (row["recipe"], row["keep_rate"], row["scores"]) == ("tiny", 0.5, {"seed0": result["score"]})
    changed: Any = before.trainings(left / "sweep", tmp_path, epochs=9)
    with pytest.raises(ValueError, match=r"seed0-rate0\.5: begun with recipe\.epochs=2 \(not 9\)"):
        sweep.run(changed)
