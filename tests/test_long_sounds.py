"""Long sounds heard window by window, against the same windows cut from the whole sound and heard one by one."""

from __future__ import annotations

import csv
import json
import math
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from transformers import Wav2Vec2FeatureExtractor, WhisperFeatureExtractor

import audioprune as ap
from audioprune.audio.files import SAMPLE_RATE, load_audio
from audioprune.audio.waveform_features import WaveformFeatures
from audioprune.audio.whisper_features import WhisperFeatures
from audioprune.audio.windowing import Windowing
from audioprune.calibration.disagreement import ClipSet, Hearing
from audioprune.calibration.ledger import Ledger
from audioprune.calibration.sounds import read_sounds
from audioprune.cli.long_sounds import stretches_of
from audioprune.compare.agreement import pooled
from audioprune.compare.comparison import logits_of
from audioprune.compare.settings import read_clips
from audioprune.data import ClipRow, SoundCache
from audioprune.tagging.tagger import Tagger
from audioprune.tagging.timeline import Timeline
from audioprune.tagging.timeline_figure import clock, timeline_figure

from .conftest import tone
from .families import STABLE, ast, audiomae, wav2vec2, whisper

MADE: dict[str, Any] = {
    "audiomae": (audiomae, lambda: ap.LogMel(128)),
    "ast": (ast, lambda: ap.LogMel(128)),
    "whisper": (
        lambda: whisper(max_source_positions=50),
        lambda: WhisperFeatures(WhisperFeatureExtractor(16, chunk_length=1)),
    ),
    "wav2vec2": (lambda: wav2vec2(**STABLE), lambda: WaveformFeatures(Wav2Vec2FeatureExtractor(), seconds=1.0)),
}


def melody(seconds: float, rate: int = SAMPLE_RATE, step: float = 1.0) -> np.ndarray:
    """Tones that change each step, so that windows differ."""
    count = int(np.ceil(seconds / step))
    notes = [tone(step, rate, hertz=200.0 + 137.0 * (i % 23)) for i in range(count)]
    return np.concatenate(notes)[: round(seconds * rate)]


@pytest.fixture(params=MADE)
def tagger(request: pytest.FixtureRequest) -> Tagger:
    model, front = MADE[request.param]
    made = model().eval()
    ap.prune(made, ap.TopK(0.5))
    return Tagger(made, front(), batch_size=4)


@pytest.fixture
def long(tmp_path: Path) -> Path:
    path = tmp_path / "long.wav"
    soundfile.write(path, melody(7.3, 22_050), 22_050)
    return path


@torch.inference_mode()
def slow_answers(tagger: Tagger, path: Path) -> list[tuple[float, float, torch.Tensor]]:
    """Windows of the whole resampled sound, each heard alone."""
    wave = load_audio(path).waveform
    window, hop = tagger.windows.samples
    starts = list(range(0, len(wave) - window + 1, hop))
    if starts[-1] + window < len(wave):
        starts.append(len(wave) - window)
    found = []
    for start in starts:
        features = tagger.front(wave[start : start + window])
        found.append((start, start + window, tagger.model(features).logits[0].softmax(-1)))
    return [(start / SAMPLE_RATE, end / SAMPLE_RATE, answer) for start, end, answer in found]


def test_windows_are_those_of_the_whole_sound(tagger: Tagger, long: Path) -> None:
    (row,) = tagger([long])
    expected = slow_answers(tagger, long)
    assert len(row["windows"]) == len(expected) > 8
    for found, (start, end, answer) in zip(row["windows"], expected, strict=True):
        assert (found["start"], found["end"]) == pytest.approx((start, end), abs=1e-3)
        best = answer.topk(3)
        assert [one["score"] for one in found["labels"]] == pytest.approx(best.values.tolist(), abs=1e-3)
    mean = torch.stack([answer for _, _, answer in expected]).mean(0)
    assert row["labels"][0]["score"] == pytest.approx(float(mean.max()), abs=1e-3)
    assert row["labels"][0]["label"] == tagger.name_of(int(mean.argmax()))
    assert (row["pool"], row["seconds"], row["heard_seconds"]) == ("mean", 7.3, 7.3)
    assert row["windows"][-1]["end"] == 7.3
    assert len({found["labels"][0]["score"] for found in row["windows"]}) > 3, "windows differ"


