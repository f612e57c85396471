"""State of an analysis in one file: arrays and JSON, no code. The file is complete or does not exist."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ..files import draft
from ..models.state import reason_of

_TREE = "tree"


class StateError(ValueError):
    """A state from which the analysis cannot continue. The message names the file and the remedy."""


def save_state(path: Path, tree: Any) -> None:
    """Write atomically: numbers, words, None, lists, tuples, dicts with any keys, numpy arrays and CPU tensors."""
    arrays: list[np.ndarray] = []
    text = json.dumps(_encode(tree, arrays))
    with draft(path) as made, open(made, "wb") as file:
        np.savez(file, **{_TREE: np.array(text)}, **{f"a{i}": array for i, array in enumerate(arrays)})  # type: ignore[arg-type]


def load_state(path: Path) -> Any:
    """Read what `save_state` wrote; tensors become arrays. Raises `StateError` for any other file."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        return _decode(json.loads(str(arrays[_TREE])), arrays)
    except Exception as error:  # a damaged archive may raise any
        raise StateError(
            f"{path}: not the state of an analysis ({reason_of(error)}); delete it to start again, or choose "
            "another --out"
        ) from error


def _encode(value: Any, arrays: list[np.ndarray]) -> Any:
    if isinstance(value, Tensor):
        value = value.numpy()
    if isinstance(value, np.ndarray):
        if value.dtype.hasobject:
            raise TypeError("an array of objects cannot be saved; a state must contain plain numbers")
        arrays.append(value)
        return {"$array": f"a{len(arrays) - 1}"}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, dict):
        # JSON turns keys into words, but keep rates must stay numbers.
        return {"$items": [[_encode(k, arrays), _encode(v, arrays)] for k, v in value.items()]}
    if isinstance(value, tuple):
        return {"$tuple": [_encode(one, arrays) for one in value]}
    if isinstance(value, list):
        return [_encode(one, arrays) for one in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a {type(value).__name__} cannot be saved; a state must contain numbers, lists, dicts and arrays")


def _decode(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    if isinstance(value, list):
        return [_decode(one, arrays) for one in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "$array":
        return arrays[content]
    if kind == "$tuple":
        return tuple(_decode(one, arrays) for one in content)
    return {_decode(k, arrays): _decode(v, arrays) for k, v in content}


def plain(value: Any) -> Any:
    """Value for standard JSON: tuples and arrays as lists, keys as words, infinite and NaN as null."""
    if isinstance(value, Tensor | np.ndarray):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, dict):
        return {key if isinstance(key, str) else f"{key}": plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
