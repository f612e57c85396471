"""`generate` on a shortened prompt, as if it were the whole one."""

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

    prompt: (batch, length), as it was given. It goes along whole, beside shorter embeddings: so stopping criteria,
    logits processors, prefix functions and streamers see the prompt that their writer knows, and so begins what is
    returned. Only the model reads the embeddings.

    Raises `ValueError` for decoding that drafts tokens, which gives other tokens when a prompt comes as embeddings, and
    for chunks of prompts and continuous batching.
    """
    _refuse_modes(model, generation_config, shorter)
    embedded = shorter["inputs_embeds"].shape[1]
    if embedded != prompt.shape[1]:
        shorter = {**shorter, **_limits(model, generation_config, shorter, embedded)}
    return generate(None, generation_config, *args, **{**shorter, "input_ids": prompt})


def take_embeddings(
    own: Callable[..., Any], input_ids: Tensor, inputs_embeds: Tensor | None = None, **kwargs: Any
) -> dict[str, Any]:
    """A `prepare_inputs_for_generation` that shows what it takes: `generate` looks for `inputs_embeds` in its
    signature, and some models take it by **kwargs all the same. own: the model's."""
    found = own(input_ids, inputs_embeds=inputs_embeds, **kwargs)
    if kwargs.get("is_first_iteration") and inputs_embeds is not None:
        # What is overwritten here may not hand on that it is the first.
        found |= {"input_ids": None, "inputs_embeds": inputs_embeds}
    return found


def _configs(model: Any, generation_config: Any) -> list[Any]:
    """Where a setting of generation is looked up, after the arguments."""
    return [config for config in (generation_config, model.generation_config) if config is not None]


def _refuse_modes(model: Any, generation_config: Any, kwargs: dict[str, Any]) -> None:
    configs = _configs(model, generation_config)
    for name in ASSISTED:
        if kwargs.get(name) is not None or any(getattr(config, name, None) is not None for config in configs):
            raise ValueError(
                f"{name}: assisted and prompt-lookup decoding give other tokens when the prompt comes as embeddings, "
                "as it does while the model is pruned; generate without it"
            )
    if any(kwargs.get("prefill_chunk_size") or getattr(config, "prefill_chunk_size", None) for config in configs):
        raise ValueError("prefill_chunk_size: a prompt that comes as embeddings is read at once; generate without it")
    if kwargs.get("cache_implementation") == "paged":
        raise ValueError("continuous batching takes token ids alone; generate without cache_implementation='paged'")


def _limits(model: Any, generation_config: Any, kwargs: dict[str, Any], embedded: int) -> dict[str, Any]:
    """max_length and min_length, so that they count the whole prompt as they should.

    `generate` takes the embeddings' length off them: it supposes that ids and embeddings follow each other.
    """
    limits = {}
    for name, rival in (("max_length", "max_new_tokens"), ("min_length", "min_new_tokens")):
        asked = [kwargs.get(name), *(getattr(config, name, None) for config in _configs(model, generation_config))]
        counted = [kwargs.get(rival), *(getattr(config, rival, None) for config in _configs(model, generation_config))]
        value = next((value for value in asked if value is not None), None)
        if value and all(other is None for other in counted):
            limits[name] = value + embedded
    return limits
