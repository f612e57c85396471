"""Config of an AudioMAE."""

from __future__ import annotations

import importlib
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig


@strict
class AudioMAEConfig(PreTrainedConfig):
    """Shape of an AudioMAE. The defaults are the published ViT-Base for ten-second clips.

    max_length: frames of 10 ms in a spectrogram; with 16×16 patches, max_length / 16 columns of tokens.
    num_mel_bins: mel channels; num_mel_bins / patch_size rows of tokens.
    mask_ratio, norm_pix_loss, decoder_*: only for pre-training (`AudioMAEForPreTraining`).
    """

    model_type = "audiomae"

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float | int = 0.0
    attention_probs_dropout_prob: float | int = 0.0
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-6
    patch_size: int = 16
    qkv_bias: bool = True
    max_length: int = 1024
    num_mel_bins: int = 128
    mask_ratio: float = 0.8
    norm_pix_loss: bool = True
    decoder_hidden_size: int = 512
    decoder_num_hidden_layers: int = 8
    decoder_num_attention_heads: int = 16
    decoder_intermediate_size: int = 2048

    def __post_init__(self, **kwargs: Any) -> None:
        # After a config, a model is usually made, possibly by an Auto class, which must know our models by then.
        importlib.import_module(".audiomae", __package__)
        super().__post_init__(**kwargs)

    @property
    def grid(self) -> tuple[int, int]:
        """Patches along (time, frequency)."""
        return self.max_length // self.patch_size, self.num_mel_bins // self.patch_size
