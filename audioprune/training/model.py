"""The model that a recipe trains: initialised at random or loaded, with a head for the data set's labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    ASTConfig,
    PreTrainedConfig,
    PreTrainedModel,
    WhisperConfig,
    WhisperForAudioClassification,
)

from ..adapters.blocks.adapter import find_blocks
from ..models.ast import AST_CLASSES
from ..models.audiomae import AudioMAEConfig, AudioMAEForAudioClassification, AudioMAEPreTrainedModel
from ..models.loading import load
from ..models.pretraining import AudioMAEForPreTraining
from ..models.sources import resolve
from ..models.state import check_keys, reading
from .recipe import Recipe

POOLING = {"audiomae": None, "ast": "cls", "ast-mp": "mean", "whisper": None}
"""Family → `pooling` of `audioprune.load`."""


def build_model(recipe: Recipe, labels: Sequence[str], init: str | Path | None = None) -> PreTrainedModel:
    """Build a model to train, in float32.

    init: folder, weight file or hub id to start from, in place of the recipe's. A head for other labels is initialised
    again. Raises `CheckpointError` if the start does not fit the recipe.
    """
    source = init if init is not None else recipe.init
    if source is None and recipe.needs_init:
        raise ValueError(
            f"{recipe.name} starts from trained weights; name them as init (--init). {recipe.about.strip()}"
        )
    if recipe.task == "pretrain":
        model = _pretraining(recipe, source)
    elif recipe.family == "whisper":
        model = _whisper(recipe, labels, source)
    elif source is None:
        model = _random_model(recipe, labels)
    else:
        model = _loaded_model(recipe, labels, source)
    model.set_attn_implementation(recipe.attention)
    _freeze(model, recipe.trained)
    return model


def is_trained_for(source: str | Path, labels: Sequence[str]) -> bool:
    """Whether a model's head was trained for these labels. False for an authors' weight file, which names no labels."""
    path = resolve(source)
    if isinstance(path, Path) and path.is_file():
        return False
    with reading(source):
        config, _ = PreTrainedConfig.get_config_dict(path)
        label_names = dict(config.get("id2label") or {})
    return config.get("architectures") != ["AudioMAEForPreTraining"] and list(label_names.values()) == list(labels)


def _label_config(labels: Sequence[str]) -> dict[str, Any]:
    return {"id2label": dict(enumerate(labels)), "label2id": {name: i for i, name in enumerate(labels)}}


def _pretraining(recipe: Recipe, source: str | Path | None) -> PreTrainedModel:
    config = {**recipe.config, "max_length": recipe.frames}
    if source is not None:
        loader: Any = AudioMAEForPreTraining
        with reading(source):
            model, report = loader.from_pretrained(source, output_loading_info=True)
        check_keys(str(source), report["missing_keys"], report["unexpected_keys"])
        _check_shape(recipe, model, source)
        return model
    return AudioMAEForPreTraining(AudioMAEConfig(**config))


def _whisper(recipe: Recipe, labels: Sequence[str], source: str | Path | None) -> PreTrainedModel:
    """A Whisper's encoder with a head. The start may have a decoder, which is left out."""
    if source is None:
        model: Any = WhisperForAudioClassification(WhisperConfig(**{**recipe.config, **_label_config(labels)}))
        return model
    loader: Any = WhisperForAudioClassification
    with reading(source, "give the folder or hub id of a Whisper"):
        model, report = loader.from_pretrained(
            resolve(source), dtype=torch.float32, output_loading_info=True, **_label_config(labels)
        )
    heads = ("projector.", "classifier.")
    missing = [key for key in report["missing_keys"] if not key.startswith(heads)]
    leftovers = ("decoder.", "model.decoder.", "proj_out.")
    check_keys(str(source), missing, [key for key in report["unexpected_keys"] if not key.startswith(leftovers)])
    _check_shape(recipe, model, source)
    if recipe.new_head or not is_trained_for(source, labels):
        for layer in (model.projector, model.classifier):
            layer.reset_parameters()
    return model


def _freeze(model: Any, trained: str | int) -> None:
    """Leave gradients to the head and the last blocks alone."""
    if trained == "all":
        return
    adapter = find_blocks(model)
    if isinstance(trained, int) and trained > adapter.depth:
        raise ValueError(f"trained is {trained}, but the model has {adapter.depth} blocks")
    adapter.tower.requires_grad_(False)
    for layer in adapter.layers[adapter.depth - trained :] if isinstance(trained, int) else ():
        layer.requires_grad_(True)


def _random_model(recipe: Recipe, labels: Sequence[str]) -> PreTrainedModel:
    config = {**recipe.config, "max_length": recipe.frames, **_label_config(labels)}
    if recipe.family == "audiomae":
        model: Any = AudioMAEForAudioClassification(AudioMAEConfig(**config))
    else:
        model = AST_CLASSES[str(POOLING[recipe.family])](ASTConfig(**config))
        embeddings = model.audio_spectrogram_transformer.embeddings
        # transformers leaves these at zero; then the model cannot learn the positions of the patches.
        for parameter in (embeddings.cls_token, embeddings.distillation_token, embeddings.position_embeddings):
            nn.init.trunc_normal_(parameter, std=model.config.initializer_range)
    _draw_head(model, recipe)
    return model


def _loaded_model(recipe: Recipe, labels: Sequence[str], source: str | Path) -> PreTrainedModel:
    config = {key: value for key, value in recipe.config.items() if key == "num_attention_heads"}
    model = load(source, pooling=POOLING[recipe.family], num_labels=len(labels), max_length=recipe.frames, **config)
    _check_shape(recipe, model, source)
    label_names: Any = model.config.id2label
    known = [label_names.get(i) for i in range(len(labels))]
    if known != list(labels) or recipe.new_head:  # the number of labels may be equal, but not the labels
        _draw_head(model, recipe)
    model.config.update(_label_config(labels))
    return model


def _check_shape(recipe: Recipe, model: Any, source: str | Path) -> None:
    """Raise `ValueError` if the start has another family or shape than the recipe."""
    if recipe.family == "audiomae" and not isinstance(model, AudioMAEPreTrainedModel):
        raise ValueError(f"{source}: is {type(model).__name__}, but the recipe {recipe.name} trains an AudioMAE")
    values = {key: getattr(model.config, key, None) for key in recipe.config}
    other = {key: value for key, value in values.items() if value != recipe.config[key]}
    if other:
        key, value = next(iter(other.items()))
        raise ValueError(
            f"{source}: its {key} is {value}, but the recipe {recipe.name} asks for {recipe.config[key]}; start from a "
            f"model of that shape, or --set config.{key}={value}"
        )


def _draw_head(model: Any, recipe: Recipe) -> None:
    dense = model.classifier
    if not isinstance(dense, nn.Linear):  # AST's is a norm and a linear layer
        dense.layernorm.reset_parameters()
        dense = dense.dense
    nn.init.trunc_normal_(dense.weight, std=recipe.head_init_std or 0.02)
    nn.init.zeros_(dense.bias)
