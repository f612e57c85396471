"""Input of the questions that run the models themselves: a batch of clips, and the models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ..core.pruning import prune
from ..methods import Method, TopK
from .question import Finding

FULL = 1.0
"""The keep rate of the unpruned model."""


@dataclass(frozen=True)
class AnalysisBatch:
    """A batch of clips, the models, and the logits of each model at its keep rate.

    Args:
        log_mel: (batch, frames, mels).
        labels: (batch, classes), ones and zeros.
        intensity: (batch, patches), mean of each patch.
        models: keep rate → model; 1.0 (unpruned) is included.
        methods: keep rate → pruning method.
        logits: keep rate → (batch, classes).
    """

    log_mel: Tensor
    labels: Tensor
    intensity: Tensor
    models: Mapping[float, Any]
    methods: Mapping[float, TopK]
    logits: Mapping[float, Tensor]

    @property
    def full(self) -> Tensor:
        """Logits of the unpruned model, (batch, classes)."""
        return self.logits[FULL]

    @torch.inference_mode()
    def forward(self, keep_rate: float, method: Method) -> Tensor:
        """Logits of a keep rate's model with another pruning method: (batch, classes), float32, on the CPU."""
        model = self.models[keep_rate]
        with prune(model, method):
            return model(self.log_mel.to(model.device, model.dtype)).logits.float().cpu()


class Intervention(Protocol):
    """A `Question` that changes the pruning, and therefore runs its own forwards."""

    name: str
    title: str
    how: str

    def update(self, batch: AnalysisBatch) -> None:
        """Add a batch to the statistic."""

    def answer(self) -> Finding:
        """Findings from the batches so far."""

    def state(self) -> dict[str, Any]:
        """Everything that `update` has collected."""

    def load(self, state: dict[str, Any]) -> None:
        """Continue from a `state`."""


def has_cls(model: Any) -> bool:
    """Whether the model has a CLS token whose attention can rank tokens."""
    from ..adapters import find_adapter

    return find_adapter(model).has_cls


def metric_name(multi_label: bool) -> str:
    return "mAP" if multi_label else "accuracy"