@pytest.mark.parametrize("seconds", [0.6, 1.0])
def test_what_fits_is_heard_as_before(tagger: Tagger, tmp_path: Path, seconds: float) -> None:
    soundfile.write(tmp_path / "a.wav", melody(seconds), SAMPLE_RATE)
    (row,) = tagger([tmp_path / "a.wav"])
    tagger.windows = None
    assert [row] == list(tagger([tmp_path / "a.wav"]))
    assert set(row) == {"path", "labels", "seconds", "heard_seconds"}


def test_the_order_of_rows_and_one_bad_file(tagger: Tagger, clips: Path, long: Path) -> None:
    (clips / "tone3.wav").write_bytes(b"RIFF")
    paths = [clips / "tone0.wav", long, clips / "tone3.wav", clips / "tone1.wav", long.with_name("gone.wav")]
    rows = list(tagger(paths))
    assert [row["path"] for row in rows] == list(map(str, paths))
    assert ["error" in row for row in rows] == [False, False, True, False, True]


@pytest.mark.parametrize(("batch_size", "seconds"), [(1, None), (3, 0.8), (100, 0.9)])
def test_windows_of_any_size_in_batches_of_any_size(long: Path, batch_size: int, seconds: float | None) -> None:
    model = audiomae().eval()
    told: list[tuple[int, int]] = []
    windows = Windowing(seconds, None if seconds is None else seconds / 3, "max")
    tagger = Tagger(model, ap.LogMel(128), batch_size=batch_size, windows=windows)
    tagger.progress = lambda done, total: told.append((done, total))
    timeline = tagger.timeline(long, 7.3)
    assert told[-1] == (len(timeline), len(timeline))
    expected = torch.stack([answer for _, _, answer in slow_answers(tagger, long)])
    torch.testing.assert_close(timeline.probabilities, expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(timeline.pooled(), expected.amax(0), atol=1e-4, rtol=0)


def test_several_labels_need_not_sum_to_one(long: Path) -> None:
    model = audiomae(problem_type="multi_label_classification").eval()
    (row,) = Tagger(model, ap.LogMel(128), top=11)([long])
    assert sum(one["score"] for one in row["labels"]) != pytest.approx(1.0, abs=0.05)
    first = row["windows"][0]["labels"]
    with torch.no_grad():
        logits = model(ap.LogMel(128)(load_audio(long, max_seconds=1.295).waveform)).logits[0].sigmoid()
    assert first[0]["score"] == pytest.approx(float(logits.max()), abs=1e-3)


def test_silent_windows_have_no_part_in_the_answer(tmp_path: Path) -> None:
    wave = melody(8.0)
    wave[: 4 * SAMPLE_RATE] = 0
    soundfile.write(tmp_path / "half.wav", wave, SAMPLE_RATE)
    soundfile.write(tmp_path / "none.wav", 0 * wave, SAMPLE_RATE)
    tagger = Tagger(audiomae().eval(), ap.LogMel(128))
    half, none = tagger([tmp_path / "half.wav", tmp_path / "none.wav"])
    silent = [window.get("silent", False) for window in half["windows"]]
    assert silent == sorted(silent, reverse=True)
    assert 0 < sum(silent) < len(silent)
    assert "silent" not in half
    assert none["silent"] is True
    answers = tagger.timeline(tmp_path / "half.wav", 8.0)
    heard = answers.probabilities[sum(silent) :].mean(0)
    assert half["labels"][0]["score"] == pytest.approx(float(heard.max()), abs=1e-5)


def test_a_comparison_hears_what_tagging_hears(tmp_path: Path) -> None:
    """Half silent, all silent, and as short as a window."""
    wave = melody(8.0)
    half = np.where(np.arange(len(wave)) < 4 * SAMPLE_RATE, 0, wave)
    for name, sound in {"half": half, "none": 0 * wave, "short": wave[: 20 * 512]}.items():
        soundfile.write(tmp_path / f"{name}.wav", sound, SAMPLE_RATE)
    paths = [tmp_path / f"{name}.wav" for name in ("half", "none", "short")]
    tagger = Tagger(audiomae().eval(), ap.LogMel(128), windows=Windowing(hop=0.5))
    cache, rows = SoundCache(None, tagger.front.max_seconds), [ClipRow(path, ("a",)) for path in paths]
    clips = read_clips(rows, tagger.front, cache, tagger.windows)
    found = logits_of(tagger.model, clips).softmax(1)
    assert 0 < int((~clips.answering).sum()) < len(clips)
    for row, path in zip(found, paths, strict=True):
        (expected,) = tagger([path])
        known = {one["label"]: one["score"] for one in tagger.labels(row)}
        assert known == pytest.approx({one["label"]: one["score"] for one in expected["labels"]}, abs=1e-4)


def test_an_answer_that_is_not_finite_is_an_error(long: Path) -> None:
    tagger = Tagger(audiomae().eval(), ap.LogMel(128))
    with torch.no_grad():
        tagger.model.classifier.bias.fill_(float("nan"))
    assert "not finite (at 0.0 s or after)" in next(iter(tagger([long])))["error"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("auto", 2.0, "mean"), "hop is 2 s; .* at most the window, 1.295 s, or parts of the sound would not be"),
        (("auto", 0.0, "mean"), "hop is 0 s"),
        (("auto", None, "median"), "--pool is 'median'; it is mean or max"),
        (("long", None, "mean"), "--window is 'long'; it is auto, first, or a number of seconds"),
        (("first", 1.0, "mean"), "--hop is 1, but --window first hears one window"),
        (("3", None, "mean"), "window is 3 s; .* at most 1.295 s, which is all that the model hears at once"),
        (("nan", None, "mean"), "window is nan s"),
        (("-1", None, "mean"), "window is -1 s"),
    ],
)
def test_windows_that_cannot_be(words: tuple, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Windowing.parse(*words).of(ap.LogMel(128))


def test_moments_and_the_answer() -> None:
    spans = np.array([[0.0, 2.0], [1.0, 3.0], [2.0, 4.0], [2.5, 4.5]])
    probabilities = torch.tensor([[0.9, 0.1], [0.7, 0.3], [0.2, 0.8], [0.5, 0.5]])
    silent = np.array([False, False, False, True])
    timeline = Timeline(spans, probabilities, silent, "mean", np.zeros((45, 2)))
    assert timeline.bounds.tolist() == [0.0, 1.5, 2.5, 3.25, 4.5]
    rows = [
        {
            "start": start,
            "end": end,
            "labels": [{"label": f"{int(p.argmax())}", "score": float(p.max())}],
            "silent": quiet,
        }
        for (start, end), p, quiet in zip(spans.tolist(), probabilities, silent.tolist(), strict=True)
    ]
    found = [(*stretch[:3], round(stretch[3], 4)) for stretch in stretches_of(rows)]
    assert found == [(0.0, 2.5, "0", 0.8), (2.5, 3.25, "1", 0.8), (3.25, 4.5, None, 0.5)]
    assert stretches_of([]) == []
    torch.testing.assert_close(timeline.pooled(), torch.tensor([0.6, 0.4]))


def test_a_waveform_model_hears_what_its_extractor_makes() -> None:
    waves = [melody(0.7), melody(1.0), melody(0.7)[::-1].copy()]
    model = wav2vec2(**STABLE).eval()
    found = Tagger(model, WaveformFeatures(Wav2Vec2FeatureExtractor())).probabilities(waves)
    for wave, answer in zip(waves, found, strict=True):
        inputs = Wav2Vec2FeatureExtractor()(wave, sampling_rate=16_000, return_tensors="pt").input_values
        with torch.no_grad():
            torch.testing.assert_close(answer, model(inputs).logits[0].softmax(-1), atol=1e-5, rtol=0)


def test_memory_does_not_grow_with_the_length(tmp_path: Path) -> None:
    """A quarter of an hour takes as much as two minutes, but for a few bytes a window."""
    shape = {"num_hidden_layers": 1, "hidden_size": 16, "intermediate_size": 16, "max_length": 1024}
    tagger = Tagger(audiomae(**shape).eval(), ap.LogMel(1024), batch_size=2, windows=Windowing(hop=10.255))
    peaks = []
    for minutes in (2, 15):
        path = tmp_path / f"{minutes}.wav"
        with soundfile.SoundFile(path, "w", 8000, 1) as file:
            for i in range(minutes):
                file.write(melody(60.0, 8000) * (i + 1) / minutes)
        tracemalloc.start()
        timeline = tagger.timeline(path, 60.0 * minutes)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert timeline.spans[-1, 1] == 60.0 * minutes
    assert peaks[1] < 1.3 * peaks[0], "the whole waveform would be 58 MB"
    assert peaks[1] < 25e6


# The command


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model")
    audiomae(id2label={i: f"note {i}" for i in range(11)}).save_pretrained(folder)
    return str(folder)


def test_a_long_sound_is_tagged_whole(run, tiny: str, long: Path, clips: Path) -> None:
    words = ("tag", long, clips / "tone0.wav", "--model", tiny, "--method", "topk")
    code, out, err = run(*words, "--json", "--hop", "1")
    first, short = map(json.loads, out.splitlines())
    assert code == 0
    assert [window["start"] for window in first["windows"]] == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    assert first["windows"][-1]["end"] == 7.295
    assert (first["window_seconds"], first["hop_seconds"], first["pool"]) == (1.295, 1.0, "mean")
    assert "windows" not in short
    work = first["macs_per_window"]
    assert "1 clip longer than 1.295 s: heard whole in 7 windows, one every 1 s; the labels are the mean" in err
    assert f"{work / 1e9:.3g} GMACs a window, {7 * work / 1e9:.4g} in all" in err
    code, out, err = run(*words)
    assert "0:00 – " in out.replace("      ", "")
    assert " – 0:07" in out
    assert "note" in out


def test_the_first_window_alone(run, tiny: str, long: Path) -> None:
    code, out, err = run("tag", long, "--model", tiny, "--method", "topk", "--window", "first", "--json")
    row = json.loads(out)
    assert (code, row["seconds"], row["heard_seconds"]) == (0, 7.3, 1.295)
    assert "windows" not in row
    assert "1 clip longer than the model's window: the first 1.29 s heard of each" in err


def test_a_table_of_windows(run, tiny: str, long: Path, clips: Path) -> None:
    (clips / "bad.wav").write_text("no")
    words = ("tag", long, clips, "--model", tiny, "--method", "topk", "--out", "a.csv", "--top", "2")
    assert run(*words)[0] == 1
    with open("a.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len([row for row in rows if row["part"] == "sound"]) == 2 * 7 + 1
    windows = [row for row in rows if row["part"] == "window"]
    assert {Path(row["path"]).name for row in windows} == {"long.wav", "tone5.wav"}
    windows = [row for row in windows if row["path"] == str(long)]
    assert len(windows) == 2 * 11
    assert (windows[-1]["end"], windows[-1]["rank"]) == ("7.3", "2")
    assert [Path(row["path"]).name for row in rows if row["error"]] == ["bad.wav"]
    before = Path("a.csv").read_bytes()
    code, _, err = run(*words)
    assert (code, "7 were done before" in err) == (1, True)
    assert Path("a.csv").read_bytes() == before
    Path("b.csv").write_text("mine")
    assert "b.csv: exists, and this command did not write it" in run(*words[:-3], "b.csv")[2]
    assert Path("b.csv").read_text() == "mine"


def test_other_windows_are_another_setting(run, tiny: str, long: Path) -> None:
    words = ("tag", long, "--model", tiny, "--method", "topk", "--out", "a.jsonl")
    assert run(*words)[0] == 0
    assert "begun with windows" in run(*words, "--hop", "1")[2]
    assert "begun with windows" in run(*words, "--pool", "max")[2]
    assert "1 were done before" in run(*words)[2]


@pytest.mark.parametrize("out", ["a.jsonl", "a.parquet"])
def test_results_of_earlier_versions_go_on_unless_a_sound_was_cut(
    run, tiny: str, long: Path, clips: Path, out: str
) -> None:
    """Earlier versions knew no windows, as is so with --window first."""
    if out.endswith(".parquet"):
        pytest.importorskip("pyarrow")
    words = ("--model", tiny, "--method", "topk", "--out", out)
    assert run("tag", clips / "tone0.wav", *words, "--window", "first")[0] == 0
    code, _, err = run("tag", clips / "tone0.wav", long, *words)
    assert (code, "1 clip done, 1 were done before" in err) == (0, True), err
    words = (*words[:-1], f"cut-{out}")
    assert run("tag", long, *words, "--window", "first")[0] == 0
    code, _, err = run("tag", long, *words)
    assert (code, "begun with windows=None" in err) == (2, True), err


def test_parquet_has_the_windows(run, tiny: str, long: Path) -> None:
    dataset = pytest.importorskip("pyarrow.dataset")
    assert run("tag", long, "--model", tiny, "--method", "topk", "--out", "a.parquet")[0] == 0
    (row,) = dataset.dataset("a.parquet").to_table().to_pylist()
    assert len(row["windows"]) == 11
    assert row["windows"][3]["labels"][0]["score"] > 0
    assert row["macs_per_window"] > 0


def test_sounds_in_parquet_may_be_long(tmp_path: Path, long: Path) -> None:
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    from audioprune.tagging.parquet_sounds import sounds_in

    parquet.write_table(pa.table({"id": ["a"], "bytes": [long.read_bytes()]}), tmp_path / "t.parquet")
    tagger = Tagger(audiomae().eval(), ap.LogMel(128))
    (inside,), (outside,) = tagger(sounds_in(tmp_path / "t.parquet")), tagger([long])
    assert inside == {**outside, "path": "a"}


def test_pictures(run, tiny: str, long: Path, clips: Path) -> None:
    words = ("--model", tiny, "--method", "topk")
    assert "→ a.png" in run("tag", long, *words, "--picture", "a.png")[2]
    assert Path("a.png").read_bytes().startswith(b"\x89PNG")
    other = clips / "long.wav"
    other.write_bytes(long.read_bytes())
    run("tag", long, other, clips / "tone0.wav", *words, "--picture", "drawn")
    assert sorted(path.name for path in Path("drawn").iterdir()) == ["long-labels-2.png", "long-labels.png"]
    assert "No picture: no sound was longer" in run("tag", clips / "tone0.wav", *words, "--picture", "b.png")[2]
    assert "one picture, but there are many sounds; give a folder" in run("tag", clips, *words, "--picture", "b.png")[2]
    assert "pictures are written as .png" in run("tag", long, *words, "--picture", "b.jpg")[2]


def test_the_picture_shows_what_was_heard() -> None:
    spans = np.stack((np.arange(700.0), np.arange(700.0) + 2), axis=1)
    probabilities = torch.rand(700, 20, generator=torch.Generator().manual_seed(0)) * 0.5
    probabilities[100:110, 7] = 0.99
    silent = np.arange(700) < 50
    timeline = Timeline(spans, probabilities, silent, "mean", np.tile([[-0.5, 0.5]], (7010, 1)))
    figure = timeline_figure(timeline, [f"sound $_{i}" for i in range(20)], title="a_$b.wav")
    upper, lower, _ = figure.axes
    names = [label.get_text() for label in lower.get_yticklabels()]
    assert len(names) == 8
    assert "sound $_7" in names
    (mesh,) = lower.collections
    values = mesh.get_array().reshape(8, 700)
    assert values.mask[:, :50].all()
    assert not values.mask[:, 50:].any()
    assert values[names.index("sound $_7"), 105] == pytest.approx(0.99)
    assert "700 windows, 50 of them silent (grey); their mean: " in lower.get_title(loc="left")
    figure.canvas.draw()
    assert [label.get_text() for label in lower.get_xticklabels()][1:4] == ["0:00", "2:00", "4:00"]
    assert upper.get_xlim() == (0, 701.0)


def test_times_as_on_a_clock() -> None:
    assert [clock(seconds) for seconds in (0, 75.4, 3600, 36_610)] == ["0:00", "1:15", "1:00:00", "10:10:10"]


def test_ctrl_c_keeps_earlier_rows(run, monkeypatch: pytest.MonkeyPatch, tiny: str, long: Path, clips: Path) -> None:
    words = ("tag", clips / "tone0.wav", long, "--model", tiny, "--method", "topk", "--out", "a.jsonl")
    timeline = Tagger.timeline

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Tagger, "timeline", stop)
    code, _, err = run(*words)
    assert (code, "What was written stays" in err) == (130, True)
    assert len(Path("a.jsonl").read_text().splitlines()) == 1
    monkeypatch.setattr(Tagger, "timeline", timeline)
    assert "1 clip done, 1 were done before" in run(*words)[2]


def test_a_model_of_waveforms_is_tagged_too(run, tmp_path: Path, long: Path) -> None:
    model = wav2vec2(**STABLE)
    model.save_pretrained(tmp_path / "speech")
    Wav2Vec2FeatureExtractor().save_pretrained(tmp_path / "speech")
    words = ("tag", long, "--model", tmp_path / "speech", "--json")
    code, out, err = run(*words, "--window", "2", "--method", "topk")
    assert (code, len(json.loads(out)["windows"])) == (0, 7), err
    # 7.3 s are less than its own window, 10 s.
    code, out, err = run(*words, "--method", "topk")
    assert (code, set(json.loads(out))) == (0, {"path", "labels", "seconds", "heard_seconds"}), err


def test_explain_draws_labels_over_time_and_one_window(run, tiny: str, long: Path) -> None:
    words = ("explain", long, "--model", tiny, "--method", "topk", "--hop", "1")
    code, out, err = run(*words, "--json", "--at", "2", "--out", "a.png")
    row = json.loads(out)
    assert code == 0, err
    assert Path("a.png").read_bytes().startswith(b"\x89PNG")
    assert row["explained"] == {"start": 2.0, "end": 3.295}
    assert len(row["windows"]) == 7
    assert row["label"].rpartition(" ")[0] == row["labels"][0]["label"]
    assert [len(stage["kept"]) for stage in row["stages"]] == [45, 32, 23]
    code, out, _ = run(*words)
    assert code == 0
    assert "0:00 – " in out
    assert "the window from " in out
    assert "→ long-kept.png" in out


def test_explain_of_what_fits(run, tiny: str, clips: Path) -> None:
    words = ("explain", clips / "tone0.wav", "--model", tiny, "--method", "topk", "--json")
    assert set(json.loads(run(*words)[1])) == {"picture", "label", "unpruned", "grid", "stages"}
    assert "--at is 3, but" in run(*words, "--at", "3")[2]


# Comparing and calibrating


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("pool", ["mean", "max"])
def test_logits_of_recordings_are_those_of_their_pooled_probabilities(multi_label: bool, pool: str) -> None:
    logits = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)) * 3
    owners = [0, 0, 0, 1, 2, 2]
    found = pooled(logits, torch.tensor(owners), pool, multi_label)
    assert torch.equal(found[1], logits[3])
    for owner in (0, 2):
        rows = logits[[i for i, own in enumerate(owners) if own == owner]]
        each = rows.sigmoid() if multi_label else rows.softmax(1)
        expected = each.mean(0) if pool == "mean" else each.amax(0)
        got = found[owner].sigmoid() if multi_label else found[owner].exp()
        torch.testing.assert_close(got, expected)
    assert pooled(logits * math.nan, torch.tensor(owners), pool, multi_label).isnan().all()


