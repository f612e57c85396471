"""Measure the peak memory of scoring the tokens of longer and longer clips, beside that of the attention map.

    python scripts/scoring_memory.py results/scoring-memory.json

The script runs the last attention of a Whisper-like encoder (20 heads of 64, frames of 20 ms). It runs it over windows
of 30 s, like Audio Flamingo 3 and Voxtral, and over the whole clip at once, by chunks of queries and by the map of all
pairs. Each case has a process of its own. The figure is the growth of the resident set after queries and keys are in
memory.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch

from audioprune.attention.scoring import score_keys
from audioprune.compare.benchmark import machine
from audioprune.core.cost import peak_memory
from audioprune.files import write_json

HEADS, WIDTH, FRAMES_A_SECOND = 20, 64, 50
CASES = {"windows": (30, 60, 120, 300, 600), "chunked": (30, 60, 120, 240), "map": (30, 60, 120)}
"""Seconds of sound. Longer maps do not fit into memory."""


def whole_map(query: torch.Tensor, key: torch.Tensor, scaling: float) -> torch.Tensor:
    """Do the same as `score_keys`, with all pairs in memory."""
    return (query @ key.transpose(2, 3) * scaling).softmax(dim=-1).mean(dim=2)


def measure(how: str, seconds: int) -> int:
    """Measure one case, in bytes."""
    torch.manual_seed(0)
    windows = seconds // 30 if how == "windows" else 1
    shape = (windows, HEADS, seconds * FRAMES_A_SECOND // windows, WIDTH)
    query, key = torch.randn(shape), torch.randn(shape)
    score = whole_map if how == "map" else score_keys
    score(query[:, :, :64], key[:, :, :64], WIDTH**-0.5)  # the libraries take memory for themselves at the first call
    before = peak_memory(lambda: None) or 0
    return (peak_memory(lambda: score(query, key, WIDTH**-0.5)) or 0) - before


def main() -> None:
    if len(sys.argv) == 3:
        print(measure(sys.argv[1], int(sys.argv[2])))
        return
    rows = []
    for how, lengths in CASES.items():
        for seconds in lengths:
            found = subprocess.run([sys.executable, __file__, how, str(seconds)], capture_output=True, check=True)
            rows.append({"how": how, "seconds": seconds, "mib": round(int(found.stdout) / 2**20, 1)})
            print(rows[-1], file=sys.stderr)
    command = f"python scripts/scoring_memory.py {sys.argv[1]}"
    write_json(Path(sys.argv[1]), {"command": command, "machine": machine(), "rows": rows})


if __name__ == "__main__":
    main()
