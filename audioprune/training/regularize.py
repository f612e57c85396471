"""What makes training noisy inside the model: drop path, and patches that never enter it. Nothing of it is saved."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..adapters import UnsupportedModelError
from ..adapters.blocks.adapter import find_blocks


class DropPath(nn.Module):
    """Stochastic depth (arXiv 1603.09382): in training, a clip's residual branch is left out with probability `rate`
    and the others are scaled up. (batch, tokens, width) → the same."""

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
    """Drop path in both residual branches of every block, from 0 in the first to `rate` in the last.

    It takes the place of the blocks' dropout, which has no weights. Raises `UnsupportedModelError` where a block's
    branches do not end in one.
    """
    layers = find_blocks(model).layers
    for layer, layer_rate in zip(layers, torch.linspace(0, rate, len(layers)).tolist(), strict=True):
        if not isinstance(getattr(layer, "dropout", None), nn.Dropout | DropPath):
            raise UnsupportedModelError(f"{type(layer).__name__} has no dropout at its branches' end to replace")
        layer.dropout = DropPath(layer_rate).train(layer.training)


class PatchMask(TrainerCallback):
    """In training, `rate` of the patch columns (time) and `rate` of the rows (frequency) do not enter the model,
    until epoch `until`: AudioMAE's 2-D masking in fine-tuning, and the cheaper epochs that come with it."""

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
        # A run may be resumed after the end, or within an epoch: `state.epoch` is fractional.
        if (state.epoch or 0.0) >= self.until:
            self.on_train_end(args, state, control)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self._hook is not None:
            self._hook.remove()
            self._hook = None

    def _drop(self, module: nn.Module, args: tuple, tokens: Tensor) -> Tensor:
        """(batch, special + patches, width) → fewer patches, other ones in each clip."""
        if not module.training:
            return tokens
        special, grid = self.adapter.special, self.adapter.grid
        assert grid is not None  # of a spectrogram's patches there is always one
        kept = kept_patches(tokens.shape[0], grid.time, grid.frequency, self.rate, grid.frequency_major, tokens.device)
        patches = tokens[:, special:].gather(1, kept[..., None].expand(-1, -1, tokens.shape[2]))
        return torch.cat((tokens[:, :special], patches), dim=1)


def kept_patches(
    batch: int, time: int, frequency: int, rate: float, frequency_major: bool, device: torch.device
) -> Tensor:
    """(batch, n) ascending numbers of the patches in the columns and rows that stay."""
    columns = _some(batch, time, rate, device)
    rows = _some(batch, frequency, rate, device)
    outer, inner, stride = (rows, columns, time) if frequency_major else (columns, rows, frequency)
    return (outer[:, :, None] * stride + inner[:, None, :]).flatten(1)


def _some(batch: int, count: int, rate: float, device: torch.device) -> Tensor:
    """(batch, ⌈(1 − rate) · count⌉) ascending choices from 0 … count − 1."""
    stay = max(1, count - int(rate * count))
    return torch.rand(batch, count, device=device).argsort(1)[:, :stay].sort(1).values