def test_a_calibration_hears_long_sounds_over_their_whole_length(tmp_path: Path, clips: Path) -> None:
    soundfile.write(tmp_path / "a.wav", melody(40.0), SAMPLE_RATE)
    quiet = melody(4.0)
    quiet[: 2 * SAMPLE_RATE] = 0
    soundfile.write(tmp_path / "b.wav", quiet, SAMPLE_RATE)
    soundfile.write(tmp_path / "copy.wav", quiet, SAMPLE_RATE)
    front = ap.LogMel(128)
    paths = [tmp_path / "a.wav", clips / "tone0.wav", tmp_path / "b.wav", tmp_path / "copy.wav"]
    found = read_sounds(paths, front, windows=Windowing())
    assert (len(found), [path.name for path in found.copies]) == (3, ["copy.wav"])
    assert found.recordings == [0] * 12 + [1] + [2] * 3
    last = load_audio(paths[0]).waveform[-round(1.295 * SAMPLE_RATE) :]
    torch.testing.assert_close(found.features[11], front(last), atol=1e-3, rtol=0)
    assert len(read_sounds(paths[:1], front, windows=Windowing(hop=1.0)).recordings) == 40
    first = read_sounds(paths, front)
    assert (first.recordings, len(first.cut)) == ([0, 1], 1), "b begins with silence"


