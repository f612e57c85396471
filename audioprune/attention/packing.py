"""Packing: weights are arranged once for the matrix kernels of a CPU, instead of at every product.

PyTorch multiplies float32 matrices with MKL. MKL arranges a weight again for every product and, on processors of other
makers than Intel, does not use the widest instructions. oneDNN, which is also part of PyTorch, avoids both.
`docs/performance.md` has the numbers.

A packed layer keeps its class, its weight and its state dict. Only `forward` is set on the instance, and it uses the
current weight of the layer: before each product, every number of the weight is compared with the packed copy. So any
change of a weight is detected: by an optimiser, by `.data`, by an average of weights, by a merged adapter, by another
thread or process.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class _Copy:
    """A weight in oneDNN's layout, with the data to check that it is still current.

    Args:
        packed: the weight in oneDNN's layout.
        values: copy of the weight when it was packed; None if it is frozen.
        source: the weight's tensor.
        version: PyTorch's count of writes to it.
    """

    packed: Tensor
    values: Tensor | None
    source: Tensor
    version: int


class PackedForward:
    """The `forward` of a packed linear layer, (…, in_features) → (…, out_features).

    With gradients, under autocast, in graphs and on other devices, the layer's original forward runs.
    """

    def __init__(self, layer: nn.Linear, frozen: bool) -> None:
        self.layer, self.frozen = layer, frozen
        self.copy: _Copy | None = None
        self.active = True

    def __reduce__(self) -> tuple[Any, ...]:
        # The packed layout belongs to this process; copies and pickles make it again.
        return PackedForward, (self.layer, self.frozen), {"active": self.active}

    def __call__(self, input: Tensor) -> Tensor:
        layer = self.layer
        if not (self.active and _is_supported(layer, input)):
            self.copy = None  # with gradients, an optimiser may change the weight without a new version
            return type(layer).forward(layer, input)
        return torch.ops.mkldnn._linear_pointwise(input, self._packed(layer.weight), layer.bias, "none", [], "")

    def _packed(self, weight: Tensor) -> Tensor:
        # Read once and written in one step, because other threads may run this too.
        copy = self.copy
        if copy is None or not _is_of(copy, weight):
            version = 0 if weight.is_inference() else weight._version
            packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), None)
            values = None if self.frozen else weight.detach().clone()
            self.copy = copy = _Copy(packed, values, weight, version)
        return copy.packed


def _is_of(copy: _Copy, weight: Tensor) -> bool:
    """Whether a packed copy equals the current weight."""
    if copy.values is not None:
        return weight.dtype == copy.values.dtype and torch.equal(weight, copy.values)
    return weight is copy.source and not weight.is_inference() and weight._version == copy.version


def _is_supported(layer: nn.Linear, x: Tensor) -> bool:
    weight = layer.weight
    return (
        not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        # Quantised weights and weights of wrappers are tensors of other classes, with their own products.
        and type(weight) in (nn.Parameter, Tensor)
        and x.device.type == weight.device.type == "cpu"
        and x.dtype == weight.dtype
        and packs(x.dtype)
        and x.numel() > 0
        and not torch.is_autocast_enabled("cpu")
    )


class Packed:
    """Handle of a packed model. As a context manager, it restores the model at its end."""

    def __init__(self, model: nn.Module, frozen: bool = False) -> None:
        self.model = model
        self._forwards = [PackedForward(module, frozen) for module in packable(model)]
        for packed in self._forwards:
            setattr(packed.layer, "forward", packed)  # noqa: B010 (mypy knows it as a method)

    def remove(self) -> None:
        """Restore the model exactly. A second call does nothing."""
        for packed in self._forwards:
            # If someone wrapped a layer's `forward` since then, the wrapper still calls this one.
            packed.active, packed.copy = False, None
            if packed.layer.__dict__.get("forward") is packed:
                del packed.layer.forward
        self._forwards = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.remove()


def packable(model: nn.Module) -> list[nn.Linear]:
    """Layers of a model that can be packed: plain linear layers with their own `forward`."""
    return [module for module in model.modules() if type(module) is nn.Linear and "forward" not in module.__dict__]


def pack(model: nn.Module, *, frozen: bool = False) -> Packed:
    """Arrange the weights of a model's linear layers for this CPU's fastest kernels, until `handle.remove()`.

    For inference in float32 and bfloat16; results are equal up to rounding. A model can be packed and pruned in either
    order. From the first forward on, packing needs additional memory of twice the layers' weights (once, if they are
    frozen). Whether it is faster depends on the processor (on an AMD EPYC with AVX-512, float32 is twice as fast), so
    measure it.

    Args:
        model: any model with linear layers on the CPU.
        frozen: a promise that, while the model is packed, no weight changes in a way that PyTorch does not count:
            through `.data`, NumPy, shared memory, or a fused optimiser without a forward in between. It saves a copy of
            the weights, and the comparison before each product, which takes much of the time if there are few tokens.
            Without the promise, every change of a weight is detected.

    Raises `ValueError` if there is nothing to pack or the model is packed already, and `RuntimeError` if this PyTorch
    has no oneDNN.
    """
    if not available():
        raise RuntimeError("this PyTorch has no oneDNN, which packing needs; run without packing")
    if any(isinstance(module.__dict__.get("forward"), PackedForward) for module in model.modules()):
        raise ValueError("this model is packed already; call remove() on its handle first")
    devices = {module.weight.device.type for module in packable(model)}
    if devices != {"cpu"}:
        state = f"they are on {', '.join(sorted(devices))}" if devices else "there are none"
        raise ValueError(f"packing is for linear layers on the CPU, but {state}; run without packing")
    return Packed(model, frozen)


def packs(dtype: torch.dtype) -> bool:
    """Whether this processor's kernels take packed weights of a dtype: for bfloat16 they need AVX-512 or newer."""
    operators: Any = torch.ops.mkldnn
    return dtype == torch.float32 or (dtype == torch.bfloat16 and operators._is_mkldnn_bf16_supported())


def available() -> bool:
    """Whether this PyTorch can pack."""
    operators: Any = torch.ops.mkldnn
    return torch.backends.mkldnn.is_available() and all(
        hasattr(operators, name) for name in ("_linear_pointwise", "_reorder_linear_weight")
    )


def flops() -> dict[Any, Callable[..., int]]:
    """Formulas for `FlopCounterMode`, which does not know the packed product."""

    def count(x: Any, weight: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
        return 2 * int(torch.Size(out_shape).numel()) * int(x[-1])

    def nothing(*args: Any, **kwargs: Any) -> int:
        return 0

    operators: Any = torch.ops.mkldnn
    return {operators._linear_pointwise: count, operators._reorder_linear_weight: nothing} if available() else {}
