"""Whisper's encoder, bare or with a classification head: always 30 s of sound, 1500 tokens."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.whisper.modeling_whisper import (
    WhisperEncoder,
    WhisperEncoderLayer,
    WhisperForAudioClassification,
    WhisperModel,
)
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from ...core.tokens import Grid, Reducer
from ..base import Adapter, register_adapter
from .adapter import BlockAdapter, constant_tail, refuse_samples
from .entering import KWARG, Entering
from .refusals import check_layerdrop, find_encoders
from .speech_blocks import PooledHead, classify
from .swapped import SwappedModel
from .token_pass import TokenPass

FRAMES_PER_TOKEN = 2
FLOOR = -1.5
"""Log-mel energy of silence."""
EDGE = 8
"""Frames of padding at each of its ends, more than the convolutions reach."""


class PrunedWhisperLayer(WhisperEncoderLayer):
    """A Whisper block that drops tokens between its attention and its feed-forward."""

    _audioprune_index: int

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Any = None,
        *,
        token_pass: TokenPass | None = None,
        **kwargs: Any,
    ) -> Tensor:
        if token_pass is None:  # a block that is called outside its encoder
            return super().forward(hidden_states, attention_mask, **kwargs)
        hidden_states, call = token_pass.enter(self._audioprune_index, hidden_states)
        attended, _ = self.self_attn(
            self.self_attn_layer_norm(hidden_states), attention_mask=None, attention_call=call, **kwargs
        )
        hidden_states = hidden_states + F.dropout(attended, self.dropout, self.training)
        hidden_states = token_pass.reduce(self._audioprune_index, hidden_states, call)
        inner = self.activation_fn(self.fc1(self.final_layer_norm(hidden_states)))
        inner = self.fc2(F.dropout(inner, self.activation_dropout, self.training))
        hidden_states = hidden_states + F.dropout(inner, self.dropout, self.training)
        if hidden_states.dtype == torch.float16:
            most = torch.finfo(torch.float16).max - 1000
            hidden_states = hidden_states.clamp(-most, most)
        return token_pass.leave(self._audioprune_index, hidden_states)


class PrunedWhisper(PooledHead, WhisperForAudioClassification):
    """A classification head that averages over the kept tokens."""

    @can_return_tuple
    def with_pass(
        self: Any,
        input_features: Tensor | None = None,
        encoder_outputs: Any = None,
        labels: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        if encoder_outputs is not None:
            raise ValueError("encoder_outputs: their tokens are unknown; give input_features while the model is pruned")
        return classify(self, self.encoder(input_features, **kwargs), kwargs[KWARG], labels)


class PrunedWhisperEncoder(Entering, SwappedModel, WhisperEncoder):
    """An encoder that does not convolve over padding again and again."""

    def with_pass(self: Any, *args: Any, **kwargs: Any) -> Any:
        own = super(Entering, self).forward
        return _encode(self, *args, **kwargs) if own.__func__ is WhisperEncoder.forward else own(*args, **kwargs)


@merge_with_config_defaults
@capture_outputs
def _encode(encoder: Any, input_features: Tensor, attention_mask: Any = None, **kwargs: Any) -> BaseModelOutput:
    """The encoder's own forward, but for its convolutions. input_features: (batch, mels, frames)."""
    # By a call, since accelerate brings offloaded weights for one.
    positions = torch.arange(encoder.config.max_source_positions, device=input_features.device)
    hidden_states = convolve(encoder, input_features) + encoder.embed_positions(positions)
    hidden_states = F.dropout(hidden_states, encoder.dropout, encoder.training)
    for layer in encoder.layers:
        if not (encoder.training and encoder.layerdrop > 0.0 and torch.rand([]) < encoder.layerdrop):
            hidden_states = layer(hidden_states, None, **kwargs)
    return BaseModelOutput(last_hidden_state=encoder.layer_norm(hidden_states))


