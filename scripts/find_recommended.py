"""Search for the setting of `audioprune.recommended`.

Which training-free setting agrees best with the unpruned model at half and at a quarter of its multiply-accumulates?

    python scripts/find_recommended.py --data DATA --out results/recommended-choices.json --phase choices --report

DATA holds esc10/ and fsdd/. The script uses the four models of checkpoints/. It compares settings on clips that neither
training nor the report uses (ESC-10 fold 4), or, for spoken digits, on part of the training split. Then it reports the
chosen settings on ESC-10 fold 5 and FSDD's test split. For every choice of layers it solves the keep rate so that the
MACs, including merging, are at most the target.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.progress import track
from torch import Tensor

import audioprune as ap
from audioprune.compare.agreement import agreement, divergence
from audioprune.compare.benchmark import machine
from audioprune.compare.comparison import logits_of
from audioprune.compare.evaluation import spread
from audioprune.core.settings import describe
from audioprune.data import SoundCache, read
from audioprune.files import write_json

ROOT = Path(__file__).parents[1]
MODELS = ("audiomae-esc10", "ast-esc10", "audiomae-fsdd-digits", "ast-fsdd-digits")
TARGETS = {"half": 0.51, "quarter": 0.26}
SCHEDULES: dict[str, tuple[int, ...]] = {
    "3 6 9": (3, 6, 9),
    "2 5 8": (2, 5, 8),
    "1 4 7": (1, 4, 7),
    "1 3 5 7": (1, 3, 5, 7),
    "0 3 6": (0, 3, 6),
    "0 2 4": (0, 2, 4),
    "0 1 2": (0, 1, 2),
    "0 1 2 3": (0, 1, 2, 3),
    "0": (0,),
    "1": (1,),
    "2": (2,),
    "3": (3,),
    "0 4": (0, 4),
    "1 5": (1, 5),
    "2 6": (2, 6),
    "0-5": tuple(range(6)),
    "every": tuple(range(12)),
}
SEEDS = (0, 1, 2)
SELECTED = 300
"""Number of recordings of FSDD's training split on which settings are compared."""


class Subject:
    """One model, the clips to choose on, and the clips to report on."""

    def __init__(self, name: str, data: Path) -> None:
        folder, esc = ROOT / "checkpoints" / name, name.endswith("esc10")
        self.name, self.model = name, ap.load(folder)
        front = ap.load_features(folder, self.model)
        table = read(data / "esc10", "esc10") if esc else read(data / "fsdd", "fsdd-digits")
        cache = SoundCache(None, front.max_seconds)
        self.sets: dict[str, tuple[Tensor, Tensor, Tensor]] = {}
        if esc:
            parts = {"chosen on": table.split("4").test, "reported on": table.split("5").test}
        else:
            split = table.split(None)
            order = torch.randperm(len(split.train), generator=torch.Generator().manual_seed(4))[:SELECTED]
            parts = {"chosen on": [split.train[i] for i in order], "reported on": split.test}
        for part, rows in parts.items():
            features = torch.stack([cache.features(row, front) for row in track(rows, f"{name}: {part}")])
            self.sets[part] = features, torch.from_numpy(table.targets(rows)), logits_of(self.model, features)
        self.macs = ap.macs(self.model)
        self._rates: dict[tuple, float | None] = {}

    def rate(self, method: ap.Method, target: float) -> float | None:
        """Find the largest keep rate whose MACs are within the target; None if there is none."""
        # Scores cost too little to change the rate. What a method needs does change it.
        key = (type(method), method.layers, method.needs, getattr(method, "dropped", None), target)
        if key not in self._rates:
            self._rates[key] = self._solve(method, target)
        return self._rates[key]

    def _solve(self, method: ap.Method, target: float) -> float | None:
        low = 0.5 if isinstance(method, ap.ToMe) else 0.02
        high = 0.999
        if self.ratio(method.with_keep_rate(low)) > target:
            return None
        while high - low > 0.002:
            middle = (low + high) / 2
            low, high = (middle, high) if self.ratio(method.with_keep_rate(middle)) <= target else (low, middle)
        return round(low, 3) if self.ratio(method.with_keep_rate(round(low, 3))) <= target else low

    def ratio(self, method: ap.Method) -> float:
        with ap.prune(self.model, method):
            return ap.macs(self.model) / self.macs

    def measure(self, method: ap.Method, part: str) -> dict[str, float]:
        features, labels, full = self.sets[part]
        with ap.prune(self.model, method):
            logits = logits_of(self.model, features)
        return {
            "agreement": agreement(logits, full),
            "kl": divergence(logits, full),
            "accuracy": float((logits.argmax(1) == labels).float().mean()),
        }

    def unpruned(self, part: str) -> float:
        _, labels, full = self.sets[part]
        return float((full.argmax(1) == labels).float().mean())


