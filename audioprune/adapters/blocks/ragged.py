"""Clips of different lengths in one batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from ...core import ops
from ...core.tokens import Reduction, Tokens


def unless_all(lengths: Tensor, count: int) -> Tensor | None:
    """The lengths, or None if every row has all `count` tokens."""
    return None if int(lengths.min()) == count else lengths


def join(parts: list[Reduction], order: Tensor, count: int) -> Reduction:
    """Join reductions of rows of different lengths. order: index of each row among the rows of the parts."""

    def stack(values: list[Any], fill: float, width: int | None = None) -> Any:
        if values[0] is None:
            return None
        if values[0].ndim == 1:
            return torch.cat(values)[order]
        width = width or max(value.shape[1] for value in values)
        wide = [pad(value, (0, 0) * (value.ndim - 2) + (0, width - value.shape[1]), value=fill) for value in values]
        return torch.cat(wide)[order]

    def alike(values: list[Tensor | None], meant: Callable[[Reduction], Tensor]) -> list[Tensor | None]:
        """Fill in missing values. A part with too few tokens to reduce may have no values although others have."""
        if all(value is None for value in values):
            return values
        return [meant(part) if value is None else value for part, value in zip(parts, values, strict=True)]

    def ones(part: Reduction) -> Tensor:
        return torch.ones_like(part.tokens.patch, dtype=torch.float32)

    left = [part.tokens for part in parts]
    per_token = {
        each.name: stack(alike([getattr(tokens, each.name) for tokens in left], ones), each.metadata["filler"])
        for each in fields(Tokens)
        if "filler" in each.metadata
    }
    full = [part.tokens.patch.new_full((len(part.kept),), part.tokens.count) for part in parts]
    lengths = [f if part.lengths is None else part.lengths for part, f in zip(parts, full, strict=True)]
    memory = left[0].memory and {k: stack([t.memory[k] for t in left if t.memory], 0.0) for k in left[0].memory}
    return Reduction(
        tokens=Tokens(**per_token, memory=memory),
        kept=stack([part.kept for part in parts], -1),
        scores=stack([part.scores for part in parts], float("nan"), count),
        destination=stack(
            alike([p.destination for p in parts], lambda p: ops.places_of(p.kept, p.scores.shape[1])), -1, count
        ),
        lengths=torch.cat(lengths)[order],
        notes={name: torch.cat([part.notes[name] for part in parts])[order] for name in parts[0].notes},
    )
