"""What the families share that swap the classes of whole models."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from .token_pass import TokenPass

_UNEQUAL = "_audioprune_unequal"
"""Mark on the tokens of an encoder that ran without its head: they do not count alike in a mean."""


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


def mark_unequal(output: Any, token_pass: TokenPass) -> None:
    """Note on an encoder's last hidden state, (batch, n, width), whether its tokens count alike."""
    tokens = output[0]
    if token_pass.final_weight(tokens) is not None:
        setattr(tokens, _UNEQUAL, True)


def refuse_unequal(layer: nn.Module, args: tuple[Any, ...]) -> None:
    """A hook before the layer of a head that is followed by a plain mean. Raises `ValueError` for marked tokens."""
    if args and getattr(args[0], _UNEQUAL, False):
        raise ValueError(
            "this is the head's unpruned forward (taken before pruning, by somebody who kept or compiled "
            "model.forward), which takes a plain mean of tokens that are merged, or padding; call the model, or take "
            "model.forward again"
        )
