"""What the families share that swap the classes of whole models."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import PreTrainedModel


class SwappedModel(PreTrainedModel):
    """A whole model whose class is swapped."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # The class's name goes into the config of a model that is saved: it must be one that transformers knows.
        cls.__name__ = cls.__bases__[-1].__name__


def weighted_mean(tokens: Tensor, weight: Tensor) -> Tensor:
    """(batch, n, width) and (batch, n) → (batch, width)."""
    total = (tokens * weight[..., None]).sum(dim=1)
    return (total / weight.sum(dim=1, keepdim=True)).to(tokens.dtype)
