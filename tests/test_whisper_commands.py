"""`explain`, `bench` and `calibrate` of a Whisper with its decoder."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import audioprune as ap
from audioprune.calibration import calibrate_words, upper_bound
from audioprune.calibration.bounds import upper_bound_of_mean
from audioprune.core.settings import read_method
from audioprune.models.loading import is_transcriber
from audioprune.transcribing.explanation import Explanation, explain, figure, options_for
from audioprune.transcribing.parts import WhisperParts
from audioprune.transcribing.recognizer import Recognizer, Segment, Transcript, Word

from .conftest import tone
from .families import audiomae, transcriber
from .transcribers import SECONDS, save


@pytest.fixture(scope="module")
def english(tmp_path_factory) -> str:
    return save(tmp_path_factory.mktemp("english"), multilingual=False)


@pytest.fixture
def clip(tmp_path: Path) -> str:
    soundfile.write(tmp_path / "a.wav", tone(0.5), 16_000)
    return str(tmp_path / "a.wav")


def test_a_whisper_is_known_by_its_config(english, tmp_path) -> None:
    audiomae().save_pretrained(tmp_path)
    assert is_transcriber(english)
    assert not is_transcriber(tmp_path)
    assert not is_transcriber(tmp_path / "nothing")


def test_explain(run, english, clip) -> None:
    code, out, err = run("explain", clip, "--model", english, "--out", "a.png", "--json")
    assert code == 0, err
    row = json.loads(out)
    positions = row["positions"]
    assert sum(token["positions"] for token in row["tokens"]) == positions
    assert [token["start"] for token in row["tokens"]] == sorted(token["start"] for token in row["tokens"])
    # The sound itself is left alone; the padding is merged.
    assert all(token["positions"] == 1 for token in row["tokens"] if token["start"] < 0.5)
    assert max(token["positions"] for token in row["tokens"]) > 10
    assert all(0 <= word["start"] <= word["end"] <= 0.5 for word in row["words"])
    with Image.open("a.png") as picture:
        assert picture.size[0] > 1000
    words = ("explain", clip, "--model", english, "--keep-rate", "0.5", "--method")
    code, out, err = run(*words, "topk+fuse", "--out", "c.png", "--json")
    assert code == 0, err
    assert sum(token["positions"] for token in json.loads(out)["tokens"]) == positions  # the fused token has the rest
    code, out, err = run(*words, "topk", "--out", "b.png")
    assert code == 0, err
    assert f"{positions} positions of 20 ms in " in out
    assert "→ b.png" in out


def test_explain_hears_one_window(run, english, tmp_path) -> None:
    soundfile.write(tmp_path / "long.wav", tone(2 * SECONDS), 16_000)
    code, _, err = run("explain", tmp_path / "long.wav", "--model", english)
    assert code == 0, err
    assert f"only the first {SECONDS:g} s of" in err
    assert Path("long-kept.png").exists()


def test_what_is_explained_is_what_is_transcribed(english) -> None:
    parts = WhisperParts.read(english)
    recognizer = Recognizer(parts.load(), parts, options_for(parts))
    waveform = tone(0.6)
    found = explain(recognizer, ap.PaddingMerge(0.2, margin=2), waveform)
    assert found.unpruned.text == recognizer.short([waveform])[0].text
    with ap.prune(recognizer.model, ap.PaddingMerge(0.2, margin=2)):
        assert found.transcript.text == recognizer.short([waveform])[0].text
    assert ap.handle(recognizer.model) is None
    assert found.sizes.sum() == len(found.holder)
    assert len(found.sizes) == len(found.starts) == found.holder.max() + 1


def test_the_figure_shows_words_and_forgotten_positions() -> None:
    words = tuple(Word(f"$w{i}", i / 2, i / 2 + 0.4) for i in range(3))
    transcript = Transcript("$w0 $w1 $w2", (Segment("", 0, 1.5, words),))
    holder = np.array([0, 0, 1, -1, 1, 2])
    found = Explanation(tone(1.5), np.array([2, 2, 1]), np.array([0.0, 1.0, 2.5]), holder, 3.0, transcript, transcript)
    drawn = figure(found, title="$ title")
    drawn.canvas.draw()
    assert [text.get_text() for text in drawn.axes[0].texts] == ["$w0", "$w1", "$w2"]
    strip = drawn.axes[2].images[0].get_array()
    assert strip.filled(0).tolist() == [[2, 2, 2, 0, 2, 1]]
    assert found.differences == ()
    drawn = figure(Explanation(np.zeros(10), found.sizes, found.starts, holder, 3.0, Transcript(""), Transcript("")))
    drawn.canvas.draw()


def test_bench(run, english) -> None:
    words = ("bench", "--model", english, "--batch-sizes", "1,2", "--seconds", "0.05", "--clip-seconds", "0.5")
    code, out, err = run(*words, "--json")
    assert code == 0, err
    rows = json.loads(out)["rows"]
    assert [(row["batch_size"], row["keep_rate"]) for row in rows] == [(1, 1.0), (1, 0.04), (2, 1.0), (2, 0.04)]
    unpruned, pruned = rows[:2]
    assert unpruned["tokens"][0] == unpruned["tokens"][1] > pruned["tokens"][1]
    assert unpruned["macs_ratio"] == unpruned["speed_up"] == unpruned["encoder_speed_up"] == 1
    assert pruned["macs_ratio"] > 1
    for row in rows:
        assert 0 < row["encoder_ms"] < row["latency_ms"]
        assert row["real_time_factor"] == pytest.approx(row["latency_ms"] / 1000 / (0.5 * row["batch_size"]))
    code, out, err = run(*words, "--method", "topk", "--keep-rates", "0.5")
    assert code == 0, err
    assert "encoder, first token, whole" in out
    code, out, err = run("bench", "--model", english, "--clip-seconds", "40")
    assert code == 2
    assert "give at most that" in err


# Calibration on words


@pytest.mark.parametrize(("mean", "clips"), [(0.0, 80), (0.01, 80), (0.3, 40), (1.0, 10), (0.05, 1000)])
def test_the_bound_of_a_mean_is_no_less_than_the_exact_bound_of_a_count(mean, clips) -> None:
    """Of losses that are 0 or 1, a count has the bound of Clopper and Pearson; a mean that may be anything has more."""
    bound = upper_bound_of_mean(mean, clips)
    assert mean <= bound <= 1
    assert bound >= upper_bound(int(mean * clips), clips) - 1e-9
    if 0 < mean < 1:
        assert bound < mean + math.sqrt(math.log(1 / 0.05) / (2 * clips)) + 1e-9  # Hoeffding's alone


@given(st.integers(20, 60), st.floats(0.02, 0.3), st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_the_bound_holds_in_nineteen_of_twenty_cases(clips, rate, seed) -> None:
    draws = np.random.default_rng(seed).beta(rate, 1 - rate, size=(200, clips)).mean(axis=1)
    missed = sum(upper_bound_of_mean(float(mean), clips) < rate for mean in draws)
    assert missed <= 0.05 * 200 + 3 * math.sqrt(200 * 0.05 * 0.95)


class Scripted:
    """A speech model whose words depend on how much it merges."""

    def __init__(self, model, changed) -> None:
        self.model, self.changed, self.language, self.tokenizer, self.beams = model, changed, "en", None, 1

    def __call__(self, waveforms, max_new_tokens=None) -> list[str]:
        pruned = ap.handle(self.model)
        self.model.get_encoder()(torch.zeros(len(waveforms), 16, 128))
        methods = () if pruned is None else pruned.method.methods
        rate = methods[1].keep_rate if len(methods) > 1 else 1.0
        said = " ".join(["word"] * 9)
        return [
            said + (" other" if pruned is not None and self.changed(rate, len(one)) else " word") for one in waveforms
        ]


@pytest.mark.parametrize(
    ("changed", "limit", "found", "shown"),
    [
        (lambda rate, clip: False, 0.05, 0.8, True),  # nothing changes: the strongest
        (lambda rate, clip: rate < 0.93, 0.05, 0.94, True),  # a word of ten from there on
        (lambda rate, clip: rate < 0.93 and clip % 2 == 0, 0.001, None, False),  # too few clips to show it
        (lambda rate, clip: True, 0.01, "nothing", False),
    ],
)
def test_settings_are_tested_until_one_fails(changed, limit, found, shown, tmp_path) -> None:
    model = transcriber().eval()
    result = calibrate_words(Scripted(model, changed), [np.zeros(n) for n in range(100)], max_word_error=limit)
    assert result.shown is shown
    assert all(row["passed"] for row in result.rows[:-1])
    if found == "nothing":
        assert result.method is None
        assert result.about["encoder_faster"] is None
        with pytest.raises(ValueError, match="no setting was found"):
            result.save("a.json")
    elif found is None:
        assert result.method == ap.PaddingMerge()
        assert "Not shown: 100 clips that all stay the same show 3.0 % at best" in result.sentences[-1]
    else:
        assert result.method.methods[1].keep_rate == found
        assert len(result.rows) == [None, 0.98, 0.96, 0.94, 0.92, 0.9, 0.87, 0.84, 0.8].index(found) + 1 + (found > 0.8)
    if found != "nothing":
        assert result.about["encoder_faster"]["mean"] > 0
        assert read_method(result.save(tmp_path / "words.json")) == result.method
    assert ap.handle(model) is None


def test_a_calibration_that_is_stopped_goes_on(tmp_path) -> None:
    model, sounds, state = transcriber().eval(), [np.zeros(n) for n in range(20)], tmp_path / "words.json.partial.jsonl"
    calls = []

    class Stopped(Scripted):
        def __call__(self, waveforms, max_new_tokens=None) -> list[str]:
            calls.append(len(waveforms))
            if len(calls) == self.end:
                raise KeyboardInterrupt
            return super().__call__(waveforms, max_new_tokens)

    def calibrate(end: int | None, **changes):
        scripted = Stopped(model, lambda rate, clip: rate < 0.93 and clip % 2 == 0)
        scripted.end = end
        return calibrate_words(scripted, sounds, **{"max_word_error": 0.99, "batch_size": 4, "state": state, **changes})

    whole, own = calibrate(None, state=None), len(calls)
    calls.clear()
    with pytest.raises(KeyboardInterrupt):
        calibrate(18)
    assert ap.handle(model) is None
    assert len(state.read_text().splitlines()) == 1 + 17
    calls.clear()
    with state.open("a") as file:
        file.write('{"setting": nul')  # a kill tore the last line
    again = calibrate(None)
    assert len(calls) == own - 17
    assert again.rows == whole.rows
    assert not state.exists()
    with pytest.raises(KeyboardInterrupt):
        calibrate(len(calls) + 10)
    calls.clear()
    with pytest.warns(UserWarning, match=r"begun with batch_size=4 \(not 5\), and now begun anew"):
        calibrate(None, batch_size=5)
    assert len(calls) >= 4 * len(whole.rows)


def test_calibrate_command(run, english, tmp_path) -> None:
    folder = tmp_path / "clips"
    folder.mkdir()
    for i in range(4):
        soundfile.write(folder / f"{i}.wav", tone(0.3 + 0.1 * i, hertz=200.0 * (i + 1)), 16_000)
    (folder / "bad.wav").write_bytes(b"RIFF")
    words = ("calibrate", "--model", english, "--clips", folder, "--out", "words.json", "--report", "all.json")
    code, _, err = run(*words, "--max-disagreement", "0.99")
    result = json.loads(Path("all.json").read_text())
    assert result["clips"] == 4
    assert result["rows"][0]["name"] == "PaddingMerge(0.04)"
    assert "bad.wav" in err
    assert (code == 0) == Path("words.json").exists()
    code, _, err = run(*words, "--speed-up", "2")
    assert (code, "give --max-disagreement" in err) == (2, True)


def test_calibrate_takes_a_loaded_model(english) -> None:
    model = WhisperParts.read(english).load()
    result = ap.calibrate(model, [tone(0.4), tone(0.5)], max_disagreement=0.9)
    assert result.about["clips"] == 2
    with ap.prune(model, ap.PaddingMerge()), pytest.raises(ap.AlreadyPrunedError):
        ap.calibrate(model, [tone(0.4)], max_disagreement=0.9)
    with pytest.raises(ValueError, match="by the words that may change"):
        ap.calibrate(model, [tone(0.4)], speed_up=2)
    with pytest.raises(ValueError, match="there is no clip"):
        ap.calibrate(model, [], max_disagreement=0.9)
