"""The committed checkpoints: they load, prune, are small, and say where they come from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoProcessor, WhisperConfig, WhisperModel

import audioprune as ap
from audioprune.audio.files import SAMPLE_RATE
from listener import hears_timelines, join_ear, prompt

ROOT = Path(__file__).parents[1]
SHIPPED = ROOT / "audioprune" / "assets" / "audiomae-esc10"
CHECKPOINTS = sorted((ROOT / "checkpoints").iterdir())
EAR = ROOT / "checkpoints" / "listener-ear"
CLASSIFIERS = [folder for folder in CHECKPOINTS if folder != EAR]


def test_the_five_are_there() -> None:
    assert [path.name for path in CHECKPOINTS] == [
        "ast-esc10",
        "ast-fsdd-digits",
        "audiomae-esc10",
        "audiomae-fsdd-digits",
        "listener-ear",
    ]


@pytest.mark.parametrize("folder", CHECKPOINTS, ids=lambda path: path.name)
def test_it_is_small_and_says_where_it_comes_from(folder: Path) -> None:
    weights = folder / "model.safetensors"
    assert weights.stat().st_size <= 12_000_000
    assert {tensor.dtype for tensor in load_file(weights).values()} == {torch.float16}
    card = (folder / "README.md").read_text()
    assert all(word in card for word in ("**Training.**", "**Measured**", "**Data and licence.**"))
    assert (folder / "ATTRIBUTION.csv").exists() or not folder.name.endswith(("esc10", "ear"))


def test_the_ear_has_nothing_of_whisper_and_answers_with_an_encoder_of_its_size(tmp_path: Path) -> None:
    assert not any("audio_tower" in name for name in load_file(EAR / "model.safetensors"))
    sizes = {"d_model": 384, "encoder_layers": 4, "encoder_attention_heads": 6, "encoder_ffn_dim": 1536}
    WhisperModel(WhisperConfig(**sizes, decoder_layers=1, vocab_size=51_864)).save_pretrained(tmp_path)
    model, processor = join_ear(EAR, tmp_path), AutoProcessor.from_pretrained(EAR)
    assert hears_timelines(processor)
    sound = torch.randn(SAMPLE_RATE).numpy()
    inputs = processor(text=prompt("how many words ?"), audio=sound, sampling_rate=SAMPLE_RATE, return_tensors="pt")
    with ap.prune(model, ap.SegmentwiseTopK(0.5)):
        said = model.generate(**inputs)[:, inputs["input_ids"].shape[1] :]
    assert processor.batch_decode(said, skip_special_tokens=True)[0].strip()


@pytest.mark.parametrize("folder", CLASSIFIERS, ids=lambda path: path.name)
def test_a_classifier_runs_pruned(folder: Path) -> None:
    model = ap.load(folder)
    front = ap.load_features(folder, model)
    with torch.inference_mode(), ap.prune(model, ap.TopK(0.5)) as handle:
        logits = model(front(torch.randn(1, 16_000))).logits
    assert logits.shape == (1, 10)
    assert torch.isfinite(logits).all()
    assert handle.tokens[0] in (64, 256)


def test_the_package_ships_one_of_them() -> None:
    for path in (ROOT / "checkpoints" / "audiomae-esc10").iterdir():
        assert (SHIPPED / path.name).read_bytes() == path.read_bytes()
