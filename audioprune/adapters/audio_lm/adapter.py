"""Adapter of audio-language models: tokens are dropped once, between the audio encoder and the language model.

The model runs at its full length up to the call of its language model, while the encoder's last attention is recorded.
The inputs of that call are shortened, and then passed on as `inputs_embeds`.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ...core.tokens import MethodTraits, ModelShape, Reducer
from ..base import Adapter, UnsupportedModelError, register_adapter
from .attachment import PromptAttachment
from .entries import ENTRIES, INNER, REFUSED_LMS, AudioLMEntry
from .tap import TAP

FLOOR = -1.5
"""Log-mel energy of silence in Whisper's features, which these encoders hear."""
WINDOW = 3000
"""Log-mel frames of 30 s."""
IMAGES = ("pixel_values", "pixel_values_videos", "image_pixel_values", "mm_encoder_outputs")
"""Arguments that put images into a prompt."""


@register_adapter
class PromptAdapter(Adapter):
    """Connects pruning to an audio-language model. Its tokens are reduced once, to a number that does not depend on the
    sound.

    positions: "renumber" closes the gaps that dropped tokens leave in the position ids; "keep" does not change the ids.
    """

    family = (
        "audio-language models (" + ", ".join(name.removesuffix("ForConditionalGeneration") for name in ENTRIES) + ")"
    )
    special = 0
    positions: str = "renumber"

    def __init__(self, model: Any) -> None:
        self.encoder = model
        self.entry: AudioLMEntry = ENTRIES[type(model).__name__]

    @classmethod
    def find(cls, model: nn.Module) -> list[Adapter]:
        # By name: most of these classes are never imported.
        for module in model.modules():
            for kind in type(module).__mro__:
                reason = REFUSED_LMS.get(kind.__name__)
                if reason is not None and (reason is not INNER or module is model):
                    raise UnsupportedModelError(f"{kind.__name__} cannot be pruned: {reason}")
        return [cls(module) for module in model.modules() if type(module).__name__ in ENTRIES]

    @property
    def shape(self) -> ModelShape:
        config = self.encoder.config.get_text_config()
        return ModelShape(config.hidden_size, config.num_attention_heads, 1, 0, None)

    @property
    def audio_tower(self) -> Any:
        """The encoder of sounds; None if its attention cannot be reached."""
        return None if self.entry.tower is None else self.encoder.get_submodule(self.entry.tower)

    @property
    def last_attention(self) -> Any:
        """The encoder's last attention module; None if it cannot be recorded."""
        tower = self.audio_tower
        return None if tower is None else getattr(tower.layers[-1], self.entry.attention)

    @property
    def pads(self) -> bool:
        """Whether the encoder computes padding that may be skipped."""
        return self.entry.tower is not None and not self.entry.packed

    def skips_padding(self, merging: bool) -> bool:
        """Whether the encoder's padding is skipped now: where it is masked, or a method merges it (`merging`).

        In training, blocks may be left out (layer drop) or run again (gradient checkpointing): then padding that is
        masked is computed, and to merge it raises `ValueError`.
        """
        tower = self.audio_tower
        repeats = any(getattr(layer, "gradient_checkpointing", False) for layer in tower.layers)
        if tower.training and (repeats or getattr(tower, "layerdrop", 0.0) > 0):
            if merging:
                raise ValueError(
                    f"{type(self.encoder).__name__}: the padding of its encoder cannot be merged while its blocks are "
                    "left out or run again in training; turn layer drop and gradient checkpointing off, or merge none"
                )
            return False
        return merging or self.entry.masked

    def silence(self) -> dict[str, Tensor]:
        """Log-mel features of a window without sound, for the encoder."""
        config, weight = self.audio_tower.config, self.audio_tower.conv1.weight
        frames = 2 * getattr(config, "max_source_positions", WINDOW // 2)
        return {"input_features": weight.new_full((1, config.num_mel_bins, frames), FLOOR)}

    @property
    def audio_token(self) -> int:
        """Id of the audio placeholder token."""
        config = self.encoder.config
        return int(config.audio_token_id if hasattr(config, "audio_token_id") else config.audio_config.audio_token_id)

    @property
    def blank(self) -> Tensor | None:
        """Embedding of padding inside a clip, (width,); None if clips have no such padding."""
        return None if self.entry.blank is None else self.entry.blank(self.encoder)

    def check_method(self, method: MethodTraits) -> None:
        merging = [one for one in method.methods if one.before and "padding" in one.needs]
        if len(merging) > 1:
            raise ValueError(f"{method}: the padding of this model's encoder is merged once; give one such method")
        for one in method.methods:
            if one in merging:
                self._check_merging(one)
            else:
                self._check_traits(one)
                self._check_needs(one.needs)

    def _check_merging(self, method: MethodTraits) -> None:
        """Raise `ValueError` if a method cannot merge the padding of this model's encoder."""
        if not self.pads:
            raise ValueError(
                f"{method} merges padding, but the encoder of {type(self.encoder).__name__} "
                + ("has none" if self.entry.packed else "cannot be entered")
                + "; leave it out"
            )
        if method.layers not in ((0,), None):
            raise ValueError(
                f"layers is {method.layers!r}, but {type(method).__name__} acts before the first block of this model's "
                "encoder; leave layers out"
            )

    def _check_traits(self, method: MethodTraits) -> None:
        """Raise `ValueError` if the method cannot shorten an audio-language prompt."""
        name = type(method).__name__
        if method.layers not in (None, "all"):
            raise ValueError(
                f"layers is {method.layers!r}, but this model's tokens are reduced once, between its encoder and its "
                "language model; leave layers out"
            )
        if not method.static:
            raise ValueError(f"with {name}, the sound decides how many tokens stay; use a method that keeps exactly K")
        if method.appends:
            raise ValueError(
                f"{method} adds one token for all dropped tokens, which has no position in time; use "
                'TopK(…, dropped="merge")'
            )
        if method.build(self.shape) is not None:
            raise ValueError(f"{name} learns, block by block, which tokens to keep; use a method that does not learn")
        if method.before:
            raise ValueError(
                f"{method} acts before a block, but this model's tokens are reduced after its encoder; use a "
                "method that acts after attention, such as ToMe without before"
            )

    def _check_needs(self, needs: frozenset[str]) -> None:
        missing = needs - {"attention", "attention_heads", "keys"}
        if missing & {"cls", "cls_heads"}:
            raise ValueError(
                'this model\'s encoder has no CLS token whose attention could rank tokens; use score="attention"'
            )
        if missing:
            raise ValueError(
                f"{', '.join(sorted(missing))}: the encoder outputs of an audio-language model do not give this; "
                'use score="attention" or "random", or a method that compares tokens'
            )
        if needs & {"attention", "attention_heads"} and self.entry.tower is None:
            raise ValueError(
                f"{type(self.encoder).__name__}: the attention of its encoder cannot be reached, or its outputs are "
                "not frames of that attention; use a method that compares the tokens themselves, or one that needs no "
                'scores, such as average pooling or score="random" (docs/audio-language-models.md lists them)'
            )

    def check_input(self, kwargs: dict[str, Any]) -> None:
        """Raise `ValueError` for arguments that the model does not support while its prompt is shortened."""
        for name in IMAGES:
            if kwargs.get(name) is not None:
                raise ValueError(
                    f"{name}: prompts with images or video are not supported while the model is pruned; remove() the "
                    "handle, or leave them out"
                )
        mask = kwargs.get("attention_mask")
        if mask is not None and mask.ndim != 2:
            raise ValueError(
                f"attention_mask has shape {tuple(mask.shape)}; it must be (batch, length) while the model is pruned"
            )
        self.check_ids(kwargs)
        self.check_cache(kwargs)
        if isinstance(kwargs.get("logits_to_keep"), Tensor):
            raise ValueError("logits_to_keep: positions in the prompt change while it is pruned; give a number")

    def check_ids(self, kwargs: dict[str, Any]) -> None:
        """Raise `ValueError` without the ids of the prompt."""
        if kwargs.get("input_ids") is None:
            raise ValueError("input_ids are missing; give them, because they show where the sounds are in the prompt")

    def check_cache(self, kwargs: dict[str, Any]) -> None:
        """Raise `ValueError` if a prompt with sounds comes with the cache of an earlier turn."""
        cache, ids = kwargs.get("past_key_values"), kwargs.get("input_ids")
        if cache is None or ids is None or cache.get_seq_length() == 0:
            return
        if (ids == self.audio_token).any():
            raise ValueError(
                "past_key_values: the cache of an earlier call has the length of its shortened prompt, and does not "
                "fit the prompt with its sounds; give the whole conversation without the cache"
            )

    def attach(self, reducer: Reducer) -> PromptAttachment:
        self._check_attention()
        return PromptAttachment(self, reducer)

    def _check_attention(self) -> None:
        """Raise `UnsupportedModelError` if the last attention is used in several places or by another pruned model."""
        last_attention, name = self.last_attention, type(self.encoder).__name__
        if last_attention is None:
            return
        layers = self.encoder.get_submodule(self.entry.tower).layers
        if sum(getattr(layer, self.entry.attention) is last_attention for layer in layers) > 1:
            raise UnsupportedModelError(
                f"{name}: its audio encoder uses one block several times, so the attention of the last block cannot be "
                "recorded; give each place its own block (copy.deepcopy)"
            )
        if hasattr(last_attention, TAP):
            raise UnsupportedModelError(
                f"{name}: its audio encoder belongs to another model, which is pruned; remove() that model's handle "
                "first, or give this model its own copy (copy.deepcopy)"
            )
