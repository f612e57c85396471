"""Show where the time of a transcription goes: encoder, parts of the decoder, output layer, and the rest of `generate`.

    python -m benchmarks.decoder_profile --whisper weights/whisper-base --clip talk.flac --out profile.json

Four models: plain, packed, pruned, and pruned and packed. Each transcribes the clip several times, all in turn; seconds
are medians. Parts are timed by hooks, which cost a few milliseconds.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import nn

import audioprune as ap
from audioprune.attention.packing import pack
from audioprune.audio.files import load_audio
from audioprune.compare.benchmark import machine
from audioprune.files import write_json
from audioprune.transcribing.speech_model import SpeechModel, open_speech_model

MODELS = {"plain": (False, False), "packed": (False, True), "pruned": (True, False), "pruned packed": (True, True)}
"""Name → whether the model is pruned, and packed."""
PARTS = ("encoder", "self-attention", "cross-attention", "feed-forward", "rest of the decoder", "output layer", "rest")


class PartClock:
    """Seconds of modules by the name of their part, and the steps of the decoder."""

    def __init__(self, model: Any) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.steps = 0
        self._time(model.model.encoder, "encoder")
        self._time(model.model.decoder, "decoder")
        self._time(model.proj_out, "output layer")
        for layer in model.model.decoder.layers:
            self._time(layer.self_attn, "self-attention")
            self._time(layer.encoder_attn, "cross-attention")
            self._time(layer.fc1, "feed-forward")
            self._time(layer.fc2, "feed-forward")
        model.model.decoder.register_forward_hook(self._count)

    def _time(self, module: nn.Module, part: str) -> None:
        begun = [0.0]

        def begin(*_: Any) -> None:
            begun[0] = time.perf_counter()

        def end(*_: Any) -> None:
            self.seconds[part] += time.perf_counter() - begun[0]

        module.register_forward_pre_hook(begin)
        module.register_forward_hook(end)

    def _count(self, *_: Any) -> None:
        self.steps += 1


def profiled(speech_model: SpeechModel, sound: np.ndarray) -> Callable[[], dict[str, float]]:
    """What transcribes a sound and returns the seconds of each part, "whole" and "steps"."""
    clock = PartClock(speech_model.model)

    def run() -> dict[str, float]:
        clock.seconds.clear()
        clock.steps = 0
        begun = time.perf_counter()
        speech_model([sound])
        whole = time.perf_counter() - begun
        found = dict(clock.seconds)
        decoder = found.pop("decoder")
        inner = sum(found[part] for part in ("self-attention", "cross-attention", "feed-forward"))
        found["rest of the decoder"] = decoder - inner
        found["rest"] = whole - decoder - found["encoder"] - found["output layer"]
        return found | {"whole": whole, "steps": clock.steps}

    return run


def opened(source: Path, is_pruned: bool, is_packed: bool) -> SpeechModel:
    loaded = open_speech_model(str(source), language="en")
    if is_pruned:
        ap.prune(loaded.model, ap.recommended(loaded.model))
    if is_packed:
        pack(loaded.model, frozen=True)
    return loaded


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--whisper", type=Path, required=True, help="folder of a Whisper")
    parser.add_argument("--clip", type=Path, required=True, help="sound file, no longer than the window")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    clip = load_audio(asked.clip)
    runs = {name: profiled(opened(asked.whisper, *how), clip.waveform) for name, how in MODELS.items()}
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in runs}
    for lap in range(asked.rounds + 1):
        for name, run in runs.items():
            row = run()
            if lap:  # the first warms up
                rows[name].append(row)
    found = {
        name: {key: round(median(row[key] for row in several), 5) for key in several[0]}
        for name, several in rows.items()
    }
    write_json(
        asked.out,
        {
            "command": "python -m benchmarks.decoder_profile --whisper WHISPER --clip CLIP --out JSON",
            "machine": machine() | {"threads": asked.threads},
            "model": asked.whisper.name,
            "clip": asked.clip.name,
            "clip_seconds": round(clip.seconds, 3),
            "rounds": asked.rounds,
            "models": found,
        },
    )
    for name, row in found.items():
        parts = ", ".join(f"{part} {1000 * row[part]:.0f}" for part in PARTS)
        print(f"{name}: {1000 * row['whole']:.0f} ms in {row['steps']:.0f} steps; {parts}")


if __name__ == "__main__":
    main()
