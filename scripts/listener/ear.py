"""The real ear: a listener whose audio tower is the encoder of a real Whisper model, frozen."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F
from transformers import (
    AutoConfig,
    GenerationConfig,
    Qwen2AudioForConditionalGeneration,
    Qwen2AudioProcessor,
    WhisperFeatureExtractor,
    WhisperModel,
)

from .batches import audio_tokens, log_mel
from .model import assemble, make_processor
from .scenes import DIGITS, SOUNDS
from .timelines import COMMANDS, TALK, WORDS

EAR = "openai/whisper-tiny.en"
"""Whose encoder hears, where there is a network."""
WEIGHTS = "model.safetensors"
LONGEST = 1024
"""Positions of a prompt: 750 audio tokens in 30 s, and a question."""

_TOWER = "model.audio_tower."
# fmt: off
_QUESTION = (
    "which", "how", "many", "what", "was", "heard", "first", "said", "between", "and", "interrupts", "sound", "in",
    "order", ",", "?", "the", "or",
)
# fmt: on
_SAME = (
    "d_model",
    "encoder_layers",
    "encoder_attention_heads",
    "encoder_ffn_dim",
    "num_mel_bins",
    "max_source_positions",
    "activation_function",
    "scale_embedding",
)
"""What the encoders' configs have in common."""


def make_ear_processor(ear: str | Path) -> Qwen2AudioProcessor:
    """Words of the timelines to ids, and clips of up to 30 s to the log-mel features that Whisper takes."""
    extractor = WhisperFeatureExtractor.from_pretrained(ear)
    words = (*_QUESTION, WORDS, TALK, *DIGITS, *COMMANDS, *SOUNDS.values())
    return make_processor(extractor.feature_size, extractor.chunk_length, words)


def hears_timelines(processor: Qwen2AudioProcessor) -> bool:
    """Whether a listener's processor knows the words of timelines, and not those of the first listener's scenes."""
    return TALK in processor.tokenizer.get_vocab()


def make_ear_model(
    ear: str | Path, processor: Qwen2AudioProcessor, *, width: int = 128, heads: int = 4, layers: int = 3, seed: int = 0
) -> Qwen2AudioForConditionalGeneration:
    """A listener with Whisper's encoder, which does not learn, and an untrained adapter and language model.

    ear: a folder with a Whisper model in transformers' form, or a hub id. width, heads, layers: of the language model.
    """
    config = AutoConfig.from_pretrained(ear)
    audio = {name: getattr(config, name) for name in _SAME} | {"model_type": "qwen2_audio_encoder"}
    model = assemble(processor, audio, width=width, heads=heads, layers=layers, seed=seed, longest=LONGEST)
    give_ear(model, ear)
    return model


def give_ear(model: Qwen2AudioForConditionalGeneration, ear: str | Path) -> None:
    """Put Whisper's encoder into a listener, and freeze it."""
    tower = model.model.audio_tower
    tower.load_state_dict(WhisperModel.from_pretrained(ear, dtype=torch.float32).encoder.state_dict())
    tower.requires_grad_(False)


def save_without_ear(model: Qwen2AudioForConditionalGeneration, folder: Path) -> None:
    """Write a listener's config, adapter and language model as float16, and nothing of Whisper."""
    folder.mkdir(parents=True, exist_ok=True)
    model.config.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)
    own = {name: weight.half() for name, weight in model.state_dict().items() if not name.startswith(_TOWER)}
    save_file(own, folder / WEIGHTS, metadata={"format": "pt"})


def join_ear(folder: Path, ear: str | Path) -> Qwen2AudioForConditionalGeneration:
    """The listener that `save_without_ear` wrote, with Whisper's encoder. Raises `ValueError` if weights lack."""
    model = Qwen2AudioForConditionalGeneration(AutoConfig.from_pretrained(folder))
    found = model.load_state_dict(load_file(folder / WEIGHTS), strict=False)
    missing = [name for name in found.missing_keys if not name.startswith(_TOWER)]
    if missing or found.unexpected_keys:
        raise ValueError(f"{folder / WEIGHTS}: {', '.join(missing + found.unexpected_keys)} missing or unknown")
    model.generation_config = GenerationConfig.from_pretrained(folder)
    give_ear(model, ear)
    return model.float().eval()


@torch.no_grad()
def hear(model: Qwen2AudioForConditionalGeneration, extractor: Any, waveforms: Sequence[np.ndarray]) -> list[Tensor]:
    """(tokens, width) audio tokens of each clip, before the adapter; the padding, which is masked, is not computed."""
    tower, heard = model.model.audio_tower, []
    for waveform in waveforms:
        positions, _ = audio_tokens(len(waveform))
        # One frame more than the last position sees, so that the end of the sound is not the end of the features.
        features = log_mel(extractor, [waveform])[..., : 2 * positions + 2]
        hidden = F.gelu(tower.conv2(F.gelu(tower.conv1(features)))).transpose(1, 2)[:, :positions]
        hidden = hidden + tower.embed_positions.weight[:positions]
        for layer in tower.layers:
            hidden = layer(hidden, None)
        heard.append(tower.layer_norm(tower.avg_pooler(hidden.transpose(1, 2)).transpose(1, 2))[0])
    return heard
