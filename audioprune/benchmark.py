"""Latency of settings side by side, in turn."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from .cost import macs, peak_memory, synchronize
from .methods import Method
from .pruning import prune


def measure(
    model: PreTrainedModel,
    methods: Sequence[Method],
    batch_size: int,
    seconds: float = 2.0,
    advance: Callable[[], Any] = lambda: None,
) -> list[dict[str, Any]]:
    """A row for each setting: MACs of a clip, median latency of a batch, memory, and ratios to the first setting.

    seconds: time to spend on each setting. Each round runs every setting once, so that drift hits all alike.
    """
    config: Any = model.config
    inputs = torch.randn(batch_size, config.max_length, config.num_mel_bins, device=model.device, dtype=model.dtype)
    device = str(model.device)

    @torch.inference_mode()
    def run() -> None:
        model(inputs)
        synchronize(device)

    rows: list[dict[str, Any]] = []
    for method in methods:
        with prune(model, method) as handle:
            run()
            row = {"batch_size": batch_size, "keep_rate": method.keep_rate, "tokens": list(handle.tokens)}
            rows.append(row | {"macs": macs(model), "peak_bytes": peak_memory(run, device=device)})
    for row, times in zip(rows, _in_turn(model, methods, run, seconds, advance), strict=True):
        median = statistics.median(times)
        row |= {"latency_ms": 1000 * median, "clips_per_second": batch_size / median, "runs": len(times)}
        row["macs_ratio"] = rows[0]["macs"] / row["macs"]
        row["speed_up"] = rows[0]["latency_ms"] / row["latency_ms"]
    return rows


def _in_turn(
    model: PreTrainedModel,
    methods: Sequence[Method],
    run: Callable[[], None],
    seconds: float,
    advance: Callable[[], Any],
) -> list[list[float]]:
    """Seconds of each call of each setting, for about `seconds` a setting and at least three calls."""
    times: list[list[float]] = [[] for _ in methods]
    began, done = time.perf_counter(), 0
    while len(times[0]) < 3 or time.perf_counter() - began < seconds * len(methods):
        for i, method in enumerate(methods):
            with prune(model, method):
                start = time.perf_counter()
                run()
                times[i].append(time.perf_counter() - start)
        due = min(len(methods), int((time.perf_counter() - began) / seconds))
        while done < due:
            advance()
            done += 1
    for _ in range(len(methods) - done):
        advance()
    return times


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        processor = names[0] if names else processor
    found = {"processor": processor, "threads": torch.get_num_threads(), "torch": torch.__version__}
    if torch.cuda.is_available():
        found["device"] = torch.cuda.get_device_name()
    return found
