"""Measure the cost of the recommended method's own work: milliseconds in `reduce`, and multiply-accumulates.

    python scripts/merging_cost.py --out results/merging-cost.json

The script runs each model of checkpoints/ at half and at a quarter of the work, in batches of 1 and 16. It reports the
median time of a forward, and of the method's part of it. Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import torch

import audioprune as ap
from audioprune.compare.benchmark import machine
from audioprune.files import write_json

ROOT = Path(__file__).parents[1]
MODELS = ("audiomae-esc10", "ast-esc10", "audiomae-fsdd-digits", "ast-fsdd-digits")
RUNS = 30


def timed(model: Any, handle: ap.Pruned, batch: torch.Tensor) -> tuple[float, float]:
    """Measure the median milliseconds of a forward, and of the method in it."""
    reducer = handle.attachment.reducer
    inside, reduce = [0.0], reducer.reduce

    def watched(*args: Any) -> Any:
        began = time.perf_counter()
        found = reduce(*args)
        inside[0] += time.perf_counter() - began
        return found

    reducer.reduce = watched
    whole, part = [], []
    for _ in range(RUNS):
        inside[0], began = 0.0, time.perf_counter()
        model(batch)
        whole.append(1000 * (time.perf_counter() - began))
        part.append(1000 * inside[0])
    return statistics.median(whole), statistics.median(part)


def products(counts: tuple[int, ...], width: int) -> int:
    """Count the multiply-accumulates of comparing even with odd tokens at each stage."""
    return sum(((n + 1) // 2) * (n // 2) * width for n in counts[:-1])


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    rows = []
    for name in MODELS:
        model = ap.load(ROOT / "checkpoints" / name)
        config: Any = model.config
        for share in (0.5, 0.25):
            for size in (1, 16):
                batch = torch.randn(size, config.max_length, config.num_mel_bins)
                with ap.prune(model, ap.recommended(model, macs=share)) as handle:
                    model(batch)
                    whole, part = timed(model, handle, batch)
                    own = products(handle.tokens, config.hidden_size)
                    rows.append(
                        {
                            "model": name,
                            "macs_share": share,
                            "batch_size": size,
                            "forward_ms": whole,
                            "merging_ms": part,
                            "macs": ap.macs(model),
                            "merging_macs": own,
                        }
                    )
    write_json(args.out, {"command": "python scripts/merging_cost.py", "machine": machine(), "rows": rows})


if __name__ == "__main__":
    main()
