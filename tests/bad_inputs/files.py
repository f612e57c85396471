"""The files that cases name: sounds, settings, models, earlier results and data sets, most of them broken."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
import torch
from safetensors.torch import save_file
from transformers import (
    BertConfig,
    TrainerCallback,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    WavLMConfig,
    WavLMForSequenceClassification,
)

import audioprune as ap
from audioprune.cli.demo import CLIPS
from audioprune.core.settings import describe
from audioprune.data import read
from audioprune.training.finetune import fine_tune
from audioprune.training.recipe import read_recipe
from audioprune.training.task import Task

from ..conftest import class_folders, tone
from ..families import WAVEFORM, audiomae, waveform
from ..media import FORMATS, PROTECTED, encode, silent_video


class Code:
    """Would leave a file behind, if a pickle's code were run."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch executed",)


class Interrupt(TrainerCallback):
    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 3:
            raise KeyboardInterrupt


def build() -> None:
    """All files, in the working folder."""
    _sounds()
    _settings()
    _models()
    _results()
    _data()


def _sounds() -> None:
    soundfile.write("a.wav", tone(), 16_000)
    whole = Path("a.wav").read_bytes()
    Path("empty.wav").touch()
    Path("corrupt.wav").write_bytes(np.random.default_rng(0).bytes(4000))
    Path("header.wav").write_bytes(whole[:20])
    Path("half.wav").write_bytes(whole[: len(whole) // 2])
    soundfile.write("half.flac", np.random.default_rng(0).normal(0, 0.1, 16_000), 16_000)
    whole = Path("half.flac").read_bytes()
    Path("half.flac").write_bytes(whole[: len(whole) // 2])
    for milliseconds in (10, 50):
        soundfile.write(f"{milliseconds}ms.wav", tone(milliseconds / 1000), 16_000)
    soundfile.write("silent.wav", np.zeros(16_000), 16_000)
    with soundfile.SoundFile("two-hours.flac", "w", 8000, 1) as file:
        for _ in range(120):
            file.write(np.zeros(60 * 8000, np.int16))
    soundfile.write("half-minute.wav", tone(30.0), 16_000)
    clip = ap.load_audio(CLIPS / "chainsaw.ogg").waveform
    soundfile.write("stereo.wav", np.stack([clip, clip], axis=1), 16_000)
    for kilohertz in (8, 96):
        soundfile.write(f"{kilohertz}kHz.wav", soxr.resample(clip, 16_000, 1000 * kilohertz), 1000 * kilohertz)
    for name, value in (("nan.wav", np.nan), ("inf.wav", np.inf)):
        samples = tone()
        samples[5000] = value
        soundfile.write(name, samples, 16_000, subtype="FLOAT")
    Path("text.wav").write_text("This is no sound.\n" * 10)
    _media()
    for name in ("two\nlines.wav", os.fsdecode(b"odd-\xff.wav")):
        Path(name).write_bytes(Path("text.wav").read_bytes())
    Path("no-sounds").mkdir()
    Path("no-sounds/notes.txt").write_text("notes")
    Path("mixed").mkdir()
    Path("mixed/good.wav").write_bytes(Path("a.wav").read_bytes())
    Path("mixed/text.wav").write_bytes(Path("text.wav").read_bytes())


def _media() -> None:
    """Files for FFmpeg. Those that are made with PyAV are left out without it."""
    Path("text.m4a").write_text("This is no sound.\n" * 10)
    Path("list.m4a").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\na.wav\n#EXT-X-ENDLIST\n")
    Path("movie.mp4").write_bytes(b"\x00\x00\x00\x20ftypisom" + bytes(20) + b"\x00\x10\x00\x00mdat" + bytes(200))
    if find_spec("av") is None:
        return
    chainsaw = ap.load_audio(CLIPS / "chainsaw.ogg", sample_rate=44_100).waveform
    encode(Path("phone.m4a"), chainsaw, FORMATS["m4a"])
    encode(Path("bought.m4a"), chainsaw, PROTECTED)
    silent_video(Path("mute.mp4"))


SETTINGS = {
    "broken": '{"method": "TopK", ',
    "list": "[0.5]",
    "unknown-method": '{"method": "Magic", "keep_rate": 0.5}',
    "unknown-key": '{"method": "TopK", "keep_rate": 0.5, "colour": "red"}',
    "wrong-type": '{"method": "TopK", "keep_rate": "half"}',
    "no-rate": '{"method": "TopK"}',
    "score-list": '{"method": "TopK", "keep_rate": 0.5, "score": ["cls"]}',
    "segments-text": '{"method": "TopK", "keep_rate": 0.5, "segments": "8"}',
    "layer-9": '{"method": "TopK", "keep_rate": 0.5, "layers": [9]}',
    "weightless": '{"method": "DynamicViT", "keep_rate": 0.5, "weights": "gone.safetensors"}',
}


def _settings() -> None:
    for name, text in SETTINGS.items():
        Path(f"{name}.json").write_text(text)
    Path("binary.json").write_bytes(b"\xff\xfe\x00")


def _models() -> None:
    audiomae().save_pretrained("tiny")
    weights = Path("tiny/model.safetensors").read_bytes()
    config = Path("tiny/config.json").read_text()
    configs = {
        "no-weights": config,
        "torn": config,
        "other-shapes": config.replace('"hidden_size": 48', '"hidden_size": 32'),
        "broken-config": config[: len(config) // 2],
    }
    for name, text in configs.items():
        Path(name).mkdir()
        Path(name, "config.json").write_text(text)
        if name != "no-weights":
            Path(name, "model.safetensors").write_bytes(weights if name != "torn" else weights[: len(weights) // 2])
    Path("empty-folder").mkdir()
    torch.save({"a": torch.zeros(100, 100)}, "unknown.pth")
    Path("torn.pth").write_bytes(Path("unknown.pth").read_bytes()[:2000])
    torch.save({"model": Code()}, "code.pth")
    Path("code.bin").write_bytes(pickle.dumps(Code()))
    Path("text.pth").write_text("This is no checkpoint.\n")
    torch.save([1, 2], "list.pth")
    save_file({"a": torch.zeros(2)}, "unknown.safetensors")
    Path("bert").mkdir()
    BertConfig(hidden_size=48, num_hidden_layers=2, num_attention_heads=4, intermediate_size=96).save_pretrained("bert")
    waveform(WavLMForSequenceClassification, WavLMConfig).save_pretrained("wavlm")
    Wav2Vec2FeatureExtractor().save_pretrained("wavlm")
    Wav2Vec2ForCTC(Wav2Vec2Config(**WAVEFORM, vocab_size=20)).save_pretrained("ctc")
    audiomae().save_pretrained("others-pruning")
    Path("others-pruning/pruning.json").write_text(SETTINGS["layer-9"])


def _results() -> None:
    setting = {"model": "tiny", **describe(ap.TopK(0.5)), "top": 3, "dtype": "float32"}
    row = json.dumps({"path": "/earlier.wav", "labels": [], "seconds": 1.0, "setting": setting}) + "\n"
    Path("results.jsonl").write_text(row)
    Path("torn.jsonl").write_text(row + row[: len(row) // 2])
    Path("notes.jsonl").write_text("My notes, which are no results.\n")
    Path("row-and-notes.jsonl").write_text(row + "and then something el")
    for name in ("folder", "folder.jsonl"):
        Path(name).mkdir()
    Path("old.png").write_bytes(b"a picture of old")
    Path("old.onnx").write_bytes(b"a model of old")
    Path("old.json").write_text('{"method": "TopK", "keep_rate": 0.5}\n')


RECIPE = """
about: For a test.
family: audiomae
preset: speech-commands
config: {hidden_size: 32, num_hidden_layers: 4, num_attention_heads: 2, intermediate_size: 64, max_length: 64}
epochs: 3
batch_size: 4
optimizer: {lr: 1.0e-3}
precision: fp32
"""


def _data() -> None:
    class_folders(Path("classes"), {"train": 4, "test": 1})
    Path("unlabelled").mkdir()
    for i in range(3):
        soundfile.write(f"unlabelled/{i}.wav", tone(0.5, hertz=300.0 * (i + 1)), 16_000)
    labels = sorted(ap.load("esc10").config.id2label.values())
    for folder, there in (("folds", True), ("incomplete", False)):
        Path(folder).mkdir()
        lines = ["path,label,fold"]
        for i in range(20):
            if there or i > 1:
                soundfile.write(f"{folder}/{i}.wav", tone(0.5, hertz=300.0 + 10 * i), 16_000)
            lines.append(f"{i}.wav,{labels[i % 10]},{1 + i // 10}")
        Path(folder, "manifest.csv").write_text("\n".join(lines) + "\n")
    Path("small.yaml").write_text(RECIPE)
    Path("extends-nothing.yaml").write_text("extends: nothing\n")
    Path("broken.yaml").write_text("epochs: [3\n")
    task = Task(read_recipe("small.yaml"), read("classes"), Path("run"))
    with contextlib.suppress(KeyboardInterrupt):
        fine_tune(task, (Interrupt(),), save_steps=2)
    (checkpoint,) = Path("run").glob("checkpoint-*")
    weights = checkpoint / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
