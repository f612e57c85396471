"""The padding in the encoder of audio-language models: time and memory with and without it, and what it changes.

Random weights, the encoder of Whisper base's shape (512 wide, 6 blocks, 30 s), and a language model that is so small
that the encoder is nearly all there is. Contenders take turns.

    python -m benchmarks.encoder_padding --out results/encoder-padding.json
"""

from __future__ import annotations

import argparse
import multiprocessing
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm
from transformers import (
    AudioFlamingo3Config,
    AudioFlamingo3ForConditionalGeneration,
    GlmAsrConfig,
    GlmAsrForConditionalGeneration,
    MusicFlamingoConfig,
    MusicFlamingoForConditionalGeneration,
    Qwen2AudioConfig,
    Qwen2AudioForConditionalGeneration,
    VoxtralConfig,
    VoxtralForConditionalGeneration,
)

import audioprune as ap
from audioprune.compare.benchmark import machine
from audioprune.core.cost import macs, peak_memory
from audioprune.files import write_json

from .block import give_back
from .turns import Contender, race, ratio

SECONDS = (5, 10, 30)
WINDOW, FLOOR, AUDIO = 3000, -1.5, 5
"""Log-mel frames of a window, the log-mel of silence, and the id of the placeholder of a token of sound."""
TEXT = {
    "vocab_size": 64,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": 1,
}
WHISPER = {
    "num_mel_bins": 128,
    "d_model": 512,
    "encoder_layers": 6,
    "encoder_attention_heads": 8,
    "encoder_ffn_dim": 2048,
}
ENCODER = {
    "num_mel_bins": 128,
    "hidden_size": 512,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "intermediate_size": 2048,
}


def qwen2_audio() -> Any:
    text = {**TEXT, "model_type": "qwen2"}
    return Qwen2AudioForConditionalGeneration(
        Qwen2AudioConfig(audio_config=WHISPER, text_config=text, audio_token_index=AUDIO)
    )


def audio_flamingo() -> Any:
    text = {**TEXT, "model_type": "qwen2"}
    return AudioFlamingo3ForConditionalGeneration(
        AudioFlamingo3Config(audio_config=ENCODER, text_config=text, audio_token_id=AUDIO)
    )


def music_flamingo() -> Any:
    config = MusicFlamingoConfig(
        audio_config={**ENCODER, "model_type": "audioflamingo3_encoder"},
        text_config={**TEXT, "model_type": "qwen2"},
        audio_token_id=AUDIO,
        head_dim=64,
        rope_parameters={"rope_theta": 1e4, "rope_type": "default"},
    )
    return MusicFlamingoForConditionalGeneration(config)


def voxtral() -> Any:
    text = {**TEXT, "model_type": "llama", "head_dim": 64}
    return VoxtralForConditionalGeneration(VoxtralConfig(audio_config=ENCODER, text_config=text, audio_token_id=AUDIO))


def glm_asr() -> Any:
    text = {**TEXT, "model_type": "llama", "head_dim": 64}
    audio = {**ENCODER, "num_key_value_heads": 8}
    return GlmAsrForConditionalGeneration(GlmAsrConfig(audio_config=audio, text_config=text, audio_token_id=AUDIO))


MODELS: dict[str, tuple[Callable[[], Any], str | None, Callable[[int], int]]] = {
    "Qwen2-Audio": (qwen2_audio, "feature_attention_mask", lambda frames: frames // 4),
    "Audio Flamingo 3": (audio_flamingo, "input_features_mask", lambda frames: frames // 4),
    "Music Flamingo": (music_flamingo, "input_features_mask", lambda frames: frames // 4),
    "Voxtral": (voxtral, None, lambda frames: WINDOW // 8),
    "GLM-ASR": (glm_asr, "input_features_mask", lambda frames: frames // 8),
}
"""Name → the model, the argument that marks padding (None if the model has none), and the tokens of so many frames."""


def asked(name: str, seconds: int) -> dict[str, Tensor]:
    """The inputs of one clip."""
    _, mask, tokens = MODELS[name]
    frames = 100 * seconds
    features = torch.full((1, 128, WINDOW), FLOOR)
    features[..., :frames] = torch.randn(128, frames, generator=torch.Generator().manual_seed(seconds)).clamp_min(-1)
    ids = torch.tensor([[2, *[AUDIO] * tokens(frames), 3, 4]])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "input_features": features}
    if mask is not None:
        inputs[mask] = (torch.arange(WINDOW) < frames).long()[None]
    return inputs


@contextmanager
def without_padding(model: Any) -> Iterator[None]:
    with ap.prune(model, ap.PaddingMerge()):
        yield


def made(name: str) -> Any:
    torch.manual_seed(0)
    return MODELS[name][0]().eval()


@torch.inference_mode()
def added_mib(name: str, seconds: int, padded: bool) -> float:
    """What one forward adds to the memory of a process that has done nothing before."""
    model, inputs = made(name), asked(name, seconds)
    with nullcontext() if padded else without_padding(model):
        give_back()  # an encoder that does not mask padding has heard silence
        before = peak_memory(lambda: None) or 0
        return ((peak_memory(lambda: model(**inputs)) or 0) - before) / 2**20


def peaks(name: str, seconds: int) -> list[float]:
    """With padding, and without: each in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        return [pool.apply(added_mib, (name, seconds, padded)) for padded in (True, False)]


@torch.inference_mode()
def row(name: str, model: Any, seconds: int, rounds: int) -> dict[str, Any]:
    inputs = asked(name, seconds)
    contenders = {
        "as it is": Contender(lambda: model(**inputs)),
        "without padding": Contender(lambda: model(**inputs), setting=lambda: without_padding(model)),
    }
    race(contenders, rounds)
    whole, work = model(**inputs).logits, macs(model, inputs=inputs)
    with without_padding(model):
        changed = (model(**inputs).logits - whole).abs().max()
        less = macs(model, inputs=inputs)
    one, other = contenders.values()
    pairs = sorted(a / b for a, b in zip(one.times, other.times, strict=True))
    return {
        "model": name,
        "seconds": seconds,
        "macs_ratio": work / less,
        "faster": ratio(one, other),
        "faster_range": [pairs[0], pairs[-1]],
        "milliseconds": [1000 * one.median, 1000 * other.median],
        "peak_mib": peaks(name, seconds),
        "largest_change_of_a_logit": float(changed),
        "spread_of_logits": float(whole.std()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path, required=True, help="JSON file of the figures")
    given = parser.parse_args()
    rows = []
    for name in tqdm(MODELS, unit="model"):
        model = made(name)
        for seconds in SECONDS:
            rows.append(row(name, model, seconds, given.rounds))
            tqdm.write(str(rows[-1]))
    command = shlex.join(["python", "-m", "benchmarks.encoder_padding", *sys.argv[1:]])
    write_json(given.out, {"command": command, "machine": machine(), "rows": rows})


if __name__ == "__main__":
    main()
