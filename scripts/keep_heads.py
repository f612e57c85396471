"""Keep the accuracy of heads that were trained on pruned encoders (`audioprune train --recipe whisper-probe`).

    python scripts/keep_heads.py --data ESC10 --out results/encoders-heads.json PROBE …

Each probe is a folder of a training on ESC-10, pruned or not. Its work is counted on the first clips of its own fold.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

import audioprune as ap
from audioprune.compare.benchmark import machine, mean_macs
from audioprune.data import SoundCache, read
from audioprune.files import write_text
from keep_speech_result import as_json

COUNTED = 4
"""Clips on which work is counted: all of ESC-10 are five seconds long."""


def row_of(probe: Path, data: Path) -> dict[str, Any]:
    """What a training found, and the share of the unpruned model's work that its model does."""
    result, task = (json.loads((probe / name).read_text()) for name in ("result.json", "task.json"))
    model: Any = ap.load(probe)
    front = ap.load_features(probe, model)
    rows = read(data, "esc10").split(task["fold"]).test[:COUNTED]
    cache = SoundCache(None, front.max_seconds)
    clips = torch.stack([cache.features(row, front) for row in rows])
    work, handle = mean_macs(model, clips), ap.handle(model)
    if handle is not None:
        handle.remove()
    return {
        "model": Path(task["init"]).name.removeprefix("whisper-"),
        "fold": task["fold"],
        "method": result["method"],
        "work": work / ap.macs(model),
        "accuracy": result["accuracy"],
        "clips": result["clips"]["test"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("probes", type=Path, nargs="+")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    rows = [row_of(probe, args.data) for probe in args.probes]
    command = f"python scripts/keep_heads.py --data ESC10 --out {args.out.name} PROBE …"
    write_text(args.out, as_json({"command": command, "machine": machine(), "rows": rows}) + "\n")


if __name__ == "__main__":
    main()
