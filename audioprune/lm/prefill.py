"""What pruning saves before the first word: work, time and memory of reading a prompt with a sound in it."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from ..compare.benchmark import in_turn
from ..core.cost import macs, peak_memory
from ..core.pruning import prune
from ..core.trace import trace
from ..methods import Method
from .batch_generate import kept_of
from .loading import ask_inputs, audio_tokens, end_tokens, sampling_rate


def measure_prefill(
    model: Any,
    processor: Any,
    methods: Sequence[Method],
    clip_seconds: float,
    question: str,
    batch_size: int = 1,
    seconds: float = 2.0,
    advance: Callable[[], Any] = lambda: None,
) -> list[dict[str, Any]]:
    """A row for each setting: audio tokens, multiply-accumulates of a forward over a prompt, median time to the first
    token, memory, and ratios to the first setting. The sound is noise.

    seconds: time to spend on each setting. Each round runs every setting once, so that drift hits all alike.
    """
    rate = sampling_rate(processor)
    rng = np.random.default_rng(0)
    sounds = [rng.normal(0, 0.1, round(clip_seconds * rate)).astype(np.float32) for _ in range(batch_size)]
    inputs = ask_inputs(processor, model, sounds, [question] * batch_size)
    ends = end_tokens(processor, model)

    def first_token(given: Any) -> None:
        model.generate(**given, **ends, do_sample=False, max_new_tokens=1)

    before = audio_tokens(processor, model, inputs["input_ids"])[0]
    rows: list[dict[str, Any]] = []
    for method in methods:
        with prune(model, method), trace(model) as record, torch.inference_mode():
            first_token(inputs)
            tokens = [before, kept_of(record)[0] if record.kept else before]
            row = {"batch_size": batch_size, "keep_rate": method.keep_rate, "tokens": tokens}
            peak = peak_memory(lambda: first_token(inputs), device=str(model.device))
            rows.append(row | {"macs": macs(model, inputs=inputs), "peak_bytes": peak})
    timed = in_turn([(model, method, inputs) for method in methods], seconds, advance, first_token)
    for row, times in zip(rows, timed, strict=True):
        median = statistics.median(times)
        row |= {"latency_ms": 1000 * median, "clips_per_second": batch_size / median, "runs": len(times)}
        row["macs_ratio"] = rows[0]["macs"] / row["macs"]
        row["speed_up"] = rows[0]["latency_ms"] / row["latency_ms"]
    return rows
