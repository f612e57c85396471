"""Measure what pruning costs a trained model on ESC-10 without fine-tuning.

The script measures the accuracy on folds that the model never heard. Over all clips it measures the agreement with the
unpruned model, and the KL divergence from its outputs.

    python scripts/evaluate_untuned.py --data PATH/TO/esc10 --model checkpoints/audiomae-esc10 \\
        --out results/esc10-audiomae.json

Agreement is the share of clips with the same top label. KL is the mean of KL(unpruned ‖ pruned) of the outputs, in
nats. The random score has five seeds: mean and standard deviation. The model was trained on the other folds, so
agreement over all 400 clips looks better than it is. Accuracy over the 160 clips of two folds is good to ± 3 points.
"""

from __future__ import annotations

import argparse
import sys
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
from audioprune.methods import Method

SEEDS = range(5)


def methods(rate: float) -> dict[str, list[Method]]:
    """Make the settings of one keep rate; several if the method has a seed."""
    return {
        "TopK, discarded (the paper)": [ap.TopK(rate)],
        "CLS attention, discarded": [ap.TopK(rate, score="cls")],
        "random, discarded": [ap.TopK(rate, score="random", seed=s) for s in SEEDS],
        "intensity, discarded": [ap.TopK(rate, score="intensity")],
        "variation, discarded": [ap.TopK(rate, score="variation")],
        "8 segments × TopK, discarded": [ap.SegmentwiseTopK(rate)],
        "TopK, fused": [ap.TopK(rate, dropped="fuse")],
        "CLS attention, fused (EViT)": [ap.TopK(rate, score="cls", dropped="fuse")],
        "TopK, merged": [ap.TopK(rate, dropped="merge")],
        "random, merged": [ap.TopK(rate, score="random", dropped="merge", seed=s) for s in SEEDS],
        "8 segments × TopK, merged": [ap.SegmentwiseTopK(rate, dropped="merge")],
        "8 segments × CLS attention, merged": [ap.SegmentwiseTopK(rate, score="cls", dropped="merge")],
    }


def share(true: Tensor) -> float:
    return int(true.sum()) / true.numel()


def compare(logits: list[Tensor], full: Tensor, labels: Tensor, test: Tensor) -> dict[str, Any]:
    """Measure agreement and KL over all clips, and accuracy over the test fold; `logits` has one entry per seed."""
    kl = [divergence(row, full) for row in logits]
    agree = [agreement(row, full) for row in logits]
    test_agree = [agreement(row[test], full[test]) for row in logits]
    accuracy = [share((row.argmax(1) == labels)[test]) for row in logits]
    figures = {"agreement": agree, "kl": kl, "test_accuracy": accuracy, "test_agreement": test_agree}
    return {name: spread(values) for name, values in figures.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="esc10")
    parser.add_argument("--test-folds", default="4,5", help="folds that the model never heard")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()

    model = ap.load(args.model)
    front = ap.load_features(args.model, model)
    table = read(args.data, "esc10")
    rows, cache = table.rows, SoundCache(None, front.max_seconds)
    features = torch.stack([cache.features(row, front) for row in track(rows, "Reading clips")])
    labels = torch.from_numpy(table.targets(rows))
    test = torch.tensor([row.part in args.test_folds.split(",") for row in rows])
    full, full_macs = logits_of(model, features), ap.macs(model)

    table = []
    for rate in (0.7, 0.5):
        for name, settings in track(list(methods(rate).items()), f"Keep rate {rate}"):
            logits = []
            for method in settings:
                with ap.prune(model, method) as handle:
                    logits.append(logits_of(model, features))
                    macs, tokens = ap.macs(model), handle.tokens
            found = compare(logits, full, labels, test)
            table.append(
                {
                    "method": name,
                    "keep_rate": rate,
                    "setting": describe(settings[0]),
                    "runs": len(settings),
                    "tokens": tokens,
                    "macs": macs,
                    "macs_ratio": full_macs / macs,
                    **found,
                }
            )
            print(f"{rate} {name:36} {found['agreement']['mean']:.3f} {found['kl']['mean']:.4f} ", end="")
            print(f"test: {found['test_accuracy']['mean']:.3f}")
    unpruned = {
        "macs": full_macs,
        "test_accuracy": share((full.argmax(1) == labels)[test]),
        "training_folds_accuracy": share((full.argmax(1) == labels)[~test]),
    }
    print(f"unpruned: {unpruned['test_accuracy']:.4f}")
    result = {
        "command": f"python scripts/evaluate_untuned.py --data esc10 --model {args.model} "
        f"--test-folds {args.test_folds}",
        "model": Path(args.model).name,
        "test_folds": args.test_folds,
        "clips": len(rows),
        "test_clips": int(test.sum()),
        "machine": machine(),
        "unpruned": unpruned,
        "pruned": table,
    }
    write_json(args.out, result)
    print(f"→ {args.out}", file=sys.stderr)


if __name__ == "__main__":
    main()
