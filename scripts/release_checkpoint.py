"""Turn a finished training into a checkpoint to commit: float16 weights, config, feature extractor, and model card.

    python scripts/release_checkpoint.py runs/esc10/esc10-audiomae/fold5-without4-seed0 checkpoints/audiomae-esc10 \\
        --data PATH/TO/esc10

The card takes its facts from `result.json` of the training. `--data` is the data set; its manifest names authors and
licences. The script measures the accuracy again, on the weights as they are stored, for each part that was not used in
training.
"""

# ruff: noqa: E501 (the card is prose)
from __future__ import annotations

import argparse
import csv
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import torch

import audioprune as ap
from audioprune.compare.evaluation import predict, score
from audioprune.data import ClipRow, ClipTable, SoundCache, read
from audioprune.training.dataset import SpectrogramDataset

LIMIT = 12_000_000
"""Largest size of a weight file, in bytes."""

DATA = {
    "esc10": "ESC-10 is the part of ESC-50 (K. J. Piczak, *ESC: Dataset for Environmental Sound Classification*, 2015) "
    "that is distributed under CC BY. Its clips come from Freesound under {licences}; `ATTRIBUTION.csv` names the "
    "author and source of each that was trained on.",
    "fsdd": "The Free Spoken Digit Dataset (Z. Jackson and others, https://github.com/Jakobovski/free-spoken-digit-"
    "dataset) is distributed under CC BY-SA 4.0: {clips} recordings of six speakers (george, jackson, lucas, nicolas, "
    "theo, yweweler) were trained on. No recording is contained here.",
}
CARD = """# {title}

{what}; {parameters:.1f} million parameters, stored as float16 safetensors ({megabytes:.1f} MB). Its {count} labels: {labels}.

**Meant for** audioprune's own measurements, examples and tests. It heard {clips} clips, is no good tagger of anything else, and always answers with one of its labels.

**Training.** `{command}`, which starts from {start}. {about} {epochs} epochs, batches of {batch}, seed {seed}; the weights are those of the last epoch: none was chosen. Tokens were never pruned in training.

**Measured** in float32 on these weights as they are stored, on clips that neither it nor its pre-training heard: {measured}.

**Input.** 16 kHz mono; Kaldi log-mel, {bins} channels, {frames} frames of 10 ms, padded with the clip's minimum, `(x − {mean}) / (2 · {std})`: `preprocessor_config.json` says so.

**Data and licence.** {data} The weights are Apache-2.0, like the project.
"""


def store(run: Path, out: Path) -> Any:
    """Store the model of a training as float16, and load it again from there."""
    out.mkdir(parents=True, exist_ok=True)
    model: Any = ap.load(run)
    model.half().save_pretrained(out)
    shutil.copy(run / "preprocessor_config.json", out)
    size = (out / "model.safetensors").stat().st_size
    if size > LIMIT:
        raise SystemExit(f"{out}: {size / 1e6:.1f} MB, more than {LIMIT / 1e6:.0f}")
    return ap.load(out)


def accuracy(model: Any, source: Path, table: ClipTable, rows: tuple[ClipRow, ...]) -> float:
    front = ap.load_features(source, model)
    dataset = SpectrogramDataset(table, rows, front, SoundCache(None, front.max_seconds))
    return score(predict(model, dataset).numpy(), dataset.targets.numpy(), table.multi_label)["score"]


def unheard(result: dict[str, Any], table: ClipTable) -> dict[str, tuple[ClipRow, ...]]:
    """Return name → clips for the parts that the training did not use."""
    if not table.folds:
        return {"the test split": table.split().test}
    folds = sorted({*result["hold_out"], result["fold"]})
    return {f"fold {fold}": tuple(row for row in table.rows if row.part == fold) for fold in folds}


def attribution(data: Path, out: Path, folds: set[str]) -> Counter:
    """Write ATTRIBUTION.csv for the ESC-10 clips of the training; return the number of clips by licence."""
    with open(data / "manifest.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["fold"] not in folds]
    with open(out / "ATTRIBUTION.csv", "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["clip", "license", "author", "source_url"])
        writer.writerows([Path(r["path"]).stem, r["license"], r["author"], r["source_url"]] for r in rows)
    return Counter(row["license"] for row in rows)


def describe(model: Any, recipe: dict[str, Any]) -> str:
    config = model.config
    name = {"audiomae": "An AudioMAE", "ast": "An AST", "ast-mp": "An AST-MP"}[recipe["family"]]
    pooled = {"audiomae": "mean-pooled", "ast": "pooled by its CLS and distillation tokens", "ast-mp": "mean-pooled"}
    patches = (config.max_length // config.patch_size) * (config.num_mel_bins // config.patch_size)
    return (
        f"{name} of width {config.hidden_size}, depth {config.num_hidden_layers} and {config.num_attention_heads} heads "
        f"over {patches} patches of a log-mel spectrogram, {pooled[recipe['family']]}"
    )


def command(result: dict[str, Any]) -> str:
    words = [f"audioprune sweep -r {result['recipe']['name']} --data-name {result['data']} --seeds {result['seed']}"]
    words += [f"--folds {result['fold']}"] if result["fold"] else []
    words += [f"--hold-out {','.join(result['hold_out'])}"] if result["hold_out"] else []
    return " ".join(words)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    args = parser.parse_args()
    torch.manual_seed(0)
    result = json.loads((args.run / "result.json").read_text())
    recipe, table = result["recipe"], read(args.data, result["data"])
    model = store(args.run, args.out)
    measured = {
        name: f"{100 * accuracy(model, args.out, table, rows):.1f} % of the {len(rows)} of {name}"
        for name, rows in unheard(result, table).items()
    }
    kind = result["data"].split("-")[0]
    data = DATA[kind].format(clips=result["clips"]["train"], licences="{licences}")
    if kind == "esc10":
        counts = attribution(args.data, args.out, {*result["hold_out"], result["fold"]})
        data = data.format(licences=", ".join(f"{name} ({count})" for name, count in counts.most_common()))
    extractor = json.loads((args.out / "preprocessor_config.json").read_text())
    card = CARD.format(
        title=f"{ {'audiomae': 'AudioMAE', 'ast': 'AST', 'ast-mp': 'AST-MP'}[recipe['family']] } for {result['data']}, small",
        what=describe(model, recipe),
        parameters=sum(p.numel() for p in model.parameters()) / 1e6,
        megabytes=(args.out / "model.safetensors").stat().st_size / 1e6,
        count=len(table.labels),
        labels=", ".join(label.replace("_", " ") for label in table.labels),
        clips=result["clips"]["train"],
        command=command(result),
        start=f"what `{recipe['init']}` pre-trained on the same clips" if recipe["init"] else "random weights",
        about=" ".join(recipe["about"].split()),
        epochs=recipe["epochs"],
        batch=recipe["batch_size"],
        seed=result["seed"],
        measured="; ".join(measured.values()),
        frames=extractor["max_length"],
        bins=extractor["num_mel_bins"],
        mean=f"({extractor['mean']})",
        std=extractor["std"],
        data=data,
    )
    (args.out / "README.md").write_text(card)
    print(card)


if __name__ == "__main__":
    main()
