"""A stream against clips cut from the whole sound; `audioprune listen` from a pipe."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soxr
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import ASTFeatureExtractor, Wav2Vec2FeatureExtractor, WhisperFeatureExtractor

import audioprune as ap
from audioprune.audio.features import LogMel
from audioprune.audio.files import SAMPLE_RATE
from audioprune.cli.listen import pipe_blocks

from .conftest import tone
from .families import STABLE, ast, audiomae, wav2vec2, whisper

MADE: dict[str, Any] = {
    "audiomae": (audiomae, lambda: ap.AudioMAEFeatureExtractor(max_length=128)),
    "ast": (ast, lambda: ASTFeatureExtractor(max_length=128)),
    "whisper": (lambda: whisper(max_source_positions=50), lambda: WhisperFeatureExtractor(16, chunk_length=1)),
    "wav2vec2": (lambda: wav2vec2(**STABLE), lambda: Wav2Vec2FeatureExtractor()),
}


def sweep(seconds: float, rate: int = SAMPLE_RATE) -> np.ndarray:
    t = np.arange(round(seconds * rate)) / rate
    return (0.3 * np.sin(2 * np.pi * (200 + 150 * t) * t)).astype(np.float32)


@torch.inference_mode()
def slow(model: Any, extractor: Any, wave: np.ndarray, window: float, hop: float) -> list[tuple[float, torch.Tensor]]:
    """The end and the probabilities of each answer: a clip of the last window, at each moment that is due."""
    found, number = [], 1
    while (end := round(number * hop * SAMPLE_RATE)) <= len(wave):
        clip = wave[max(0, end - round(window * SAMPLE_RATE)) : end]
        inputs = extractor(clip, sampling_rate=SAMPLE_RATE, return_tensors="pt")
        found.append((end / SAMPLE_RATE, model(next(iter(inputs.values()))).logits[0].softmax(-1)))
        number += 1
    return found


@pytest.mark.parametrize("family", MADE)
def test_an_answer_is_that_of_a_clip_of_the_last_window(family: str) -> None:
    model, extractor = (make() for make in MADE[family])
    ap.prune(model.eval(), ap.TopK(0.5))
    wave = sweep(2.6)
    window = 1.0
    stream = ap.Stream(model, extractor, hop=0.3, window=window, top=11)
    answers = [answer for first in range(0, len(wave), 3333) for answer in stream.feed(wave[first : first + 3333])]
    expected = slow(model, extractor, wave, window, 0.3)
    assert [answer.end for answer in answers] == [end for end, _ in expected]
    for answer, (end, probabilities) in zip(answers, expected, strict=True):
        assert answer.start == pytest.approx(max(0, end - window))
        assert [score for _, score in answer.labels] == pytest.approx(
            probabilities.sort(descending=True).values.tolist(), abs=1e-4
        )


@given(
    lengths=st.lists(st.integers(0, 30_000), max_size=12),
    hop=st.floats(0.05, 2.0),
    window=st.floats(0.1, 1.29),
)
@settings(max_examples=40)
def test_however_it_is_fed_it_hears_the_last_window(lengths: list[int], hop: float, window: float) -> None:
    wave = sweep(sum(lengths) / SAMPLE_RATE)
    stream = ap.Stream(_TINY, LogMel(128), hop=hop, window=window)
    heard: list[np.ndarray] = []

    def probabilities(waveforms: list[np.ndarray]) -> torch.Tensor:
        heard.extend(waveforms)
        return torch.ones(1, 3)

    stream._tagger.probabilities = probabilities  # type: ignore[method-assign]
    cuts = np.cumsum([0, *lengths])
    ends = [answer.end for a, b in pairwise(cuts.tolist()) for answer in stream.feed(wave[a:b])]
    due = [round(k * hop * SAMPLE_RATE) for k in range(1, 1 + int(len(wave) / SAMPLE_RATE / hop) + 2)]
    due = [end for end in due if end <= len(wave)]
    assert [round(end * SAMPLE_RATE) for end in ends] == due
    for end, clip in zip(due, heard, strict=True):
        np.testing.assert_array_equal(clip, wave[max(0, end - round(window * SAMPLE_RATE)) : end])
    assert stream.seconds == len(wave) / SAMPLE_RATE


_TINY = audiomae(num_hidden_layers=1).eval()


@pytest.mark.parametrize("rate", [8_000, 44_100, 48_000])
def test_rates_are_converted_without_seams(rate: int) -> None:
    wave = sweep(3.0, rate)
    stream = ap.Stream(_TINY, LogMel(128), hop=0.7, sampling_rate=rate)
    heard: list[np.ndarray] = []
    stream._tagger.probabilities = lambda waves: (heard.extend(waves), torch.ones(1, 3))[1]  # type: ignore
    answers = [answer for first in range(0, len(wave), 1000) for answer in stream.feed(wave[first : first + 1000])]
    answers += stream.finish()
    whole = soxr.resample(wave, rate, SAMPLE_RATE, quality="HQ")
    assert answers[-1].end == pytest.approx(3.0, abs=1e-3)
    for answer, clip in zip(answers, heard, strict=True):
        end = round(answer.end * SAMPLE_RATE)
        np.testing.assert_allclose(clip, whole[end - len(clip) : end], atol=1e-5)


def test_channels_and_whole_numbers() -> None:
    wave = sweep(1.0)
    numbers = (wave * 32767).astype(np.int16)
    (expected,) = ap.Stream(_TINY, LogMel(128), hop=1.0).feed(wave)
    for fed in (numbers, np.stack([numbers, numbers], 1), torch.from_numpy(wave), wave.astype(">f8"), wave.tolist()):
        (answer,) = ap.Stream(_TINY, LogMel(128), hop=1.0).feed(fed)
        assert answer.label == expected.label
        assert answer.labels[0][1] == pytest.approx(expected.labels[0][1], abs=1e-3)


@pytest.mark.parametrize(
    ("fed", "said"),
    [
        (np.array([0.0, np.nan]), "contains NaN or infinite samples"),
        (np.array([0.0, 3000.0]), "its greatest sample is 3000, but floats must be in"),
        (np.zeros((2, 3, 4)), r"has shape \(2, 3, 4\); give \(samples,\)"),
        (np.zeros((2, 9)), r"has shape \(2, 9\); .* at most 8 channels"),
        (np.zeros(4, bool), "has the type bool"),
        (np.zeros(4, np.int64), "has the type int64, whose full scale is unknown"),
    ],
)
def test_what_is_no_sound_is_refused_and_the_stream_goes_on(fed: Any, said: str) -> None:
    wave = sweep(1.0)
    stream = ap.Stream(_TINY, LogMel(128), hop=1.0, sampling_rate=16_000)
    stream.feed(wave[:5000])
    with pytest.raises(ap.AudioError, match=said):
        stream.feed(fed)
    (answer,) = stream.feed(wave[5000:])
    assert answer.labels == ap.Stream(_TINY, LogMel(128), hop=1.0).feed(wave)[0].labels


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"hop": 0.0}, "hop is 0.0; it is the seconds between answers, at least 0.05"),
        ({"hop": float("nan")}, "hop is nan"),
        ({"window": 3.0}, "window is 3.0; .* at most 1.295 s, which is all that the model hears at once"),
        ({"sampling_rate": 0}, "sampling_rate is 0; it is a number of hertz"),
    ],
)
def test_streams_that_cannot_be(options: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ap.Stream(_TINY, LogMel(128), **options)


def test_late_answers_may_be_skipped() -> None:
    stream = ap.Stream(_TINY, LogMel(128), hop=0.25)
    (answer,) = stream.feed(sweep(1.1), latest=True)
    assert (answer.end, answer.skipped) == (1.0, 3)
    (answer,) = stream.feed(sweep(0.2), latest=True)
    assert (answer.end, answer.skipped) == (1.25, 0)
    assert answer.compute_seconds > 0


def test_the_end_and_a_new_beginning() -> None:
    wave = sweep(1.2)
    stream = ap.Stream(_TINY, LogMel(128), hop=0.5)
    first = [*stream.feed(wave), *stream.finish()]
    assert [answer.end for answer in first] == [0.5, 1.0, 1.2]
    again = [*stream.feed(wave), *stream.finish()]
    assert [answer.labels for answer in again] == [answer.labels for answer in first]
    assert stream.finish() == []


def test_silence_and_answers_that_are_not_finite() -> None:
    (answer,) = ap.Stream(_TINY, LogMel(128), hop=0.5).feed(np.zeros(8000, np.float32))
    assert answer.silent
    assert answer.as_row()["silent"] is True
    broken = audiomae(num_hidden_layers=1).eval()
    with torch.no_grad():
        broken.classifier.bias.fill_(float("nan"))
    with pytest.raises(ValueError, match="not finite"):
        ap.Stream(broken, LogMel(128)).feed(sweep(0.6))


def test_a_stream_of_the_shipped_model_hears_a_clip() -> None:
    clip = ap.load_audio(Path(ap.__file__).parent / "assets" / "clips" / "rain.ogg")
    loaded = ap.load("esc10")
    answers = ap.Stream(loaded, "esc10", hop=5.0).feed(clip.waveform)
    assert [answer.label for answer in answers] == ["rain"]


# The command


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model")
    audiomae(id2label={i: f"note {i}" for i in range(11)}).save_pretrained(folder)
    return str(folder)


def piped(content: bytes, *words: object) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "audioprune", "listen", *map(str, words)], input=content, capture_output=True
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def test_listen_from_a_pipe(tiny: str) -> None:
    """A real process: an example clip as raw samples at another rate, in two channels."""
    clip = ap.load_audio(Path(ap.__file__).parent / "assets" / "clips" / "rain.ogg", sample_rate=22_050).waveform
    stereo = np.stack([clip, clip], 1).astype("<f4").tobytes()
    code, out, err = piped(
        stereo, "--model", "esc10", "--method", "topk", "--rate", 22_050, "--channels", 2, "--format", "f32le", "--json"
    )
    assert code == 0, err
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["end"] for row in rows[:9]] == [0.5 * i for i in range(1, 10)]
    assert rows[-1]["labels"][0]["label"] == "rain"
    assert all(row["compute_seconds"] > 0 for row in rows)
    assert "ms pruned, " in err
    assert f"{len(rows)} answers to 5.0 s of sound" in err


class Pipe:
    """Gives what it holds in odd portions."""

    def __init__(self, content: bytes, portion: int) -> None:
        self._content, self._portion = content, portion

    def isatty(self) -> bool:
        return False

    @property
    def buffer(self) -> Pipe:
        return self

    def read1(self, size: int) -> bytes:
        part, self._content = self._content[: self._portion], self._content[self._portion :]
        return part


@given(st.integers(0, 400), st.integers(1, 60), st.sampled_from([1, 2, 3]))
def test_samples_come_through_whatever_the_portions(count: int, portion: int, channels: int) -> None:
    samples = np.random.default_rng(0).integers(-(2**15), 2**15, (count, channels)).astype("<i2")
    blocks = list(pipe_blocks(Pipe(samples.tobytes(), portion), "<i2", channels))
    found = np.concatenate([np.empty((0, channels), "<i2"), *(block.reshape(-1, channels) for block in blocks)])
    np.testing.assert_array_equal(found, samples)


def test_listen_prints_lines(run, monkeypatch: pytest.MonkeyPatch, tiny: str) -> None:
    samples = (sweep(1.7) * 32767).astype("<i2").tobytes()
    words = ("listen", "--model", tiny, "--method", "topk")

    def listen(content: bytes, *more: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.stdin", Pipe(content, 1000))
        return run(*words, *more)

    code, out, err = listen(samples)
    assert code == 0, err
    assert [line.split()[0] for line in out.splitlines()] == ["0.5", "1.0", "1.5", "1.7"]
    assert "note" in out
    assert " ms" in out
    assert "4 answers to 1.7 s of sound, each in" in err
    assert len(listen(samples, "--seconds", "1")[1].splitlines()) == 2
    assert "1 bytes at the end are no whole sample" in listen(samples + b"x")[2]
    for content, said in ((b"", "no answer: only 0.00 s of sound came"), (b"RIFF....WAVE", "the pipe brings a WAV")):
        code, _, err = listen(content)
        assert (code, said in err) == (2, True), err
    assert "--format is 'mp3'; there are s16le" in listen(b"", "--format", "mp3")[2]


def test_listen_names_the_extra_of_the_microphone(run, monkeypatch: pytest.MonkeyPatch, tiny: str) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    code, _, err = run("listen", "--mic", "--model", tiny)
    assert code == 2
    assert "this needs sounddevice: pip install 'audioprune[mic]'" in err


def test_listen_to_a_microphone(run, monkeypatch: pytest.MonkeyPatch, tiny: str) -> None:
    """The driver is replaced: it calls back with blocks, as sounddevice does."""

    class Input:
        def __init__(self, callback: Any, samplerate: int, channels: int, blocksize: int, dtype: str) -> None:
            self._call, self._size, self._channels = callback, blocksize, channels

        def __enter__(self) -> None:
            for _ in range(8):
                self._call(tone(1.0)[: self._size, None].repeat(self._channels, 1), self._size, None, None)

        def __exit__(self, *_: object) -> None: ...

    fake = type(sys)("sounddevice")
    fake.InputStream, fake.PortAudioError = Input, OSError  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "sounddevice", fake)
    words = ("listen", "--mic", "--model", tiny, "--method", "topk", "--seconds", "0.8", "--hop", "0.2", "--json")
    code, out, err = run(*words)
    assert code == 0, err
    (row,) = map(json.loads, out.splitlines())
    assert (row["end"], row["skipped"]) == (0.8, 3)
    assert "3 skipped" in err
