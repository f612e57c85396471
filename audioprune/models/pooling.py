"""Mean pooling as a module, so that an adapter can make it count merged tokens by their size."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class MeanPooling(nn.Module):
    """Mean over the patch tokens: (batch, tokens, width) → (batch, width).

    Further keyword arguments of the model's forward pass arrive here unread.
    """

    def forward(self, tokens: Tensor, **_: Any) -> Tensor:
        return tokens.mean(dim=1)
