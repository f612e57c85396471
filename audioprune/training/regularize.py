"""Regularisation inside the model: drop path, and patches that do not enter it. Nothing of it is saved."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..adapters import UnsupportedModelError
from ..adapters.blocks.adapter import find_blocks


class DropPath(nn.Module):
    """Stochastic depth (arXiv 1603.09382).

    In training, the residual branch of a clip is left out with probability `rate`, and the others are scaled up. Input
    and output have the shape (batch, tokens, width)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, branch: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return branch
        stays = torch.rand(branch.shape[0], 1, 1, device=branch.device) >= self.rate
        return branch * (stays / (1 - self.rate)).to(branch.dtype)

    def extra_repr(self) -> str:
        return f"rate={self.rate:.3f}"


def set_drop_path(model: nn.Module, rate: float) -> None:
    """Add drop path to both residual branches of every block, from 0 in the first to `rate` in the last.

    It replaces the dropout of the blocks, which has no weights. Raises `UnsupportedModelError` if the branches of a
    block do not end in a dropout.
    """
    layers = find_blocks(model).layers
    for layer, layer_rate in zip(layers, torch.linspace(0, rate, len(layers)).tolist(), strict=True):
        if not isinstance(getattr(layer, "dropout", None), nn.Dropout | DropPath):
            raise UnsupportedModelError(
                f"{type(layer).__name__} has no dropout at the end of its branches that drop path could replace"
            )
        layer.dropout = DropPath(layer_rate).train(layer.training)


class PatchMask(TrainerCallback):
    """Masks patches in training until epoch `until`: AudioMAE's 2-D masking in fine-tuning. It makes epochs cheaper.

    `rate` of the patch columns (time) and `rate` of the rows (frequency) do not enter the model."""

    def __init__(self, model: nn.Module, rate: float, until: float) -> None:
        self.adapter, self.rate, self.until = find_blocks(model), rate, until
        self._hook: RemovableHandle | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._hook = self.adapter.encoder.embeddings.register_forward_hook(self._drop)

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # A run may resume after the end, or within an epoch: `state.epoch` is a fraction.
        if (state.epoch or 0.0) >= self.until:
            self.on_train_end(args, state, control)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self._hook is not None:
            self._hook.remove()
            self._hook = None

    def _drop(self, module: nn.Module, args: tuple, tokens: Tensor) -> Tensor:
        """Drop patches of tokens (batch, special + patches, width), other ones in each clip."""
        if not module.training:
            return tokens
        special, grid = self.adapter.special, self.adapter.grid
        assert grid is not None  # patches of a spectrogram always have a grid
        kept = kept_patches(tokens.shape[0], grid.time, grid.frequency, self.rate, grid.frequency_major, tokens.device)
        patches = tokens[:, special:].gather(1, kept[..., None].expand(-1, -1, tokens.shape[2]))
        return torch.cat((tokens[:, :special], patches), dim=1)


def kept_patches(
    batch: int, time: int, frequency: int, rate: float, frequency_major: bool, device: torch.device
) -> Tensor:
    """Numbers of the patches in the columns and rows that stay: (batch, n), ascending.

    Args:
        batch: number of clips.
        time: number of patch columns.
        frequency: number of patch rows.
        rate: share of columns and rows to drop.
        frequency_major: whether patches are numbered row by row.
        device: device of the result.
    """
    columns = _some(batch, time, rate, device)
    rows = _some(batch, frequency, rate, device)
    outer, inner, stride = (rows, columns, time) if frequency_major else (columns, rows, frequency)
    return (outer[:, :, None] * stride + inner[:, None, :]).flatten(1)


def _some(batch: int, count: int, rate: float, device: torch.device) -> Tensor:
    """Random choices from 0 … count − 1: (batch, ⌈(1 − rate) · count⌉), ascending."""
    stay = max(1, count - int(rate * count))
    return torch.rand(batch, count, device=device).argsort(1)[:, :stay].sort(1).values
