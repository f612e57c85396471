"""What is changed in an audio-language model while it is pruned: its `forward` and `generate`, hooks, and a watch."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ...core.tokens import Reducer
from ..base import Attachment
from ..replacement import Replacement
from .generation import generate_shorter, take_embeddings
from .shortening import PER_LAYER, Shortening, is_under_way, stop_at_language_model
from .tap import AttentionTap

if TYPE_CHECKING:
    from .adapter import PromptAdapter


class PromptAttachment(Attachment):
    """What was changed in an audio-language model, and how to change it back.

    Attributes of the instances shorten what `forward` and `generate` are given; the classes are not touched. Hooks
    stop a call at the language model, for the thread that asks for it. `reducer` may be replaced between calls: each
    reads it once, where it begins.
    """

    def __init__(self, adapter: PromptAdapter, reducer: Reducer) -> None:
        self.adapter, self.reducer = adapter, reducer
        self.watch = None if adapter.watched is None else AttentionTap(adapter.watched)
        model, entry = adapter.encoder, adapter.entry
        if entry.merger is not None:
            self._hook = model.get_submodule(entry.merger).register_forward_hook(self._merged)
        else:
            language_model = model.get_submodule(entry.language_model)
            self._hook = language_model.register_forward_pre_hook(self._called, with_kwargs=True, prepend=True)
        self._forward = Replacement(model, "forward", self._run)
        # The model without its language head, which is called by itself where hidden states are wanted.
        self._replacements = [
            self._forward,
            Replacement(model.model, "forward", self._run_inner),
            Replacement(model, "generate", self._generate),
        ]
        if "inputs_embeds" not in inspect.signature(model.prepare_inputs_for_generation).parameters:
            self._replacements.append(Replacement(model, "prepare_inputs_for_generation", take_embeddings, shown=True))

    def detach(self) -> None:
        """Take everything off again."""
        self._hook.remove()
        if self.watch is not None:
            self.watch.remove()
        for replacement in self._replacements:
            replacement.undo()

    @property
    def own_forward(self) -> Callable[..., Any]:
        """The model's `forward` as it was, and uncompiled: a graph that was made before knows nothing of the hooks."""
        own = self._forward.own
        return getattr(own, "_torchdynamo_orig_callable", own)

    def shorten(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """A model's inputs, with fewer audio tokens; see `Shortening`."""
        given, reducer = dict(inputs), self.reducer
        return Shortening(self, reducer, given).run() if self._listens(given, reducer) else given

    def _generate(
        self,
        own: Callable[..., Any],
        inputs: Tensor | None = None,
        generation_config: Any = None,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """The model's own `generate`, on a shortened prompt; what it returns begins with the prompt as it was given."""
        reducer = self.reducer
        if not reducer.reduces:
            return own(inputs, generation_config, *args, **kwargs)
        if inputs is not None:
            kwargs["input_ids"] = inputs
        if not self._listens(kwargs, reducer):
            self.adapter.check_cache(kwargs)
            return own(None, generation_config, *args, **kwargs)
        with torch.no_grad():
            shorter = Shortening(self, reducer, kwargs).run()
        return generate_shorter(self.adapter.encoder, own, generation_config, args, shorter, kwargs["input_ids"])

    def _run(self, own: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        reducer = self.reducer
        if not reducer.reduces or is_under_way(self):
            return own(*args, **kwargs)
        kwargs = _named(own, args, kwargs)
        if self._listens(kwargs, reducer):
            kwargs = Shortening(self, reducer, kwargs).run()
        if kwargs.get("inputs_embeds") is not None:
            # Some models take either the one or the other.
            kwargs = {name: value for name, value in kwargs.items() if name != "input_ids"}
        elif kwargs.get("past_key_values") is not None:
            # `generate` hands on what belonged to the prompt; tokens after it have their own.
            kwargs = {name: value for name, value in kwargs.items() if name != PER_LAYER}
        return own(**kwargs)

    def _run_inner(self, own: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        reducer = self.reducer
        if not reducer.reduces or is_under_way(self):
            return own(*args, **kwargs)
        given = _named(own, args, kwargs)
        if not self._listens(given, reducer):  # as a rule: within the whole model it gets what is short already
            return own(*args, **kwargs)
        shorter = Shortening(self, reducer, given).run()
        return own(**{name: value for name, value in shorter.items() if name != "input_ids"})

    def _listens(self, kwargs: Mapping[str, Any], reducer: Reducer) -> bool:
        """Whether there is something to shorten: a keep rate below 1, and sounds."""
        return reducer.reduces and kwargs.get(self.adapter.entry.features) is not None

    def _called(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        stop_at_language_model(self, kwargs)

    def _merged(self, module: nn.Module, args: tuple, output: Tensor) -> None:
        stop_at_language_model(self, {"inputs_embeds": output})


def _named(forward: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> dict[str, Any]:
    """All arguments by their names."""
    if not args:
        return kwargs
    return {**dict(zip(inspect.signature(forward).parameters, args, strict=False)), **kwargs}
