"""Prepare the contrast of pre-training, pooling and score (contrast.sh calls this).

python scripts/contrast_start.py sounds SHARED/data OUT        # sounds to pre-train on, and their manifest.csv
python scripts/contrast_start.py untrained OUT                 # weights of an AudioMAE, drawn at random
python scripts/contrast_start.py ast AUDIOMAE OUT              # the same weights as an AST
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterable, Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from transformers import ASTConfig, ASTForAudioClassification, set_seed

from audioprune.audio.files import SAMPLE_RATE, load_audio
from audioprune.files import write_text
from audioprune.models.pretraining import AudioMAEForPreTraining
from audioprune.training.model import build_model
from audioprune.training.recipe import read_recipe
from commands_split import split

RECIPE = Path(__file__).parent / "contrast" / "pretrain.yaml"
SECONDS = 5
TESTED_FOLD = "5"


def train_sounds(data: Path) -> dict[str, list[Path]]:
    """Files that no test hears, by data set.

    Left out are the tested fold of ESC-10, the test split of FSDD, and the test speakers of the commands' first split.
    """
    rows = {path.parent.name: list(csv.DictReader(path.open())) for path in sorted(data.glob("*/manifest.csv"))}
    parts = split(rows["commands"], 0)
    heard = {
        "esc10": [row for row in rows["esc10"] if row["fold"] != TESTED_FOLD],
        "fsdd": [row for row in rows["fsdd"] if row["split"] == "train"],
        "commands": [row for row, part in zip(rows["commands"], parts, strict=True) if part == "train"],
        "speech": rows["speech"],
    }
    return {name: [data / name / row["path"] for row in some] for name, some in heard.items()}


def pieces(paths: Iterable[Path]) -> Iterator[np.ndarray]:
    """Sounds one after another, cut into pieces of five seconds. What remains at the end is left out."""
    length = SECONDS * SAMPLE_RATE
    rest = np.zeros(0, dtype=np.float32)
    for path in paths:
        rest = np.concatenate((rest, load_audio(path).waveform))
        while len(rest) >= length:
            yield rest[:length]
            rest = rest[length:]


def write_sounds(data: Path, out: Path) -> None:
    """Write the pieces as WAV files, and a list of them."""
    out.mkdir(parents=True, exist_ok=True)
    text = StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("path", "label", "split"))
    for name, paths in train_sounds(data).items():
        for number, piece in enumerate(pieces(paths)):
            file = f"{name}-{number:04}.wav"
            soundfile.write(out / file, piece, SAMPLE_RATE)
            table.writerow((file, name, "train"))
    write_text(out / "manifest.csv", text.getvalue())


def as_ast(source: AudioMAEForPreTraining) -> ASTForAudioClassification:
    """An AST with the weights of an AudioMAE: the same patches, positions and blocks.

    An AST's patches are frequency-major, an AudioMAE's time-major. The distillation token is a copy of the CLS token.
    """
    given = source.config
    shape = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "max_length")
    settings: dict[str, Any] = {
        name: getattr(given, name) for name in (*shape, "num_mel_bins", "layer_norm_eps", "initializer_range")
    }
    settings |= {"patch_size": given.patch_size, "time_stride": given.patch_size, "frequency_stride": given.patch_size}
    model = ASTForAudioClassification(ASTConfig(**settings))
    encoder, state = model.audio_spectrogram_transformer, source.state_dict()
    prefix = "audiomae."
    blocks = {key.removeprefix(prefix): state[key] for key in state if key.startswith(f"{prefix}layers.")}
    norm = {f"layernorm.{name}": state[f"norm.{name}"] for name in ("weight", "bias")}
    cls, positions = state["audiomae.embeddings.cls_token"], state["audiomae.embeddings.position_embeddings"]
    time, frequency = given.grid
    frequency_major = torch.arange(time * frequency).view(time, frequency).T.flatten()
    embeddings = {
        "cls_token": cls,
        "distillation_token": cls,
        "position_embeddings": torch.cat((positions[:, :1], positions[:, :1], positions[:, 1:][:, frequency_major]), 1),
        "patch_embeddings.projection.weight": state["audiomae.embeddings.projection.weight"].transpose(2, 3),
        "patch_embeddings.projection.bias": state["audiomae.embeddings.projection.bias"],
    }
    encoder.load_state_dict(blocks | norm | {f"embeddings.{name}": value for name, value in embeddings.items()})
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", choices=("sounds", "untrained", "ast"))
    parser.add_argument("paths", type=Path, nargs="+")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="setting of the recipe")
    asked = parser.parse_args()
    if asked.job == "sounds":
        write_sounds(*asked.paths)
    elif asked.job == "untrained":
        set_seed(asked.seed)
        build_model(read_recipe(RECIPE, asked.set), ()).save_pretrained(asked.paths[0])
    else:
        source, out = asked.paths
        as_ast(AudioMAEForPreTraining.from_pretrained(source)).save_pretrained(out)


if __name__ == "__main__":
    main()
