"""One tiny model of every family that can be pruned. A new family is listed here once and meets every method."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from transformers import (
    ASTConfig,
    ASTForAudioClassification,
    Data2VecAudioConfig,
    Data2VecAudioForSequenceClassification,
    HubertConfig,
    HubertForSequenceClassification,
    PreTrainedModel,
    UniSpeechConfig,
    UniSpeechForSequenceClassification,
    Wav2Vec2Config,
    Wav2Vec2ForSequenceClassification,
    WhisperConfig,
    WhisperForAudioClassification,
    WhisperForConditionalGeneration,
)

from audioprune.models.ast import ASTMeanPooledForAudioClassification
from audioprune.models.audiomae import AudioMAEConfig, AudioMAEForAudioClassification

SHAPE = {
    "hidden_size": 48,
    "num_attention_heads": 4,
    "num_hidden_layers": 4,
    "intermediate_size": 96,
    "max_length": 128,
    "num_labels": 11,
}


def _random(build: Callable[[], PreTrainedModel]) -> PreTrainedModel:
    """Weights large enough that attention is far from uniform and patches differ."""
    torch.manual_seed(0)
    model = build()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                scale = 0.25 if "proj" in name or "fc" in name else 0.1
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    return model


def audiomae(**changes: object) -> PreTrainedModel:
    return _random(lambda: AudioMAEForAudioClassification(AudioMAEConfig(**{**SHAPE, **changes})))


def ast(cls: type = ASTForAudioClassification, **changes: object) -> PreTrainedModel:
    strides = {"time_stride": 16, "frequency_stride": 16, "layer_norm_eps": 1e-6}
    return _random(lambda: cls(ASTConfig(**{**SHAPE, **strides, **changes})))


WAVEFORM = {
    "hidden_size": 48,
    "num_attention_heads": 4,
    "num_hidden_layers": 4,
    "intermediate_size": 96,
    "num_labels": 11,
    "classifier_proj_size": 32,
    "conv_dim": (32, 32, 32),
    "conv_kernel": (10, 3, 3),
    "conv_stride": (5, 4, 4),
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "hidden_dropout": 0.0,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
    "feat_proj_dropout": 0.0,
    "final_dropout": 0.0,
    "layerdrop": 0.0,
    "mask_time_prob": 0.0,
}
"""A token is 60 samples long, and there is one every 80."""

STABLE = {"do_stable_layer_norm": True, "feat_extract_norm": "layer"}


def waveform(cls: type[PreTrainedModel], config: type, **changes: object) -> PreTrainedModel:
    return _random(lambda: cls(config(**{**WAVEFORM, **changes})))


def wav2vec2(**changes: object) -> PreTrainedModel:
    return waveform(Wav2Vec2ForSequenceClassification, Wav2Vec2Config, **changes)


def data2vec(**changes: object) -> PreTrainedModel:
    changes = {"num_conv_pos_embeddings": 2, "conv_pos_kernel_size": 7, **changes}
    return waveform(Data2VecAudioForSequenceClassification, Data2VecAudioConfig, **changes)


def whisper(cls: type[PreTrainedModel] = WhisperForAudioClassification, **changes: object) -> PreTrainedModel:
    shape = {
        "d_model": 48,
        "encoder_attention_heads": 4,
        "encoder_layers": 4,
        "encoder_ffn_dim": 96,
        "decoder_attention_heads": 4,
        "decoder_layers": 1,
        "decoder_ffn_dim": 96,
        "max_source_positions": 64,
        "num_mel_bins": 16,
        "classifier_proj_size": 32,
        "num_labels": 11,
    }
    return _random(lambda: cls(WhisperConfig(**{**shape, **changes})))


def transcriber(**changes: object) -> PreTrainedModel:
    """Whisper with a decoder of 60 words."""
    words = {"vocab_size": 60, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    lengths = {"max_target_positions": 40, "begin_suppress_tokens": None, "decoder_layers": 2}
    return whisper(WhisperForConditionalGeneration, **{**words, **lengths, **changes})


SPECTROGRAM: dict[str, Callable[[], PreTrainedModel]] = {
    "audiomae": audiomae,
    "ast": ast,
    "ast-mp": lambda: ast(ASTMeanPooledForAudioClassification),
    "ast-overlapping": lambda: ast(time_stride=10, frequency_stride=10),
}

SPEECH: dict[str, Callable[[], PreTrainedModel]] = {
    "wav2vec2": wav2vec2,
    "wav2vec2-stable": lambda: wav2vec2(**STABLE),
    "hubert": lambda: waveform(HubertForSequenceClassification, HubertConfig),
    "data2vec": data2vec,
    "unispeech": lambda: waveform(UniSpeechForSequenceClassification, UniSpeechConfig),
    "whisper": whisper,
    "whisper-decoder": transcriber,
}

FAMILIES: dict[str, Callable[[], PreTrainedModel]] = {**SPECTROGRAM, **SPEECH}


def inputs_for(name: str) -> dict[str, Tensor]:
    """Three clips of about 64 tokens, as the family's forward takes them."""
    return speech_inputs(name) if name in SPEECH else {"input_values": _noise(3, 128, 128)}


def speech_inputs(name: str) -> dict[str, Tensor]:
    """Three clips of 64 tokens."""
    if name == "whisper-decoder":
        return {"input_features": _noise(3, 16, 128), "decoder_input_ids": torch.arange(3, 18).view(3, 5)}
    return {"input_features": _noise(3, 16, 128)} if name == "whisper" else {"input_values": _noise(3, 5120)}


def padded(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same clips with padding at their ends, of another length each."""
    name, clips = next(iter(inputs.items()))
    time, clips = -1 if name == "input_features" or clips.ndim == 2 else 1, clips.clone()
    for clip, share in zip(clips.transpose(time, -1), (0.6, 0.8, 0.7), strict=True):
        clip[..., round(clip.shape[-1] * (1 - share)) :] = -1.5
    return {**inputs, name: clips}


def _noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(7))
