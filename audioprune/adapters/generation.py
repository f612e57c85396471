"""`generate` on a shortened prompt, as if it were the whole one."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
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
    """Run a model's `generate` on `shorter` inputs, and put the prompt back in what it returns.

    prompt: (batch, length), as it was given; with beams or several sequences a prompt it is repeated as they are.

    Raises `ValueError` for decoding that drafts tokens, which gives other tokens when a prompt comes as embeddings, and
    for chunks of prompts and continuous batching.
    """
    _refuse_modes(model, generation_config, shorter)
    gone = prompt.shape[1] - shorter["input_ids"].shape[1]
    shorter = {**shorter, **_shorter_limits(model, generation_config, shorter, gone)}
    if shorter.get("streamer") is not None:
        shorter["streamer"] = _PromptFirst(shorter["streamer"], prompt)
    with taking_embeddings(model):
        found = generate(None, generation_config, *args, **shorter)
    return _with_prompt(found, prompt, shorter["input_ids"].shape[1])


@contextmanager
def taking_embeddings(model: Any) -> Iterator[None]:
    """`generate` looks for `inputs_embeds` in a signature, and some models take it by **kwargs all the same."""
    prepare = model.prepare_inputs_for_generation
    if "inputs_embeds" in inspect.signature(prepare).parameters:
        yield
        return

    def takes_embeddings(input_ids: Tensor, inputs_embeds: Tensor | None = None, **kwargs: Any) -> dict[str, Any]:
        found = prepare(input_ids, inputs_embeds=inputs_embeds, **kwargs)
        if kwargs.get("is_first_iteration") and inputs_embeds is not None:
            # What is overwritten here may not hand on that it is the first.
            found |= {"input_ids": None, "inputs_embeds": inputs_embeds}
        return found

    model.prepare_inputs_for_generation = takes_embeddings
    try:
        yield
    finally:
        del model.prepare_inputs_for_generation


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


def _shorter_limits(model: Any, generation_config: Any, kwargs: dict[str, Any], gone: int) -> dict[str, Any]:
    """max_length and min_length count the prompt: what went from it goes from them."""
    limits = {}
    for name, rival in (("max_length", "max_new_tokens"), ("min_length", "min_new_tokens")):
        asked = [kwargs.get(name), *(getattr(config, name, None) for config in _configs(model, generation_config))]
        counted = [kwargs.get(rival), *(getattr(config, rival, None) for config in _configs(model, generation_config))]
        value = next((value for value in asked if value is not None), None)
        if value and all(other is None for other in counted):
            limits[name] = max(value - gone, 1)
    return limits


def _with_prompt(found: Any, prompt: Tensor, shorter: int) -> Any:
    sequences = found if isinstance(found, Tensor) else found.sequences
    whole = prompt.repeat_interleave(len(sequences) // len(prompt), dim=0).to(sequences.device)
    sequences = torch.cat((whole, sequences[:, shorter:]), dim=1)
    if isinstance(found, Tensor):
        return sequences
    found.sequences = sequences
    return found


class _PromptFirst:
    """A streamer that is first given the prompt as the user wrote it."""

    def __init__(self, streamer: Any, prompt: Tensor) -> None:
        self._streamer, self._prompt = streamer, [prompt]

    def put(self, value: Tensor) -> None:
        self._streamer.put(self._prompt.pop().cpu() if self._prompt else value)

    def end(self) -> None:
        self._streamer.end()
