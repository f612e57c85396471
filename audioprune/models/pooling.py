"""Mean pooling as a module, so that an adapter can replace it by a mean weighted by token size."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class MeanPooling(nn.Module):
    """Mean over the patch tokens: (batch, tokens, width) → (batch, width).

    It ignores further keyword arguments of the model's forward.
    """

    def forward(self, tokens: Tensor, **_: Any) -> Tensor:
        return tokens.mean(dim=1)
