"""Savings of pruning in a transcription: work, and the time of the encoder, to the first token, and of the whole."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..audio.files import SAMPLE_RATE
from ..core.cost import macs, peak_memory, synchronize
from ..core.pruning import prune
from ..methods import Method
from ..timing import Ratio, take_turns
from .parts import WhisperParts
from .timing import EncoderClock, tokens_left

TOKENS_A_SECOND = 4
"""Tokens of text in a second of speech; the noise that is heard here says nothing by itself."""


def measure_transcription(
    model: Any,
    parts: WhisperParts,
    methods: Sequence[Method],
    clip_seconds: float,
    batch_size: int = 1,
    seconds: float = 2.0,
    advance: Callable[[], Any] = lambda: None,
) -> list[dict[str, Any]]:
    """Measure a transcription of one window: a row for each method.

    A row has the tokens that enter and leave the encoder, the multiply-accumulates of the encoder and the first token,
    median milliseconds of the encoder, to the first token and of the whole, the real-time factor, memory, and ratios
    to the first method. The sound is noise, and every method writes as many tokens. Each round runs every method once,
    so that drift affects all methods equally.

    Args:
        model: the Whisper with its decoder.
        parts: its front end.
        methods: the methods to compare.
        clip_seconds: length of the sound, at most the model's window.
        batch_size: sounds per forward.
        seconds: time for each method.
        advance: called after each measurement.
    """
    if clip_seconds > parts.window_seconds:
        raise ValueError(
            f"the sound has {clip_seconds:g} s, but one window of {parts.source} has {parts.window_seconds:g} s; "
            "give at most that"
        )
    features = _noise(model, parts, clip_seconds, batch_size)
    length = max(2, round(TOKENS_A_SECOND * clip_seconds))
    rows: list[dict[str, Any]] = []
    timings: list[list[tuple[float, float, float]]] = [[] for _ in methods]
    for method in methods:
        with prune(model, method), torch.inference_mode():
            left = tokens_left(model.get_encoder()(features))
            tokens = [model.config.max_source_positions, left[0]]
            row = {"batch_size": batch_size, "keep_rate": method.keep_rate, "tokens": tokens}
            peak = peak_memory(lambda: _generate(model, features, 1), device=str(model.device))
            work = macs(model, inputs={"input_features": features[:1], **_start(model, 1)})
        rows.append(row | {"macs": work, "peak_bytes": peak})

    def timed(i: int) -> float:
        with prune(model, methods[i]):
            timings[i].append(_time(model, features, length))
        return sum(timings[i][-1])

    take_turns([partial(timed, i) for i in range(len(methods))], seconds, advance)
    # For each method the seconds of the encoder, to the first token and of the whole; the first round is not counted.
    parts_of = [[list(part) for part in zip(*times[1:], strict=True)] for times in timings]
    for row, times, own in zip(rows, timings, parts_of, strict=True):
        encoder, first, whole = map(median, own)
        row |= {"encoder_ms": 1000 * encoder, "first_token_ms": 1000 * first, "latency_ms": 1000 * whole}
        row |= {"clips_per_second": batch_size / whole, "real_time_factor": whole / (batch_size * clip_seconds)}
        row |= {"new_tokens": length, "runs": len(times) - 1, "macs_ratio": rows[0]["macs"] / row["macs"]}
        row |= Ratio.between(parts_of[0][2], own[2]).as_dict()
        row |= Ratio.between(parts_of[0][0], own[0]).as_dict("encoder_speed_up")
    return rows


def _noise(model: Any, parts: WhisperParts, clip_seconds: float, batch_size: int) -> Tensor:
    """Log-mel features of noise, (batch, mels, frames)."""
    draw = np.random.default_rng(0)
    sounds = [draw.normal(0, 0.1, round(clip_seconds * SAMPLE_RATE)).astype(np.float32) for _ in range(batch_size)]
    extractor: Any = parts.extractor
    features = extractor(sounds, sampling_rate=SAMPLE_RATE, return_tensors="pt").input_features
    return features.to(model.device, model.dtype)


def _start(model: Any, batch: int) -> dict[str, Tensor]:
    start = torch.full((batch, 1), model.config.decoder_start_token_id, device=model.device)
    return {"decoder_input_ids": start}


@torch.inference_mode()
def _generate(model: Any, features: Tensor, length: int) -> None:
    # One language for all, since noise is in none.
    task = {"language": "en"} if getattr(model.generation_config, "is_multilingual", False) else {}
    model.generate(features, max_new_tokens=length, min_new_tokens=length, do_sample=False, num_beams=1, **task)


def _time(model: Any, features: Tensor, length: int) -> tuple[float, float, float]:
    """Seconds of the encoder, to the first token, and of the whole."""
    device, began = str(model.device), time.perf_counter()
    with EncoderClock(model) as clock:
        _generate(model, features, length)
        synchronize(device)
    whole, began = time.perf_counter() - began, time.perf_counter()
    _generate(model, features, 1)
    synchronize(device)
    return clock.seconds, time.perf_counter() - began, whole