def test_a_recording_counts_once() -> None:
    model = audiomae().eval()
    features = torch.randn(7, 128, 128, generator=torch.Generator().manual_seed(0))
    recordings = [0, 0, 1, 1, 1, 2, 3]
    clips = ClipSet(features, "input_values", recordings)
    assert len(clips) == 4
    told: list[int] = []
    hearing = Hearing(model, clips, [2, 0, 3, 1], 2, Ledger(None, {}), told.append)
    assert sum(told) == 4
    with torch.no_grad():
        probabilities = model(features).logits.softmax(1)
    for place, recording in enumerate([2, 0, 3, 1]):
        rows = [i for i, own in enumerate(recordings) if own == recording]
        torch.testing.assert_close(hearing.full[place].softmax(0), probabilities[rows].mean(0), atol=1e-5, rtol=0)
    assert hearing.hear(ap.TopK(0.5), 0, 4).clips == 4
    whole = ClipSet(features, "input_values")
    assert whole.fingerprint == ClipSet(features, "input_values", range(7)).fingerprint != clips.fingerprint
    with pytest.raises(ValueError, match="recordings are .*give one a window, such as 0, 0, 0, 1, 1"):
        ClipSet(features, "input_values", [0, 0, 2, 2, 2, 2, 2])


def test_a_comparison_hears_long_clips_in_windows(run, tiny: str, tmp_path: Path) -> None:
    for label in ("note 1", "note 2"):
        (tmp_path / "data" / label).mkdir(parents=True)
        soundfile.write(tmp_path / "data" / label / "short.wav", tone(1.0), SAMPLE_RATE)
        soundfile.write(tmp_path / "data" / label / "long.wav", melody(5.0), SAMPLE_RATE)
    words = ("compare", "--data", tmp_path / "data", "--model", tiny, "--methods", "topk", "--keep-rates", "0.5")
    words += ("--bench-seconds", 0, "--json")
    code, out, err = run(*words)
    assert code == 0, err
    result = json.loads(out)
    assert (result["clips"], result["windows"], result["pool"]) == (4, 10, "mean")
    first = json.loads(run(*words, "--window", "first")[1])
    assert first["clips"] == 4
    assert "windows" not in first
    assert first["rows"][0]["kl"] != result["rows"][0]["kl"]
