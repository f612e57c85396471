"""Whisper with its decoder, which reads what the pruned encoder leaves.

The decoder may need every moment of the sound: for timestamps, for words' times, and for its own idea of where the
sound ends. So the encoder's output stands for all positions again: each merged token at every position that it came
from. The decoder does not have to read it so often: a token at s positions weighs as much in its attention as one token
whose logits are raised by log(s). That is the same function, with fewer keys.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers.cache_utils import DynamicCache
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.whisper.modeling_whisper import (
    WhisperAttention,
    WhisperDecoder,
    WhisperDecoderLayer,
    WhisperEncoder,
    WhisperEncoderLayer,
    WhisperModel,
)
from transformers.utils.generic import can_return_tuple

from ...core import neighbours, ops
from ...core.stages import holders
from ...core.tokens import MethodTraits
from ..base import Adapter, register_adapter
from .entering import KWARG, Entering
from .swapped import SwappedModel
from .token_pass import TokenPass
from .whisper import PrunedWhisperEncoder, PrunedWhisperLayer, WhisperAdapter


@dataclass
class MergedEncoderOutput(BaseModelOutput):
    """Output of a pruned encoder.

    last_hidden_state: (batch, positions, width), as unpruned: each position has the token that stands for it, or the
    one before it if it was forgotten. tokens: (batch, n, width), what the decoder reads. size: (batch, n), how many
    positions each counts for, 0 for filler; None if all count once. holder: (batch, positions), the token of each
    position, -1 if it was forgotten.
    """

    # Tensors and no object, so that `generate` repeats them for its beams.
    tokens: Tensor | None = None
    size: Tensor | None = None
    holder: Tensor | None = None

    @property
    def count(self) -> int:
        return 0 if self.tokens is None else self.tokens.shape[1]

    def to_tuple(self) -> tuple[Any, ...]:
        return BaseModelOutput(self.last_hidden_state, self.hidden_states, self.attentions).to_tuple()


@dataclass(frozen=True)
class CrossTokens:
    """What the decoder's attention must know of its keys: size and holder, as in `MergedEncoderOutput`."""

    size: Tensor | None
    holder: Tensor

    def bias(self, dtype: torch.dtype) -> Tensor | None:
        """What is added to the logits of each key, (batch, 1, 1, n)."""
        if self.size is None:
            return None
        # In half precision the logarithm of a large size would be rounded twice.
        return self.size.to(torch.promote_types(dtype, torch.float32)).log().to(dtype)[:, None, None]

    def spread(self, weights: Tensor) -> Tensor:
        """Attention to each token → to each position, of which each has an equal share of its token's:
        (batch, heads, queries, n) → (batch, heads, queries, positions)."""
        shares = weights if self.size is None else weights / self.size.clamp_min(1)[:, None, None]
        holder = self.holder[:, None, None].expand(*weights.shape[:3], -1)
        return (shares.gather(3, holder.clamp_min(0)) * (holder >= 0)).to(weights.dtype)


class PrunedSpeechEncoder(Entering, SwappedModel, WhisperEncoder):
    """An encoder whose output stands for all positions."""

    @can_return_tuple
    def with_pass(self: Any, *args: Any, **kwargs: Any) -> Any:
        output = PrunedWhisperEncoder.with_pass(self, *args, **kwargs, return_dict=True)
        return _merged(output, kwargs[KWARG])


def _merged(output: BaseModelOutput, token_pass: TokenPass) -> BaseModelOutput:
    if not token_pass.stages:  # layer drop skipped them all
        return output
    tokens, state = output.last_hidden_state, token_pass.final
    assert tokens is not None
    assert token_pass.grid is not None
    stages = [token_pass.stages[place] for place in sorted(token_pass.stages)]
    holder = list(holders(stages, token_pass.grid.patches))[-1]
    size = state.size
    if state.real is not None:
        size = state.real.float() if size is None else size * state.real
    # A position that was forgotten has what stands before it.
    last = neighbours.last_true(holder >= 0)
    full = ops.gather_tokens(tokens, holder.gather(1, last).clamp_min(0))
    return MergedEncoderOutput(full, output.hidden_states, output.attentions, tokens, size, holder)


class PrunedCrossAttention(WhisperAttention):
    """The decoder's attention to the encoder's tokens, of which each counts for as many positions as it stands for."""

    def forward(
        self,
        hidden_states: Tensor,
        key_value_states: Tensor | None = None,
        past_key_values: Any = None,
        attention_mask: Tensor | None = None,
        output_attentions: bool = False,
        cross_tokens: CrossTokens | None = None,
        **kwargs: Any,
    ) -> Any:
        if cross_tokens is not None:
            attention_mask = cross_tokens.bias(hidden_states.dtype)
        context, weights, *_ = super().forward(
            hidden_states, key_value_states, past_key_values, attention_mask, output_attentions, **kwargs
        )
        return context, weights if weights is None or cross_tokens is None else cross_tokens.spread(weights)


