"""Scoring a long clip never holds a number for each pair of its frames."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from audioprune.adapters.audio_lm import tap
from audioprune.adapters.audio_lm.tap import column_sums


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
def test_largest_tensor(frames: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tap, "LOGITS_AT_ONCE", 2**16)
    query, key = torch.randn(2, 2, frames, 4), torch.randn(2, 2, frames, 4)
    with Largest() as largest:
        column_sums(query, key, 0.5)
    # A chunk of logits, or queries and keys themselves.
    assert largest.numel <= max(2**16, query.numel())
    assert largest.numel < 2 * 2 * frames**2 / 8
