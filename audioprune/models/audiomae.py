"""AudioMAE in transformers' form.

Masked Autoencoders that Listen (Huang et al., arXiv 2207.06405): a ViT over 16×16 patches of a log-mel spectrogram,
classified from the mean of its patch tokens. The blocks are transformers' own AST blocks.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import (
    ASTConfig,
    AutoConfig,
    AutoFeatureExtractor,
    AutoModel,
    AutoModelForAudioClassification,
    PreTrainedModel,
)
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling, SequenceClassifierOutput
from transformers.models.audio_spectrogram_transformer.modeling_audio_spectrogram_transformer import (
    ASTAttention,
    ASTLayer,
)
from transformers.utils.generic import can_return_tuple
from transformers.utils.output_capturing import capture_outputs

from ..audio.extractor import AudioMAEFeatureExtractor
from .audiomae_config import AudioMAEConfig
from .pooling import MeanPooling


class AudioMAEEmbeddings(nn.Module):
    """Embeddings of patches and CLS token, with fixed positions.

    Shapes: (batch, frames, mels) → (batch, 1 + time·frequency, width). Patches are time-major: patch t·F + f covers
    frames 16t … 16t + 15 and mel channels 16f … 16f + 15.
    """

    position_embeddings: Tensor

    def __init__(self, config: AudioMAEConfig) -> None:
        super().__init__()
        self.config = config
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.hidden_size))
        self.projection = nn.Conv2d(1, config.hidden_size, config.patch_size, stride=config.patch_size)
        # A buffer, because the positions are fixed: `from_pretrained` would make a parameter trainable.
        self.register_buffer("position_embeddings", sincos_positions(config).to(torch.get_default_dtype()))
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, input_values: Tensor, kept: Tensor | None = None) -> Tensor:
        """Embed the patches: (batch, 1 + n, width). `kept`: (batch, n), numbers of visible patches; None for all."""
        expected = (self.config.max_length, self.config.num_mel_bins)
        if input_values.ndim != 3 or tuple(input_values.shape[1:]) != expected:
            raise ValueError(
                f"input_values have shape {tuple(input_values.shape)}; this model takes (batch, {expected[0]} frames, "
                f"{expected[1]} mel channels): use LogMel(max_length={expected[0]})"
            )
        patches = self.projection(input_values.unsqueeze(1)).flatten(2).transpose(1, 2)
        patches = patches + self.position_embeddings[:, 1:]
        if kept is not None:
            patches = patches.gather(1, kept[..., None].expand(-1, -1, patches.shape[2]))
        cls = (self.cls_token + self.position_embeddings[:, :1]).expand(patches.shape[0], -1, -1)
        return self.dropout(torch.cat((cls, patches), dim=1))


class AudioMAEPreTrainedModel(PreTrainedModel):
    config: AudioMAEConfig
    config_class = AudioMAEConfig
    base_model_prefix = "audiomae"
    main_input_name = "input_values"
    input_modalities = ["audio"]  # noqa: RUF012
    supports_gradient_checkpointing = True
    _no_split_modules = ["AudioMAEEmbeddings", "ASTLayer"]  # noqa: RUF012
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {"hidden_states": ASTLayer, "attentions": ASTAttention}  # noqa: RUF012
    accepts_loss_kwargs = False
    """False, because losses are means over a batch, so a Trainer that accumulates gradients must divide them."""

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, AudioMAEEmbeddings):
            init.normal_(module.cls_token, std=0.02)
            init.copy_(module.position_embeddings, sincos_positions(module.config))


class AudioMAEModel(AudioMAEPreTrainedModel):
    """The encoder without a head. `pooler_output`: (batch, width), the mean of the last block's patch tokens."""

    def __init__(self, config: AudioMAEConfig) -> None:
        super().__init__(config)
        self.embeddings = AudioMAEEmbeddings(config)
        self.layers = nn.ModuleList([ASTLayer(cast(ASTConfig, config)) for _ in range(config.num_hidden_layers)])
        self.pooling = MeanPooling()
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.embeddings.projection

    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self,
        input_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        kept: Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPooling:
        """Run the encoder.

        `input_values`: (batch, frames, mels), normalised log-mel. `attention_mask` must be None: every clip is padded
        to the model's length, and the padding is part of the input, as in the authors' code. `kept`: (batch, n),
        numbers of the visible patches (for masked pre-training); None for all."""
        if input_values is None:
            raise ValueError("input_values are missing: pass the spectrogram, (batch, frames, mels)")
        if attention_mask is not None:
            raise ValueError("attention_mask: AudioMAE takes clips of one fixed length and has no mask; leave it out")
        hidden_states = self.embeddings(input_values, kept)
        for layer in self.layers:
            hidden_states = layer(hidden_states, None, **kwargs)
        pooled = self.pooling(hidden_states[:, 1:], **kwargs)
        return BaseModelOutputWithPooling(last_hidden_state=hidden_states, pooler_output=pooled)


class AudioMAEForAudioClassification(AudioMAEPreTrainedModel):
    """Classifier: mean of patch tokens, LayerNorm, linear head. `logits`: (batch, num_labels)."""

    def __init__(self, config: AudioMAEConfig) -> None:
        super().__init__(config)
        self.num_labels = cast(int, config.num_labels)
        self.audiomae = AudioMAEModel(config)
        self.fc_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.classifier = nn.Linear(config.hidden_size, self.num_labels)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_values: Tensor | None = None,
        labels: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> SequenceClassifierOutput:
        """Run the classifier.

        `labels`: (batch,) class indices for cross-entropy, or (batch, num_labels) floats for multi-label BCE."""
        outputs = self.audiomae(input_values, attention_mask=attention_mask, **kwargs)
        logits = self.classifier(self.fc_norm(outputs.pooler_output))
        loss = None if labels is None else self.loss_function(labels, logits, self.config, **kwargs)
        return SequenceClassifierOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )


def sincos_positions(config: AudioMAEConfig) -> Tensor:
    """Fixed 2-D sine-cosine positions, (1, 1 + time·frequency, width); zeros for CLS. Width is a multiple of 4."""
    time, frequency = config.grid
    quarter = config.hidden_size // 4
    if config.hidden_size % 4:
        raise ValueError(f"hidden_size is {config.hidden_size}; sine-cosine positions need a multiple of 4")
    rates = 10_000.0 ** -(torch.arange(quarter, dtype=torch.float64) / quarter)
    t, f = torch.meshgrid(torch.arange(time), torch.arange(frequency), indexing="ij")
    angles = [axis.flatten()[:, None] * rates for axis in (f, t)]
    table = torch.cat([wave(a) for a in angles for wave in (torch.sin, torch.cos)], dim=1)
    return torch.cat((torch.zeros(1, config.hidden_size), table.float()))[None]


AutoConfig.register(AudioMAEConfig.model_type, AudioMAEConfig, exist_ok=True)
AutoModel.register(AudioMAEConfig, AudioMAEModel, exist_ok=True)
AutoModelForAudioClassification.register(AudioMAEConfig, AudioMAEForAudioClassification, exist_ok=True)
AutoFeatureExtractor.register(AudioMAEConfig, AudioMAEFeatureExtractor, exist_ok=True)
