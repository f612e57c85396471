"""Tiny audio-language models whose encoder's attention cannot be reached: methods that look at features serve them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from transformers import (
    AutoModel,
    Gemma3nConfig,
    Gemma3nForConditionalGeneration,
    Gemma4AudioConfig,
    Gemma4Config,
    Gemma4ForConditionalGeneration,
    GraniteSpeechConfig,
    GraniteSpeechForConditionalGeneration,
    Phi4MultimodalConfig,
    Phi4MultimodalForCausalLM,
    VibeVoiceAsrConfig,
    VibeVoiceAsrForConditionalGeneration,
)
from transformers.models.gemma3n import modeling_gemma3n

from .audio_lms import AUDIO, EOS, PAD, WORDS

_TEXT = {
    "vocab_size": WORDS,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
    "pad_token_id": PAD,
    "bos_token_id": None,
    "eos_token_id": EOS,
    "tie_word_embeddings": False,
}


def granite() -> Any:
    encoder = {"input_dim": 8, "num_layers": 2, "hidden_dim": 16, "feedforward_mult": 2, "num_heads": 2, "dim_head": 8}
    encoder |= {"output_dim": 6, "context_size": 20, "max_pos_emb": 32, "conv_kernel_size": 3}
    projector = {"model_type": "blip_2_qformer", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    projector |= {"intermediate_size": 16, "encoder_hidden_size": 16, "cross_attention_frequency": 1}
    config = GraniteSpeechConfig(
        text_config={**_TEXT, "model_type": "granite"},
        encoder_config=encoder,
        projector_config=projector,
        audio_token_index=AUDIO,
        has_lora_adapter=False,
    )
    return GraniteSpeechForConditionalGeneration(config)


def granite_sounds(clips: list[int]) -> dict[str, Tensor]:
    """Frames of the encoder; three tokens of each 15, the last ones padded."""
    width = max(clips)
    sounds = torch.zeros(len(clips), width, 8)
    for i, n in enumerate(clips):
        sounds[i, :n] = torch.randn(n, 8, generator=torch.Generator().manual_seed(n))
    tokens = torch.tensor([granite_tokens(n) for n in clips])
    mask = torch.arange(granite_tokens(width)) < tokens[:, None]
    return {"input_features": sounds, "input_features_mask": mask}


def granite_tokens(n: int) -> int:
    return -(-n // 15) * 3


def phi4() -> Any:
    audio = {"hidden_size": 16, "intermediate_size": 16, "num_blocks": 2, "num_attention_heads": 2, "input_size": 80}
    audio |= {"ext_pw_out_channel": 16, "depthwise_separable_out_channel": 16, "nemo_conv_channels": 8}
    audio |= {"audio_token_id": AUDIO, "initializer_range": 0.2}
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2}
    vision |= {"image_size": 28, "crop_size": 28, "image_token_id": 6}
    text = {k: v for k, v in _TEXT.items() if k != "head_dim"}
    rope = {"rope_theta": 1e4, "rope_type": "default", "partial_rotary_factor": 1.0}
    config = Phi4MultimodalConfig(
        **text, audio_config=audio, vision_config=vision, original_max_position_embeddings=512, rope_parameters=rope
    )
    return Phi4MultimodalForCausalLM(config)


def phi4_sounds(clips: list[int]) -> dict[str, Tensor]:
    width = max(clips)
    sounds, mask = torch.zeros(len(clips), width, 80), torch.zeros(len(clips), width, dtype=torch.bool)
    for i, n in enumerate(clips):
        sounds[i, :n] = torch.randn(n, 80, generator=torch.Generator().manual_seed(n))
        mask[i, :n] = True
    sizes = torch.tensor([phi4_tokens(n) for n in clips])
    return {"audio_input_features": sounds, "audio_embed_sizes": sizes, "audio_attention_mask": mask}


def phi4_tokens(n: int) -> int:
    return -(-n // 8)


_ROPE = {"rope_type": "default", "rope_theta": 1e4}
_GEMMA = {
    **_TEXT,
    "rope_parameters": {"sliding_attention": _ROPE, "full_attention": _ROPE},
    "sliding_window": 64,
    "bos_token_id": 2,
    "tie_word_embeddings": True,
    "layer_types": ["sliding_attention", "full_attention"],
    "hidden_size_per_layer_input": 4,
    "vocab_size_per_layer_input": 48,
    "num_kv_shared_layers": 0,
}


class _Blind:
    """transformers' AutoModel, but for pictures."""

    @staticmethod
    def from_config(config: Any) -> Any:
        return nn.Identity() if config.model_type == "gemma3n_vision" else AutoModel.from_config(config)


