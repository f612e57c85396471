"""A pruned model on disk: as it would be without its pruning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn
from transformers import AutoFeatureExtractor, PreTrainedModel

from ..adapters.blocks.attachment import LEARNED


def save_model(model: nn.Module, folder: str | Path, extractor: Any = None) -> None:
    """Write a model in transformers' format as it would be without its pruning, and its feature extractor.

    Raises `TypeError` where it is no model of transformers'.
    """
    if not isinstance(model, PreTrainedModel):
        raise TypeError(
            f"{type(model).__name__} is no model of transformers', which have save_pretrained; prune the one that it "
            "holds by itself, or keep the setting alone with handle.save(folder)"
        )
    # What a method has learnt is written beside its settings, and the model's own files have no place for it.
    state = {name: tensor for name, tensor in model.state_dict().items() if LEARNED not in name.split(".")}
    model.save_pretrained(folder, state_dict=state)
    extractor = extractor or _extractor_of(model)
    if extractor is not None:
        extractor.save_pretrained(folder)


def _extractor_of(model: PreTrainedModel) -> Any:
    """The feature extractor beside the weights that a model was loaded from, None where there is none."""
    source = model.name_or_path
    if not source:
        return None
    try:
        return AutoFeatureExtractor.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError):  # none there, or no way to it
        return None
