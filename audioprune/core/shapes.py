"""Shapes of results on the meta device, without PyTorch's own way, which computes them in Python and slowly.

A count of multiply-accumulates sends shapes through a model, and a search for a keep rate counts many times. Most of
such a count's time goes into a few operators, whose results' shapes are plain. Where they are not, PyTorch answers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

aten: Any = torch.ops.aten


def _as_input(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    return torch.empty_like(x)


def _softmax(x: Tensor, dim: int, half_to_float: bool) -> Any:
    return NotImplemented if half_to_float else x.new_empty(x.shape)


def _addmm(bias: Tensor, a: Tensor, b: Tensor, **kwargs: Any) -> Any:
    # PyTorch answers for `mm` in C++.
    return torch.mm(a, b) if bias.shape == b.shape[1:] else NotImplemented


def _layer_norm(x: Tensor, normalized_shape: list[int], *args: Any) -> Any:
    if x.shape[-len(normalized_shape) :] != tuple(normalized_shape):
        return NotImplemented
    of_rows = (*x.shape[: -len(normalized_shape)], *(1 for _ in normalized_shape))
    in_full = torch.promote_types(x.dtype, torch.float32)  # mean and scale of a row are not rounded
    return x.new_empty(x.shape), x.new_empty(of_rows, dtype=in_full), x.new_empty(of_rows, dtype=in_full)


_SHAPES: dict[Any, Callable[..., Any]] = {
    aten.addmm.default: _addmm,
    aten.native_layer_norm.default: _layer_norm,
    aten._softmax.default: _softmax,
    aten.gelu.default: _as_input,
}


class Shapes(TorchDispatchMode):
    """Answers for a few operators of a model on the meta device; PyTorch does for the others."""

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        shape = _SHAPES.get(func)
        if shape is not None and all(x.is_meta for x in args if isinstance(x, Tensor)):
            answer = shape(*args, **(kwargs or {}))
            if answer is not NotImplemented:
                return answer
        return func(*args, **(kwargs or {}))
