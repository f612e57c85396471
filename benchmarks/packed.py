"""Measure the speed-up of packing, with the check of each weight before each product and without it."""

from __future__ import annotations

import copy
from typing import Any

import torch

import audioprune as ap
from audioprune.attention.packing import pack
from audioprune.models.audiomae import AudioMAEConfig, AudioMAEForAudioClassification

from .forward import FRAMES, LABELS
from .turns import Contender, race, ratio

RATES = (1.0, 0.5)


def measure(tokens: int, batch: int, rounds: int, small: bool = False) -> dict[str, Any]:
    """Measure a ViT-Base at one length and batch size, in float32: speed-ups over the same model unpacked."""
    torch.manual_seed(0)
    size = {"hidden_size": 96, "num_attention_heads": 4, "intermediate_size": 192} if small else {}
    config = AudioMAEConfig(max_length=FRAMES[tokens], num_labels=LABELS, **size)
    model, inputs = AudioMAEForAudioClassification(config).eval(), torch.randn(batch, FRAMES[tokens], 128)
    contenders: dict[str, Contender] = {}
    for rate in RATES:
        for kind in ("plain", "checked", "frozen"):
            own = copy.deepcopy(model)
            if rate < 1:
                ap.prune(own, ap.TopK(rate))
            if kind != "plain":
                pack(own, frozen=kind == "frozen")
            contenders[f"{kind} {rate}"] = Contender(lambda own=own: own(inputs))
    race(contenders, rounds)
    return {
        "tokens": tokens,
        "batch_size": batch,
        "rounds": rounds,
        "latency_ms": {name: 1000 * one.median for name, one in contenders.items()},
        "speed_up": {
            name: ratio(contenders[f"plain {name.rpartition(' ')[2]}"], one) for name, one in contenders.items()
        },
        "time_of_checks": {
            str(rate): ratio(contenders[f"checked {rate}"], contenders[f"frozen {rate}"]) - 1 for rate in RATES
        },
    }
