"""Models on disk with their pruning: what `Pruned.save_pretrained` writes and `load` brings back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from ..models import loading
from ..models.sources import resolve
from .pruning import prune
from .settings import SETTINGS


def load(source: str | Path, *, pooling: str | None = None, pruned: bool = True, **config: Any) -> PreTrainedModel:
    """An audio classifier, in evaluation mode and float32; pruned where its folder holds a `pruning.json`.

    Args:
        source: a hub id (`"MIT/ast-finetuned-audioset-16-16-0.442"`), a folder in transformers' format, a weight file
            of AST, AudioMAE (pre-trained, fine-tuned, timm's layout) or the TopK authors, or `"esc10"`, the model
            that ships with audioprune.
        pooling: for an AST, "cls" (its own) or "mean" (AST-MP).
        pruned: whether to prune a model that was saved with its pruning (by `Pruned.save_pretrained`, or a training);
            `audioprune.handle(model)` finds the handle.
        **config: overrides of the model's config, such as num_labels, max_length (frames of 10 ms),
            num_attention_heads (not in an authors' file: width / 64 unless given).

    Raises `CheckpointError` for a file that is damaged, of another layout, or has missing or unknown keys,
    `FileNotFoundError` for a path that is not there, and `ValueError` for a `pruning.json` that does not fit.
    """
    model = loading.load(source, pooling=pooling, **config)
    folder = settings_folder(source)
    if pruned and folder is not None:
        prune(model, folder)
    return model


def settings_folder(source: str | Path) -> Path | None:
    """The folder of a model that was saved with its pruning, None where it was not."""
    path = resolve(source)
    return path if isinstance(path, Path) and (path / SETTINGS).is_file() else None