class PrunedWhisperModel(SwappedModel, WhisperModel):
    """Encoder and decoder, of which the latter reads the merged tokens."""

    @functools.wraps(WhisperModel.forward)  # a Trainer reads the signature
    @can_return_tuple
    def forward(  # type: ignore[override]
        self,
        input_features: Tensor | None = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        encoder_outputs: Any = None,
        past_key_values: Any = None,
        decoder_inputs_embeds: Tensor | None = None,
        decoder_position_ids: Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        if encoder_outputs is None:
            assert input_features is not None
            masked: Any = attention_mask  # SpecAugment, in training
            input_features = self._mask_input_features(input_features, attention_mask=masked)
            encoder_outputs = self.encoder(input_features, attention_mask=attention_mask, **kwargs)
        read = encoder_outputs
        if isinstance(encoder_outputs, MergedEncoderOutput) and self._can_read(encoder_outputs, past_key_values):
            assert encoder_outputs.holder is not None
            read = BaseModelOutput(encoder_outputs.tokens, encoder_outputs.hidden_states, encoder_outputs.attentions)
            kwargs["cross_tokens"] = CrossTokens(encoder_outputs.size, encoder_outputs.holder)
        output = super().forward(
            decoder_input_ids=decoder_input_ids,
            decoder_attention_mask=decoder_attention_mask,
            encoder_outputs=read,
            past_key_values=past_key_values,
            decoder_inputs_embeds=decoder_inputs_embeds,
            decoder_position_ids=decoder_position_ids,
            use_cache=use_cache,
            return_dict=True,
            **kwargs,
        )
        output.encoder_last_hidden_state = encoder_outputs[0]
        return output

    def _can_read(self, merged: MergedEncoderOutput, past_key_values: Any) -> bool:
        """Whether the decoder can read merged tokens; all positions are always right.

        A static cache has a place for each position, and flash attention takes no bias. A decoder that is not
        transformers' own may not pass sizes on."""
        if self.decoder.config._attn_implementation not in ("eager", "sdpa", None) or not self._passes_sizes_on():
            return False
        cross = getattr(past_key_values, "cross_attention_cache", None)
        if cross is None:
            return True
        # Keys that were cached before this model was pruned, or at another rate, are of other tokens.
        return isinstance(cross, DynamicCache) and cross.get_seq_length() in (0, merged.count)

    def _passes_sizes_on(self) -> bool:
        """Whether the sizes reach each attention to the encoder: no part is of another class, or wrapped."""
        parts: list[tuple[Any, type]] = [(self.decoder, WhisperDecoder)]
        for layer in self.decoder.layers:
            parts += [(layer, WhisperDecoderLayer), (getattr(layer, "encoder_attn", None), PrunedCrossAttention)]
        return all(type(part) is kind and "forward" not in vars(part) for part, kind in parts)


@register_adapter
class TranscriberAdapter(WhisperAdapter):
    """Connects pruning to the encoder of a Whisper that has its decoder."""

    is_decoded = True
    family = "Whisper (WhisperForConditionalGeneration, WhisperModel)"
    swaps: ClassVar = {
        WhisperEncoderLayer: PrunedWhisperLayer,
        WhisperEncoder: PrunedSpeechEncoder,
        WhisperModel: PrunedWhisperModel,
    }

    def __init__(self, whisper: WhisperModel) -> None:
        super().__init__(whisper.encoder)
        self._whisper = whisper

    @classmethod
    def find(cls, model: nn.Module) -> list[Adapter]:
        return [cls(module) for module in model.modules() if isinstance(module, WhisperModel)]

    @property
    def root(self) -> nn.Module:
        return self._whisper

    def swap_of(self, module: nn.Module) -> type[nn.Module] | None:
        layers: Any = self._whisper.decoder.layers
        if type(module) is WhisperAttention and any(layer.encoder_attn is module for layer in layers):
            return PrunedCrossAttention
        return super().swap_of(module)

    def further_inputs(self, batch: int) -> dict[str, Tensor]:
        """The word with which a transcript begins."""
        return {"decoder_input_ids": torch.full((batch, 1), self.encoder.config.decoder_start_token_id)}

    def check_method(self, method: MethodTraits) -> None:
        super().check_method(method)
        if method.learns:
            raise ValueError(
                f"{type(method).__name__} learns which tokens to keep from a classifier's labels; use a method that "
                'does not learn, such as PaddingMerge() or AToMe(0.9, layers="all")'
            )
