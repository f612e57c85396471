"""`ask`, and `explain` and `bench` of an audio-language model, with a tiny one that has learnt nothing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from listener import make_model, make_processor


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lm") / "model"
    processor = make_processor(mels=16)
    model = make_model(processor, width=16, audio_layers=2, text_layers=1)
    model.save_pretrained(path)
    processor.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clips") / "[two] clips.wav"
    soundfile.write(path, np.random.default_rng(0).normal(0, 0.1, 48_000), 16_000)
    return path


def test_ask(run, folder: Path, clip: Path) -> None:
    code, out, err = run("ask", clip, "how many digits ?", "-m", folder, "--max-new-tokens", "5")
    assert code == 0, err
    assert "75 → 19 audio tokens" in err
    assert "first token after" in err
    assert len(out.strip()) > 0


def test_ask_compares_and_draws(run, folder: Path, clip: Path, tmp_path: Path) -> None:
    picture = tmp_path / "kept.svg"
    words = [
        "ask",
        clip,
        "how many digits ?",
        "-m",
        folder,
        "--keep-rate",
        "0.5",
        "--method",
        "topk+merge",
        "--compare",
    ]
    code, out, err = run(*words, "--out", picture, "--json", "--positions", "keep")
    assert code == 0, err
    row = json.loads(out)
    assert row["tokens"] == [75, 38]
    assert row["unpruned"]["tokens"] == [75, 75]
    assert len(row["kept"]) == len(row["kept_seconds"]) == 38
    assert row["first_token_seconds"] < row["seconds"]
    assert picture.read_text().count("<path") > 10


def test_a_keep_rate_of_one_asks_the_whole_model(run, folder: Path, clip: Path) -> None:
    _code, out, _err = run("ask", clip, "how many digits ?", "-m", folder, "--keep-rate", "1.0", "--json")
    assert json.loads(out)["tokens"] == [75, 75]


def test_explain(run, folder: Path, clip: Path, tmp_path: Path) -> None:
    code, out, err = run("explain", clip, "-m", folder, "--out", tmp_path / "kept.png")
    assert code == 0, err
    assert "19 of 75 audio tokens kept" in out
    assert (tmp_path / "kept.png").stat().st_size > 10_000


def test_bench(run, folder: Path) -> None:
    words = ["bench", "-m", folder, "--method", "segmentwise", "--keep-rates", "0.25", "--batch-sizes", "1,2"]
    code, out, err = run(*words, "--seconds", "0.05", "--clip-seconds", "2", "--json")
    assert code == 0, err
    rows = json.loads(out)["rows"]
    assert [row["tokens"] for row in rows] == [[50, 50], [50, 13]] * 2
    # Two seconds of a longer window: most of what is saved is the padding in the encoder.
    assert rows[0]["macs_ratio"] == 1
    assert rows[1]["macs_ratio"] > 4


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--keep-rate", "0"], "more than 0 and at most 1"),
        (["--keep-rate", "1.3"], "more than 0 and at most 1"),
        (["--method", "wiser"], "no method 'wiser'"),
        (["--positions", "sideways"], '"renumber" or "keep"'),
        (["--out", "kept.bmp"], "written as .png"),
        (["--method", "tome"], "at least 0.5"),
        (["-m", "esc10"], "not an audio-language model"),
        (["-m", "./nowhere"], "no such file or folder"),
    ],
)
def test_mistakes_are_told(run, folder: Path, clip: Path, words: list[str], said: str) -> None:
    code, _out, err = run("ask", clip, "how many digits ?", "-m", folder, *words)
    assert code == 2
    assert said in err
    assert "Traceback" not in err


def test_too_short_a_sound(run, folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "short.wav"
    soundfile.write(path, np.random.default_rng(0).normal(0, 0.1, 800), 16_000)
    for rate in ("1.0", "0.25"):
        code, _, err = run("ask", path, "how many digits ?", "-m", folder, "--keep-rate", rate)
        assert code == 2
        assert "0.05 s is too short" in err


def test_what_a_model_does_not_hear_is_told(run, folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "long.wav"
    soundfile.write(path, np.random.default_rng(0).normal(0, 0.1, 16_000 * 25), 16_000)
    code, _, err = run("ask", path, "how many digits ?", "-m", folder, "--out", "long.png")
    assert code == 0
    assert "25.0 s long, of which the model hears the first 10.0 s" in err


def test_a_settings_file_gives_its_own_rate(run, folder: Path, clip: Path, tmp_path: Path) -> None:
    (tmp_path / "half.json").write_text('{"method": "SegmentwiseTopK", "keep_rate": 0.5, "segments": 8}')
    words = ("ask", clip, "how many digits ?", "-m", folder, "--method", "half.json", "--json")
    row = json.loads(run(*words)[1])
    assert row["tokens"] == [75, 38]
    assert row["setting"]["segments"] == 8
    assert json.loads(run(*words, "--keep-rate", "0.25")[1])["tokens"] == [75, 19]


def test_bad_sounds_are_told(run, folder: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty.wav"
    soundfile.write(empty, np.zeros(0), 16_000)
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"RIFF????")
    for path in (empty, broken, tmp_path / "missing.wav"):
        code, _out, err = run("ask", path, "how many digits ?", "-m", folder)
        assert code == 2
        assert path.name in err
        assert "Traceback" not in err


def test_classifiers_commands_name_the_right_one(run, folder: Path, clip: Path) -> None:
    code, _out, err = run("tag", clip, "-m", folder)
    assert code == 2
    assert "audioprune ask" in err
