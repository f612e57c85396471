"""Transformers over a waveform: Wav2Vec2, HuBERT, Data2VecAudio, UniSpeech and UniSpeech-SAT.

Their blocks, heads and convolutions are the same, under different names. A token is the output of the convolutions for
25 ms of sound, one every 20 ms. Clips differ in length, and the shorter ones of a batch are padded.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.data2vec import modeling_data2vec_audio as data2vec
from transformers.models.hubert import modeling_hubert as hubert
from transformers.models.unispeech import modeling_unispeech as unispeech
from transformers.models.unispeech_sat import modeling_unispeech_sat as unispeech_sat
from transformers.models.wav2vec2 import modeling_wav2vec2 as wav2vec2
from transformers.utils.output_capturing import capture_outputs

from ...core.tokens import Reducer
from ..base import Adapter, register_adapter
from .adapter import BlockAdapter, constant_tail
from .entering import Entering
from .refusals import check_layerdrop, find_encoders
from .speech_blocks import PooledHead, PostNorm, PreNorm
from .swapped import SwappedModel

STATES = "hidden_states"
"""First argument of a stack of blocks, which takes no waveform."""

BLOCKS = 10
"""Number of parts of a token's sound; their loudness gives its statistics."""


class PrunedHubertModel(Entering, SwappedModel, hubert.HubertModel):
    """HuBERT's base model, which does not pass further arguments on. Here they reach the blocks."""

    @capture_outputs(tie_last_hidden_states=False)
    def with_pass(
        self: Any,
        input_values: Tensor,
        attention_mask: Tensor | None = None,
        mask_time_indices: Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutput:
        features = self.feature_extractor(input_values).transpose(1, 2)
        if attention_mask is not None:
            attention_mask = self._get_feature_vector_attention_mask(features.shape[1], attention_mask)
        hidden_states = self._mask_hidden_states(self.feature_projection(features), mask_time_indices)
        return self.encoder(hidden_states, attention_mask=attention_mask, **kwargs)


class PrunedWav2Vec2Model(Entering, SwappedModel, wav2vec2.Wav2Vec2Model): ...


class PrunedData2VecModel(Entering, SwappedModel, data2vec.Data2VecAudioModel): ...


class PrunedUniSpeechModel(Entering, SwappedModel, unispeech.UniSpeechModel): ...


class PrunedUniSpeechSatModel(Entering, SwappedModel, unispeech_sat.UniSpeechSatModel): ...


# The stacks of blocks inside them, for callers with their own features.
class PrunedWav2Vec2Encoder(Entering, wav2vec2.Wav2Vec2Encoder): ...


class PrunedWav2Vec2StableEncoder(Entering, wav2vec2.Wav2Vec2EncoderStableLayerNorm): ...


class PrunedHubertEncoder(Entering, hubert.HubertEncoder): ...


class PrunedHubertStableEncoder(Entering, hubert.HubertEncoderStableLayerNorm): ...


class PrunedData2VecEncoder(Entering, data2vec.Data2VecAudioEncoder): ...


class PrunedUniSpeechEncoder(Entering, unispeech.UniSpeechEncoder): ...


class PrunedUniSpeechStableEncoder(Entering, unispeech.UniSpeechEncoderStableLayerNorm): ...


class PrunedUniSpeechSatEncoder(Entering, unispeech_sat.UniSpeechSatEncoder): ...


class PrunedUniSpeechSatStableEncoder(Entering, unispeech_sat.UniSpeechSatEncoderStableLayerNorm): ...


# One class for each, so that a swapped module is still an instance of its own family, and can be pickled.
class PrunedWav2Vec2Layer(PostNorm, wav2vec2.Wav2Vec2EncoderLayer): ...


class PrunedWav2Vec2StableLayer(PreNorm, wav2vec2.Wav2Vec2EncoderLayerStableLayerNorm): ...


class PrunedWav2Vec2(PooledHead, wav2vec2.Wav2Vec2ForSequenceClassification): ...


class PrunedHubertLayer(PostNorm, hubert.HubertEncoderLayer): ...


class PrunedHubertStableLayer(PreNorm, hubert.HubertEncoderLayerStableLayerNorm): ...


class PrunedHubert(PooledHead, hubert.HubertForSequenceClassification): ...


class PrunedData2VecLayer(PostNorm, data2vec.Data2VecAudioEncoderLayer): ...


class PrunedData2Vec(PooledHead, data2vec.Data2VecAudioForSequenceClassification): ...


class PrunedUniSpeechLayer(PostNorm, unispeech.UniSpeechEncoderLayer): ...


class PrunedUniSpeechStableLayer(PreNorm, unispeech.UniSpeechEncoderLayerStableLayerNorm): ...


class PrunedUniSpeech(PooledHead, unispeech.UniSpeechForSequenceClassification): ...


class PrunedUniSpeechSatLayer(PostNorm, unispeech_sat.UniSpeechSatEncoderLayer): ...


class PrunedUniSpeechSatStableLayer(PreNorm, unispeech_sat.UniSpeechSatEncoderLayerStableLayerNorm): ...


class PrunedUniSpeechSat(PooledHead, unispeech_sat.UniSpeechSatForSequenceClassification): ...


LAYERS = (
    PrunedWav2Vec2Layer,
    PrunedWav2Vec2StableLayer,
    PrunedHubertLayer,
    PrunedHubertStableLayer,
    PrunedData2VecLayer,
    PrunedUniSpeechLayer,
    PrunedUniSpeechStableLayer,
    PrunedUniSpeechSatLayer,
    PrunedUniSpeechSatStableLayer,
)
TOWERS = (
    PrunedWav2Vec2Model,
    PrunedHubertModel,
    PrunedData2VecModel,
    PrunedUniSpeechModel,
    PrunedUniSpeechSatModel,
)
STACKS = (
    PrunedWav2Vec2Encoder,
    PrunedWav2Vec2StableEncoder,
    PrunedHubertEncoder,
    PrunedHubertStableEncoder,
    PrunedData2VecEncoder,
    PrunedUniSpeechEncoder,
    PrunedUniSpeechStableEncoder,
    PrunedUniSpeechSatEncoder,
    PrunedUniSpeechSatStableEncoder,
)
HEADS = (PrunedWav2Vec2, PrunedHubert, PrunedData2Vec, PrunedUniSpeech, PrunedUniSpeechSat)


@register_adapter
class WaveformAdapter(BlockAdapter):
    family = "Wav2Vec2, HuBERT, Data2VecAudio, UniSpeech and UniSpeech-SAT (…Model, …ForSequenceClassification)"
    special = 0
    heads: ClassVar[tuple[type, ...]] = tuple(head.__bases__[-1] for head in HEADS)
    towers: ClassVar[tuple[type, ...]] = tuple(tower.__bases__[-1] for tower in TOWERS)
    swaps: ClassVar[dict[type[nn.Module], type[nn.Module]]] = {
        pruned.__bases__[-1]: pruned for pruned in (*LAYERS, *STACKS, *TOWERS, *HEADS)
    }

    def __init__(self, encoder: Any) -> None:
        self.encoder, self.layers = encoder, self._tower_of(encoder).encoder.layers

    @classmethod
    def find(cls, model: nn.Module) -> list[Adapter]:
        return [cls(encoder) for encoder in find_encoders(model, cls.heads, cls.towers)]

    @classmethod
    def _tower_of(cls, encoder: Any) -> Any:
        return encoder if isinstance(encoder, cls.towers) else encoder.base_model

    @property
    def tower(self) -> Any:
        return self._tower_of(self.encoder)

    @property
    def pooled_by(self) -> nn.Module | None:
        return None if self.encoder is self.tower else self.encoder.projector

    @property
    def embeddings(self) -> list[nn.Module]:
        return [self.tower.feature_extractor, self.tower.feature_projection, self.tower.encoder.pos_conv_embed]

    def clip_shape(self, samples: int | None) -> tuple[int, ...]:
        if samples is None:
            raise ValueError(
                f"{type(self.encoder).__name__} takes clips of any length, but the number of kept tokens is fixed in "
                "the graph; give the length of every clip, samples=80_000 for 5 s (--clip-seconds 5)"
            )
        if samples < 1:
            raise ValueError(f"samples is {samples}; it must be the length of every clip, 16,000 for a second")
        return (samples,)

    def patches_of(self, clip: tuple[int, ...]) -> int:
        return int(self._tokens_of(torch.tensor(clip))[0])

    def lengths(self, kwargs: dict[str, Any]) -> Tensor | None:
        # As the models do: they count the samples without padding, and assume that these are at the beginning.
        mask = kwargs.get("attention_mask")
        if mask is None:
            return None
        return mask.sum(dim=1) if STATES in kwargs else self._tokens_of(mask.sum(dim=1))

    def _tokens_of(self, samples: Tensor) -> Tensor:
        """Number of tokens of clips, (batch,), from their number of samples, (batch,)."""
        return self.tower._get_feat_extract_output_lengths(samples).long()

    def check_input(self, kwargs: dict[str, Any], reducer: Reducer) -> None:
        if self.tower.encoder.training:
            check_layerdrop("model.config.layerdrop", self.encoder.config.layerdrop, reducer)
        mask = kwargs.get("attention_mask")
        if mask is None:
            return
        if STATES in kwargs:
            self._check_token_mask(mask)
        else:
            self._check_mask(mask, kwargs[self.encoder.main_input_name])

    @staticmethod
    def _check_token_mask(mask: Tensor) -> None:
        """Check the mask (batch, tokens) of a stack of blocks that is called by itself."""
        if not bool(mask[:, :1].all()) or bool((mask[:, 1:].int() > mask[:, :-1].int()).any()):
            raise ValueError(
                "attention_mask has padding before tokens, or a row without tokens; while the model is pruned, padding "
                "must be at the end of each row"
            )

    def _check_mask(self, mask: Tensor, waveform: Tensor) -> None:
        if mask.shape != waveform.shape:
            raise ValueError(
                f"attention_mask is {tuple(mask.shape)}, but input_values are {tuple(waveform.shape)}; "
                "give one number for each sample, 1 for sound and 0 for padding"
            )
        tokens = self._tokens_of(mask.sum(dim=1))
        if (tokens < 1).any():
            clip = int(tokens.argmin())
            raise ValueError(
                f"attention_mask leaves {int(mask[clip].sum())} samples of clip {clip}, but one token needs "
                f"{self._window[0]}; leave the clip out, or unmask so many samples"
            )

    @property
    def _window(self) -> tuple[int, int]:
        """Number of samples of a token, and from one token to the next."""
        field, hop = 1, 1
        for kernel, stride in zip(self.encoder.config.conv_kernel, self.encoder.config.conv_stride, strict=True):
            field, hop = field + (kernel - 1) * hop, hop * stride
        return field, hop

    def padding(self, kwargs: dict[str, Any]) -> Tensor:
        if STATES in kwargs:
            raise ValueError(
                "the method looks for padding in the sound, but this stack of blocks gets only hidden states; call the "
                "model with the waveform"
            )
        field, hop = self._window
        return constant_tail(kwargs[self.encoder.main_input_name]).unfold(1, field, hop).all(dim=2)

    def patch_statistics(self, kwargs: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the loudness (log10 of the mean square) of ten parts of each token's sound."""
        if STATES in kwargs:
            raise ValueError(
                "the method ranks tokens by their sound, but this stack of blocks gets only hidden states; call the "
                "model with the waveform, or use a score that needs only tokens"
            )
        field, hop = self._window
        sound = kwargs[self.encoder.main_input_name].float().unfold(1, field, hop)
        parts = sound.tensor_split(min(BLOCKS, field), dim=2)
        loudness = torch.stack([(part.square().mean(dim=2) + 1e-10).log10() for part in parts], dim=2)
        return loudness.mean(dim=2), loudness.std(dim=2, correction=0)
