"""Compare what `audioprune calibrate` promises with the result: calibrate on some clips, check on others.

    python scripts/calibrate_esc10.py --data DATA --out results/calibrate-esc10.json

DATA holds esc10/ and fsdd/. The four models of checkpoints/ run on clips that none of them heard in training. Those for
ESC-10 are calibrated on fold 4 and checked on fold 5, and the other way round. Those for spoken digits are calibrated
on one half of FSDD's test split, drawn at random, and checked on the other half. Labels are used only to check. (Some
of the 80 clips of a fold of ESC-10 are cuts of one recording. They come from 59 and 57 recordings, and show a little
less than 80 recordings would.)
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from rich.progress import track
from torch import Tensor

import audioprune as ap
from audioprune.attention import packing
from audioprune.calibration import Calibration, calibrate, upper_bound
from audioprune.compare.agreement import agreement, divergence
from audioprune.compare.benchmark import machine
from audioprune.compare.comparison import logits_of
from audioprune.data import ClipRow, SoundCache, read
from audioprune.files import write_json

ROOT = Path(__file__).parents[1]
LIMITS = {"esc10": (0.10, 0.15), "fsdd-digits": (0.05, 0.10)}
MODELS = ("audiomae", "ast")
SPEED_UP = 3.0


class Subject:
    """One model, and the clips of one data set that it never heard, in two parts."""

    def __init__(self, family: str, name: str, data: Path) -> None:
        self.name = f"{family}-{name}"
        folder = ROOT / "checkpoints" / self.name
        self.model = ap.load(folder)
        if packing.available():  # like the commands
            ap.pack(self.model, frozen=True)
        front = ap.load_features(folder, self.model)
        table = read(data / name.split("-")[0], name)
        cache = SoundCache(None, front.max_seconds)
        self.parts: dict[str, tuple[Tensor, Tensor]] = {}
        for part, rows in (parts_of_esc10(table) if table.folds else parts_of_digits(table)).items():
            features = torch.stack([cache.features(row, front) for row in track(rows, f"{self.name}: {part}")])
            self.parts[part] = features, torch.from_numpy(table.targets(rows))

    def pairs(self) -> Iterator[tuple[str, str]]:
        """Yield the parts to calibrate on and to check on."""
        one, other = self.parts
        yield from ((one, other), (other, one))

    def check(self, method: ap.Method, part: str) -> dict[str, Any]:
        """Measure a setting on clips that the calibration did not hear."""
        features, labels = self.parts[part]
        full = logits_of(self.model, features)
        with ap.prune(self.model, method):
            logits = logits_of(self.model, features)
        same = agreement(logits, full)
        return {
            "clips": len(features),
            "disagreement": 1 - same,
            "kl": divergence(logits, full),
            "accuracy": float((logits.argmax(1) == labels).float().mean()),
            "unpruned_accuracy": float((full.argmax(1) == labels).float().mean()),
            "bound": upper_bound(round((1 - same) * len(features)), len(features)),
        }


def parts_of_esc10(table: Any) -> dict[str, list[ClipRow]]:
    return {f"fold {fold}": list(table.split(fold).test) for fold in ("4", "5")}


def parts_of_digits(table: Any) -> dict[str, list[ClipRow]]:
    rows = list(table.split(None).test)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0)).tolist()
    half = len(rows) // 2
    return {"one half": [rows[i] for i in order[:half]], "the other half": [rows[i] for i in order[half:]]}


def row(subject: Subject, part: str, other: str, found: Calibration) -> dict[str, Any]:
    record = {key: value for key, value in found.record.items() if key not in ("machine", "dtype")}
    found_row = {
        "model": subject.name,
        "calibrated_on": part,
        "checked_on": other,
        "setting": None if found.method is None else str(found.method),
        "heard": len(found.rows),
        "said": list(found.sentences),
        **record,
    }
    if found.method is not None:
        found_row["check"] = subject.check(found.method, other)
    return found_row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--sets", default=",".join(LIMITS))
    parser.add_argument("--batch-size", type=int, default=16)
    args = parser.parse_args()
    command = "python scripts/calibrate_esc10.py --data DATA --out results/calibrate-esc10.json"
    for option, value in (("models", ",".join(MODELS)), ("sets", ",".join(LIMITS)), ("batch_size", 16)):
        if getattr(args, option) != value:
            command += f" --{option.replace('_', '-')} {getattr(args, option)}"
    result: dict[str, Any] = {"command": command, "machine": machine(), "packed": packing.available(), "rows": []}
    for name in args.sets.split(","):
        for family in args.models.split(","):
            subject = Subject(family, name, args.data)
            for part, other in subject.pairs():
                clips = subject.parts[part][0]
                aims = [*({"max_disagreement": limit} for limit in LIMITS[name]), {"speed_up": SPEED_UP}]
                for aim in track(aims, f"{subject.name}: {part}"):
                    found = calibrate(subject.model, clips, batch_size=args.batch_size, **aim)
                    result["rows"].append(row(subject, part, other, found))
                    write_json(args.out, result)  # each by itself took a minute


if __name__ == "__main__":
    main()
