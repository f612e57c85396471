"""One tiny model of every family that can be pruned. A new family is listed here once and meets every method."""

from __future__ import annotations

from collections.abc import Callable

import torch
from transformers import ASTConfig, ASTForAudioClassification, PreTrainedModel

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


FAMILIES: dict[str, Callable[[], PreTrainedModel]] = {
    "audiomae": audiomae,
    "ast": ast,
    "ast-mp": lambda: ast(ASTMeanPooledForAudioClassification),
    "ast-overlapping": lambda: ast(time_stride=10, frequency_stride=10),
}
