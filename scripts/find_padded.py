"""Search for the setting of `audioprune.recommended` for encoders that pad: Whispers with a head on their mean.

    python scripts/find_padded.py --probe tiny.en=PROBE4,PROBE5 --probe base=PROBE4,PROBE5 --data ESC10 --out FILE.json

Which untrained setting agrees best with the unpruned model at half, a quarter and an eighth of the work of its clips?
A probe is a training of `audioprune train --recipe whisper-probe`: one of fold 4, on whose clips all settings are
compared, and one of fold 5, on whose clips the figures of all are reported. The file is written after every row; a run
that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.progress import track

import audioprune as ap
from audioprune.compare.agreement import agreement, divergence
from audioprune.compare.benchmark import machine, mean_macs
from audioprune.compare.comparison import Correction, logits_of
from audioprune.compare.settings import ReadClips, others, spaced, targets_of
from audioprune.core.fitting import fit
from audioprune.core.recommend import padded_at
from audioprune.core.settings import describe
from audioprune.data import SoundCache, read
from audioprune.files import write_json
from audioprune.methods.chain import Chain

TARGETS = (0.5, 0.25, 0.125)
COUNTED = 2
"""Clips on which work is counted: all of ESC-10 are five seconds long."""
CORRECTED_ON = 8
"""Clips of the other folds on which the bias is found (`Pruned.correct_bias`)."""
FOLDS = {"chosen on": "4", "reported on": "5"}


def padding_then_similar(rate: float, layers: tuple[int, ...], where: Any, before: bool) -> ap.Method:
    similar = ap.ToMe(rate, layers=where, metric="hidden", passes=3, budget="clip", before=before)
    return Chain.of([ap.PaddingMerge(rate, layers=layers, budget="clip"), similar])


SETTINGS: dict[str, Callable[[float], ap.Method]] = {
    "similar tokens, after the attention of every block": lambda r: ap.ToMe(r, "all", metric="hidden", passes=3),
    "neighbours, after the attention of every block": lambda r: ap.AToMe(r, "all"),
    "padding once (1 of 25), then similar tokens in every block": lambda r: Chain.of(
        [ap.PaddingMerge(), ap.ToMe(r, "all", metric="hidden", passes=3, budget="clip")]
    ),
    "padding before block 1, then similar tokens in every block": lambda r: padding_then_similar(r, (0,), "all", False),
    "padding before blocks 1 and 2, then similar tokens in every block": lambda r: padding_then_similar(
        r, (0, 1), "all", False
    ),
    "similar tokens before blocks 1 and 2": lambda r: ap.ToMe(r, (0, 1), metric="hidden", passes=3, before=True),
    "padding, then similar tokens, before block 1": lambda r: padding_then_similar(r, (0,), (0,), True),
    "padding, then similar tokens, before blocks 1 and 2 (recommended)": padded_at,
    "padding, then similar tokens, before blocks 1 to 3": lambda r: padding_then_similar(r, (0, 1, 2), (0, 1, 2), True),
}


def rows_of(model_name: str, folder: str, part: str, data: Path, limit: int | None, known: set) -> Iterator[dict]:
    """A row for each setting and target that is not known yet."""
    model: Any = ap.load(folder)
    front = ap.load_features(folder, model)
    table, cache = read(data, "esc10"), SoundCache(None, front.max_seconds)
    fold = table.split(FOLDS[part]).test
    rows = spaced(fold, limit)
    labels, features = targets_of(model, table, rows), stacked(ReadClips(rows, front, cache))
    further = stacked(ReadClips(others(table, fold, CORRECTED_ON), front, cache))
    full, unpruned = logits_of(model, features), ap.macs(model)
    correction = Correction(further, logits_of(model, further))
    about = {"model": model_name, "part": part, "clips": len(rows)}
    about["unpruned_accuracy"] = float((full.argmax(1) == labels).float().mean())
    for target in TARGETS:
        for name, at in track(SETTINGS.items(), f"{model_name}, {part}, {target:g}"):
            if (model_name, part, name, target) in known:
                continue
            row = {**about, "name": name, "target": target}
            try:
                method = fit(model, at, target, partial(mean_macs, clips=features[:COUNTED]), at(1.0).least_rate)
            except ValueError as error:
                yield {**row, "refused": str(error)}
                continue
            with ap.prune(model, method):
                logits = logits_of(model, features, batch_size=8)
                work = mean_macs(model, features[:COUNTED]) / unpruned
                bias = correction.bias(model, lambda _clips: None)
            yield {
                **row,
                "setting": describe(method),
                "work": work,
                **figures(logits, full, labels),
                "corrected": figures(logits - bias, full, labels),
            }


def stacked(clips: ReadClips) -> torch.Tensor:
    return torch.stack([clips[i] for i in range(len(clips))])


def figures(logits: torch.Tensor, full: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    return {
        "agreement": agreement(logits, full),
        "kl": divergence(logits, full),
        "accuracy": float((logits.argmax(1) == labels).float().mean()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--probe", action="append", required=True, help="NAME=FOLDER of fold 4,FOLDER of fold 5")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--limit", type=int, help="hear so many clips of each fold, at even distances")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    names = [probe.partition("=")[0] for probe in args.probe]
    command = "python scripts/find_padded.py " + " ".join(f"--probe {name}=FOLD4,FOLD5" for name in names)
    command += f" --data ESC10{f' --limit {args.limit}' if args.limit else ''} --out {args.out.name}"
    found = json.loads(args.out.read_text()) if args.out.exists() else {"command": command, "rows": []}
    found["machine"] = machine()
    known = {(row["model"], row["part"], row["name"], row["target"]) for row in found["rows"]}
    for probe in args.probe:
        name, _, folders = probe.partition("=")
        for part, folder in zip(FOLDS, folders.split(","), strict=True):
            for row in rows_of(name, folder, part, args.data, args.limit, known):
                found["rows"].append(row)
                write_json(args.out, found)


if __name__ == "__main__":
    main()
