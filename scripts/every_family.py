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
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from transformers import (
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForSequenceClassification,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForAudioClassification,
)

from audioprune.compare.benchmark import machine
from audioprune.files import write_json
from five_minutes import timed

CLIPS = Path(__file__).parents[1] / "audioprune" / "assets" / "clips"
COPIES = 3
"""Of each clip: a calibration needs 16 clips at least."""
COMMANDS = {
    "tag": "tag sounds/ --out tags.jsonl",
    "tag, half of the work": "tag sounds/ --method recommended --out half.jsonl",
    "explain": "explain sounds/{label}/0.ogg --out {label}.png",
    "bench": "bench --keep-rates 0.7 --batch-sizes 1 --clip-seconds 5 --seconds 1",
    "compare": "compare --data sounds/ --methods topk,tome --keep-rates 0.7 --batch-sizes 1 --out compare.json",
    "calibrate": "calibrate --clips sounds/ --max-disagreement 0.5 --methods tome --out pruning.json",
    "tag as calibrated": "tag sounds/ --method pruning.json --out calibrated.jsonl",
    "export": "export --clip-seconds 5 --out model.onnx",
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
    """A folder for each label with its clip, `COPIES` times. Returns the labels."""
    clips = sorted(CLIPS.glob("*.ogg"))
    for clip in clips:
        (folder / clip.stem).mkdir(parents=True)
        for i in range(COPIES):
            shutil.copy(clip, folder / clip.stem / f"{i}.ogg")
    return [clip.stem for clip in clips]


def run(folder: Path) -> list[dict[str, Any]]:
    labels, rows = write_sounds(folder / "sounds"), []
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HF_HUB_OFFLINE": "1"}
    for family, model in write_models(folder, labels).items():
        place = folder / f"with-{family}"
        place.mkdir()
        (place / "sounds").symlink_to(folder / "sounds")
        for name, words in COMMANDS.items():
            row = timed(f"audioprune {words.format(label=labels[0])} --model {model}", place, environment)
            row["command"] = row["command"].replace(str(model), family.upper())
            rows.append({"family": family, "name": name, **row})
            print(json.dumps(rows[-1]), flush=True)
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = run(Path(folder))
    command = f"python scripts/every_family.py --out {args.out.name}"
    write_json(args.out, {"command": command, "machine": machine(), "rows": rows})
    return int(any(row["exit_code"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
