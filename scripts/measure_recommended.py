"""Measure what is recommended by the work, and by time, on a ViT-Base of random weights.

    python scripts/measure_recommended.py --out results/recommended-speed.json

For each number of tokens and batch size, in turn with the unpruned model: what is recommended at half and at a quarter
of the work; merging in every block at half of it; and the setting that `ap.recommended(model, speed_up=…)` finds. Run
it on an idle machine: a ratio that is not sure is marked. The file is written after every shape; a run that was stopped
goes on.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

import audioprune as ap
from audioprune.compare.benchmark import machine
from audioprune.core.fitting import fit
from audioprune.core.recommend import recommended_at
from audioprune.core.recommend_speed import TooFastError, measure
from audioprune.core.settings import describe
from audioprune.files import write_json
from audioprune.models.audiomae import AudioMAEConfig, AudioMAEForAudioClassification

SHAPES = {(64, 1): 1.3, (64, 4): 1.3, (256, 1): 1.8, (256, 4): None, (256, 16): None}
"""Tokens of a clip, and clips of a batch, to the speed-up that is asked for; None where the search takes minutes."""
FRAMES_PER_TOKEN = 2
"""128 mel channels are 8 patches high, and a patch is 16 frames long."""


def settings(model: Any, batch: torch.Tensor, speed_up: float | None) -> dict[str, ap.Method | str]:
    """What is compared. A sentence in place of a method: nothing is so fast."""
    found: dict[str, ap.Method | str] = {f"macs={macs}": ap.recommended(model, macs=macs) for macs in (0.5, 0.25)}
    found["every block, macs=0.5"] = fit(model, recommended_at, 0.5, ap.macs, least=0.5)
    if speed_up is None:
        return found
    try:
        found[f"speed_up={speed_up}"] = ap.recommended(model, speed_up=speed_up, inputs=batch)
    except TooFastError as error:
        found[f"speed_up={speed_up}"] = str(error)
    return found


def share(model: Any, method: ap.Method) -> float:
    full = ap.macs(model)
    with ap.prune(model, method):
        return ap.macs(model) / full


def rows_at(tokens: int, size: int, speed_up: float | None, seconds: float) -> list[dict[str, Any]]:
    model: Any = AudioMAEForAudioClassification(AudioMAEConfig(max_length=FRAMES_PER_TOKEN * tokens)).eval()
    batch = torch.randn(size, FRAMES_PER_TOKEN * tokens, 128)
    found = settings(model, batch, speed_up)
    methods = {name: method for name, method in found.items() if not isinstance(method, str)}
    ratios = dict(zip(methods, measure(model, list(methods.values()), batch, seconds), strict=True))
    rows = []
    for name, method in found.items():
        if isinstance(method, str):
            rows.append({"name": name, "refused": method})
            continue
        row = {"name": name, "setting": describe(method), "macs_share": share(model, method)}
        rows.append({**row, **ratios[name].as_dict()})
        print(f"  {name}: {100 * row['macs_share']:.0f} % of the work, {ratios[name]}: {method}", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=5.0, help="of timing each setting")
    args = parser.parse_args()
    command = f"python scripts/measure_recommended.py --seconds {args.seconds:g}"
    result = json.loads(args.out.read_text()) if args.out.exists() else {"command": command, "shapes": []}
    result["machine"] = machine()
    known = {(shape["tokens"], shape["batch_size"]) for shape in result["shapes"]}
    for (tokens, size), speed_up in SHAPES.items():
        if (tokens, size) in known:
            continue
        print(f"{tokens} tokens, batch {size}", flush=True)
        rows = rows_at(tokens, size, speed_up, args.seconds)
        result["shapes"].append({"tokens": tokens, "batch_size": size, "rows": rows})
        write_json(args.out, result)


if __name__ == "__main__":
    main()
