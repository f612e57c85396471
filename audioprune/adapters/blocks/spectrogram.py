"""Transformers over patches of a log-mel spectrogram: AST, its mean-pooled variant, and AudioMAE."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers.models.audio_spectrogram_transformer.modeling_audio_spectrogram_transformer import (
    ASTLayer,
    ASTModel,
)

from ...core.tokens import Grid, Reducer
from ...models.ast import ASTMeanPooledModel
from ...models.audiomae import AudioMAEModel
from ...models.pooling import MeanPooling
from ..base import Adapter, register_adapter
from .adapter import BlockAdapter, constant_tail, refuse_samples
from .entering import Entering
from .swapped import SwappedModel, weighted_mean
from .token_pass import TokenPass


class PrunedASTLayer(ASTLayer):
    """An AST block that drops tokens between its attention and its MLP.

    A loaded block gets this class by a swap, so state-dict keys, `isinstance`, output capture and gradient
    checkpointing do not change.
    """

    _audioprune_index: int

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        *,
        token_pass: TokenPass | None = None,
        **kwargs: Any,
    ) -> Tensor:
        if token_pass is None:  # a block that is called outside its encoder
            return super().forward(hidden_states, attention_mask, **kwargs)
        hidden_states, call = token_pass.enter(self._audioprune_index, hidden_states)
        residual = hidden_states
        hidden_states = self.layernorm_before(hidden_states)
        # The encoder's mask covers all patches; without padding it has no effect.
        hidden_states, _ = self.attention(hidden_states, None, attention_call=call, **kwargs)
        hidden_states = self.dropout(hidden_states) + residual
        hidden_states = token_pass.reduce(self._audioprune_index, hidden_states, call)
        residual = hidden_states
        hidden_states = self.mlp(self.layernorm_after(hidden_states))
        return token_pass.leave(self._audioprune_index, self.dropout(hidden_states) + residual)


class WeightedMeanPooling(MeanPooling):
    """Mean pooling that weights a token by its size (if merged) and its policy (if a method is learning)."""

    def forward(self, tokens: Tensor, *, token_pass: TokenPass | None = None, **_: Any) -> Tensor:
        weight = None if token_pass is None else token_pass.final_weight(tokens)
        return super().forward(tokens) if weight is None else weighted_mean(tokens, weight)


class PrunedASTModel(Entering, SwappedModel, ASTModel): ...


class PrunedASTMeanPooledModel(Entering, SwappedModel, ASTMeanPooledModel): ...


class PrunedAudioMAEModel(Entering, SwappedModel, AudioMAEModel): ...


class SpectrogramAdapter(BlockAdapter):
    """Base of the families whose blocks are transformers' AST blocks."""

    encoder_class: ClassVar[type[nn.Module]]
    swaps: ClassVar[dict[type[nn.Module], type[nn.Module]]] = {
        ASTLayer: PrunedASTLayer,
        MeanPooling: WeightedMeanPooling,
        ASTModel: PrunedASTModel,
        ASTMeanPooledModel: PrunedASTMeanPooledModel,
        AudioMAEModel: PrunedAudioMAEModel,
    }
    grid: Grid
    frames: int
    patch: tuple[int, int]
    stride: tuple[int, int]

    def __init__(self, encoder: Any) -> None:
        self.encoder, self.layers = encoder, encoder.layers
        self.frames = encoder.config.max_length

    @classmethod
    def find(cls, model: nn.Module) -> list[Adapter]:
        return [cls(module) for module in model.modules() if isinstance(module, cls.encoder_class)]

    @property
    def embeddings(self) -> list[nn.Module]:
        return [self.encoder.embeddings]

    def clip_shape(self, samples: int | None) -> tuple[int, ...]:
        refuse_samples(self, samples)
        return (self.frames, self.encoder.config.num_mel_bins)

    def check_input(self, kwargs: dict[str, Any], reducer: Reducer) -> None:
        if kwargs.get("kept") is not None:
            raise ValueError("kept: masked pre-training already hides patches; remove the pruning before it")
        mask = kwargs.get("attention_mask")
        if mask is not None and not bool((mask != 0).all()):
            raise ValueError(
                "attention_mask: the clips of these models have one fixed length, with padding, so there is nothing to "
                "mask; leave it out while the model is pruned"
            )

    def padding(self, kwargs: dict[str, Any]) -> Tensor:
        tail = constant_tail(kwargs[self.encoder.main_input_name])
        columns = tail.unfold(1, self.patch[0], self.stride[0]).all(dim=2)
        patch = torch.arange(self.grid.patches, device=tail.device)
        return columns[:, self.grid.column(patch)]

    def patch_statistics(self, kwargs: dict[str, Any]) -> tuple[Tensor, Tensor]:
        spectrogram = kwargs[self.encoder.main_input_name].float()
        patches = spectrogram.unfold(1, self.patch[0], self.stride[0]).unfold(2, self.patch[1], self.stride[1])
        if self.grid.frequency_major:
            patches = patches.transpose(1, 2)
        cells = patches.flatten(3).flatten(1, 2)
        return cells.mean(dim=2), cells.std(dim=2, correction=0)


@register_adapter
class ASTAdapter(SpectrogramAdapter):
    family = "Audio Spectrogram Transformer (ASTModel, ASTForAudioClassification, AST-MP)"
    encoder_class = ASTModel
    special = 2  # CLS and distillation

    def __init__(self, encoder: Any) -> None:
        super().__init__(encoder)
        config = encoder.config
        size = config.patch_size
        self.patch = (size, size) if isinstance(size, int) else (size[1], size[0])
        self.stride = (config.time_stride, config.frequency_stride)
        self.reads_cls = not isinstance(encoder, ASTMeanPooledModel)
        frequency, time = encoder.embeddings.get_shape(config)
        self.grid = Grid(time, frequency, frequency_major=True)


@register_adapter
class AudioMAEAdapter(SpectrogramAdapter):
    family = "AudioMAE (AudioMAEModel, AudioMAEForAudioClassification)"
    encoder_class = AudioMAEModel
    special = 1  # CLS

    def __init__(self, encoder: Any) -> None:
        super().__init__(encoder)
        self.patch = self.stride = (encoder.config.patch_size, encoder.config.patch_size)
        self.grid = Grid(encoder.config.grid[0], encoder.config.grid[1], frequency_major=False)