def seeds_of(method: ap.Method) -> list[ap.Method]:
    random = getattr(method, "score", None) == "random"
    return [replace(method, seed=seed) for seed in SEEDS] if random else [method]


def row(subject: Subject, name: str, method: ap.Method, target: str, part: str = "chosen on") -> dict[str, Any] | None:
    rate = subject.rate(method, TARGETS[target])
    if rate is None:
        return None
    method = method.with_keep_rate(rate)
    runs = [subject.measure(one, part) for one in seeds_of(method)]
    figures = {key: spread([run[key] for run in runs]) for key in runs[0]}
    return {
        "model": subject.name,
        "target": target,
        "name": name,
        "method": describe(method),
        "keep_rate": rate,
        "ratio": subject.ratio(method),
        "part": part,
        "unpruned_accuracy": subject.unpruned(part),
        **figures,
    }


def schedules(only: str | None, places: Sequence[str]) -> dict[str, ap.Method]:
    """Make the settings of phase 1: where to reduce, for one setting of each kind."""
    kinds: dict[str, ap.Method] = {
        "topk": ap.TopK(0.5),
        "tome": ap.ToMe(0.5),
        "tome-hidden": ap.ToMe(0.5, metric="hidden"),
        "topk-merged": ap.TopK(0.5, dropped="merge"),
        "segments-merged": ap.SegmentwiseTopK(0.5, dropped="merge"),
        "random-merged": ap.TopK(0.5, score="random", dropped="merge"),
        "pooling": ap.AveragePooling(0.5),
    }
    return {
        f"{kind} @ {where}": replace(method, layers=layers)
        for kind, method in kinds.items()
        if only in (None, kind)
        for where, layers in SCHEDULES.items()
        if where in places
    }


def choices(layers: tuple[int, ...]) -> dict[str, ap.Method]:
    """Make the settings of phase 2: score × spending × fate × weighting by size, at one choice of layers."""
    found: dict[str, ap.Method] = {}
    for score in ("attention", "cls", "random", "intensity", "variation"):
        for segments in (None, 8):
            for dropped in ("discard", "fuse", "merge"):
                where = "whole" if segments is None else f"{segments} segments"
                found[f"{score}, {where}, {dropped}"] = ap.TopK(0.5, layers, score, segments, dropped)
                if dropped == "merge":  # nothing else has sizes
                    found[f"{score}, {where}, {dropped}, unweighted attention"] = ap.TopK(
                        0.5, layers, score, segments, dropped, proportional=False
                    )
    for proportional in (True, False):
        end = "" if proportional else ", unweighted attention"
        for metric in ("keys", "hidden"):
            by = f", by {metric}{end}"
            found[f"ToMe{by}"] = ap.ToMe(0.5, layers, proportional, metric)
            found[f"ToFu{by}"] = ap.ToFu(0.5, layers, proportional, metric)
            found[f"ToMe keeping norms{by}"] = ap.ToFu(0.5, layers, proportional, metric, pruned_share=0.0)
        found[f"pooling{end}"] = ap.AveragePooling(0.5, layers, proportional)
    found["uniform stride"] = ap.UniformStride(0.5, layers)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--phase", choices=["schedules", "choices"], required=True)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--layers", default=",".join(map(str, range(12))), help="layers for phase choices")
    parser.add_argument("--kind", help="for phase schedules: run only this kind")
    parser.add_argument("--where", default=",".join(SCHEDULES), help="for phase schedules: places, with commas")
    parser.add_argument("--report", action="store_true", help="also measure on the clips to report on")
    args = parser.parse_args()
    layers = tuple(map(int, args.layers.split(",")))
    settings = schedules(args.kind, args.where.split(",")) if args.phase == "schedules" else choices(layers)
    result: dict[str, Any] = {
        "command": f"python scripts/find_recommended.py --data DATA --phase {args.phase}"
        + f" --models {args.models}"
        + (f" --layers {args.layers}" if args.phase == "choices" else "")
        + (f" --kind {args.kind}" if args.kind else "")
        + (f' --where "{args.where}"' if args.where != parser.get_default("where") else "")
        + (" --report" if args.report else ""),
        "machine": machine(),
        "rows": [],
    }
    parts = ("chosen on", "reported on") if args.report else ("chosen on",)
    for name in args.models.split(","):
        subject = Subject(name, args.data)
        for target in TARGETS:
            for setting, method in track(list(settings.items()), f"{name}, {target}"):
                found = [row(subject, setting, method, target, part) for part in parts]
                result["rows"] += [one for one in found if one is not None]
            write_json(args.out, result)  # each by itself took minutes


if __name__ == "__main__":
    main()
