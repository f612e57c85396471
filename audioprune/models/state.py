"""A checkpoint file as a dictionary of tensors."""

from __future__ import annotations

import argparse
import difflib
import pickle
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedConfig

State = dict[str, Tensor]


class CheckpointError(ValueError):
    """A weight file that cannot be used. The message names the file, the keys, and the remedy."""


def read_state(path: Path) -> State:
    """Read the tensors of a file, also if they are nested. Only tensors and plain values are unpickled."""
    try:
        if path.suffix == ".safetensors":
            content: Any = load_file(path)
        else:
            # AudioMAE's pre-trained file also contains its training arguments.
            with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings(action="ignore"):
                content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(
            f"{path}: cannot be read as weights ({reason_of(error)}). "
            "The file is truncated or not a checkpoint, or it contains more than tensors: download it again, or save "
            "its state dict again with torch.save or safetensors"
        ) from error
    for key in ("model", "state_dict", "model_state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise CheckpointError(
            f"{path}: contains no state dict (a mapping of names to tensors); save model.state_dict() with torch.save"
        )
    return {key.removeprefix("module."): tensor for key, tensor in content.items()}


@contextmanager
def reading(source: object, remedy: str = "download or save it again", what: str = "") -> Iterator[None]:
    """Raise `CheckpointError` that names a model for whatever a library raises when it reads the model's files.

    Files of a model may contain anything, and libraries do not check it: a list for a number is a `TypeError`.

    Args:
        source: the model.
        remedy: what to do then.
        what: part of the model, such as "its config ".
    """
    try:
        yield
    except (CheckpointError, ImportError):
        raise
    except Exception as error:
        raise CheckpointError(f"{source}: {what}cannot be loaded ({reason_of(error)}); {remedy}") from error


def reason_of(error: Exception) -> str:
    """Reason of an error in a few words, without PyTorch's advice to run the code in the file."""
    if isinstance(error, pickle.UnpicklingError):
        return "not a pickle, or a pickle of more than tensors, whose code was not run"
    if isinstance(error, RecursionError):
        return "nested too deeply"
    lines = str(error).strip().splitlines()
    text = lines[0].split(". ")[0].rstrip(".")[:200] if lines else ""
    is_told = isinstance(error, OSError | ValueError | RuntimeError) or type(error).__name__ == "SafetensorError"
    return text if text and is_told else f"{type(error).__name__} {text}".strip()


def check_overrides(source: str, overrides: Iterable[str], config: PreTrainedConfig) -> None:
    """Raise `ValueError` for values that the model's config does not have, because a misspelt one would do nothing."""
    unknown = sorted(key for key in overrides if not hasattr(config, key))
    if unknown:
        close = difflib.get_close_matches(unknown[0], [key for key in dir(config) if not key.startswith("_")], n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise ValueError(f"{source}: a {config.model_type} config has no {', '.join(unknown)}{hint}")


def check_keys(source: str, missing: Iterable[str], unknown: Iterable[str]) -> None:
    """Raise `CheckpointError` with the missing and the unknown keys, if there are any."""
    problems = (("lacks", sorted(missing)), ("has unknown", sorted(unknown)))
    lists = [f"{what} {len(keys)} keys ({', '.join(keys)})" for what, keys in problems if keys]
    if lists:
        raise CheckpointError(
            f"{source}: "
            + "; ".join(lists)
            + "; the weights are incomplete, or of another model; download or save them again"
        )
