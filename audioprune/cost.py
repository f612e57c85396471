"""What a model costs: multiply-accumulates and peak memory."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedConfig

from . import packing
from .attention import NAME
from .pruning import handle


def macs(model: nn.Module, frames: int | None = None, *, inputs: Tensor | Mapping[str, Tensor] | None = None) -> int:
    """Multiply-accumulates of one clip, pruning included: every matrix product and convolution that really runs.

    Norms, activations, softmax and sorting are not counted (0.1 % of a ViT-Base).

    Args:
        frames: length of the spectrogram in frames of 10 ms; the model's own by default. Nothing is computed: shapes
            alone go through the model, on the meta device.
        inputs: count on these instead (they are computed, batch and all), where the count depends on the data.

    Raises `ValueError` where `frames` is not a length that the model takes.
    """
    if inputs is not None:
        return _count_on(model, inputs)
    pruned = handle(model)
    if pruned is not None and not pruned.method.static:
        raise ValueError(f"how many tokens {type(pruned.method).__name__} keeps depends on the sound; pass inputs=…")
    config: Any = getattr(model, "config", None)
    length = getattr(config, "max_length", None)
    if length is None:
        raise ValueError(f"{type(model).__name__} has no spectrogram length in its config; pass inputs=…")
    if frames is not None and frames != length:
        raise ValueError(f"frames is {frames}, but this model takes exactly {length} (config.max_length)")
    weights = {name: tensor.to("meta") for name, tensor in (*model.named_parameters(), *model.named_buffers())}
    shape = torch.zeros(1, length, config.num_mel_bins, device="meta", dtype=_dtype(model))
    return _count(model, lambda: torch.func.functional_call(model, weights, (shape,)))


def _count_on(model: nn.Module, inputs: Tensor | Mapping[str, Tensor]) -> int:
    name = str(getattr(model, "main_input_name", "input_values"))
    tensors = dict(inputs) if isinstance(inputs, Mapping) else {name: inputs}
    batch = len(tensors[name])
    return _count(model, lambda: model(**tensors)) // batch


def _count(model: nn.Module, run: Callable[[], Any]) -> int:
    counter = FlopCounterMode(display=False, custom_mapping=packing.flops())
    # Fused attention kernels are not all known to the counter; as plain matrix products they are exact.
    with undisturbed(model), torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        run()
    return counter.get_total_flops() // 2


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, SDPA and no traces, and everything as it was afterwards."""
    training = [module for module in model.modules() if module.training]
    configs = {id(c): c for m in model.modules() if isinstance(c := getattr(m, "config", None), PreTrainedConfig)}
    # A pruned block's own config names one of audioprune's attentions: only the encoder's tells what it falls back to.
    chosen = [(c, own) for c in configs.values() if not (own := c._attn_implementation or "").startswith(NAME)]
    pruned = handle(model)
    sinks: list[Any] = []
    model.eval()
    try:
        for config, _ in chosen:
            config._attn_implementation = "sdpa"
        if pruned is not None:
            sinks, pruned.attachment.sinks = pruned.attachment.sinks, sinks
        yield
    finally:
        if pruned is not None:
            pruned.attachment.sinks = sinks
        for config, name in chosen:
            config._attn_implementation = name
        for module in training:
            module.training = True


def _dtype(model: nn.Module) -> torch.dtype:
    return next(p.dtype for p in model.parameters() if p.is_floating_point())


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
