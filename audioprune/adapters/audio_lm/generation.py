"""Generation with a shortened prompt that behaves like generation with the whole prompt."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

ASSISTED = ("assistant_model", "prompt_lookup_num_tokens", "assistant_early_exit")


def generate_shorter(
    model: Any,
    generate: Callable[..., Any],
    generation_config: Any,
    args: tuple,
    shorter: dict[str, Any],
    prompt: Tensor,
) -> Any:
    """Run a model's `generate` on `shorter` inputs.

    The original prompt is passed together with the shorter embeddings. Stopping criteria, logits processors, prefix
    functions and streamers see the original prompt, and the output begins with it. Only the model reads the embeddings.

    Args:
        model: the audio-language model.
        generate: its own `generate`.
        generation_config: the caller's generation config, or None.
        args: further positional arguments.
        shorter: the shortened inputs.
        prompt: (batch, length), ids of the original prompt.

    Raises `ValueError` for decoding with draft tokens, which gives other tokens if the prompt comes as embeddings, and
    for prompts in chunks and continuous batching.
    """
    _refuse_modes(model, generation_config, shorter)
    embedded = shorter["inputs_embeds"].shape[1]
    if embedded != prompt.shape[1]:
        shorter = {**shorter, **_limits(model, generation_config, shorter, embedded)}
    return generate(None, generation_config, *args, **{**shorter, "input_ids": prompt})


def take_embeddings(
    own: Callable[..., Any], input_ids: Tensor, inputs_embeds: Tensor | None = None, **kwargs: Any
) -> dict[str, Any]:
    """A `prepare_inputs_for_generation` with `inputs_embeds` in its signature.

    `generate` looks for it there, but some models accept it only through **kwargs. own: the model's method.
    """
    model_inputs = own(input_ids, inputs_embeds=inputs_embeds, **kwargs)
    if kwargs.get("is_first_iteration") and inputs_embeds is not None:
        # The model's method may not pass on that this is the first iteration.
        model_inputs |= {"input_ids": None, "inputs_embeds": inputs_embeds}
    return model_inputs


def _configs(model: Any, generation_config: Any) -> list[Any]:
    """Configs that may contain a generation setting, in the order of lookup after the arguments."""
    return [config for config in (generation_config, model.generation_config) if config is not None]


def _refuse_modes(model: Any, generation_config: Any, kwargs: dict[str, Any]) -> None:
    configs = _configs(model, generation_config)
    for name in ASSISTED:
        if kwargs.get(name) is not None or any(getattr(config, name, None) is not None for config in configs):
            raise ValueError(
                f"{name}: assisted and prompt-lookup decoding give other tokens if the prompt comes as embeddings, "
                "as it does while the model is pruned; generate without it"
            )
    if any(kwargs.get("prefill_chunk_size") or getattr(config, "prefill_chunk_size", None) for config in configs):
        raise ValueError("prefill_chunk_size: a prompt of embeddings cannot be read in chunks; generate without it")
    if kwargs.get("cache_implementation") == "paged":
        raise ValueError("continuous batching takes only token ids; generate without cache_implementation='paged'")


def _limits(model: Any, generation_config: Any, kwargs: dict[str, Any], embedded: int) -> dict[str, Any]:
    """Values of max_length and min_length that count the whole prompt.

    `generate` subtracts the length of the embeddings, because it assumes that the embeddings come after the ids.

    Args:
        model: the audio-language model.
        generation_config: the caller's generation config, or None.
        kwargs: arguments of `generate`.
        embedded: length of the embeddings.
    """
    limits = {}
    for name, rival in (("max_length", "max_new_tokens"), ("min_length", "min_new_tokens")):
        values = [kwargs.get(name), *(getattr(config, name, None) for config in _configs(model, generation_config))]
        counted = [kwargs.get(rival), *(getattr(config, rival, None) for config in _configs(model, generation_config))]
        value = next((value for value in values if value is not None), None)
        if value and all(other is None for other in counted):
            limits[name] = value + embedded
    return limits
