"""Bulk tagging: what is written, what survives a kill, what is refused."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest
import soundfile
import torch

import audioprune as ap
from audioprune.bulk.log import ResultLog, ResultLogError
from audioprune.bulk.run import run
from audioprune.bulk.sounds import find_clips
from audioprune.tagging.tagger import Tagger

from .conftest import tone
from .families import audiomae
from .processes import COMMAND, begin
from .processes import run as fresh

SETTING = {"model": "tiny", "keep_rate": 0.5}


@pytest.fixture
def tagger() -> Tagger:
    model = audiomae().eval()
    ap.prune(model, ap.TopK(0.5))
    return Tagger(model, ap.LogMel(128), batch_size=4)


def rows_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_clip_gets_a_row_in_order(tagger, clips, tmp_path) -> None:
    (clips / "corrupt.wav").write_bytes(b"RIFF1234")
    (clips / "empty.flac").write_bytes(b"")
    (clips / "text.wav").write_text("hello")
    (clips / "notes.txt").write_text("hello")
    found, passed = find_clips([clips])
    assert [p.name for p in passed] == ["notes.txt"]
    seen = []
    with ResultLog(tmp_path / "out.jsonl", SETTING) as log:
        assert run(tagger, found, log, seen.append) == (9, 3)
    rows = rows_of(tmp_path / "out.jsonl")
    assert [row["path"] for row in rows] == [str(p) for p in found] == sorted(str(p) for p in found)
    assert [Path(row["path"]).name for row in rows if "error" in row] == ["corrupt.wav", "empty.flac", "text.wav"]
    assert all(str(row["path"]) in row["error"] for row in rows if "error" in row)
    good = next(row for row in rows if "labels" in row)
    assert [item["score"] for item in good["labels"]] == sorted((i["score"] for i in good["labels"]), reverse=True)
    assert good["setting"] == SETTING
    assert len(seen) == 9


def test_batching_changes_nothing(tagger, clips) -> None:
    paths, _ = find_clips([clips])
    answers = []
    for size in (1, 4, 100):
        tagger.batch_size = size
        answers.append([row["labels"][0] for row in tagger(paths)])
    for other in answers[1:]:
        for a, b in zip(answers[0], other, strict=True):
            assert a["label"] == b["label"]
            assert a["score"] == pytest.approx(b["score"], abs=1e-4)


def test_a_finished_run_does_nothing_and_remembers_failures(tagger, clips, tmp_path) -> None:
    (clips / "bad.wav").write_text("no")
    paths, _ = find_clips([clips])
    out = tmp_path / "out.jsonl"
    with ResultLog(out, SETTING) as log:
        run(tagger, paths, log)
    before = out.read_bytes()
    with ResultLog(out, SETTING) as log:
        assert run(tagger, paths, log) == (0, 1)
    assert out.read_bytes() == before


@pytest.mark.parametrize("cut", [1, 20, 60, 10_000])
def test_a_torn_last_line_is_done_again(tagger, clips, tmp_path, cut: int) -> None:
    paths, _ = find_clips([clips])
    out = tmp_path / "out.jsonl"
    with ResultLog(out, SETTING) as log:
        run(tagger, paths, log)
    whole = out.read_bytes()
    lines = whole.splitlines(keepends=True)
    out.write_bytes(b"".join(lines[:3]) + (lines[3][:-cut] or lines[3][:5]))
    with ResultLog(out, SETTING) as log:
        assert run(tagger, paths, log)[0] == 3
    assert [row["path"] for row in rows_of(out)] == [str(p) for p in paths]


def test_another_setting_is_refused_and_nothing_changed(tagger, clips, tmp_path) -> None:
    out = tmp_path / "out.jsonl"
    with ResultLog(out, SETTING) as log:
        run(tagger, find_clips([clips])[0], log)
    before = out.read_bytes()
    with pytest.raises(ResultLogError, match=r"begun with keep_rate=0.5 \(not 0.7\); give"):
        ResultLog(out, {**SETTING, "keep_rate": 0.7})
    assert out.read_bytes() == before


@pytest.mark.parametrize(
    "content",
    ["Chapter one\nChapter two", '{"a": 1}', "{}\n", '{"path": "a", "setting": 3}\n', '[1]\n{"path": ', "\n", "x"],
)
def test_a_file_that_is_no_result_file_is_refused(tmp_path, content: str) -> None:
    out = tmp_path / "thesis.txt"
    out.write_text(content)
    with pytest.raises(ResultLogError, match="line 1 is not a row of results"):
        ResultLog(out, SETTING)
    assert out.read_text() == content


def test_a_run_is_taken_up_from_another_folder(tagger, clips, tmp_path, monkeypatch) -> None:
    out = tmp_path / "out.jsonl"
    monkeypatch.chdir(clips)
    with ResultLog(out, SETTING) as log:
        run(tagger, [Path("tone0.wav"), Path("tone1.wav")], log)
    monkeypatch.chdir(tmp_path)
    with ResultLog(out, SETTING) as log:
        assert run(tagger, find_clips(["clips"])[0], log)[0] == 4
    assert len({row["path"] for row in rows_of(out)}) == len(rows_of(out)) == 6


def test_failures_of_other_clips_do_not_count(tagger, clips, tmp_path) -> None:
    (clips / "bad.wav").write_text("no")
    with ResultLog(tmp_path / "out.jsonl", SETTING) as log:
        assert run(tagger, [clips / "bad.wav"], log) == (1, 1)
        assert run(tagger, [clips / "tone0.wav"], log) == (1, 0)
        assert run(tagger, [clips / "tone0.wav", clips / "bad.wav"], log) == (0, 1)


def test_odd_names_and_formats_stop_nobody(tagger, clips, tmp_path) -> None:
    names = [b"m\xff.wav", "a [1] é 音.wav".encode()]
    paths = [clips / os.fsdecode(name) for name in names] + [clips / "samples.raw"]
    for path in paths:
        path.write_bytes((clips / "tone0.wav").read_bytes())
    paths[-1].write_bytes(bytes(4000))
    with ResultLog(tmp_path / "out.jsonl", SETTING) as log:
        assert run(tagger, paths, log) == (3, 1)
    assert [row["path"] for row in rows_of(tmp_path / "out.jsonl")] == [str(path) for path in paths]


def test_no_empty_file_is_left_behind(tmp_path) -> None:
    with ResultLog(tmp_path / "out.jsonl", SETTING):
        pass
    assert not (tmp_path / "out.jsonl").exists()


def test_two_runs_at_once_are_refused(tmp_path) -> None:
    pytest.importorskip("fcntl")
    with ResultLog(tmp_path / "out.jsonl", SETTING), pytest.raises(ResultLogError, match="another run"):
        ResultLog(tmp_path / "out.jsonl", SETTING)


def test_a_clip_named_twice_is_tagged_once(clips) -> None:
    one = clips / "tone1.wav"
    assert len(find_clips([one, clips, clips / ".." / "clips" / "tone1.wav"])[0]) == 6
    with pytest.raises(FileNotFoundError, match="nowhere"):
        find_clips([clips / "nowhere"])


def test_long_and_silent_and_tiny_clips(tagger, tmp_path) -> None:
    soundfile.write(tmp_path / "long.wav", tone(30.0), 16_000)
    soundfile.write(tmp_path / "silent.wav", 0 * tone(1.0), 16_000)
    soundfile.write(tmp_path / "tiny.wav", tone(0.05), 16_000)
    rows = {Path(row["path"]).stem: row for row in tagger(find_clips([tmp_path])[0])}
    assert rows["long"]["seconds"] == rows["long"]["heard_seconds"] == 30.0
    assert all("labels" in row for row in rows.values())
    tagger.windows = None
    rows = {Path(row["path"]).stem: row for row in tagger(find_clips([tmp_path])[0])}
    assert rows["long"]["seconds"] == 30.0
    assert rows["long"]["heard_seconds"] == pytest.approx(tagger.front.max_seconds, abs=1e-3)
    assert set(rows["long"]) == set(rows["tiny"]) == {"path", "labels", "seconds", "heard_seconds"}


def test_an_answer_that_is_not_finite_is_an_error(tagger, clips) -> None:
    with torch.no_grad():
        tagger.model.classifier.bias.fill_(float("nan"))
    assert all("not finite" in row["error"] for row in tagger(find_clips([clips])[0]))


def test_kill_nine_half_way_loses_and_doubles_nothing(tmp_path) -> None:
    """The command itself, killed twice at arbitrary moments, then let finish."""
    folder, out = tmp_path / "clips", tmp_path / "out.jsonl"
    folder.mkdir()
    for i in range(60):
        soundfile.write(folder / f"{i:02}.wav", tone(0.3, hertz=100 + 20 * i), 16_000)
    audiomae(hidden_size=192, num_hidden_layers=12, intermediate_size=768).save_pretrained(tmp_path / "model")
    words = ["tag", folder, "--model", tmp_path / "model", "--method", "topk", "--out", out, "--batch-size", "2"]
    for target in (8, 30):
        process = begin(COMMAND, *words, said=tmp_path / "said.txt")
        while process.is_alive() and (not out.exists() or out.read_bytes().count(b"\n") < target):
            time.sleep(0.005)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL, (tmp_path / "said.txt").read_text()
        assert target <= out.read_bytes().count(b"\n") < 60
    assert fresh(COMMAND, *words, said=tmp_path / "said.txt") == 0
    assert [Path(row["path"]).name for row in rows_of(out)] == [f"{i:02}.wav" for i in range(60)]
