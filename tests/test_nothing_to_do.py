"""A run of tagging with nothing left to do loads no model, unless what its setting follows from has changed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from audioprune.bulk.asked import asked_for
from audioprune.cli import options

from .families import audiomae

NOT_NEEDED = ("torch", "transformers", "pandas", "soundfile")
CODE = """
import sys
from audioprune.cli import main
try:
    main()
finally:
    print(*(name for name in {names!r} if name in sys.modules))
"""


@pytest.fixture
def begin(run: Callable, clips: Path, counted_once: None) -> Callable:
    """Tag the clips with a tiny model; returns the words of the command."""

    def tag(*more: object, out: str = "out.jsonl") -> list[str]:
        audiomae().save_pretrained("model")
        words = ["tag", str(clips), "--model", "./model", "--out", out, *map(str, more)]
        code, _, err = run(*words)
        assert code == 0, err
        return words

    return tag


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the models that are loaded from now on."""
    models: list[str] = []
    load = options.open_model

    def counted(source: str, *rest: str, **more: bool) -> object:
        models.append(source)
        return load(source, *rest, **more)

    monkeypatch.setattr(options, "open_model", counted)
    return models


def content(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (out.iterdir() if out.is_dir() else [out])}


@pytest.mark.parametrize("out", ["out.jsonl", "out.parquet"])
@pytest.mark.parametrize("words", [(), ("--method", "topk+merge", "--keep-rate", "0.5", "--top", "2")])
def test_it_imports_no_pytorch(begin, out: str, words: tuple[str, ...]) -> None:
    unneeded = NOT_NEEDED
    if out.endswith(".parquet"):
        pytest.importorskip("pyarrow", reason="pip install 'audioprune[ray]'")
    else:
        unneeded += ("pyarrow", "numpy")
    command = [sys.executable, "-c", CODE.format(names=unneeded), *begin(*words, out=out)]
    before = content(Path(out))
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.split()) == (0, []), done.stderr
    assert done.stderr == f"0 clips done, 6 were done before → {out}\n"
    assert content(Path(out)) == before


def test_it_says_what_the_slow_way_says(begin, run, loaded, clips) -> None:
    (clips / "bad.wav").write_text("no sound")
    (clips / "notes.txt").write_text("no sound")
    with pytest.raises(AssertionError, match="1 clip failed"):
        begin()
    words = ["tag", clips, "--model", "./model", "--out", "out.jsonl"]
    loaded.clear()
    quick = run(*words, "--batch-size", 2)
    assert not loaded
    os.utime("model/config.json")
    slow = run(*words)
    assert loaded == ["./model"]
    assert quick == slow
    assert quick[0] == 1
    assert "0 clips done, 6 were done before" in quick[2]
    assert "Passing over 1 files" in quick[2]


def touch() -> None:
    os.utime("model/model.safetensors")


def replace_by_a_copy() -> None:
    """Put another file of the same size and date there."""
    shutil.copy2("model/model.safetensors", "other")
    os.replace("other", "model/model.safetensors")


def add_a_pruning() -> None:
    Path("model/pruning.json").write_text('{"method": "TopK", "keep_rate": 0.5}')


