"""Every command on a classifier of every family, with its extractor beside it, on clips of several lengths."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from transformers import (
    ASTFeatureExtractor,
    HubertConfig,
    HubertForSequenceClassification,
    PreTrainedModel,
    UniSpeechConfig,
    UniSpeechForSequenceClassification,
    UniSpeechSatConfig,
    UniSpeechSatForSequenceClassification,
    Wav2Vec2FeatureExtractor,
    WavLMConfig,
    WavLMForSequenceClassification,
    WhisperFeatureExtractor,
)

import audioprune as ap
from audioprune.audio.extractor import AudioMAEFeatureExtractor
from audioprune.audio.front_end import FrontEnd
from audioprune.core.cost import macs
from audioprune.tagging.tagger import Tagger

from .conftest import tone
from .families import STABLE, ast, audiomae, data2vec, wav2vec2, waveform, whisper

LABELS = {"num_labels": 2, "id2label": {0: "high", 1: "low"}, "label2id": {"high": 0, "low": 1}}
SECONDS = (0.3, 0.5, 0.5, 0.9, 1.4, 0.4, 0.6, 0.7)
"""Lengths of the clips: under and over the second that the models of fixed length hear."""

WAVEFORMS: dict[str, Callable[[], PreTrainedModel]] = {
    "wav2vec2": lambda: wav2vec2(**LABELS),
    "wav2vec2-stable": lambda: wav2vec2(**STABLE, **LABELS),
    "hubert": lambda: waveform(HubertForSequenceClassification, HubertConfig, **LABELS),
    "data2vec": lambda: data2vec(**LABELS),
    "unispeech": lambda: waveform(UniSpeechForSequenceClassification, UniSpeechConfig, **LABELS),
    "unispeech-sat": lambda: waveform(UniSpeechSatForSequenceClassification, UniSpeechSatConfig, **LABELS),
}
SPECTROGRAMS: dict[str, Callable[[], PreTrainedModel]] = {
    "audiomae": lambda: audiomae(**LABELS),
    "ast": lambda: ast(**LABELS),
    "whisper": lambda: whisper(max_source_positions=50, **LABELS),
}
MODELS = {**SPECTROGRAMS, **WAVEFORMS}


def extractor_of(name: str):
    if name == "audiomae":
        return AudioMAEFeatureExtractor(128)
    if name == "ast":
        return ASTFeatureExtractor(max_length=128)
    if name == "whisper":
        return WhisperFeatureExtractor(16, chunk_length=1)
    return Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=name.endswith("stable"))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a family's model, written once."""
    root = tmp_path_factory.mktemp("models")

    def folder(name: str) -> Path:
        if not (root / name).exists():
            MODELS[name]().save_pretrained(root / name)
            extractor_of(name).save_pretrained(root / name)
        return root / name

    return folder


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for each class, with clips of several lengths."""
    root = tmp_path_factory.mktemp("sounds")
    for label, hertz in (("high", 2000.0), ("low", 200.0)):
        (root / label).mkdir()
        for i, seconds in enumerate(SECONDS):
            clip = tone(seconds, hertz=hertz * (1 + 0.1 * i))
            # Tokens of a pure tone are as alike as rounding lets them be, and so are the pairs of merging.
            clip += 0.05 * np.random.default_rng(i).standard_normal(len(clip)).astype(np.float32)
            soundfile.write(root / label / f"{i}.wav", clip, 16_000)
    return root


@pytest.mark.parametrize("name", MODELS)
def test_tag(run, folders, sounds, name: str) -> None:
    code, out, err = run("tag", sounds, "--model", folders(name), "--json", "--batch-size", 4)
    assert code == 0, err
    together = [json.loads(line) for line in out.splitlines()]
    work = "of the multiply-accumulates" + (" of a clip of 10 s are left" if name in WAVEFORMS else "")
    assert work in err
    assert {row["labels"][0]["label"] for row in together} <= {"high", "low"}
    code, out, err = run("tag", sounds, "--model", folders(name), "--json", "--batch-size", 1)
    alone = [json.loads(line) for line in out.splitlines()]
    for one, other in zip(together, alone, strict=True):
        assert one["path"] == other["path"]
        assert one["labels"][0]["score"] == pytest.approx(other["labels"][0]["score"], abs=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_explain(run, folders, sounds, name: str) -> None:
    words = ("--method", "topk", "--keep-rate", "0.5", "--out", "a.png", "--json")
    code, out, err = run("explain", sounds / "low/1.wav", "--model", folders(name), *words)
    assert code == 0, err
    found = json.loads(out)
    assert found["stages"]
    assert all(len(stage["kept"]) < found["grid"][0] * found["grid"][1] for stage in found["stages"])
    with Image.open("a.png") as picture:
        assert picture.size[0] > 1000


@pytest.mark.parametrize("name", MODELS)
def test_explain_a_long_sound(run, folders, sounds, name: str) -> None:
    words = ("--method", "topk", "--keep-rate", "0.5", "--window", "0.5", "--out", "a.png", "--json")
    code, out, err = run("explain", sounds / "low/4.wav", "--model", folders(name), *words)
    assert code == 0, err
    found = json.loads(out)
    assert found["explained"]["end"] - found["explained"]["start"] == pytest.approx(0.5)
    assert len(found["windows"]) == 5, "every quarter of a second, and the last at the end of 1.4 s"
    with Image.open("a.png") as picture:
        assert picture.size[0] > 1000


@pytest.mark.parametrize("name", MODELS)
def test_bench(run, folders, name: str) -> None:
    words = ("--keep-rates", "0.5", "--seconds", "0.05", "--batch-sizes", "2", "--clip-seconds", "0.5")
    code, out, err = run("bench", "--model", folders(name), *words, "--json")
    assert code == 0, err
    full, half = json.loads(out)["rows"]
    assert half["macs"] < full["macs"]
    assert half["tokens"][-1] < full["tokens"][0]


@pytest.mark.parametrize("name", MODELS)
def test_compare(run, folders, sounds, name: str) -> None:
    words = ("--methods", "topk", "--keep-rates", "0.5", "--bench-seconds", "0.01", "--batch-size", "2")
    code, out, err = run("compare", "--model", folders(name), "--data", sounds, *words, "--json")
    assert code == 0, err
    result = json.loads(out)
    assert [row["method"] for row in result["rows"] if "refused" not in row] == ["topk"]
    for row in result["rows"]:
        assert 0 < row["macs"] < result["unpruned"]["macs"]
        assert 0 <= row["agreement"]["mean"] <= 1


@pytest.mark.parametrize("name", ["whisper", "hubert"])
def test_compare_at_a_share_of_the_work(run, folders, sounds, name: str) -> None:
    words = ("--methods", "topk", "--macs", "0.8", "--bench-seconds", "0", "--limit", "2")
    code, out, err = run("compare", "--model", folders(name), "--data", sounds, *words, "--json")
    assert code == 0, err
    result = json.loads(out)
    assert all(0.5 < 1 / row["macs_ratio"] <= 0.81 for row in result["rows"] if "refused" not in row)
    assert any("refused" not in row for row in result["rows"])


@pytest.mark.parametrize("name", MODELS)
def test_eval(run, folders, sounds, tmp_path, name: str) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/test").symlink_to(sounds)
    words = ("--keep-rates", "1.0,0.5", "--bench-seconds", "0.01", "--batch-size", "2")
    code, out, err = run("eval", "--model", folders(name), "--data", tmp_path / "data", *words, "--json")
    assert code == 0, err
    full, half = json.loads(out)["rows"]
    assert half["macs"] < full["macs"]


@pytest.mark.parametrize("name", MODELS)
def test_calibrate(run, folders, sounds, name: str) -> None:
    words = ("--max-disagreement", "0.5", "--methods", "topk", "--bench-seconds", "0.01", "--report", "all.json")
    code, _, err = run("calibrate", "--clips", sounds, "--model", folders(name), *words, "--batch-size", "4")
    assert code in (0, 1), err
    report = json.loads(Path("all.json").read_text())
    assert report["clips"] == 2 * len(SECONDS)
    assert report["settings"] > 0


@pytest.mark.parametrize(("name", "method"), [("ast", "topk"), ("whisper", "recommended"), ("wav2vec2", "topk")])
def test_export(run, folders, name: str, method: str) -> None:
    seconds = ("--clip-seconds", "0.4") if name in WAVEFORMS else ()
    words = ("--method", method, "--no-time", *seconds, "--json")
    code, out, err = run("export", folders(name), "a.onnx", *words)
    assert code == 0, err
    found = json.loads(out)
    assert found["clips"] == 4 + len(list((Path(ap.__file__).parent / "assets/clips").glob("*.ogg")))
    assert found["difference"] < 1e-3


def test_export_of_waveforms_asks_for_a_length(run, folders) -> None:
    code, _, err = run("export", folders("wav2vec2"), "a.onnx")
    assert code == 2
    assert "--clip-seconds 5" in err
    assert not Path("a.onnx").exists()


@pytest.mark.parametrize("name", WAVEFORMS)
def test_answers_are_those_of_transformers(folders, name: str) -> None:
    """Each clip alone, by its own extractor."""
    model = ap.load(folders(name))
    tagger = Tagger(model, ap.load_features(folders(name), model))
    waves = [tone(seconds, hertz=300.0) for seconds in SECONDS]
    found = tagger.probabilities(waves)
    for wave, answer in zip(waves, found, strict=True):
        inputs = extractor_of(name)(wave, sampling_rate=16_000, return_tensors="pt")
        with torch.no_grad():
            assert torch.allclose(model(inputs.input_values).logits.softmax(1)[0], answer, atol=1e-6)


def test_waveforms_are_batched_by_their_length(folders) -> None:
    front = ap.load_features(folders("hubert"), ap.load(folders("hubert")))
    assert isinstance(front, FrontEnd)
    assert front.shape is None
    assert front.batches([np.zeros(n) for n in (5, 7, 5, 9, 7)]) == [[0, 2], [1, 4], [3]]
    assert front([tone(0.3), tone(0.5)]).shape == (2, 8000)
    whole = ap.load_features(folders("ast"), ap.load(folders("ast")))
    assert whole.batches([np.zeros(n) for n in (5, 7, 5)]) == [[0, 1, 2]]


def test_shapes_alone_are_counted_as_clips_are(folders) -> None:
    model = ap.load(folders("wav2vec2"))
    clip = torch.randn(1, 8000)
    with ap.prune(model, ap.TopK(0.5)):
        assert macs(model, inputs=clip.to("meta")) == macs(model, inputs=clip)


def test_what_cannot_be_known_is_refused(run, sounds, tmp_path) -> None:
    wav2vec2(**LABELS).save_pretrained(tmp_path / "bare")
    code, _, err = run("tag", sounds, "--model", tmp_path / "bare")
    assert code == 2
    assert "save its feature extractor beside it" in err
    wav2vec2(**LABELS).save_pretrained(tmp_path / "other")
    WhisperFeatureExtractor(16).save_pretrained(tmp_path / "other")
    code, _, err = run("tag", sounds, "--model", tmp_path / "other")
    assert code == 2
    assert "WhisperFeatureExtractor makes neither" in err
    Wav2Vec2FeatureExtractor(sampling_rate=8000).save_pretrained(tmp_path / "bare")
    code, _, err = run("tag", sounds, "--model", tmp_path / "bare")
    assert code == 2
    assert "8000 Hz" in err
    waveform(WavLMForSequenceClassification, WavLMConfig, **LABELS).save_pretrained(tmp_path / "wavlm")
    Wav2Vec2FeatureExtractor().save_pretrained(tmp_path / "wavlm")
    code, _, err = run("tag", sounds, "--model", tmp_path / "wavlm")
    assert code == 2
    assert "HuBERT" in err
