"""Time `torch.compile` beside the model as it is and packed, pruned and unpruned."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from typing import Any

import torch

import audioprune as ap
from audioprune.attention.packing import available, pack
from audioprune.models.audiomae import AudioMAEConfig, AudioMAEForAudioClassification

from .turns import Contender, race, ratio

RATE = 0.5


def measure(dtype: torch.dtype, rounds: int, advance: Callable[[], None], frames: int = 1024, batch: int = 4) -> Any:
    """Measure a ViT-Base at one length and batch size: seconds of compiling, and speed-ups over the model as it is."""
    torch.manual_seed(0)
    model = AudioMAEForAudioClassification(AudioMAEConfig(max_length=frames, num_labels=50)).to(dtype).eval()
    inputs = torch.randn(batch, frames, 128, dtype=dtype)
    contenders, seconds = {}, {}
    for rate in (1.0, RATE):
        for kind in ("plain", "packed", "compiled")[:: 1 if available() else 2]:
            own = copy.deepcopy(model)
            if rate < 1:
                ap.prune(own, ap.TopK(rate))
            if kind == "packed":
                pack(own, frozen=True)
            call: Any = torch.compile(own) if kind == "compiled" else own
            name = f"{kind} {rate}"
            begun = time.perf_counter()
            with torch.inference_mode():
                call(inputs)
            seconds[name] = time.perf_counter() - begun
            contenders[name] = Contender(lambda call=call: call(inputs))
    race(contenders, rounds, advance)
    return {
        "tokens": frames // 2,
        "batch_size": batch,
        "dtype": str(dtype).removeprefix("torch."),
        "first_call_s": seconds,
        "latency_ms": {name: 1000 * one.median for name, one in contenders.items()},
        "speed_up": {
            name: ratio(contenders[f"plain {name.rpartition(' ')[2]}"], one) for name, one in contenders.items()
        },
        "pruning": {
            kind: ratio(contenders[f"{kind} 1.0"], contenders[f"{kind} {RATE}"])
            for kind in ("plain", "packed", "compiled")
            if f"{kind} {RATE}" in contenders
        },
    }
