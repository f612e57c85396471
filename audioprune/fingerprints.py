"""Fingerprints of weights, clips and files: prefixes of SHA-256, by which a run knows that it goes on with its own.

They stand in files on users' disks. `of_numbers` and `of_beginnings` are what version 0.1 wrote into the state of a
calibration and into files of answers; nothing new is written with them. PyTorch is imported only where tensors are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

LETTERS = 16


def of_parts(parts: Iterable[bytes | memoryview]) -> str:
    """The fingerprint of bytes, one part after the other."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()[:LETTERS]


def of_tensors(named: Iterable[tuple[str, Tensor]]) -> str:
    """The fingerprint of names, dtypes, shapes and all numbers of tensors, in their order."""
    return of_parts(
        part
        for name, tensor in _plain(named)
        for part in (f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), _bytes(tensor))
    )


def of_weights(model: Any) -> str:
    """The fingerprint of a model's parameters and buffers, by name."""
    return of_tensors(sorted(model.state_dict().items()))


def of_numbers(tensors: Iterable[Tensor]) -> str:
    """The fingerprint of numbers alone: other names, shapes or dtypes of the same bytes give the same."""
    return of_parts(map(_bytes, tensors))


def of_beginnings(model: Any) -> str:
    """Twelve letters for the first eight numbers of each parameter: a change further on gives the same."""
    first = ((name, tensor.shape, tensor.detach().reshape(-1)[:8].float()) for name, tensor in model.named_parameters())
    return of_parts(
        part for name, shape, few in first for part in (f"{name} {tuple(shape)}".encode(), few.cpu().numpy().data)
    )[:12]


def _plain(named: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """The tensors that hold the numbers: those of a quantised weight lie within it, under names of its class."""
    for name, tensor in named:
        if hasattr(tensor, "__tensor_flatten__"):
            inner: Any = tensor
            yield from _plain((f"{name}.{key}", getattr(inner, key)) for key in inner.__tensor_flatten__()[0])
        else:
            yield name, tensor


def _bytes(tensor: Tensor) -> memoryview:
    import torch

    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
