"""Masked pre-training of an AudioMAE: most patches are hidden, and a small decoder reconstructs them.

Masked Autoencoders that Listen (Huang et al., arXiv 2207.06405): 80 % of the patches, chosen at random, do not enter
the encoder. The decoder gets the encoded rest, and a mask token for each hidden patch. The loss is the squared error of
the hidden patches, each normalised by its own mean and variance. The decoder here is a plain transformer (theirs
attends in local windows).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import ASTConfig, AutoModelForPreTraining
from transformers import initialization as init
from transformers.modeling_outputs import ModelOutput
from transformers.models.audio_spectrogram_transformer.modeling_audio_spectrogram_transformer import ASTLayer
from transformers.utils.generic import can_return_tuple

from .audiomae import AudioMAEConfig, AudioMAEModel, AudioMAEPreTrainedModel, sincos_positions


@dataclass
class AudioMAEForPreTrainingOutput(ModelOutput):
    """Output of the pre-training model.

    loss: scalar. logits: (batch, patches, patch_size²), predicted patches. mask: (batch, patches), 1 for hidden
    patches."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    mask: Tensor | None = None


class AudioMAEDecoder(nn.Module):
    """Decoder: encoded patches (batch, 1 + n, width) and their numbers (batch, n) → (batch, patches, patch_size²)."""

    position_embeddings: Tensor

    def __init__(self, config: AudioMAEConfig) -> None:
        super().__init__()
        self.config = decoder_config(config)
        width = self.config.hidden_size
        self.embed = nn.Linear(config.hidden_size, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.register_buffer("position_embeddings", sincos_positions(self.config).to(torch.get_default_dtype()))
        blocks = range(self.config.num_hidden_layers)
        self.layers = nn.ModuleList([ASTLayer(cast(ASTConfig, self.config)) for _ in blocks])
        self.norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.predict = nn.Linear(width, config.patch_size**2)

    def forward(self, hidden_states: Tensor, kept: Tensor) -> Tensor:
        hidden_states = self.embed(hidden_states)
        cls, visible = hidden_states[:, :1], hidden_states[:, 1:]
        patches = self.position_embeddings.shape[1] - 1
        places = self.mask_token.to(visible.dtype).expand(visible.shape[0], patches, -1)
        places = places.scatter(1, kept[..., None].expand_as(visible), visible)
        hidden_states = torch.cat((cls, places), dim=1) + self.position_embeddings
        for layer in self.layers:
            hidden_states = layer(hidden_states, None)
        return self.predict(self.norm(hidden_states[:, 1:]))


class AudioMAEForPreTraining(AudioMAEPreTrainedModel):
    """Encoder over the visible patches, and decoder over all patches.

    The encoder is `audiomae`, as in the classifier: `audioprune.load(folder, num_labels=…)` makes a classifier from a
    saved model."""

    def __init__(self, config: AudioMAEConfig) -> None:
        super().__init__(config)
        if not 0 < config.mask_ratio < 1:
            raise ValueError(
                f"mask_ratio is {config.mask_ratio}; it must be the share of hidden patches, between 0 and 1"
            )
        self.audiomae = AudioMAEModel(config)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.decoder = AudioMAEDecoder(config)
        self.post_init()

    def set_attn_implementation(self, *args: Any, **kwargs: Any) -> None:
        # The decoder's blocks have their own config, which transformers does not know.
        super().set_attn_implementation(*args, **kwargs)
        self.decoder.config._attn_implementation = self.config._attn_implementation

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, AudioMAEDecoder):
            init.normal_(module.mask_token, std=0.02)
            init.copy_(module.position_embeddings, sincos_positions(module.config))

    @can_return_tuple
    def forward(
        self, input_values: Tensor | None = None, noise: Tensor | None = None, **kwargs: Any
    ) -> AudioMAEForPreTrainingOutput:
        """Run the model.

        `input_values`: (batch, frames, mels). `noise`: (batch, patches); the patches with the smallest values are
        visible. None draws it from the current random state."""
        if input_values is None:
            raise ValueError("input_values are missing: pass the spectrogram, (batch, frames, mels)")
        target = self.patchify(input_values)
        if noise is None:
            noise = torch.rand(target.shape[:2], device=target.device)
        kept = noise.argsort(1)[:, : max(1, round((1 - self.config.mask_ratio) * target.shape[1]))]
        encoded = self.audiomae(input_values, kept=kept, **kwargs).last_hidden_state
        logits = self.decoder(self.norm(encoded), kept)
        mask = torch.ones_like(noise).scatter(1, kept, 0.0)
        return AudioMAEForPreTrainingOutput(loss=self.error(logits, target, mask), logits=logits, mask=mask)

    def patchify(self, input_values: Tensor) -> Tensor:
        """Cut spectrograms into patches: (batch, frames, mels) → (batch, patches, patch_size²).

        Patches are time-major, and the cells of a patch are ordered by frame."""
        side = self.config.patch_size
        return input_values.unfold(1, side, side).unfold(2, side, side).flatten(3).flatten(1, 2)

    def unpatchify(self, patches: Tensor) -> Tensor:
        """Invert `patchify`."""
        side, (time, frequency) = self.config.patch_size, self.config.grid
        cells = patches.unflatten(2, (side, side)).unflatten(1, (time, frequency))
        return cells.permute(0, 1, 3, 2, 4).reshape(-1, time * side, frequency * side)

    def error(self, logits: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        """Mean squared error of the hidden patches; each patch is normalised if `norm_pix_loss`."""
        if self.config.norm_pix_loss:
            target = normalised(target)[0]
        error = (logits.float() - target.float()).square().mean(2)
        return (error * mask).sum() / mask.sum()

    def reconstruct(self, input_values: Tensor, outputs: AudioMAEForPreTrainingOutput) -> Tensor:
        """Spectrograms (batch, frames, mels) with the visible patches and the predictions of the hidden ones.

        Predictions of normalised patches get the mean and deviation of the true patch, as is usual in such
        pictures."""
        target = self.patchify(input_values)
        drawn, mask = cast(Tensor, outputs.logits).to(target.dtype), cast(Tensor, outputs.mask)
        if self.config.norm_pix_loss:
            _, mean, deviation = normalised(target)
            drawn = drawn * deviation + mean
        return self.unpatchify(torch.where(mask[..., None] > 0, drawn, target))


def normalised(patches: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Patches with mean 0 and variance 1, and their means and deviations, (…, 1) each."""
    mean, variance = patches.mean(-1, keepdim=True), patches.var(-1, keepdim=True)
    deviation = (variance + 1e-6).sqrt()
    return (patches - mean) / deviation, mean, deviation


def decoder_config(config: AudioMAEConfig) -> AudioMAEConfig:
    """Config of the decoder's blocks."""
    decoder = copy.deepcopy(config)
    decoder.hidden_size = config.decoder_hidden_size
    decoder.num_hidden_layers = config.decoder_num_hidden_layers
    decoder.num_attention_heads = config.decoder_num_attention_heads
    decoder.intermediate_size = config.decoder_intermediate_size
    return decoder


AutoModelForPreTraining.register(AudioMAEConfig, AudioMAEForPreTraining, exist_ok=True)
