"""Measure what is recommended by the work, and by time, on a ViT-Base of random weights.

    python scripts/measure_recommended.py --out results/recommended-speed.json

For each number of tokens and batch size: the speed-up at half and at a quarter of the work with merging in every block,
and the settings that `ap.recommended(model, speed_up=…)` finds, measured again in turn with the unpruned model. Run it
on an idle machine: a ratio that is not sure is marked.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

import audioprune as ap
from audioprune.compare.benchmark import machine
from audioprune.core.recommend_speed import TooFastError, measure
from audioprune.core.settings import describe
from audioprune.files import write_json
from audioprune.models.audiomae import AudioMAEConfig, AudioMAEForAudioClassification

SHAPES = ((64, 1), (64, 4), (256, 1), (256, 4), (256, 16))
"""Tokens of a clip, and clips of a batch."""
SPEED_UPS = (1.3, 1.8, 2.7)
FRAMES_PER_TOKEN = 2
"""128 mel channels are 8 patches high, and a patch is 16 frames long."""


def row_of(name: str, method: ap.Method, model: Any, batch: torch.Tensor, seconds: float) -> dict[str, Any]:
    """A setting with its share of the work and its measured speed-up."""
    full = ap.macs(model)
    with ap.prune(model, method):
        share = ap.macs(model) / full
    (ratio,) = measure(model, [method], batch, seconds)
    print(f"  {name}: {100 * share:.0f} % of the work, {ratio}: {method}", flush=True)
    return {"name": name, "setting": describe(method), "macs_share": share, **ratio.as_dict()}


def rows_at(tokens: int, size: int, seconds: float) -> list[dict[str, Any]]:
    model = AudioMAEForAudioClassification(AudioMAEConfig(max_length=FRAMES_PER_TOKEN * tokens)).eval()
    batch = torch.randn(size, FRAMES_PER_TOKEN * tokens, 128)
    rows = [row_of(f"macs={macs}", ap.recommended(model, macs=macs), model, batch, seconds) for macs in (0.5, 0.25)]
    for speed_up in SPEED_UPS:
        try:
            method = ap.recommended(model, speed_up=speed_up, inputs=batch)
        except TooFastError as error:
            rows.append({"name": f"speed_up={speed_up}", "refused": str(error)})
            continue
        rows.append(row_of(f"speed_up={speed_up}", method, model, batch, seconds))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=5.0, help="of timing each setting")
    args = parser.parse_args()
    found = []
    for tokens, size in SHAPES:
        print(f"{tokens} tokens, batch {size}", flush=True)
        found.append({"tokens": tokens, "batch_size": size, "rows": rows_at(tokens, size, args.seconds)})
    command = f"python scripts/measure_recommended.py --seconds {args.seconds:g}"
    write_json(args.out, {"command": command, "machine": machine(), "shapes": found})


if __name__ == "__main__":
    main()
