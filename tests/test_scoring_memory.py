"""Scoring a long clip never holds a number for each pair of its frames."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from audioprune.attention.scoring import score_keys


class Largest(TorchDispatchMode):
    """Notes the most numbers that any tensor has which is made."""

    numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else (made,):
            if isinstance(tensor, Tensor):
                self.numel = max(self.numel, tensor.numel())
        return made


@pytest.mark.parametrize("frames", [500, 2000, 8000])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_largest_tensor(frames: int, padded: bool, device: str) -> None:
    """On the meta device nothing is computed, by the code that other devices than a CPU run if there is no kernel."""
    cells, shape = 2**14, (2, 2, frames, 4)
    query, key = torch.randn(shape, device=device), torch.randn(shape, device=device, requires_grad=True)
    mask = voters = None
    if padded:
        mask, voters = torch.zeros(2, 1, 1, frames, device=device), torch.ones(2, frames, device=device)
    with Largest() as largest:
        scores = score_keys(query, key, 0.5, mask, voters, cells=cells)
    # A piece of the map, or queries and keys themselves.
    assert largest.numel <= max(4 * cells, query.numel())
    assert largest.numel < 2 * 2 * frames**2 / 3
    assert scores.shape == shape[:3]
    assert not scores.requires_grad