def gemma3n() -> Any:
    text = {**_GEMMA, "laurel_rank": 4, "altup_num_inputs": 2, "activation_sparsity_pattern": [0.0, 0.0], "head_dim": 8}
    audio = {"vocab_size": 8, "vocab_offset": 56, "input_feat_size": 16, "hidden_size": 16}
    audio |= {"conf_num_attention_heads": 2, "conf_num_hidden_layers": 1, "sscp_conv_channel_size": [4, 4]}
    config = Gemma3nConfig(
        text_config=text,
        audio_config=audio,
        vision_config={"vocab_size": 8, "vocab_offset": 48, "hidden_size": 16},
        audio_soft_tokens_per_image=12,
        audio_token_id=57,
        image_token_id=49,
        boa_token_id=10,
        eoa_token_id=56,
        boi_token_id=11,
        eoi_token_id=48,
    )
    # Its vision tower needs timm; no picture is shown to this one.
    with mock.patch.object(modeling_gemma3n, "AutoModel", _Blind):
        return Gemma3nForConditionalGeneration(config)


def gemma4() -> Any:
    audio = Gemma4AudioConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        subsampling_conv_channels=[16, 4],
        output_proj_dims=16,
    )
    text = {**_GEMMA, "use_bidirectional_attention": None, "vocab_size_per_layer_input": WORDS}
    ids = {"audio_token_id": AUDIO, "image_token_id": 6, "video_token_id": 7, "boa_token_id": 8, "eoa_token_index": 9}
    return Gemma4ForConditionalGeneration(
        Gemma4Config(text_config=text, audio_config=audio, vision_config=None, boi_token_id=10, eoi_token_id=11, **ids)
    )


def gemma_sounds(clips: list[int], mels: int = 16) -> dict[str, Tensor]:
    width = max(clips)
    sounds, mask = torch.zeros(len(clips), width, mels), torch.zeros(len(clips), width, dtype=torch.bool)
    for i, n in enumerate(clips):
        sounds[i, :n] = torch.randn(n, mels, generator=torch.Generator().manual_seed(n))
        mask[i, :n] = True
    return {"input_features": sounds, "input_features_mask": mask}


def gemma4_tokens(n: int) -> int:
    return ((n + 1) // 2 + 1) // 2


def vibevoice() -> Any:
    tokenizer = {"hidden_size": 8, "num_filters": 4, "downsampling_ratios": [4, 5], "depths": [1, 1, 1]}
    tokenizer |= {"model_type": "vibevoice_acoustic_tokenizer_encoder", "initializer_range": 0.2}
    config = VibeVoiceAsrConfig(
        acoustic_tokenizer_encoder_config=tokenizer,
        semantic_tokenizer_encoder_config={**tokenizer, "hidden_size": 12},
        text_config={**_TEXT, "model_type": "qwen2"},
        audio_token_id=AUDIO,
        audio_bos_token_id=8,
        audio_eos_token_id=9,
    )
    return VibeVoiceAsrForConditionalGeneration(config)


def vibevoice_sounds(clips: list[int]) -> dict[str, Tensor]:
    width = -(-max(clips) // 20) * 20
    sounds, mask = torch.zeros(len(clips), 1, width), torch.zeros(len(clips), width, dtype=torch.bool)
    for i, n in enumerate(clips):
        sounds[i, 0, :n] = torch.randn(n, generator=torch.Generator().manual_seed(n))
        mask[i, :n] = True
    return {"input_values": sounds, "padding_mask": mask, "sample": False}


@dataclass(frozen=True)
class FeatureFamily:
    """As `audio_lms.Family`; audio: the placeholder, `real`: how many of a clip's placeholders are no padding."""

    build: Callable[[], Any]
    features: Callable[[list[int]], dict[str, Any]]
    tokens: Callable[[int], int]
    clips: tuple[int, ...]
    audio: int = AUDIO
    real: Callable[[int], int] | None = None


FAMILIES = {
    "granite_speech": FeatureFamily(granite, granite_sounds, granite_tokens, (60, 47, 30)),
    "phi4": FeatureFamily(phi4, phi4_sounds, phi4_tokens, (120, 97, 64)),
    "gemma3n": FeatureFamily(gemma3n, gemma_sounds, lambda n: 12, (190, 120, 80), audio=57, real=lambda n: -(-n // 16)),
    "gemma4": FeatureFamily(gemma4, gemma_sounds, gemma4_tokens, (60, 47, 30)),
    "vibevoice_asr": FeatureFamily(vibevoice, vibevoice_sounds, lambda n: -(-n // 20), (300, 240, 205)),
}


def build(name: str) -> Any:
    """The model of a family, always the same, in evaluation mode."""
    torch.manual_seed(7)
    return FAMILIES[name].build().eval()


def ask(name: str, prompts: list[list[int | str]]) -> dict[str, Any]:
    """A batch of prompts, padded on the left: words by their numbers, and clips by their frames, written "47"."""
    family, rows, clips = FAMILIES[name], [], []
    for prompt in prompts:
        ids: list[int] = []
        for part in prompt:
            if isinstance(part, str):
                clips.append(int(part))
                ids += [family.audio] * family.tokens(int(part))
            else:
                ids.append(part)
        rows.append(ids)
    longest = max(map(len, rows))
    whole = torch.tensor([[PAD] * (longest - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    return {"input_ids": whole, "attention_mask": mask, **(family.features(clips) if clips else {})}
