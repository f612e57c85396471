"""Weights laid out once for the matrix kernels of a CPU, instead of at every product.

PyTorch multiplies float32 matrices by MKL, which lays a weight out anew for every product and, on processors that are
not Intel's, leaves their widest instructions unused. oneDNN, which comes with PyTorch too, does neither.
`docs/performance.md` has the figures.

A packed layer keeps its class, its weight and its state dict. Only `forward` is set on the instance, and it computes
with the weight that the layer has now: before each product every number of the weight is compared with what was packed.
So it does not matter who changes a weight, or how: an optimiser, `.data`, an average of weights, an
adapter that is merged, another thread or process.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn

DTYPES = (torch.float32, torch.bfloat16)


@dataclass(frozen=True)
class _Copy:
    """A weight in oneDNN's layout, and what tells whether it is still the layer's.

    values: the weight as it was packed, None if it is frozen. source, version: the tensor, and how often PyTorch has
    seen it written to.
    """

    packed: Tensor
    values: Tensor | None
    source: Tensor
    version: int


class PackedForward:
    """What a packed linear layer's `forward` is, (…, in_features) → (…, out_features).

    If gradients are on, under autocast, in graphs and on other devices, the layer computes as it always did.
    """

    def __init__(self, layer: nn.Linear, frozen: bool) -> None:
        self.layer, self.frozen = layer, frozen
        self.copy: _Copy | None = None
        self.active = True

    def __reduce__(self) -> tuple[Any, ...]:
        # The packed layout is this process's own: copies and pickles make it again.
        return PackedForward, (self.layer, self.frozen), {"active": self.active}

    def __call__(self, input: Tensor) -> Tensor:
        layer = self.layer
        if not (self.active and _servable(layer, input)):
            self.copy = None  # where gradients are on, an optimiser may write what no version tells
            return type(layer).forward(layer, input)
        return torch.ops.mkldnn._linear_pointwise(input, self._packed(layer.weight), layer.bias, "none", [], "")

    def _packed(self, weight: Tensor) -> Tensor:
        # Read once and written at once: other threads may be here too.
        copy = self.copy
        if copy is None or not _is_of(copy, weight):
            version = 0 if weight.is_inference() else weight._version
            packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), None)
            values = None if self.frozen else weight.detach().clone()
            self.copy = copy = _Copy(packed, values, weight, version)
        return copy.packed


def _is_of(copy: _Copy, weight: Tensor) -> bool:
    """Whether a packed copy was made of this weight, as it is now."""
    if copy.values is not None:
        return weight.dtype == copy.values.dtype and torch.equal(weight, copy.values)
    return weight is copy.source and not weight.is_inference() and weight._version == copy.version


def _servable(layer: nn.Linear, x: Tensor) -> bool:
    weight = layer.weight
    return (
        not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        # Quantised weights and those of wrappers are tensors of other classes, with products of their own.
        and type(weight) in (nn.Parameter, Tensor)
        and x.device.type == weight.device.type == "cpu"
        and x.dtype == weight.dtype
        and x.dtype in DTYPES
        and x.numel() > 0
        and not torch.is_autocast_enabled("cpu")
    )


class Packed:
    """Handle of a packed model. Usable as a context manager: the model is restored at its end."""

    def __init__(self, model: nn.Module, frozen: bool = False) -> None:
        self.model = model
        self._forwards = [PackedForward(module, frozen) for module in packable(model)]
        for packed in self._forwards:
            setattr(packed.layer, "forward", packed)  # noqa: B010 (mypy knows it as a method)

    def remove(self) -> None:
        """Restore the model exactly. Doing it twice does nothing the second time."""
        for packed in self._forwards:
            # Whoever wrapped a layer's `forward` since then still calls this one.
            packed.active, packed.copy = False, None
            if packed.layer.__dict__.get("forward") is packed:
                del packed.layer.forward
        self._forwards = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.remove()


def packable(model: nn.Module) -> list[nn.Linear]:
    """The layers of a model that can be packed: plain linear ones whose `forward` nobody replaced."""
    return [module for module in model.modules() if type(module) is nn.Linear and "forward" not in module.__dict__]


def pack(model: nn.Module, *, frozen: bool = False) -> Packed:
    """Lay the weights of a model's linear layers out for this CPU's fastest kernels, until `handle.remove()`.

    For inference in float32 and bfloat16: what is computed is the same to rounding. Pack and prune a model in either
    order. From the first forward on it takes twice as much memory again as the layers' weights (once, if they are
    frozen). Whether it is faster depends on the processor (on an AMD EPYC with AVX-512 twice as fast in float32):
    measure.

    Args:
        model: any model, with linear layers on the CPU.
        frozen: a promise that while the model is packed nobody changes a weight in a way that PyTorch does not count:
            through `.data`, NumPy, shared memory or a fused optimiser without a forward in between. It saves a
            copy of the weights, and reading both before each product, which few tokens spend much of their time on.
            Without the promise a changed weight is always seen.

    Raises `ValueError` if there is nothing to pack or the model is packed already, and `RuntimeError` if this PyTorch
    was built without oneDNN.
    """
    if not available():
        raise RuntimeError("this PyTorch has no oneDNN, by which weights are packed; run without packing")
    if any(isinstance(module.__dict__.get("forward"), PackedForward) for module in model.modules()):
        raise ValueError("this model is packed already; call remove() on its handle first")
    devices = {module.weight.device.type for module in packable(model)}
    if devices != {"cpu"}:
        where = f"they are on {', '.join(sorted(devices))}" if devices else "there are none"
        raise ValueError(f"packing is for linear layers on the CPU, and {where}")
    return Packed(model, frozen)


def available() -> bool:
    """Whether this PyTorch can pack."""
    operators: Any = torch.ops.mkldnn
    return torch.backends.mkldnn.is_available() and all(
        hasattr(operators, name) for name in ("_linear_pointwise", "_reorder_linear_weight")
    )


def flops() -> dict[Any, Callable[..., int]]:
    """How to count the packed product, for `FlopCounterMode`: it knows only PyTorch's own."""

    def count(x: Any, weight: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
        return 2 * int(torch.Size(out_shape).numel()) * int(x[-1])

    def nothing(*args: Any, **kwargs: Any) -> int:
        return 0

    operators: Any = torch.ops.mkldnn
    return {operators._linear_pointwise: count, operators._reorder_linear_weight: nothing} if available() else {}
