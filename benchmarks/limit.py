"""Measure what the machine can do at best: matrix products and copies."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from audioprune.attention.packing import available, pack

from .turns import Contender

WIDTH, INNER = 768, 3072
SHAPES = ((WIDTH, WIDTH), (WIDTH, INNER), (INNER, WIDTH))
"""Input and output widths of a ViT-Base's linear layers."""
COPIED = 64 * 2**20


def products(rows: int, dtype: torch.dtype) -> dict[str, Contender]:
    """Make contenders: the linear layers of a ViT-Base on so many tokens, as PyTorch computes them and packed."""
    contenders = {}
    for packed in (False, True)[: 1 + available()]:
        for width, out in SHAPES:
            layer = nn.Sequential(nn.Linear(width, out)).to(dtype)
            if packed:
                pack(layer, frozen=True)
            x = torch.randn(rows, width, dtype=dtype)
            kind = "packed product" if packed else "product"
            contenders[f"{kind} {width}×{out}"] = Contender(lambda layer=layer, x=x: layer(x))
    return contenders


def gmacs(contenders: dict[str, Contender], rows: int) -> dict[str, float]:
    """Return the 10⁹ multiply-accumulates a second of each of `products`, and the best of each kind."""
    found: dict[str, float] = {}
    for name, contender in contenders.items():
        kind, _, shape = name.rpartition(" ")
        width, out = map(int, shape.split("×"))
        found[name] = rows * width * out / contender.median / 1e9
        found[f"best {kind}"] = max(found[name], found.get(f"best {kind}", 0.0))
    return found


def copy() -> Contender:
    """Make a contender that copies 64 MiB, which is more than the caches hold."""
    source = torch.zeros(COPIED, dtype=torch.uint8)
    target = torch.empty_like(source)
    return Contender(lambda: target.copy_(source))


def copy_rate(contender: Contender) -> float:
    """Return GB/s, reading and writing together."""
    return 2 * COPIED / contender.median / 1e9


def describe() -> dict[str, Any]:
    """Return the instruction sets that PyTorch uses here."""
    return {"cpu_capability": torch.backends.cpu.get_cpu_capability(), "mkl": torch.backends.mkl.is_available()}