def forget_the_mark() -> None:
    """Make the rows those of an earlier version."""
    rows = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    marks = {row.pop("asked") for row in rows}
    assert len(marks) == 1
    Path("out.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))


@pytest.mark.parametrize("change", [touch, replace_by_a_copy, add_a_pruning, forget_the_mark])
def test_the_model_is_loaded_if_its_files_may_be_others(begin, run, loaded, change: Callable[[], None]) -> None:
    words = begin("--method", "recommended")
    loaded.clear()
    change()
    code, _, err = run(*words)
    assert loaded == ["./model"]
    assert (code, "6 were done before" in err) == (0, True)


def test_a_changed_model_is_refused(begin, run) -> None:
    words = begin()
    before = content(Path("out.jsonl"))
    audiomae(num_hidden_layers=6).save_pretrained("model")
    code, _, err = run(*words)
    assert code == 2
    assert "out.jsonl: begun with keep_rate=0." in err
    assert "give the same settings to continue" in err
    shutil.rmtree("model")
    code, _, err = run(*words)
    assert (code, "./model: no such file or folder" in err) == (2, True)
    assert content(Path("out.jsonl")) == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--top", "2"), "begun with top=3 (not 2)"),
        (("--dtype", "bfloat16"), "begun with dtype='float32' (not 'bfloat16')"),
        (("--keep-rate", "0.6"), "begun with "),
        (("--method", "tofu"), "begun with "),
        (("--method", "tofuu"), "did you mean tofu?"),
        (("--dtype", "int8"), "float32, bfloat16"),
        (("--device", "meta"), "holds no data"),
        (("--model", "none.pth"), "none.pth: no such file"),
    ],
)
def test_other_words_are_refused_as_before(begin, run, words: tuple[str, ...], message: str) -> None:
    code, _, err = run(*begin(), *words)
    assert code == 2
    assert message in err


def test_a_changed_method_is_refused(begin, run, loaded) -> None:
    Path("m.json").write_text('{"method": "TopK", "keep_rate": 0.5}')
    words = begin("--method", "m.json+merge")
    loaded.clear()
    assert run(*words)[0] == 0
    assert not loaded
    Path("m.json").write_text('{"method": "TopK", "keep_rate": 0.6}')
    code, _, err = run(*words)
    assert code == 2
    assert "begun with keep_rate=0.5 (not 0.6)" in err


def test_another_version_is_asked_anew(begin, run, loaded, monkeypatch) -> None:
    words = begin()
    loaded.clear()
    monkeypatch.setattr(sys.modules["audioprune.cli.tag"], "__version__", "99")
    assert run(*words)[0] == 0
    assert loaded == ["./model"]


def test_a_row_of_another_setting_is_refused(begin, run, loaded) -> None:
    words = begin("--keep-rate", "0.5")
    rows = Path("out.jsonl").read_text().splitlines(keepends=True)
    for changed in (4, 0):
        edited = [row.replace('"top": 3', '"top": 2') if i >= changed else row for i, row in enumerate(rows)]
        Path("out.jsonl").write_text("".join(edited))
        code, _, err = run(*words)
        assert code == 2
        assert "begun with top=2 (not 3)" in err


@pytest.mark.parametrize("out", ["out.jsonl", "out.parquet"])
def test_what_is_left_is_done(begin, run, loaded, clips, out: str) -> None:
    if out.endswith(".parquet"):
        pytest.importorskip("pyarrow", reason="pip install 'audioprune[ray]'")
    words = begin(out=out)
    shutil.copy(clips / "tone0.wav", clips / "tone6.wav")
    for written in (1, 0):
        loaded.clear()
        code, _, err = run(*words)
        assert code == 0, err
        assert f"{written} clip" in err
        assert loaded == ["./model"] * written


def test_a_setting_that_comes_out_otherwise_is_refused(begin, run, clips, monkeypatch) -> None:
    """The file is opened before the model is loaded, and compared again afterwards."""
    words = begin()
    shutil.copy(clips / "tone0.wav", clips / "tone6.wav")
    find = options.ChosenMethod.for_model
    monkeypatch.setattr(options.ChosenMethod, "for_model", lambda *given: find(*given).with_keep_rate(0.6))
    code, _, err = run(*words)
    assert code == 2
    assert "(not 0.6)" in err
    assert len(Path("out.jsonl").read_text().splitlines()) == 6


def test_of_some_models_the_files_are_not_known(tmp_path) -> None:
    assert asked_for("esc10", None) is not None
    assert asked_for("MIT/ast-finetuned-audioset-16-16-0.442", None) is None
    assert asked_for(str(tmp_path / "none"), None) is None
    assert asked_for("esc10", "m" * 10_000) is None, "too long for a name"
    (tmp_path / "adapter_config.json").touch()
    assert asked_for(str(tmp_path), None) is None
