"""What a model costs: multiply-accumulates and peak memory."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from ..adapters import Adapter, UnsupportedModelError, find_adapter
from ..adapters.blocks.adapter import BlockAdapter
from ..adapters.observers import unobserved
from ..attention import packing
from .pruning import handle
from .shapes import Shapes
from .twin import is_offloaded, twin

_PRODUCTS = re.compile(
    r"(^|_)linear|mm(_|$)|matmul|gemm|mv$|(^|_)v?dot$|(^|_)conv(\d|_|olution|$)|attention|rnn|transformer_encoder"
)
"""Names of PyTorch's operators that multiply matrices, whoever wrote them."""


def macs(model: nn.Module, frames: int | None = None, *, inputs: Tensor | Mapping[str, Tensor] | None = None) -> int:
    """Multiply-accumulates of one clip, pruning included: every matrix product and convolution that really runs.

    Norms, activations, softmax and sorting are not counted (0.1 % of a ViT-Base). The count is made on a copy that
    shares the weights, so that a model may be served or trained meanwhile. Quantised layers count as they did before;
    offloaded models and such on the meta device count as any other.

    Of a Whisper with its decoder, the first word is counted.

    Args:
        frames: length of the spectrogram in frames of 10 ms; the model's own by default. Nothing is computed: shapes
            alone go through the model, on the meta device.
        inputs: count on these instead (they are computed, batch and all), where the count depends on the data, or on
            the clips' length. On the meta device they are shapes alone, and nothing is computed.

    Raises `ValueError` where `frames` is not a length that the model takes, where shapes alone do not go through the
    model, and for a product of matrices that is not known (of a quantised weight, for one), rather than leave it out.
    """
    if inputs is not None:
        return _count_on(model, inputs)
    pruned = handle(model)
    if pruned is not None and not pruned.method.static:
        raise ValueError(f"how many tokens {type(pruned.method).__name__} keeps depends on the sound; pass inputs=…")
    adapter = _adapter_of(model)
    shape, length = _clip_shape(model, adapter)
    if frames is not None and frames != length:
        raise ValueError(f"frames is {frames}, but this model takes exactly {length}")
    shapes = twin(model, "meta")
    spectrogram = torch.zeros(1, *shape, device="meta", dtype=_dtype(model))
    further = _to_meta(_further_inputs(adapter, 1))
    try:
        return _count(lambda: shapes(spectrogram, **further))
    except (NotImplementedError, RuntimeError, TypeError) as error:
        reason = " ".join(str(error).split())[:200].rstrip(" :.")
        raise ValueError(f"shapes alone do not go through this model ({reason}); pass inputs=…") from error


def _adapter_of(model: nn.Module) -> Adapter | None:
    try:
        return find_adapter(model)
    except UnsupportedModelError:  # what no adapter enters is counted too
        return None


def _further_inputs(adapter: Adapter | None, batch: int) -> dict[str, Tensor]:
    return adapter.further_inputs(batch) if isinstance(adapter, BlockAdapter) else {}


def _to_meta(tensors: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value.to("meta") if isinstance(value, Tensor) else value for name, value in tensors.items()}


def _clip_shape(model: nn.Module, adapter: Adapter | None) -> tuple[tuple[int, ...], int]:
    """Shape of one spectrogram, and its frames. Raises `ValueError` if clips differ in length."""
    config: Any = getattr(model, "config", None)
    length = getattr(config, "max_length", None)
    # Only a model itself: what holds one may take something else.
    if config is not None and isinstance(adapter, BlockAdapter) and adapter.frames is not None:
        return adapter.clip_shape(None), adapter.frames
    if length is None:
        raise ValueError(f"{type(model).__name__} has no spectrogram length in its config; pass inputs=…")
    return (length, config.num_mel_bins), length


def _count_on(model: nn.Module, inputs: Tensor | Mapping[str, Tensor]) -> int:
    name = str(getattr(model, "main_input_name", "input_values"))
    if isinstance(inputs, Mapping):
        tensors = dict(inputs)
    else:
        tensors = {name: inputs, **_further_inputs(_adapter_of(model), len(inputs))}
    are_shapes = all(tensor.is_meta for tensor in tensors.values() if isinstance(tensor, Tensor))
    same = twin(model, "meta" if are_shapes else None)
    if all(tensor.is_meta for tensor in same.parameters()) and not is_offloaded(same):
        tensors = _to_meta(tensors)
    return _count(lambda: same(**tensors)) // len(tensors[name])


def _count(run: Callable[[], Any]) -> int:
    counter = FlopCounterMode(display=False, custom_mapping=packing.flops() | _further() | _attention())
    uncounted = _Uncounted(counter.flop_registry)
    # Nothing here may touch what is set for a whole process, such as the choice of attention kernels: others may run.
    with unobserved(), torch.no_grad(), Shapes(), uncounted, counter:
        run()
    if uncounted.names:
        raise ValueError(
            f"this model multiplies by {', '.join(sorted(uncounted.names))}, whose multiply-accumulates are not known; "
            "count on the model as it was before it was quantised or rewritten"
        )
    total = counter.get_total_flops() // 2
    if not total:
        raise ValueError("no product of matrices could be seen in this model; count on it before it is rewritten")
    return total


class _Uncounted(TorchDispatchMode):
    """Notes products of matrices that the counter lets pass."""

    def __init__(self, known: Mapping[Any, Any]) -> None:
        super().__init__()
        self._known = known
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        packet = func._overloadpacket
        if packet not in self._known and _PRODUCTS.search(packet.__name__):
            self.names.add(str(packet))
        return func(*args, **(kwargs or {}))


def _further() -> dict[Any, Callable[..., int]]:
    """How to count products of (…, in) by quantised weights (`quantize_dynamic`, torchao) and by those of experts."""

    def count(x: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
        return 2 * int(torch.Size(out_shape).numel()) * int(x[-1])

    quantized: Any = torch.ops.quantized
    aten: Any = torch.ops.aten
    names = {
        quantized: ("linear_dynamic", "linear_relu_dynamic", "linear_dynamic_fp16"),
        aten: ("_int_mm", "_weight_int8pack_mm", "_grouped_mm"),
    }
    return {getattr(space, name): count for space, listed in names.items() for name in listed if hasattr(space, name)}


def _attention() -> dict[Any, Callable[..., int]]:
    """How to count the CPU's fused attention, which the counter does not know."""

    def count(query: Any, key: Any, value: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
        return sdpa_flop_count(query, key, value)

    return {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: count}


def _dtype(model: nn.Module) -> torch.dtype:
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)


def peak_memory(run: Callable[[], Any], *, device: str = "cpu") -> int | None:
    """Most bytes in use while a call runs, or None where it cannot be told.

    On CUDA: allocated tensors. On the CPU: the process's resident set, which Linux lets us reset.
    """
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)
        run()
        synchronize(device)
        return torch.cuda.max_memory_allocated(device)
    try:
        Path("/proc/self/clear_refs").write_text("5")
        run()
        found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    except OSError:
        return None
    return int(found.group(1)) * 1024 if found else None


def synchronize(device: str) -> None:
    """Wait until the device has finished what it was given."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
