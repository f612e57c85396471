"""Translations of PyTorch operators that its ONNX exporter does not support."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Table for `torch.onnx.export(custom_translation_table=…)`, in opset 18, and so in any later one."""
    return {
        torch.ops.aten.sort.stable: sort,
        torch.ops.aten.searchsorted.Tensor: searchsorted,
        torch.ops.aten.cummax.default: cummax,
    }


def sort(x: Any, stable: bool | None = None, dim: int = -1, descending: bool = False) -> Any:
    """Sorted values and their indices. The sort is stable: of equal values, TopK gives the lower index first."""
    ir, op = _onnx()
    known = x
    if x.dtype not in (ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.INT32, ir.DataType.INT64):
        known = op.Cast(x, to=ir.DataType.INT32)  # onnxruntime cannot sort booleans and bytes
    length = op.Gather(op.Shape(x), op.Constant(value_ints=[dim]))
    values, places = op.TopK(known, length, axis=dim, largest=int(descending), sorted=1)
    return (values if known is x else op.Cast(values, to=x.dtype)), places


def searchsorted(
    ordered: Any, x: Any, out_int32: bool = False, right: bool = False, side: str | None = None, sorter: Any = None
) -> Any:
    """Number of smaller values in each row: (batch, k).

    Args:
        ordered: (batch, n), ascending.
        x: (batch, k).
        out_int32: whether the result is int32 instead of int64.
        right: must be False.
        side: must be "left" or None.
        sorter: must be None.
    """
    ir, op = _onnx()
    if right or side == "right" or sorter is not None or len(ordered.shape) != 2:
        raise NotImplementedError("searchsorted is translated only for two dimensions and the left side")
    less = op.Less(op.Unsqueeze(ordered, _axis(1)), op.Unsqueeze(x, _axis(2)))
    number = op.ReduceSum(op.Cast(less, to=ir.DataType.INT64), _axis(2), keepdims=0)
    return op.Cast(number, to=ir.DataType.INT32) if out_int32 else number


def cummax(x: Any, dim: int) -> Any:
    """Running maximum of each row and its index, of equal values the last: (batch, n) each. x: (batch, n)."""
    ir, op = _onnx()
    if len(x.shape) != 2 or dim not in (1, -1) or not isinstance(x.shape[1], int):
        raise NotImplementedError("cummax is translated only for rows of known length")
    past = op.Constant(value=ir.tensor(np.tri(x.shape[1], dtype=bool)))  # (n, n): True for entries that are not later
    each = op.Unsqueeze(x, _axis(1))
    # Later entries are replaced by the row's first entry, which does not change a maximum.
    first = op.Slice(each, _axis(0), _axis(1), _axis(2))
    greatest = op.ReduceMax(op.Where(past, each, first), _axis(2), keepdims=0)
    reached = op.And(op.Equal(each, op.Unsqueeze(greatest, _axis(2))), past)
    places = op.ArgMax(op.Cast(reached, to=ir.DataType.INT32), axis=2, keepdims=0, select_last_index=1)
    return greatest, places


def _onnx() -> tuple[Any, Any]:
    """ONNX's tensor types and operators, as Any, because their annotations do not fit here."""
    from onnxscript import ir, opset18

    return ir, opset18


def _axis(number: int) -> Any:
    return _onnx()[1].Constant(value_ints=[number])
