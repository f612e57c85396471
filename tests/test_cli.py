"""The command line as a user meets it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

import audioprune as ap
from audioprune.cli.demo import _counts
from audioprune.cli.options import build_method
from audioprune.core.recommend import HALF, recommended_at
from audioprune.methods import METHODS
from audioprune.methods.names import TABLE, Entry

from .families import ast, audiomae
from .processes import COMMAND
from .processes import run as fresh


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("model")
    audiomae().save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("command", ["tag", "explain", "bench", "convert", "demo"])
def test_help_teaches(run, command: str) -> None:
    code, out, _ = run(command, "--help")
    assert code == 0
    assert "Usage" in out
    assert command in run("--help")[1]


def test_tag_to_a_file_and_again(run, tiny, clips) -> None:
    words = ("tag", clips, "--model", tiny, "--keep-rate", "0.5", "--out", "results.jsonl")
    code, out, err = run(*words)
    assert (code, out) == (0, "")
    assert "6 clips done" in err
    rows = [json.loads(line) for line in Path("results.jsonl").read_text().splitlines()]
    assert len(rows) == 6
    assert rows[0]["setting"]["method"] == "TopK"
    assert "6 were done before" in run(*words)[2]
    code, _, err = run(*words[:-3], "0.7", *words[-2:])
    assert code == 2
    assert "begun with keep_rate=0.5 (not 0.7)" in err
    assert len(Path("results.jsonl").read_text().splitlines()) == 6


def test_tag_notes_the_keep_rate_that_it_used(run, tiny, clips) -> None:
    _, _, err = run("tag", clips, "--model", tiny, "--out", "results.jsonl")
    row = json.loads(Path("results.jsonl").read_text().splitlines()[0])
    assert f"ToMe({row['setting']['keep_rate']}, " in err
    used = {name: row["setting"][name] for name in ("method", "layers", "metric")}
    Path("other.json").write_text(json.dumps({**used, "keep_rate": row["setting"]["keep_rate"] - 0.001}))
    assert run("tag", clips, "--model", tiny, "--method", "other.json", "--out", "results.jsonl")[0] == 2
    Path("same.json").write_text(json.dumps({**used, "keep_rate": row["setting"]["keep_rate"]}))
    assert (
        "were done before" in run("tag", clips, "--model", tiny, "--method", "same.json", "--out", "results.jsonl")[2]
    )


def test_silence_is_said(run, tiny, clips) -> None:
    soundfile.write("silent.wav", np.full(16_000, 0.25, np.float32), 16_000)
    code, out, err = run("tag", clips, "silent.wav", "--model", tiny, "--json")
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [Path(row["path"]).name for row in rows if row.get("silent")] == ["silent.wav"]
    assert "1 clip silent" in err


def test_methods_go_by_the_names_that_are_printed_too(run, tiny, clips) -> None:
    assert build_method("ToMe", "0.8") == build_method("tome", "0.8")
    assert "did you mean tome?" in run("tag", clips, "--model", tiny, "--method", "tomee")[2]


def test_tag_reports_failures_with_exit_one(run, tiny, clips) -> None:
    (clips / "corrupt.wav").write_bytes(b"RIFF")
    (clips / "notes.txt").write_text("text")
    code, out, err = run("tag", clips, clips / "notes.txt", "--model", tiny, "--json")
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 1
    assert len(rows) == 8
    assert [Path(r["path"]).name for r in rows if "error" in r] == ["corrupt.wav", "notes.txt"]
    assert "2 clips failed" in err


def test_tag_prints_lines(run, tiny, clips) -> None:
    code, out, _ = run("tag", clips / "tone0.wav", "--model", tiny, "--method", "segmentwise", "--dropped", "merge")
    assert code == 0
    assert "LABEL_" in out


def test_explain(run, tiny, clips) -> None:
    code, out, _ = run("explain", clips / "tone5.wav", "--model", tiny, "--keep-rate", "0.5", "--json")
    result = json.loads(out)
    assert code == 0
    assert Path(result["picture"]).read_bytes().startswith(b"\x89PNG")
    assert result["grid"] == [8, 8]
    assert [len(stage["kept"]) for stage in result["stages"]] == [32, 16, 8]
    assert run("explain", clips / "tone5.wav", "--model", tiny, "--out", "a.svg")[0] == 0
    assert "<svg" in Path("a.svg").read_text()


def test_bench(run, tiny) -> None:
    words = ("bench", "--model", tiny, "--keep-rates", "0.5", "--batch-sizes", "1,2", "--seconds", "0.1")
    code, out, _ = run(*words, "--json")
    result = json.loads(out)
    rows = result["rows"]
    assert code == 0
    assert result["command"].startswith("audioprune bench --model")
    assert result["setting"]["method"] == "TopK"
    assert [(r["batch_size"], r["keep_rate"]) for r in rows] == [(1, 1.0), (1, 0.5), (2, 1.0), (2, 0.5)]
    assert rows[0]["speed_up"] == 1.0
    assert rows[1]["macs_ratio"] > 1.4
    assert rows[1]["tokens"] == [64, 32, 16, 8]
    assert not result["packed"]
    assert "64→8" in run(*words)[1]
    assert json.loads(run(*words, "--pack", "--json")[1])["packed"]
    # The title wraps where the model's folder has a long name.
    assert "float32, packed" in " ".join(run(*words, "--pack")[1].split())


def test_packing_changes_no_answer(run, tiny, clips) -> None:
    rows = [
        [json.loads(line) for line in run("tag", "--model", tiny, str(clips), "--json", *words)[1].splitlines()]
        for words in ((), ("--no-pack",))
    ]
    assert len(rows[0]) == len(rows[1]) > 0
    for packed, plain in zip(*rows, strict=True):
        assert [label["label"] for label in packed["labels"]] == [label["label"] for label in plain["labels"]]
        for one, other in zip(packed["labels"], plain["labels"], strict=True):
            assert one["score"] == pytest.approx(other["score"], abs=1e-4)


def test_convert(run, tiny) -> None:
    code, out, _ = run("convert", tiny, "copy", "--preset", "esc50", "--json")
    assert code == 0
    assert json.loads(out)["model"] == "AudioMAEForAudioClassification"
    assert Path("copy/model.safetensors").exists()
    assert json.loads(Path("copy/preprocessor_config.json").read_text())["mean"] == -6.627
    code, _, err = run("convert", tiny, "copy")
    assert code == 2
    assert "--overwrite" in err
    assert run("convert", tiny, "copy", "--overwrite")[0] == 0


def test_a_method_file(run, tiny, clips) -> None:
    Path("m.json").write_text('{"method": "TopK", "keep_rate": 0.5, "score": "intensity"}')
    words = ("tag", clips, "--model", tiny, "--method", "m.json", "--out", "a.jsonl")
    assert run(*words, "--keep-rate", "0.9,0.8,0.7")[0] == 0
    setting = json.loads(Path("a.jsonl").read_text().splitlines()[0])["setting"]
    assert (setting["score"], setting["keep_rate"]) == ("intensity", [0.9, 0.8, 0.7])


@pytest.mark.parametrize("entry", TABLE, ids=lambda entry: entry.word)
def test_methods_by_name(run, entry: Entry) -> None:
    name = entry.word
    assert name in "".join(run("tag", "--help")[1].split())
    if entry.needs_training:
        with pytest.raises(ValueError, match="train a model with it first"):
            build_method(name)
        return
    method = build_method(name, "0.8", layers="1,2")
    assert type(method) is METHODS[entry.kind]
    assert (method.keep_rate, method.layers) == (0.8, (1, 2))
    assert build_method(name).keep_rate == (0.04 if name == "padding" else 0.7)


def test_methods_by_name_run(run, tiny, clips) -> None:
    words = ("tag", clips / "tone0.wav", "--model", tiny, "--out", "a.jsonl", "--method")
    assert run(*words, "evit", "--segments", "4")[0] == 0
    setting = json.loads(Path("a.jsonl").read_text())["setting"]
    assert (setting["method"], setting["score"], setting["segments"]) == ("EViT", "cls", 4)
    Path("folder").mkdir()
    Path("folder/pruning.json").write_text('{"method": "ToMe", "keep_rate": 0.5}')
    Path("a.jsonl").unlink()
    assert run(*words, "folder", "--layers", "1")[0] == 0
    setting = json.loads(Path("a.jsonl").read_text())["setting"]
    assert (setting["method"], setting["keep_rate"], setting["layers"]) == ("ToMe", 0.5, [1])
    learned = audiomae()
    with ap.prune(learned, ap.DynamicViT(0.5)) as handle:
        handle.learned.trained.fill_(1)
        handle.save("learned")
    Path("a.jsonl").unlink()
    assert run(*words, "learned")[0] == 0
    bench = ("bench", "--model", tiny, "--method", "ats", "--keep-rates", "0.5", "--batch-sizes", "2", "--json")
    code, out, err = run(*bench, "--seconds", "0.05")
    assert code == 0, err
    assert json.loads(out)["rows"][1]["macs_ratio"] > 1.2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("tag", "nowhere.wav"), "nowhere.wav: no such file"),
        (("tag", "EMPTY"), "no sound files in"),
        (("tag", "CLIP", "--keep-rate", "0"), "more than 0"),
        (("tag", "CLIP", "--keep-rate", "1.3"), "at most 1"),
        (("tag", "CLIP", "--keep-rate", "half"), "give numbers"),
        (("tag", "CLIP", "--method", "magic"), "topk, segmentwise"),
        (("tag", "CLIP", "--method", "none.json"), "none.json: no such settings file"),
        (("tag", "CLIP", "--score", "loud"), "attention, cls"),
        (("tag", "CLIP", "--layers", "99"), "layer 99 does not exist"),
        (("tag", "CLIP", "--layers", "a"), "--layers is 'a'"),
        (("tag", "CLIP", "--device", "tpu9"), "--device is 'tpu9'"),
        (("tag", "CLIP", "--dtype", "int8"), "float32, bfloat16"),
        (("tag", "CLIP", "--model", "none.pth"), "none.pth: no such file"),
        (("tag", "CLIP", "--segments", "0"), "segments is 0"),
        (("tag", "CLIP", "--device", "meta"), "holds no data"),
        (("bench", "--keep-rates", "half"), "--keep-rates is 'half'"),
        (
            ("tag", "CLIP", "--method", "tome", "--score", "cls"),
            "--method tome (ToMe) takes no --score; besides --keep",
        ),
        (
            ("tag", "CLIP", "--method", "pooling", "--segments", "2", "--dropped", "fuse"),
            "no --segments and no --dropped",
        ),
        (("tag", "CLIP", "--method", "uniform", "--dropped", "fuse"), "UniformStride takes discard, merge"),
        (("tag", "CLIP", "--method", "TOME_FILE", "--score", "cls"), "tome.json (ToMe) takes no --score"),
        (("tag", "CLIP", "--method", "tofu", "--keep-rate", "0.4"), "at least 0.5"),
        (("tag", "CLIP", "--method", "dynamicvit"), "give the folder of that training as --method"),
        (("tag", "CLIP", "--method", "nothing"), "nothing/pruning.json: no such settings file"),
        (
            ("tag", "CLIP", "--method", "recommended", "--score", "cls"),
            "--method recommended (ToMe) takes no --score; besides --keep-rate it takes --layers",
        ),
        (("tag", "CLIP", "--method", "recommended", "--keep-rate", "0.4"), "at least 0.5"),
        (("tag", "CLIP", "--layers", "most"), "--layers is 'most'"),
        (("explain", "CLIP", "--method", "tome", "--dropped", "merge"), "--method tome (ToMe) takes no --dropped"),
        (("bench", "--method", "recommended", "--segments", "2"), "takes no --segments"),
        (("explain", "nowhere.wav"), "nowhere.wav: no such file"),
        (("explain", "CLIP", "--out", "a.jpg"), ".png, .svg or .pdf"),
        (("bench", "--batch-sizes", "0"), "at least 1"),
        (("bench", "--keep-rates", "2"), "at most 1"),
        (("convert", "none.pth", "x"), "none.pth: no such file"),
        (("convert", "MODEL", "x", "--preset", "urban"), "esc50"),
    ],
)
def test_mistakes_get_one_line_and_exit_two(run, tiny, clips, words, message: str) -> None:
    Path("nothing").mkdir()
    Path("tome.json").write_text('{"method": "ToMe", "keep_rate": 0.5}')
    names = {"CLIP": str(clips / "tone0.wav"), "MODEL": tiny, "EMPTY": "nothing", "TOME_FILE": "tome.json"}
    words = [names.get(word, word) for word in words]
    if words[0] in ("tag", "explain", "bench") and "--model" not in words:
        words += ["--model", tiny]
    code, out, err = run(*words)
    assert code == 2
    assert err.startswith("error:")
    assert message in err.replace("\n", " ")
    assert "Traceback" not in out + err


@pytest.mark.parametrize(
    "words",
    [(), ("tag",), ("foo",), ("tag", "CLIP", "--foo"), ("tag", "CLIP", "--top", "0"), ("bench", "--seconds", "0")],
)
def test_what_was_mistyped_gets_usage_and_exit_two(run, clips, words) -> None:
    code, out, err = run(*[str(clips / "tone0.wav") if word == "CLIP" else word for word in words])
    assert code == 2
    assert "Usage" in out + err
    assert "Traceback" not in out + err


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_results_go_to_stdout_when_only_stderr_is_a_terminal(tiny, clips, tmp_path, options) -> None:
    pty = pytest.importorskip("pty")
    master, terminal = pty.openpty()
    words = ["tag", clips / "tone0.wav", "--model", tiny, "--keep-rate", "0.5", *options]
    code = fresh(COMMAND, *words, said=tmp_path / "out", errors=Path(os.ttyname(terminal)))
    os.close(terminal)
    os.close(master)
    assert code == 0
    (line,) = (tmp_path / "out").read_text().splitlines()
    assert "tone0.wav" in line
    assert "LABEL_" in line


def test_names_with_brackets_and_dollars_print_as_they_are(run, tiny, clips) -> None:
    name = r"a [red]$\x$ [1].wav"
    (clips / "tone5.wav").rename(clips / name)
    assert name in run("tag", clips / name, "--model", tiny)[1]
    assert name in run("explain", clips / name, "--model", tiny, "--out", "a.png")[1]


def test_ctrl_c_says_what_stays(run, monkeypatch, tiny, clips) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("audioprune.tagging.tagger.Tagger.probabilities", interrupted)
    code, _, err = run("tag", clips, "--model", tiny, "--out", "a.jsonl")
    assert code == 130
    assert "Stopped" in err


def test_a_mistaken_model_leaves_no_file(run, clips) -> None:
    assert run("tag", clips, "--model", "none.pth", "--out", "a.jsonl")[0] == 2
    assert not Path("a.jsonl").exists()


def test_an_ast_is_tagged_too(run, tmp_path, clips) -> None:
    ast().save_pretrained(tmp_path / "ast")
    code, out, _ = run("tag", clips, "--model", tmp_path / "ast", "--score", "cls", "--json")
    assert code == 0
    assert len(out.splitlines()) == 6


def test_demo(run) -> None:
    code, out, _ = run("demo", "--out", "pictures", "--json")
    result = json.loads(out)
    assert code == 0
    assert [r["name"] for r in result["results"]] == ["unpruned", "TopK 0.5", "recommended ½", "recommended ¼"]
    assert [r["tokens"][-1] for r in result["results"]][:2] == [256, 32]
    half, quarter = result["results"][2:]
    assert quarter["tokens"][-1] < half["tokens"][-1] < 256
    assert [1 / r["cost"]["macs_ratio"] for r in (half, quarter)] == pytest.approx([0.5, 0.25], abs=0.01)
    assert [Path(p).name.rsplit("-", 1)[1] for p in result["pictures"]] == ["topk.png", "recommended.png"]
    assert all(Path(p).read_bytes().startswith(b"\x89PNG") for p in result["pictures"])
    assert all("labels" in row for r in result["results"] for row in r["rows"])


def test_of_many_stages_the_demo_tells_the_first_and_the_last() -> None:
    assert _counts([256, 128, 64, 32]) == "256 → 128 → 64 → 32"
    assert _counts([256, 226, 199, 176, 155]) == "256 → 226 → … → 155"
    assert _counts([256]) == "256"


RECOMMENDED = {"method": "ToMe", "keep_rate": HALF, "layers": "all", "proportional": True, "metric": "hidden"}


def setting(run, tiny, clips, *words: object) -> dict:
    """Of the method, as a tagging with these words writes it down."""
    Path("a.jsonl").unlink(missing_ok=True)
    code, _, err = run("tag", clips / "tone0.wav", "--model", tiny, "--out", "a.jsonl", *words)
    assert code == 0, err
    found = json.loads(Path("a.jsonl").read_text())["setting"]
    return {key: value for key, value in found.items() if key not in ("model", "top", "dtype", "windows")}


def test_without_options_the_recommended_method_tags(run, tiny, clips) -> None:
    half = {**RECOMMENDED, "keep_rate": ap.recommended(ap.load(tiny)).keep_rate, "layers": [0, 1, 2]}
    assert setting(run, tiny, clips) == setting(run, tiny, clips, "--method", "recommended") == half
    tuned = setting(run, tiny, clips, "--method", "recommended", "--keep-rate", "0.9")
    assert tuned == {**RECOMMENDED, "keep_rate": 0.9}
    assert setting(run, tiny, clips, "--method", "recommended", "--layers", "1,2")["layers"] == [1, 2]


@pytest.mark.parametrize(
    "words",
    [("--keep-rate", "0.5"), ("--score", "cls"), ("--segments", "2"), ("--dropped", "merge"), ("--layers", "1,2")],
)
def test_any_of_its_options_asks_for_topk(words) -> None:
    name, value = words[0].removeprefix("--").replace("-", "_"), words[1]
    method = build_method(None, **{name: int(value) if name == "segments" else value})
    expected = {"keep_rate": 0.7, name: {"0.5": 0.5, "1,2": (1, 2), "2": 2}.get(value, value)}
    assert method == ap.TopK(**expected)


def test_a_keep_rate_alone_asks_for_topk(run, tiny, clips) -> None:
    found = setting(run, tiny, clips, "--keep-rate", "0.5")
    assert (found["method"], found["keep_rate"], found["layers"]) == ("TopK", 0.5, None)


def test_all_layers(run, tiny, clips) -> None:
    found = setting(run, tiny, clips, "--keep-rate", "0.8", "--layers", "all")
    assert (found["method"], found["layers"]) == ("TopK", "all")
    words = ("explain", clips / "tone5.wav", "--model", tiny, "--keep-rate", "0.5", "--layers", "all", "--json")
    stages = json.loads(run(*words)[1])["stages"]
    assert [(stage["layer"], len(stage["kept"])) for stage in stages] == [(0, 32), (1, 16), (2, 8), (3, 4)]


def test_explain_says_what_was_merged(run, tiny, clips) -> None:
    words = ("explain", clips / "tone5.wav", "--model", tiny)
    result = json.loads(run(*words, "--json")[1])
    method = ap.recommended(ap.load(tiny))
    assert [stage["layer"] for stage in result["stages"]] == list(method.layers) == [0, 1, 2]
    counts = method.counts(64, 4)[1:4]
    assert [len(stage["sources"]) for stage in result["stages"]] == counts
    for stage in result["stages"]:
        assert sorted(patch for group in stage["sources"] for patch in group) == list(range(64))
    code, out, _ = run(*words)
    assert code == 0
    assert f"{counts[-1]} tokens kept, 64 patches in them" in out
    result = json.loads(run(*words, "--keep-rate", "0.5", "--json")[1])
    for stage in result["stages"]:
        assert stage["sources"] == [[patch] for patch in stage["kept"]], "topk: nothing is merged"
    assert "patches in them" not in run(*words, "--keep-rate", "0.5")[1]


def test_bench_of_the_recommended_method(run, tiny) -> None:
    words = ("bench", "--model", tiny, "--method", "recommended", "--keep-rates", "1.0,0.9", "--batch-sizes", "1")
    code, out, err = run(*words, "--seconds", "0.05", "--json")
    assert code == 0, err
    result = json.loads(out)
    assert (result["setting"]["method"], result["setting"]["layers"]) == ("ToMe", "all")
    full, pruned = result["rows"]
    assert (full["tokens"], pruned["tokens"]) == ([64] * 5, recommended_at(0.9).counts(64, 4))
    assert pruned["macs_ratio"] > 1.1
    assert "layers=all" in run(*words, "--seconds", "0.05")[1]
