"""Common code of the families that swap the classes of whole models."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from .token_pass import TokenPass

_UNEQUAL = "_audioprune_unequal"
"""Attribute of the tokens of an encoder that ran without its head, if they have unequal weights in a mean."""


class SwappedModel(PreTrainedModel):
    """A whole model whose class is swapped."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # The class name is saved in the model's config, so it must be a name that transformers knows.
        cls.__name__ = cls.__bases__[-1].__name__


def weighted_mean(tokens: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean over tokens: (batch, n, width) and weights (batch, n) → (batch, width)."""
    total = (tokens * weight[..., None]).sum(dim=1)
    return (total / weight.sum(dim=1, keepdim=True)).to(tokens.dtype)


def mark_unequal(output: Any, token_pass: TokenPass) -> None:
    """Mark an encoder's last hidden state, (batch, n, width), if its tokens have unequal weights."""
    tokens = output[0]
    if token_pass.final_weight(tokens) is not None:
        setattr(tokens, _UNEQUAL, True)


def refuse_unequal(layer: nn.Module, args: tuple[Any, ...]) -> None:
    """Hook before the layer of a head that comes before a plain mean. Raises `ValueError` for marked tokens."""
    if args and getattr(args[0], _UNEQUAL, False):
        raise ValueError(
            "this is the head's unpruned forward (model.forward was kept or compiled before pruning), which takes a "
            "plain mean of tokens that are merged, or padding; call the model, or take model.forward again"
        )
