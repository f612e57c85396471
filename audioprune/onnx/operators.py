"""Operators of PyTorch that its ONNX exporter does not know, in ONNX's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """For `torch.onnx.export(custom_translation_table=…)`. They are of opset 18, and so of any later one."""
    return {
        torch.ops.aten.sort.stable: sort,
        torch.ops.aten.searchsorted.Tensor: searchsorted,
        torch.ops.aten.cummax.default: cummax,
    }


def sort(x: Any, stable: bool | None = None, dim: int = -1, descending: bool = False) -> Any:
    """Values and their places. Of equal values TopK gives the one of lower index first in either direction: stable."""
    ir, op = _onnx()
    known = x
    if x.dtype not in (ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.INT32, ir.DataType.INT64):
        known = op.Cast(x, to=ir.DataType.INT32)  # booleans and bytes, which onnxruntime does not sort
    length = op.Gather(op.Shape(x), op.Constant(value_ints=[dim]))
    values, places = op.TopK(known, length, axis=dim, largest=int(descending), sorted=1)
    return (values if known is x else op.Cast(values, to=x.dtype)), places


def searchsorted(
    ordered: Any, x: Any, out_int32: bool = False, right: bool = False, side: str | None = None, sorter: Any = None
) -> Any:
    """ordered: (batch, n), x: (batch, k) → (batch, k), how many of the row are less."""
    ir, op = _onnx()
    if right or side == "right" or sorter is not None or len(ordered.shape) != 2:
        raise NotImplementedError("searchsorted is translated for two dimensions and the left side alone")
    less = op.Less(op.Unsqueeze(ordered, _axis(1)), op.Unsqueeze(x, _axis(2)))
    number = op.ReduceSum(op.Cast(less, to=ir.DataType.INT64), _axis(2), keepdims=0)
    return op.Cast(number, to=ir.DataType.INT32) if out_int32 else number


def cummax(x: Any, dim: int) -> Any:
    """x: (batch, n) → the greatest so far and its place, of equals the last; (batch, n) each."""
    ir, op = _onnx()
    if len(x.shape) != 2 or dim not in (1, -1) or not isinstance(x.shape[1], int):
        raise NotImplementedError("cummax is translated for rows of known length alone")
    past = op.Constant(value=ir.tensor(np.tri(x.shape[1], dtype=bool)))  # (n, n): what is not later
    each = op.Unsqueeze(x, _axis(1))
    # In place of what is later stands the row's first entry, which changes no greatest.
    first = op.Slice(each, _axis(0), _axis(1), _axis(2))
    greatest = op.ReduceMax(op.Where(past, each, first), _axis(2), keepdims=0)
    reached = op.And(op.Equal(each, op.Unsqueeze(greatest, _axis(2))), past)
    places = op.ArgMax(op.Cast(reached, to=ir.DataType.INT32), axis=2, keepdims=0, select_last_index=1)
    return greatest, places


def _onnx() -> tuple[Any, Any]:
    """Types of tensors, and operators. Their annotations are for tensors of one type each, and mean nothing here."""
    from onnxscript import ir, opset18

    return ir, opset18


def _axis(number: int) -> Any:
    return _onnx()[1].Constant(value_ints=[number])
