"""Changes in an audio-language model while it is pruned: its `forward` and `generate`, hooks, and an attention tap."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ...core.tokens import Reducer
from ..base import Attachment
from ..replacement import Replacement
from .encoder_padding import EncoderCall, EncoderPadding
from .generation import generate_shorter, take_embeddings
from .shortening import PER_LAYER, EncodedPrompt, Shortening, is_shortening, stop_at_language_model
from .spans import PROMPT, real_frames
from .tap import AttentionTap

if TYPE_CHECKING:
    from .adapter import PromptAdapter


TAKES_BIAS = ("sdpa", "eager")
"""Attentions that add a mask of numbers to the logits."""


class PromptAttachment(Attachment):
    """Changes in an audio-language model, and the way to undo them.

    Attributes of the instances shorten the inputs of `forward` and `generate`; the classes do not change. Hooks stop a
    call at the language model, only in the thread that asks for it. `reducer` may be replaced between calls: each call
    reads it once, at its beginning.
    """

    def __init__(self, adapter: PromptAdapter, reducer: Reducer) -> None:
        self.adapter, self.reducer = adapter, reducer
        self.tap = None if adapter.last_attention is None else AttentionTap(adapter.last_attention)
        self.padding = EncoderPadding(adapter.audio_tower) if adapter.pads else None
        model, entry = adapter.encoder, adapter.entry
        if entry.merger is not None:
            self._hook = model.get_submodule(entry.merger).register_forward_hook(self._stop_after_merger)
        else:
            language_model = model.get_submodule(entry.language_model)
            self._hook = language_model.register_forward_pre_hook(self._stop_before, with_kwargs=True, prepend=True)
        self._forward = Replacement(model, "forward", self._run)
        # The model without its language head, which callers use to get hidden states.
        self._replacements = [
            self._forward,
            Replacement(model.model, "forward", self._run_inner),
            Replacement(model, "generate", self._generate),
        ]
        if "inputs_embeds" not in inspect.signature(model.prepare_inputs_for_generation).parameters:
            self._replacements.append(
                Replacement(model, "prepare_inputs_for_generation", take_embeddings, own_signature=True)
            )

    def detach(self) -> None:
        """Undo all changes."""
        self._hook.remove()
        if self.tap is not None:
            self.tap.remove()
        if self.padding is not None:
            self.padding.remove()
        for replacement in self._replacements:
            replacement.undo()

    @property
    def own_forward(self) -> Callable[..., Any]:
        """The model's original `forward`, uncompiled: a graph that was compiled before does not contain the hooks."""
        own = self._forward.own
        return getattr(own, "_torchdynamo_orig_callable", own)

    def shorten(self, inputs: Mapping[str, Any], encoded: EncodedPrompt | None = None) -> dict[str, Any]:
        """Shorten a model's inputs to fewer audio tokens; see `Shortening`. encoded: what `encode` returned for them,
        with a method that looks at no less."""
        arguments, reducer = dict(inputs), self.reducer
        return Shortening(self, reducer, arguments).run(encoded) if self._shortens(arguments, reducer) else arguments

    def encode(self, inputs: Mapping[str, Any]) -> EncodedPrompt:
        """Run a model up to its language model, to shorten the same inputs by several methods."""
        return Shortening(self, self.reducer, dict(inputs)).encode()

    def _generate(
        self,
        own: Callable[..., Any],
        inputs: Tensor | None = None,
        generation_config: Any = None,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """Run the model's own `generate` on a shortened prompt. Its output begins with the original prompt."""
        reducer = self.reducer
        if not reducer.reduces:
            return own(inputs, generation_config, *args, **kwargs)
        if inputs is not None:
            kwargs["input_ids"] = inputs
        if not self._shortens(kwargs, reducer):
            if reducer.prunes(PROMPT):
                self.adapter.check_cache(kwargs)
            return own(None, generation_config, *args, **kwargs)
        with torch.no_grad():
            shorter = Shortening(self, reducer, kwargs).run()
        return generate_shorter(self.adapter.encoder, own, generation_config, args, shorter, kwargs["input_ids"])

    def _run(self, own: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        reducer = self.reducer
        if not reducer.reduces or is_shortening(self):
            return own(*args, **kwargs)
        kwargs = _by_name(own, args, kwargs)
        if self._shortens(kwargs, reducer):
            kwargs = Shortening(self, reducer, kwargs).run()
        elif self._hears(kwargs):
            return self._run_without_padding(self.own_forward, reducer, kwargs)
        if kwargs.get("inputs_embeds") is not None:
            # Some models accept only one of the two.
            kwargs = {name: value for name, value in kwargs.items() if name != "input_ids"}
        elif kwargs.get("past_key_values") is not None:
            # `generate` passes on the prompt's values, but the tokens after the prompt have their own.
            kwargs = {name: value for name, value in kwargs.items() if name != PER_LAYER}
        return own(**kwargs)

    def _run_inner(self, own: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        reducer = self.reducer
        if not reducer.reduces or is_shortening(self):
            return own(*args, **kwargs)
        arguments = _by_name(own, args, kwargs)
        if not self._shortens(arguments, reducer):  # usually: inside the whole model its inputs are short already
            if self._hears(arguments) and not self._skips_already:
                return self._run_without_padding(own, reducer, arguments)
            return own(*args, **kwargs)
        shorter = Shortening(self, reducer, arguments).run()
        return own(**{name: value for name, value in shorter.items() if name != "input_ids"})

    def encoder_call(self, reducer: Reducer, real: Tensor | None) -> EncoderCall | None:
        """The call of the encoder, with the padding that it may skip; None if it may skip none.

        real: (rows,), frames of each row of features that are no padding; None if unknown."""
        if self.padding is None or real is None:
            return None
        place = None if self.adapter.entry.masked else next(iter(reducer.before(0)), None)
        if place is not None and self.tap is not None and self.tap.implementation not in TAKES_BIAS:
            raise ValueError(
                f"the attention {self.tap.implementation!r} cannot count merged padding as often as it stands for "
                f"frames; use one of {', '.join(TAKES_BIAS)} (set_attn_implementation), or do not merge it"
            )
        if not self.adapter.skips_padding(merging=place is not None):
            return None
        return EncoderCall(reducer, real, place, self.adapter.sinks)

    @torch.compiler.disable
    def _run_without_padding(self, forward: Callable[..., Any], reducer: Reducer, inputs: dict[str, Any]) -> Any:
        """Run a forward whose prompt stays whole. Not part of a compiled graph, because the sound decides what the
        encoder computes."""
        adapter, padding = self.adapter, self.padding
        assert padding is not None
        if adapter.entry.trims:
            adapter.check_ids(inputs)
        real = real_frames(adapter.encoder, adapter.entry, inputs, adapter.audio_token)
        with padding.skipped(self.encoder_call(reducer, real)):
            return forward(**inputs)

    @property
    def _skips_already(self) -> bool:
        return self.padding is not None and self.padding.is_active

    def _hears(self, kwargs: Mapping[str, Any]) -> bool:
        return self.padding is not None and kwargs.get(self.adapter.entry.features) is not None

    def _shortens(self, kwargs: Mapping[str, Any], reducer: Reducer) -> bool:
        """Whether there is something to shorten, that is, a keep rate below 1 and sounds."""
        return reducer.prunes(PROMPT) and kwargs.get(self.adapter.entry.features) is not None

    def _stop_before(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        stop_at_language_model(self, kwargs)

    def _stop_after_merger(self, module: nn.Module, args: tuple, output: Tensor) -> None:
        stop_at_language_model(self, {"inputs_embeds": output})


def _by_name(forward: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> dict[str, Any]:
    """All arguments by name."""
    if not args:
        return kwargs
    return {**dict(zip(inspect.signature(forward).parameters, args, strict=False)), **kwargs}
