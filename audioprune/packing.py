"""Weights laid out once for the matrix kernels of a CPU, instead of at every product.

PyTorch multiplies float32 matrices by MKL, which lays a weight out anew for every product and, on processors that are
not Intel's, leaves their widest instructions unused. oneDNN, which comes with PyTorch too, does neither, and applies
a GELU to the product while it is still in cache. `docs/performance.md` has the figures.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.activations import GELUActivation

BEFORE_ACTIVATION = {"fc1": "activation_fn", "intermediate_dense": "intermediate_act_fn"}
"""In transformers' blocks: name of the linear layer → name of the activation that alone reads what it makes."""
DTYPES = (torch.float32, torch.bfloat16)


class PackedLinear(nn.Linear):
    """A linear layer that keeps a second copy of its weight in the layout of oneDNN.

    Its instances are made by swapping the class of a layer, so state-dict keys and `isinstance` stay. Where gradients
    are on, under autocast, in graphs and on other devices it computes as it always did.
    """

    _audioprune_pack: _Pack

    def forward(self, x: Tensor) -> Tensor:
        return self._audioprune_pack(self, x)


class Applied(nn.Module):
    """In place of an activation that the layer before it applies."""

    def forward(self, x: Tensor) -> Tensor:
        return x


class _Pack:
    """A layer's packed weight, renewed when the weight has changed. activation: applied to the product, or None."""

    def __init__(self, activation: nn.Module | None) -> None:
        self.activation = activation
        self.made_of: tuple[int, int, torch.dtype] | None = None
        self.weight: Tensor | None = None

    def __reduce__(self) -> tuple[type[_Pack], tuple[nn.Module | None]]:
        # The packed layout is this process's own: copies and pickles make it again.
        return _Pack, (self.activation,)

    def __call__(self, layer: nn.Linear, x: Tensor) -> Tensor:
        if not _servable(layer, x):
            product = functional.linear(x, layer.weight, layer.bias)
            return product if self.activation is None else self.activation(product)
        post: tuple[str, list[float], str] = ("none", [], "") if self.activation is None else ("gelu", [], "none")
        return torch.ops.mkldnn._linear_pointwise(x, self._packed(layer.weight), layer.bias, *post)

    def _packed(self, weight: Tensor) -> Tensor:
        now = (weight.data_ptr(), weight._version, weight.dtype)
        if self.weight is None or self.made_of != now:
            self.weight, self.made_of = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), None), now
        return self.weight


def _servable(layer: nn.Linear, x: Tensor) -> bool:
    return (
        not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and x.device.type == layer.weight.device.type == "cpu"
        and x.dtype == layer.weight.dtype
        and x.dtype in DTYPES
        and x.numel() > 0
        and not layer.weight.is_inference()  # such a weight may change unnoticed
        and not torch.is_autocast_enabled("cpu")
    )


class Packed:
    """Handle of a packed model. Usable as a context manager: the model is restored at its end."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._activations = [
            (module, name, activation)
            for module in model.modules()
            for layer, name in BEFORE_ACTIVATION.items()
            if type(getattr(module, layer, None)) is nn.Linear and _is_gelu(activation := getattr(module, name, None))
        ]
        after = {id(getattr(module, _layer_of(name))): activation for module, name, activation in self._activations}
        self._layers = [module for module in model.modules() if type(module) is nn.Linear]
        for layer in self._layers:
            layer._audioprune_pack = _Pack(after.get(id(layer)))  # type: ignore[assignment]
            layer.__class__ = PackedLinear
        for module, name, _ in self._activations:
            setattr(module, name, Applied())

    def remove(self) -> None:
        """Restore the model exactly. Doing it twice does nothing the second time."""
        for layer in self._layers:
            layer.__class__ = nn.Linear
            del layer._audioprune_pack
        for module, name, activation in self._activations:
            setattr(module, name, activation)
        self._layers, self._activations = [], []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.remove()


def pack(model: nn.Module) -> Packed:
    """Lay the weights of a model's linear layers out for this CPU's fastest kernels, until `handle.remove()`.

    For inference in float32 and bfloat16: what is computed is the same to rounding. A model may be packed and pruned in
    either order. It takes as much memory again as the layers' weights, from the first forward on. Whether it is faster
    depends on the processor (on an AMD EPYC with AVX-512 twice as fast in float32): measure.

    Raises `ValueError` where there is nothing to pack or the model is packed already, and `RuntimeError` where this
    PyTorch was built without oneDNN.
    """
    if not available():
        raise RuntimeError("this PyTorch has no oneDNN, by which weights are packed; run without packing")
    if any(isinstance(module, PackedLinear) for module in model.modules()):
        raise ValueError("this model is packed already; call remove() on its handle first")
    devices = {module.weight.device.type for module in model.modules() if type(module) is nn.Linear}
    if devices != {"cpu"}:
        where = f"they are on {', '.join(sorted(devices))}" if devices else "there are none"
        raise ValueError(f"packing is for linear layers on the CPU, and {where}")
    return Packed(model)


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

    return {torch.ops.mkldnn._linear_pointwise: count} if available() else {}


def _layer_of(activation: str) -> str:
    return next(layer for layer, name in BEFORE_ACTIVATION.items() if name == activation)


def _is_gelu(module: Any) -> bool:
    """Whether a module is the exact GELU, not one of its approximations."""
    if isinstance(module, GELUActivation):
        return module.act is functional.gelu
    return isinstance(module, nn.GELU) and module.approximate == "none"
