"""Savings of pruning before the first word: work, time and memory of the prefill of a prompt with a sound."""

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
from ..timing import Ratio
from .batch_generate import kept_counts
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
    """Measure the prefill: a row for each method.

    A row has audio tokens, multiply-accumulates of a forward over a prompt, median time to the first token, memory, and
    ratios to the first method. The sound is noise. Each round runs every method once, so that drift affects all
    methods equally.

    Args:
        model: the audio-language model.
        processor: its processor.
        methods: the methods to compare.
        clip_seconds: length of the sound.
        question: the question of the prompt.
        batch_size: sounds per forward.
        seconds: time for each method.
        advance: called after each measurement.
    """
    rate = sampling_rate(processor)
    rng = np.random.default_rng(0)
    sounds = [rng.normal(0, 0.1, round(clip_seconds * rate)).astype(np.float32) for _ in range(batch_size)]
    inputs = ask_inputs(processor, model, sounds, [question] * batch_size)
    ends = end_tokens(processor, model)

    def first_token(batch: Any) -> None:
        model.generate(**batch, **ends, do_sample=False, max_new_tokens=1)

    before = audio_tokens(processor, model, inputs["input_ids"])[0]
    rows: list[dict[str, Any]] = []
    for method in methods:
        with prune(model, method), trace(model) as record, torch.inference_mode():
            first_token(inputs)
            tokens = [before, kept_counts(record)[0] if record.kept else before]
            row = {"batch_size": batch_size, "keep_rate": method.keep_rate, "tokens": tokens}
            peak = peak_memory(lambda: first_token(inputs), device=str(model.device))
            rows.append(row | {"macs": macs(model, inputs=inputs), "peak_bytes": peak})
    timings = in_turn([(model, method, inputs) for method in methods], seconds, advance, first_token)
    for row, times in zip(rows, timings, strict=True):
        median = statistics.median(times)
        row |= {"latency_ms": 1000 * median, "clips_per_second": batch_size / median, "runs": len(times)}
        row |= {"macs_ratio": rows[0]["macs"] / row["macs"], **Ratio.between(timings[0], times).as_dict()}
    return rows
