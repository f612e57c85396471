"""Time the commands on classifiers of sound itself and of Whisper's kind, as a newcomer with such a model runs them.

    python scripts/every_family.py --out results/every-family.json

The models have the sizes of wav2vec2-base and whisper-tiny and random weights, so only times and exit codes mean
something. The sounds are the example clips of 5 s, in a folder for each label. Run it in a clean clone after `make
install`; exit code 1 if a command fails.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import soundfile
from transformers import (
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForSequenceClassification,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForAudioClassification,
)

from audioprune.audio.files import SAMPLE_RATE, load_audio
from audioprune.compare.benchmark import machine
from audioprune.files import write_json
from five_minutes import timed

CLIPS = Path(__file__).parents[1] / "audioprune" / "assets" / "clips"
LEVELS = (1.0, 0.7, 0.5)
"""A calibration needs 16 clips at least, and counts equal ones once: each is heard at three levels."""
LENGTH = {"wav2vec2": " --clip-seconds 5", "whisper": ""}
"""What `export` asks of a family whose clips have no length of their own."""
COMMANDS = {
    "tag": "tag sounds/ --model {model} --out tags.jsonl",
    "tag by TopK": "tag sounds/ --model {model} --keep-rate 0.5 --out half.jsonl",
    "explain": "explain sounds/{label}/0.wav --model {model} --out {label}.png",
    "bench": "bench --model {model} --keep-rates 0.7 --batch-sizes 1 --clip-seconds 5 --seconds 1",
    "compare": "compare --model {model} --data sounds/ --methods topk,tome --keep-rates 0.7 --bench-seconds 0.1 "
    "--out compare.json",
    "calibrate": "calibrate --model {model} --clips sounds/ --max-disagreement 0.9 --methods tome --bench-seconds 0.1 "
    "--out pruning.json",
    "tag as calibrated": "tag sounds/ --model {model} --method pruning.json --out calibrated.jsonl",
    "export": "export {model} model.onnx{length}",
}


def write_models(folder: Path, labels: list[str]) -> dict[str, Path]:
    """A model of each kind with its extractor, and where it lies."""
    heard = {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}
    sizes = {"d_model": 384, "encoder_layers": 4, "encoder_attention_heads": 6, "encoder_ffn_dim": 1536}
    models = {
        "wav2vec2": (
            Wav2Vec2ForSequenceClassification(Wav2Vec2Config(**heard)),
            Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=False),
        ),
        "whisper": (
            WhisperForAudioClassification(WhisperConfig(**sizes, decoder_layers=4, **heard)),
            WhisperFeatureExtractor(),
        ),
    }
    for name, parts in models.items():
        for part in parts:
            part.save_pretrained(folder / name)
    return {name: folder / name for name in models}


def write_sounds(folder: Path) -> list[str]:
    """A folder for each label, with its clip at each of `LEVELS`. Returns the labels."""
    clips = sorted(CLIPS.glob("*.ogg"))
    for clip in clips:
        (folder / clip.stem).mkdir(parents=True)
        waveform = load_audio(clip).waveform
        for i, level in enumerate(LEVELS):
            soundfile.write(folder / clip.stem / f"{i}.wav", level * waveform, SAMPLE_RATE)
    return [clip.stem for clip in clips]


def run(folder: Path) -> Iterator[dict[str, Any]]:
    labels = write_sounds(folder / "sounds")
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HF_HUB_OFFLINE": "1"}
    for family, model in write_models(folder, labels).items():
        place = folder / f"with-{family}"
        place.mkdir()
        (place / "sounds").symlink_to(folder / "sounds")
        for name, words in COMMANDS.items():
            row = timed(
                f"audioprune {words.format(label=labels[0], model=model, length=LENGTH[family])}", place, environment
            )
            row["command"] = row["command"].replace(str(model), family.upper())
            yield {"family": family, "name": name, **row}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    command, rows = f"python scripts/every_family.py --out {args.out.name}", []
    with tempfile.TemporaryDirectory() as folder:
        for row in run(Path(folder)):
            print(json.dumps(row), flush=True)
            rows.append(row)
            write_json(args.out, {"command": command, "machine": machine(), "rows": rows})
    return int(any(row["exit_code"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
