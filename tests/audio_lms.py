"""Tiny audio-language models of every class, from configs with random weights, and prompts for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AudioFlamingo3Config,
    AudioFlamingo3ForConditionalGeneration,
    GlmAsrConfig,
    GlmAsrForConditionalGeneration,
    MusicFlamingoConfig,
    MusicFlamingoForConditionalGeneration,
    Qwen2_5OmniThinkerConfig,
    Qwen2_5OmniThinkerForConditionalGeneration,
    Qwen2AudioConfig,
    Qwen2AudioForConditionalGeneration,
    Qwen3ASRConfig,
    Qwen3ASRForConditionalGeneration,
    Qwen3OmniMoeThinkerConfig,
    Qwen3OmniMoeThinkerForConditionalGeneration,
    VoxtralConfig,
    VoxtralForConditionalGeneration,
)

AUDIO, PAD, EOS, WORDS = 5, 0, 1, 64
"""Placeholder, padding, end of a sequence, and how many words there are."""
MELS, HEADS = 8, 4

_TEXT = {
    "vocab_size": WORDS,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
    "pad_token_id": PAD,
    "bos_token_id": None,
    "eos_token_id": EOS,
    "tie_word_embeddings": False,
}
_WHISPER = {
    "num_mel_bins": MELS,
    "d_model": 32,
    "encoder_layers": 2,
    "encoder_attention_heads": HEADS,
    "encoder_ffn_dim": 48,
    "max_source_positions": 40,
    "initializer_range": 0.2,
}
_ENCODER = {
    "num_mel_bins": MELS,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": HEADS,
    "intermediate_size": 128,
    "max_source_positions": 40,
    "initializer_range": 0.2,
}
WINDOW = 80
"""Frames of the log-mel that a padded encoder takes at once."""
_VISION = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 32}
_OMNI_TEXT = {**_TEXT, "rope_parameters": {"rope_theta": 1e4, "rope_type": "default", "mrope_section": [1, 1, 2]}}
_PACKED = {k: v for k, v in _WHISPER.items() if k != "max_source_positions"} | {"output_dim": 32}
_BY_THREE = {**_PACKED, "n_window": 50, "n_window_infer": 200, "downsample_hidden_size": 4}


def qwen2_audio() -> Any:
    config = Qwen2AudioConfig(
        audio_config=_WHISPER, text_config={**_TEXT, "model_type": "qwen2"}, audio_token_index=AUDIO
    )
    return Qwen2AudioForConditionalGeneration(config)


def audio_flamingo() -> Any:
    config = AudioFlamingo3Config(
        audio_config=_ENCODER, text_config={**_TEXT, "model_type": "qwen2"}, audio_token_id=AUDIO
    )
    return AudioFlamingo3ForConditionalGeneration(config)


def music_flamingo() -> Any:
    config = MusicFlamingoConfig(
        audio_config={**_ENCODER, "model_type": "audioflamingo3_encoder"},
        text_config={**_TEXT, "model_type": "qwen2"},
        audio_token_id=AUDIO,
        head_dim=32,
        rope_parameters={"rope_theta": 1e4, "rope_type": "default"},
    )
    return MusicFlamingoForConditionalGeneration(config)


def voxtral() -> Any:
    text = {**_TEXT, "model_type": "llama", "head_dim": 8}
    return VoxtralForConditionalGeneration(VoxtralConfig(audio_config=_ENCODER, text_config=text, audio_token_id=AUDIO))


def glm_asr() -> Any:
    audio = {k: v for k, v in _ENCODER.items() if k != "max_source_positions"} | {"num_key_value_heads": 4}
    text = {**_TEXT, "model_type": "llama", "head_dim": 8}
    return GlmAsrForConditionalGeneration(GlmAsrConfig(audio_config=audio, text_config=text, audio_token_id=AUDIO))


def qwen2_5_omni() -> Any:
    config = Qwen2_5OmniThinkerConfig(
        audio_config={**_PACKED, "n_window": 8, "max_source_positions": 40},
        vision_config=_VISION,
        text_config=_OMNI_TEXT,
        audio_token_index=AUDIO,
        image_token_index=6,
        video_token_index=7,
        audio_start_token_id=8,
        audio_end_token_id=9,
        vision_start_token_id=4,
        initializer_range=0.2,
    )
    return Qwen2_5OmniThinkerForConditionalGeneration(config)


def qwen3_omni() -> Any:
    text = {**_OMNI_TEXT, "head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
    config = Qwen3OmniMoeThinkerConfig(
        audio_config={**_BY_THREE, "max_source_positions": 40, "conv_chunksize": 50},
        vision_config={**_VISION, "deepstack_visual_indexes": [0]},
        text_config=text,
        audio_token_id=AUDIO,
        image_token_id=6,
        video_token_id=7,
        audio_start_token_id=8,
        audio_end_token_id=9,
        vision_start_token_id=4,
        initializer_range=0.2,
    )
    return Qwen3OmniMoeThinkerForConditionalGeneration(config)


def qwen3_asr() -> Any:
    config = Qwen3ASRConfig(
        audio_config=_BY_THREE,
        text_config={**_TEXT, "model_type": "qwen3", "head_dim": 8},
        audio_token_id=AUDIO,
        pad_token_id=PAD,
        eos_token_id=EOS,
        initializer_range=0.2,
    )
    return Qwen3ASRForConditionalGeneration(config)


# Sounds: a log-mel of so many frames each, drawn anew from the number.


def log_mel(frames: int) -> Tensor:
    """(mels, frames), the same for the same number."""
    return torch.randn(MELS, frames, generator=torch.Generator().manual_seed(frames))


def padded(clips: Sequence[int], mask: str, floor: float = 0.0) -> dict[str, Tensor]:
    """Windows of `WINDOW` frames each, clip after clip. mask: name of the argument that tells their lengths."""
    rows, masks = [], []
    for frames in clips:
        for sound in log_mel(frames).split(WINDOW, dim=1):
            missing = WINDOW - sound.shape[1]
            rows.append(torch.nn.functional.pad(sound, (0, missing), value=floor))
            masks.append(torch.arange(WINDOW) < sound.shape[1])
    return {"input_features": torch.stack(rows), mask: torch.stack(masks).long()}


def flat(clips: Sequence[int], mask: str, multiple: int = 1) -> dict[str, Tensor]:
    """Clips padded to the longest."""
    width = -(-max(clips) // multiple) * multiple
    sounds = [torch.nn.functional.pad(log_mel(n), (0, width - n)) for n in clips]
    masks = [(torch.arange(width) < n).long() for n in clips]
    return {"input_features": torch.stack(sounds), mask: torch.stack(masks)}


def no_mask(clips: Sequence[int]) -> dict[str, Tensor]:
    """Padding at the floor of the log-mel, and nothing that tells of it."""
    return {"input_features": padded(clips, "mask", floor=-9.0)["input_features"]}


def by_three(frames: int) -> int:
    """Tokens of three halvings of each 100 frames."""
    tokens = 0
    for start in range(0, frames, 100):
        length = min(100, frames - start)
        for _ in range(3):
            length = -(-length // 2)
        tokens += length
    return tokens


def windowed(tokens: Callable[[int], int]) -> Callable[[int], int]:
    """Tokens of a clip that is cut into windows."""
    return lambda frames: sum(tokens(min(WINDOW, frames - start)) for start in range(0, frames, WINDOW))


@dataclass(frozen=True)
class Family:
    """build: a model. features: the arguments of some clips, given by their frames. tokens: placeholders of a clip.
    clips: frames of clips of several lengths; the last is longer than a window, where windows are put together."""

    build: Callable[[], Any]
    features: Callable[[Sequence[int]], dict[str, Tensor]]
    tokens: Callable[[int], int]
    clips: tuple[int, ...]


FAMILIES = {
    "qwen2_audio": Family(
        qwen2_audio, lambda c: padded(c, "feature_attention_mask"), lambda n: -(-n // 2) // 2, (80, 47, 33)
    ),
    "audio_flamingo3": Family(
        audio_flamingo, lambda c: padded(c, "input_features_mask"), windowed(lambda n: -(-n // 2) // 2), (80, 47, 113)
    ),
    "music_flamingo": Family(
        music_flamingo, lambda c: padded(c, "input_features_mask"), windowed(lambda n: -(-n // 2) // 2), (80, 47, 113)
    ),
    "voxtral": Family(voxtral, no_mask, windowed(lambda n: 10), (80, 47, 113)),
    "glm_asr": Family(
        glm_asr, lambda c: padded(c, "input_features_mask"), windowed(lambda n: -(-n // 2) // 4), (80, 47, 113)
    ),
    "qwen2_5_omni": Family(
        qwen2_5_omni, lambda c: flat(c, "feature_attention_mask"), lambda n: -(-n // 2) // 2, (60, 47, 33)
    ),
    "qwen3_omni": Family(qwen3_omni, lambda c: flat(c, "feature_attention_mask"), by_three, (230, 147, 90)),
    "qwen3_asr": Family(qwen3_asr, lambda c: flat(c, "input_features_mask", 100), by_three, (230, 147, 90)),
}


def build(name: str) -> Any:
    """The model of a family, always the same, in evaluation mode."""
    torch.manual_seed(7)
    return FAMILIES[name].build().eval()


def exact(name: str) -> Any:
    """The same in float64, which grouped experts do not know."""
    model = build(name).double()
    if name == "qwen3_omni":
        model.set_experts_implementation("eager")
    return model


Prompt = Sequence[int | str]
"""Words by their numbers, and clips by their frames, written "47"."""


def ask(name: str, prompts: Sequence[Prompt], side: str = "left") -> dict[str, Tensor]:
    """What a processor would return for a batch of prompts."""
    family = FAMILIES[name]
    rows, clips = [], []
    for prompt in prompts:
        ids: list[int] = []
        for part in prompt:
            if isinstance(part, str):
                clips.append(int(part))
                ids += [AUDIO] * family.tokens(int(part))
            else:
                ids.append(part)
        rows.append(ids)
    longest = max(map(len, rows))
    blank = [[PAD] * (longest - len(row)) for row in rows]
    whole = [b + row if side == "left" else row + b for b, row in zip(blank, rows, strict=True)]
    masks = [
        [0] * len(b) + [1] * len(r) if side == "left" else [1] * len(r) + [0] * len(b) for b, r in zip(blank, rows)
    ]
    inputs = {"input_ids": torch.tensor(whole), "attention_mask": torch.tensor(masks)}
    return {**inputs, **(family.features(clips) if clips else {})}
