"""Make the tables of docs/performance.md from results/benchmarks*.json."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from audioprune.timing import Ratio

RESULTS = Path(__file__).parents[1] / "results"
FILES = ("benchmarks", "benchmarks-onnx")
RATES = ("0.9", "0.7", "0.5")


def read() -> dict[str, Any]:
    return json.loads((RESULTS / "benchmarks.json").read_text())


def contests(dtype: str) -> Iterator[tuple[str, dict[str, dict[str, Any]], dict[str, Any]]]:
    """Yield "tokens × batch", the rows by contender, and the whole entry of each setting; the most work first."""
    of_dtype = [found for key, found in read().items() if key.startswith(f"forward {dtype} ")]
    for found in sorted(of_dtype, key=lambda found: (-found["tokens"], -found["batch_size"])):
        name = f"{found['tokens']} × {found['batch_size']}"
        yield name, {row["contender"]: row for row in found["rows"]}, found


def speed_ups(dtype: str) -> list[list[str]]:
    """Compare pruning with the same model unpruned, unpacked and packed."""
    lines = []
    for name, rows, _ in contests(dtype):
        half, packed = rows["ours 0.5"], rows["packed 0.5"]
        lines.append(
            [
                name,
                f"{half['macs_ratio']:.2f}",
                *(of_ratio(row) for row in (half, packed)),
                *(f"{100 * rows[one]['share_of_limit']:.0f} %" for one in ("ours", "packed")),
            ]
        )
    return lines


def of_ratio(row: dict[str, Any]) -> str:
    return f"{row['speed_up']:.2f}× ({100 * row['share_of_macs_ratio']:.0f} %)"


def against_authors(dtype: str) -> list[list[str]]:
    """Compare every keep rate with the authors' way at the same keep rate."""
    lines = []
    for name, rows, _ in contests(dtype):
        cells = [name]
        for kind in ("ours", "packed"):
            for rate in ("", *RATES):
                row = rows.get(f"{kind} {rate}".strip())
                cells.append("–" if row is None else f"{row['speed_up_over_authors_at_this_rate']:.2f}")
        lines.append(cells)
    return lines


def contenders(dtype: str, tokens: int, batch: int) -> list[list[str]]:
    """List all contenders at one setting."""
    found = read()[f"forward {dtype} {tokens}×{batch}"]
    return [
        [
            row["contender"],
            f"{row['macs'] / 1e9:.1f}" if "macs" in row else "",
            f"{row['latency_ms']:.0f}",
            f"{row['speed_up_over_ours_unpruned']:.2f}×",
        ]
        for row in found["rows"]
    ]


def quarters() -> list[list[str]]:
    """List the recommended setting at a quarter of the MACs."""
    lines = []
    for dtype in ("float32", "bfloat16"):
        for name, rows, _ in contests(dtype):
            pair = [rows.get(f"{kind}recommended quarter") for kind in ("", "packed ")]
            cells = ["–" if row is None else f"{row['speed_up']:.2f}×" for row in pair]
            lines.append([dtype, name, *cells])
    return lines


def recommended() -> tuple[list[str], list[list[str]]]:
    """Header and rows: how many times as fast a ViT-Base is with what is recommended, by the work and by time."""
    lines = []
    for shape in json.loads((RESULTS / "recommended-speed.json").read_text())["shapes"]:
        rows = {row["name"]: row for row in shape["rows"]}
        cells = [str(Ratio.of(rows[name])) for name in ("macs=0.5", "every block, macs=0.5", "macs=0.25")]
        by_time = [f"asked {name.split('=')[1]}×: {Ratio.of(row)}" for name, row in rows.items() if "speed_up" in name]
        lines.append([f"{shape['tokens']} × {shape['batch_size']}", *cells, *(by_time or ["–"])])
    header = ["tokens × batch", "half of the work", "half, in every block", "a quarter", "by time"]
    return header, lines


def checks() -> list[list[str]]:
    """List the speed-up of packing with the check of each weight, and without it."""
    contests = json.loads((RESULTS / "benchmarks-packed.json").read_text())
    lines = []
    for found in (found for key, found in contests.items() if key.startswith("packed ")):
        for rate in ("1.0", "0.5"):
            speed_ups = [found["speed_up"][f"{kind} {rate}"] for kind in ("checked", "frozen")]
            cells = [f"{found['tokens']} × {found['batch_size']}", rate, *(f"{ratio:.2f}×" for ratio in speed_ups)]
            lines.append([*cells, f"{100 * found['time_of_checks'][rate]:.0f} %"])
    return lines


def encoder_padding() -> tuple[list[str], list[list[str]]]:
    """Header and rows: audio-language models with and without the padding of their encoder."""
    rows = []
    for row in json.loads((RESULTS / "encoder-padding.json").read_text())["rows"]:
        low, high = row["faster_range"]
        before, after = row["peak_mib"]
        change = row["largest_change_of_a_logit"] / row["spread_of_logits"]
        rows.append(
            [
                row["model"],
                str(row["seconds"]),
                f"{row['macs_ratio']:.2f}×",
                f"{row['faster']:.2f}× ({low:.2f} to {high:.2f})",
                f"{before:.0f} → {after:.0f}",
                "0" if change == 0 else f"{change:.1e}",
            ]
        )
    return ["", "seconds", "MACs, fewer", "faster", "memory, MiB", "largest change"], rows
