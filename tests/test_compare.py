"""Methods side by side: the figures against slow ones, and the command line on folders of tones."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from sklearn.metrics import average_precision_score

import audioprune as ap
from audioprune.compare import comparison
from audioprune.compare.agreement import agreement, divergence
from audioprune.compare.benchmark import in_turn, mean_macs
from audioprune.compare.comparison import compare, pareto, passes
from audioprune.compare.pareto_figure import pareto_figure
from audioprune.compare.settings import FineTuned, choose_clips, parse_methods, targets_of
from audioprune.data import ClipRow, ClipTable, DataError
from audioprune.methods.names import compared

from .conftest import class_folders
from .families import ast, audiomae

LABELS = {0: "low", 1: "high", 2: "other"}  # not in the order of the folders' names, and one more


def small(**changes: object) -> torch.nn.Module:
    return audiomae(num_labels=3, id2label=LABELS, **changes).eval()


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    return small()


@pytest.fixture(scope="module")
def features() -> torch.Tensor:
    return torch.randn(20, 128, 128, generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def labels() -> torch.Tensor:
    return torch.arange(20) % 3


# The figures.

logits = npst.arrays("float32", (5, 3), elements=st.floats(-20, 20, width=32))


@given(logits, logits)
def test_agreement_and_divergence_by_the_book(one, other) -> None:
    same = sum(list(a).index(max(a)) == list(b).index(max(b)) for a, b in zip(one.tolist(), other.tolist()))
    assert agreement(torch.from_numpy(one), torch.from_numpy(other)) == same / 5

    def softmax(row: list[float]) -> list[float]:
        shares = [math.exp(value) for value in row]
        return [share / sum(shares) for share in shares]

    def kl(p: list[float], q: list[float]) -> float:
        return sum(a * math.log(a / b) for a, b in zip(p, q) if a)

    rows = list(zip(other.tolist(), one.tolist()))
    slow = sum(kl(softmax(full), softmax(row)) for full, row in rows) / 5
    found = divergence(torch.from_numpy(one), torch.from_numpy(other))
    assert found == pytest.approx(slow, rel=1e-6, abs=1e-9)
    assert found >= -1e-12

    def both(value: float) -> list[float]:
        return [1 / (1 + math.exp(-value)), 1 / (1 + math.exp(value))]

    slow = sum(kl(both(a), both(b)) for full, row in rows for a, b in zip(full, row)) / 5
    found = divergence(torch.from_numpy(one), torch.from_numpy(other), multi_label=True)
    assert found == pytest.approx(slow, rel=1e-6, abs=1e-9)


@given(st.lists(st.tuples(st.integers(1, 6), st.integers(0, 6), st.booleans()), max_size=12))
def test_the_front_against_every_pair(points) -> None:
    rows = [
        {"method": "x", "refused": "no"} if refused else {"macs": cost, "score": {"mean": value / 6}}
        for cost, value, refused in points
    ]
    there = [(cost, value) for cost, value, refused in points if not refused]
    slow = [
        not refused and not any(c <= cost and v >= value and (c, v) != (cost, value) for c, v in there)
        for cost, value, refused in points
    ]
    assert pareto(rows) == slow


@torch.no_grad()
def test_rows_say_what_one_finds_by_hand(model, features, labels) -> None:
    heard: list[int] = []
    methods = {"topk": ap.TopK(1.0), "random": [ap.TopK(1.0, score="random", seed=s) for s in (3, 4)]}
    result = compare(model, features, labels, methods, (0.7, 0.5), advance=heard.append)
    assert sum(heard) == passes(methods, (0.7, 0.5)) * 20 == 7 * 20
    assert ap.handle(model) is None
    full = model(features).logits
    assert result["metric"] == "accuracy"
    assert result["clips"] == 20
    assert result["unpruned"] == {
        "score": sum(int(row.argmax() == label) for row, label in zip(full, labels)) / 20,
        "macs": ap.macs(model),
    }
    assert [(row["method"], row["keep_rate"]) for row in result["rows"]] == [
        (name, rate) for name in methods for rate in (0.7, 0.5)
    ]
    for row in result["rows"]:
        found = []
        for seed in (3, 4) if row["method"] == "random" else (0,):
            score = "random" if row["method"] == "random" else "attention"
            with ap.prune(model, ap.TopK(row["keep_rate"], score=score, seed=seed)):
                pruned = model(features).logits
                assert row["macs"] == ap.macs(model)
            found.append(sum(int(a.argmax() == b.argmax()) for a, b in zip(pruned, full)) / 20)
        assert row["agreement"]["mean"] == pytest.approx(sum(found) / len(found))
        assert row["runs"] == len(found)
        assert ("std" in row["kl"]) == (row["method"] == "random")
        assert row["macs_ratio"] == ap.macs(model) / row["macs"]
        assert row["kl"]["mean"] > 0
        assert not row["fine_tuned"]
        assert "timing" not in row
    assert any(row["front"] for row in result["rows"])


@torch.no_grad()
def test_several_labels_a_clip(model, features) -> None:
    targets = torch.zeros(20, 3)
    targets[torch.arange(20), torch.arange(20) % 2] = 1
    targets[::3, 1] = 1
    result = compare(model, features, targets, {"topk": ap.TopK(1.0)}, (0.5,))
    full = model(features).logits
    assert result["metric"] == "map"
    each = [average_precision_score(targets[:, i], full[:, i]) for i in range(2)]  # the third never occurs
    assert result["unpruned"]["score"] == pytest.approx(sum(each) / 2)
    with ap.prune(model, ap.TopK(0.5)):
        pruned = model(features).logits
    assert result["rows"][0]["kl"]["mean"] == pytest.approx(divergence(pruned, full, True), rel=1e-4)


def test_where_the_sound_decides_the_first_clips_are_counted(model, features, labels) -> None:
    (row,) = compare(model, features, labels, {"ats": ap.ATS(1.0)}, (0.5,))["rows"]
    with ap.prune(model, ap.ATS(0.5)):
        each = [ap.macs(model, inputs=clip[None]) for clip in features[:16]]
        assert mean_macs(model, features[:16]) == row["macs"]
    assert len(set(each)) > 1
    assert row["macs"] == round(sum(each) / 16)


def test_what_is_refused_is_a_row_with_the_reason(model, features, labels) -> None:
    methods = {
        "tome": ap.ToMe(1.0),
        "deep": ap.TopK(1.0, layers=(99,)),
        "untrained": ap.DynamicViT(1.0),
        "topk": ap.TopK(1.0),
    }
    heard: list[int] = []
    rows = compare(model, features, labels, methods, (0.5, 0.3), advance=heard.append)["rows"]
    assert sum(heard) == passes(methods, (0.5, 0.3)) * 20
    reasons = {(row["method"], row["keep_rate"]): row.get("refused") for row in rows}
    assert reasons["tome", 0.5] is None
    assert "at most half of the tokens" in reasons["tome", 0.3]
    assert "layer 99 does not exist" in reasons["deep", 0.5]
    assert "has learnt nothing yet" in reasons["untrained", 0.5]
    assert reasons["topk", 0.3] is None
    assert ap.handle(model) is None
    assert all("front" in row for row in rows if "refused" not in row)


def test_a_fine_tuned_model_is_compared_with_the_unpruned_one(model, features, labels) -> None:
    other = small(hidden_size=32)
    tuned = {"topk": FineTuned(other, 2 * features, ap.TopK((0.9, 0.5), layers=(1, 2)))}
    result = compare(model, features, labels, {"topk": ap.TopK(1.0)}, (0.5,), fine_tuned=tuned, bench_seconds=0.01)
    row = result["rows"][1]
    with torch.no_grad(), ap.prune(other, ap.TopK((0.9, 0.5), layers=(1, 2))):
        pruned = other(2 * features).logits
        assert row["macs"] == ap.macs(other)
    with torch.no_grad():
        full = model(features).logits
    assert row["fine_tuned"] is True
    assert row["keep_rate"] == [0.9, 0.5]
    assert row["agreement"]["mean"] == agreement(pruned, full)
    assert row["kl"]["mean"] == pytest.approx(divergence(pruned, full), rel=1e-4)
    assert result["unpruned"]["timing"][0]["speed_up"] == 1.0
    assert row["timing"][0]["batch_size"] == 16
    json.dumps(result)


def test_a_method_with_a_rate_for_each_layer_runs_as_it_is(model, features, labels) -> None:
    methods = {"own": ap.TopK((0.9, 0.7, 0.5)), "topk": ap.TopK(0.1)}
    rows = compare(model, features, labels, methods, (0.7, 0.5))["rows"]
    assert [row["keep_rate"] for row in rows] == [[0.9, 0.7, 0.5], 0.7, 0.5]


def test_every_named_method_runs(model, features, labels) -> None:
    rows = compare(model, features[:2], labels[:2], parse_methods(["all"]), (0.5,))["rows"]
    assert [row["method"] for row in rows] == compared()
    assert not [row for row in rows if "refused" in row]
    settings = {row["method"]: row["setting"] for row in rows}
    assert settings["tome+unweighted"]["proportional"] is False
    assert settings["segmentwise+merge"]["method"] == "SegmentwiseTopK"
    assert {row["runs"] for row in rows if row["method"].startswith("random")} == {5}
    costs = {row["method"]: row["macs"] for row in rows}
    # It merges in every block, so that its keep rate is another at the same cost.
    assert settings.pop("recommended")["keep_rate"] > 0.5
    assert 0.9 * costs["topk"] < costs["recommended"] <= costs["topk"]
    assert all(setting["keep_rate"] == 0.5 for setting in settings.values())


def test_settings_take_turns(model, features) -> None:
    seen: list[str] = []
    hook = model.register_forward_pre_hook(lambda *_: seen.append(str(ap.handle(model) and ap.handle(model).method)))
    ticks: list[None] = []
    times = in_turn(
        [(model, None, features[:2]), (model, ap.TopK(0.5), features[:1])], 0.001, lambda: ticks.append(None)
    )
    hook.remove()
    assert [len(taken) for taken in times] == [5, 5]
    assert len(ticks) == 2
    assert [sorted(seen[i : i + 2]) for i in range(0, 12, 2)] == [["None", "TopK(0.5)"]] * 6


# What is compared, and on what.


def test_methods_by_name(tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text('{"method": "TopK", "keep_rate": 0.5, "score": "cls"}')
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "pruning.json").write_text('{"method": "ToMe", "keep_rate": 0.5}')
    words = ["topk", str(tmp_path / "mine.json"), str(tmp_path / "run"), str(tmp_path / "run" / "pruning.json")]
    found = parse_methods(words)
    assert list(found) == ["topk", "mine", "run", words[3]]
    assert found["mine"].at(0.5) == ap.TopK(0.5, score="cls")
    assert found["run"].at(0.5) == ap.ToMe(0.5)
    assert set(parse_methods(["all", "topk"])) == set(compared())


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("magic", "no method 'magic'; there are recommended, topk"),
        ("dynamicvit", "train a model with it first"),
        ("metr", "chooses as evit does"),
        ("fastast", "chooses as tome does"),
        ("none.json", "no such settings file"),
    ],
)
def test_methods_that_cannot_be_named(word: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_methods([word])


def table(parts: str, folds: tuple[str, ...] = (), labels: tuple[str, ...] = ("high", "low"), **rest) -> ClipTable:
    rows = tuple(
        ClipRow(Path(f"{i}.wav"), (labels[i % len(labels)],), part=part) for i, part in enumerate(parts.split())
    )
    return ClipTable("set", rows, labels, folds, **rest)


def test_the_clips_that_are_heard() -> None:
    parts = table("train train validation test test")
    assert [row.part for row in choose_clips(parts)] == ["test", "test"]
    assert [row.part for row in choose_clips(parts, part="validation")] == ["validation"]
    assert len(choose_clips(parts, part="all")) == 5
    plain = table("train train train")
    assert len(choose_clips(plain)) == 3
    with pytest.raises(DataError, match="has no test clips"):
        choose_clips(plain, part="test")
    with pytest.raises(DataError, match="has no test clips"):
        choose_clips(table("train validation"))
    folded = table("1 1 2 2 3 3", ("1", "2", "3"))
    assert [row.part for row in choose_clips(folded, ("3", "1", "3"))] == ["3", "3", "1", "1"]
    assert len(choose_clips(folded, part="all")) == 6
    for folds, part, message in (
        ((), None, "never heard"),
        (("9",), None, "no fold '9'"),
        (("1",), "test", "not both"),
    ):
        with pytest.raises(DataError, match=message):
            choose_clips(folded, folds, part)


def test_labels_are_found_by_their_names(model) -> None:
    found = table("test test test")
    assert targets_of(model, found, found.rows).tolist() == [1, 0, 1]
    several = table("test test", multi_label=True)
    assert targets_of(model, several, several.rows).tolist() == [[0, 1, 0], [1, 0, 0]]
    strange = table("test test", labels=("high", "bark"))
    with pytest.raises(DataError, match=r"has the labels bark, and the model knows low, high, other"):
        targets_of(model, strange, strange.rows)


# The command line.


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("model")
    small().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def sounds(tmp_path_factory) -> Path:
    return class_folders(tmp_path_factory.mktemp("sounds"), {"train": 1, "test": 3})


@pytest.fixture
def run(run, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return run


def test_all_at_the_same_work(model, features, labels) -> None:
    heard: list[int] = []
    methods = parse_methods(["topk", "tome", "ats", "random", "recommended"])
    result = compare(model, features[:6], labels[:6], methods, (0.5,), shares=(0.7, 0.45), advance=heard.append)
    assert sum(heard) == passes(methods, (0.5,), shares=(0.7, 0.45)) * 6
    full = result["unpruned"]["macs"]
    rows = {(row["method"], row["macs_share"]): row for row in result["rows"]}
    assert "tome" in methods
    assert "there are still" in rows["tome", 0.45]["refused"]
    assert rows["topk", 0.7]["setting"]["layers"] is None
    assert rows["random", 0.7]["runs"] == 5
    for (name, share), row in rows.items():
        if "refused" in row:
            continue
        assert row["macs"] <= share * full
        assert row["macs"] > (share - 0.1) * full, "it is the greatest rate"
        if name == "topk":
            with ap.prune(model, ap.TopK(round(row["keep_rate"] + 0.001, 3))):
                assert ap.macs(model) > share * full
    assert ap.handle(model) is None


def test_where_its_own_layers_come_too_late_a_method_acts_at_the_first(model, features, labels) -> None:
    late = ap.macs(model)
    with ap.prune(model, ap.TopK(0.01)):
        own = ap.macs(model) / late
    with ap.prune(model, ap.TopK(0.01, layers=(0,))):
        least = ap.macs(model) / late
    share = round((own + least) / 2, 3)
    methods = parse_methods(["topk", "random", "tome"])
    result = compare(model, features, labels, methods, (0.5,), shares=(share,))
    rows = {row["method"]: row for row in result["rows"]}
    assert rows["topk"]["setting"]["layers"] == [0]
    assert rows["random"]["setting"]["layers"] == [0]
    assert rows["random"]["runs"] == 5
    assert rows["topk"]["macs"] <= share * late
    assert "there are still" in rows["tome"]["refused"]


def test_shares_on_the_command_line(run, tiny, sounds) -> None:
    words = ("compare", "--model", tiny, "--data", sounds, "--methods", "topk,tome", "--bench-seconds", 0)
    code, out, err = run(*words, "--macs", "0.8,0.2", "--json")
    assert code == 0, err
    rows = json.loads(out)["rows"]
    assert [(row["method"], row["macs_share"]) for row in rows] == [
        ("topk", 0.8), ("topk", 0.2), ("tome", 0.8), ("tome", 0.2)
    ]  # fmt: skip
    assert all(row["macs_ratio"] >= 1 / row["macs_share"] for row in rows if "refused" not in row)
    assert "left out tome at 20 % of the work: macs is 0.2" in err
    code, _, err = run(*words, "--macs", "1.5")
    assert code == 2
    assert "--macs is '1.5'; each is a share of the unpruned model's work, in (0, 1)" in err


def test_compare_on_the_command_line(run, tiny, sounds, tmp_path: Path) -> None:
    tuned = small(hidden_size=32)
    tuned.save_pretrained(tmp_path / "tuned")
    with ap.prune(tuned, ap.TopK(0.5, dropped="merge")) as handle:
        handle.save(tmp_path / "tuned")
    words = ("compare", "--model", tiny, "--data", sounds, "--methods", "topk,tome,ats", "--keep-rates", "0.7,0.4")
    words = (*words, "--fine-tuned", f"mine={tmp_path / 'tuned'}", "--batch-size", "1,2", "--bench-seconds", 0.001)
    code, out, err = run(*words, "--out", "c.json", "--picture", "c.png", "--json")
    assert code == 0, err
    result = json.loads(out)
    assert result == json.loads(Path("c.json").read_text())
    assert Path("c.png").read_bytes().startswith(b"\x89PNG")
    assert result["command"].startswith("audioprune compare --model")
    assert result["clips"] == 6
    assert result["machine"]["threads"] >= 1
    rows = {(row["method"], row["keep_rate"]): row for row in result["rows"]}
    assert list(rows) == [(name, rate) for name in ("topk", "tome", "ats") for rate in (0.7, 0.4)] + [("mine", 0.5)]
    assert "at least 0.5" in rows["tome", 0.4]["refused"]
    assert rows["mine", 0.5]["fine_tuned"]
    assert [time["batch_size"] for time in rows["topk", 0.4]["timing"]] == [1, 2]
    assert "left out tome at 0.4: keep_rate is 0.4" in err
    assert "→ c.json" in err

    code, out, err = run(*words)
    assert code == 0, err
    lines = [line.replace(" (fine-tuned)", "*").split() for line in out.splitlines()]
    rows = [line[:2] for line in lines if line and line[0] in ("unpruned", "topk", "tome", "ats", "mine*")]
    assert rows[0] == ["unpruned", "–"]
    assert [rate for _, rate in rows[1:]] == ["0.7", "0.7", "0.7", "0.5", "0.4", "0.4"]
    assert ["mine*", "0.5"] in rows
    assert "6 clips: accuracy ±" in out


def test_what_is_not_timed_and_all_clips(run, tiny, sounds) -> None:
    words = ("compare", "--model", tiny, "--data", sounds, "--methods", "random", "--keep-rates", "0.5,0.5")
    code, out, err = run(*words, "--bench-seconds", 0, "--split", "all", "--json")
    assert code == 0, err
    result = json.loads(out)
    assert result["clips"] == 8
    (row,) = result["rows"]
    assert row["runs"] == 5
    assert "timing" not in row


def test_an_ast_with_cls_attention(run, sounds, tmp_path: Path) -> None:
    ast(num_labels=3, id2label=LABELS).save_pretrained(tmp_path / "ast")
    words = ("compare", "--model", tmp_path / "ast", "--data", sounds, "--methods", "evit,cls-merged,pooling")
    code, out, err = run(*words, "--keep-rates", "0.5", "--bench-seconds", 0)
    assert code == 0, err
    assert "topk+cls+merge" in out  # the word of earlier versions is read


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--methods", "magic"), "no method 'magic'"),
        (("--methods", "spvit"), "spvit=FOLDER"),
        (("--methods", ","), "name one at least"),
        (("--keep-rates", "2"), "at most 1"),
        (("--keep-rates", "half"), "--keep-rates is 'half'"),
        (("--batch-size", "0"), "at least 1"),
        (("--split", "best"), "--split is 'best'"),
        (("--split", "validation"), "has no validation clips"),
        (("--folds", "1"), "has no folds"),
        (("--fine-tuned", "mine"), "give NAME=FOLDER"),
        (("--fine-tuned", "a=OTHER", "--fine-tuned", "a=OTHER"), "names 'a' twice"),
        (("--fine-tuned", "a=MODEL"), "pruning.json: no such settings file"),
        (("--fine-tuned", "a=OTHER"), "answers in LABEL_0"),
        (("--picture", "c.jpg"), ".png, .svg or .pdf"),
        (("--model", "OTHER"), "has the labels high, low, and the model knows LABEL_0"),
        (("--model", "none.pth"), "none.pth: no such file"),
        (("--data", "nowhere"), "nowhere: no such folder"),
    ],
)
def test_mistakes_are_one_line_and_exit_two(run, tiny, sounds, tmp_path: Path, words, message: str) -> None:
    if "OTHER" in str(words):
        other = audiomae()
        other.save_pretrained(tmp_path / "other")
        with ap.prune(other, ap.TopK(0.5)) as handle:
            handle.save(tmp_path / "other")
    words = [word.replace("MODEL", tiny).replace("OTHER", str(tmp_path / "other")) for word in words]
    basics = {"--model": tiny, "--data": sounds, "--methods": "topk", "--keep-rates": "0.5", "--bench-seconds": 0}
    given = [word for option, value in basics.items() if option not in words for word in (option, value)]
    code, out, err = run("compare", *given, *words, "--out", "c.json")
    assert (code, out) == (2, "")
    (line,) = [line for line in err.splitlines() if line.startswith("error:")]
    assert message in line
    assert "Traceback" not in err
    assert not Path("c.json").exists()


def test_ctrl_c_leaves_what_was_there(run, monkeypatch, tiny, sounds) -> None:
    passed: list[int] = []
    logits_of = comparison.logits_of

    def interrupted(*arguments: object) -> torch.Tensor:
        passed.append(1)
        if len(passed) > 2:
            raise KeyboardInterrupt
        return logits_of(*arguments)

    monkeypatch.setattr(comparison, "logits_of", interrupted)
    Path("c.json").write_text("of another day")
    words = ("compare", "--model", tiny, "--data", sounds, "--bench-seconds", 0, "--out", "c.json")
    code, out, err = run(*words, "--picture", "c.png", "--methods", "topk", "--keep-rates", "0.7,0.5,0.3")
    assert (code, out) == (130, "")
    assert "Stopped" in err
    assert Path("c.json").read_text() == "of another day"
    assert not [path for path in Path().iterdir() if path.suffix in (".part", ".png")]


def test_a_stopped_run_goes_on(run, monkeypatch, tiny, sounds) -> None:
    """Rows that are there are not made again, and the file is the same as without the stop."""
    words = ("compare", "--model", tiny, "--data", sounds, "--bench-seconds", 0, "--methods", "topk,random,tome")
    words = (*words, "--macs", "0.7", "--out", "c.json")
    code, _, err = run(*words)
    assert code == 0, err
    whole = Path("c.json").read_text()
    Path("c.json").unlink()
    passed: list[int] = []
    logits_of = comparison.logits_of

    def interrupted(*arguments: object) -> torch.Tensor:
        passed.append(1)
        if len(passed) == 8:  # the unpruned model, TopK, random five times: at the row of ToMe
            raise KeyboardInterrupt
        return logits_of(*arguments)

    monkeypatch.setattr(comparison, "logits_of", interrupted)
    code, _, err = run(*words)
    assert code == 130
    assert "c.json.partial.jsonl; the same command goes on with it" in err.replace("\n", " ")
    assert len(Path("c.json.partial.jsonl").read_text().splitlines()) == 1 + 2
    passed[:] = [1] * 100
    code, _, err = run(*words)
    assert code == 0, err
    assert Path("c.json").read_text() == whole
    left = [row for row in json.loads(whole)["rows"][2:] if "refused" not in row]
    assert left
    assert len(passed) == 100 + 1 + sum(row["runs"] for row in left)
    assert not Path("c.json.partial.jsonl").exists()


def test_a_settings_file_that_changed_is_begun_anew(run, monkeypatch, tiny, sounds) -> None:
    words = ("compare", "--model", tiny, "--data", sounds, "--bench-seconds", 0, "--methods", "m.json")
    words = (*words, "--keep-rates", "0.5", "--out", "c.json")
    Path("m.json").write_text('{"method": "TopK", "keep_rate": 0.5, "score": "variation"}')
    with monkeypatch.context() as patch:
        patch.setattr(comparison, "pareto", lambda rows: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(*words)
    Path("m.json").write_text('{"method": "TopK", "keep_rate": 0.5, "dropped": "merge"}')
    code, _, err = run(*words)
    assert code == 0, err
    assert "begun with methods=" in err
    (row,) = json.loads(Path("c.json").read_text())["rows"]
    assert row["setting"]["dropped"] == "merge"


def test_what_was_begun_with_another_model_is_begun_anew(run, monkeypatch, tiny, sounds, tmp_path: Path) -> None:
    small(hidden_size=32).save_pretrained(tmp_path / "other")
    words = ("compare", "--data", sounds, "--bench-seconds", 0, "--methods", "topk", "--keep-rates", "0.5")
    with monkeypatch.context() as patch:
        patch.setattr(comparison, "pareto", lambda rows: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(*words, "--model", tmp_path / "other", "--out", "c.json")
    code, _, err = run(*words, "--model", tiny, "--out", "c.json")
    assert code == 0, err
    assert "c.json.partial.jsonl: begun with model=" in err
    assert run(*words, "--model", tiny, "--json")[1] != ""
    assert (
        json.loads(Path("c.json").read_text())["rows"] == json.loads(run(*words, "--model", tiny, "--json")[1])["rows"]
    )


def test_help_teaches(run) -> None:
    code, out, _ = run("compare", "--help")
    assert code == 0
    for word in ("--fine-tuned", "segmentwise+merge", "audioprune compare --model esc10", "nats"):
        assert word in out
    assert "audioprune compare" in run("--help")[1]
    assert all(name in out for name in compared())


# The picture.


def test_the_picture_has_a_line_for_each_method(model, features, labels) -> None:
    methods = {"topk": ap.TopK(1.0), "random": [ap.TopK(1.0, score="random", seed=s) for s in (1, 2)]}
    tuned = {"topk": FineTuned(model, features, ap.TopK(0.4))}
    result = compare(model, features, labels, methods | {"tome": ap.ToMe(1.0)}, (0.5, 0.3), fine_tuned=tuned)
    figure = pareto_figure(result, title="a $title")
    left, right, divergences = figure.axes
    assert [text.get_text() for text in figure.legends[0].get_texts() if "standard error" not in text.get_text()] == [
        "best for its MACs",
        "unpruned",
        "topk",
        "random",
        "tome",
        "topk (fine-tuned)",
    ]
    assert left.get_title(loc="left") == "accuracy (%)"
    assert divergences.get_yscale() == "log"
    share = 100 * result["rows"][1]["macs"] / result["unpruned"]["macs"]
    assert any(line.get_xdata()[0] == pytest.approx(share) for line in right.get_lines())