def convolve(encoder: Any, features: Tensor) -> Tensor:
    """Whisper's two convolutions: (batch, mels, frames) → (batch, frames / 2, width).

    Padding is constant, and so is what the convolutions make of it, but for its edges. All but these is left out, and
    put back as copies. Raises `ValueError` for features of another length.
    """
    frames = FRAMES_PER_TOKEN * encoder.config.max_source_positions
    if features.shape[-1] != frames or features.shape[1] != encoder.config.num_mel_bins:
        raise ValueError(
            f"input_features are {tuple(features.shape)}, but this model takes (batch, "
            f"{encoder.config.num_mel_bins}, {frames}); use the feature extractor that belongs to it"
        )
    # Frames that the convolutions of the sound reach into, and those of the end.
    begin, end = min(frames, _sound_of(features) + EDGE), frames - EDGE
    short = features if begin >= end else torch.cat((features[..., :begin], features[..., end:]), dim=2)
    tokens = F.gelu(encoder.conv2(F.gelu(encoder.conv1(short)))).transpose(1, 2)
    if begin >= end:
        return tokens
    place = torch.arange(frames // FRAMES_PER_TOKEN, device=tokens.device)
    first, last = begin // FRAMES_PER_TOKEN - 1, end // FRAMES_PER_TOKEN
    return tokens[:, torch.where(place < last, place.clamp_max(first), place - last + first + 1)]


def _sound_of(features: Tensor) -> int:
    """Frames before the padding of the longest clip, rounded up to whole tokens."""
    if features.is_meta or torch.compiler.is_compiling():  # a graph does not look at the sound
        return features.shape[-1]
    frames = features.shape[-1] - int(constant_tail(features.transpose(1, 2)).sum(dim=1).min())
    return frames + frames % FRAMES_PER_TOKEN


@register_adapter
class WhisperAdapter(BlockAdapter):
    family = "Whisper's encoder (WhisperEncoder, WhisperForAudioClassification)"
    special = 0
    pads = True
    frames: int
    swaps: ClassVar = {
        WhisperEncoderLayer: PrunedWhisperLayer,
        WhisperEncoder: PrunedWhisperEncoder,
        WhisperForAudioClassification: PrunedWhisper,
    }

    def __init__(self, encoder: Any) -> None:
        self.encoder = encoder
        self.layers = self.tower.layers
        self.frames = FRAMES_PER_TOKEN * encoder.config.max_source_positions
        self.grid = Grid(encoder.config.max_source_positions, 1, frequency_major=False)

    @classmethod
    def find(cls, model: nn.Module) -> list[Adapter]:
        if any(isinstance(module, WhisperModel) for module in model.modules()):
            return []  # with a decoder: TranscriberAdapter
        encoders = find_encoders(model, (WhisperForAudioClassification,), (WhisperEncoder,))
        return [cls(encoder) for encoder in encoders]

    @property
    def tower(self) -> Any:
        return self.encoder if isinstance(self.encoder, WhisperEncoder) else self.encoder.encoder

    @property
    def pooled_by(self) -> nn.Module | None:
        return None if self.encoder is self.tower else self.encoder.projector

    @property
    def mlp_width(self) -> int:
        return self.encoder.config.encoder_ffn_dim

    @property
    def embeddings(self) -> list[nn.Module]:
        return [self.tower.conv1, self.tower.conv2, self.tower.embed_positions]

    def clip_shape(self, samples: int | None) -> tuple[int, ...]:
        refuse_samples(self, samples)
        return (self.encoder.config.num_mel_bins, self.frames)

    def silence(self) -> dict[str, Tensor]:
        """Log-mel features of a clip without sound: the extractor's floor, (log10(1e-10) + 4) / 4, everywhere."""
        weight = self.tower.conv1.weight
        return {self.tower.main_input_name: weight.new_full((1, *self.clip_shape(None)), FLOOR)}

    def attention_of(self, layer: Any) -> Any:
        return layer.self_attn

    def check_input(self, kwargs: dict[str, Any], reducer: Reducer) -> None:
        # An attention_mask is no problem: Whisper accepts it but does not use it.
        if self.tower.training:
            check_layerdrop("model.encoder.layerdrop", self.tower.layerdrop, reducer)

    def padding(self, kwargs: dict[str, Any]) -> Tensor:
        """Tokens whose log-mel frames are all of the constant tail, or of what an `attention_mask` leaves out."""
        features = kwargs[self.encoder.main_input_name]
        tail, mask = constant_tail(features.transpose(1, 2)), kwargs.get("attention_mask")
        if mask is not None and mask.shape == tail.shape:
            tail = tail | constant_tail(mask) & (mask == 0)
        return tail.unflatten(1, (-1, FRAMES_PER_TOKEN)).all(dim=2)

    def patch_statistics(self, kwargs: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each token's two log-mel frames (the stride of the second convolution)."""
        features = kwargs[self.encoder.main_input_name].float()
        cells = features.unflatten(2, (-1, FRAMES_PER_TOKEN)).transpose(1, 2).flatten(2)
        return cells.mean(dim=2), cells.std(dim=2, correction=0)
