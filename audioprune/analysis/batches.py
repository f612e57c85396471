"""What a question that hears the clips itself is given: a batch, and models to change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ..core.pruning import prune
from ..methods import Method, TopK
from .question import Answer

FULL = 1.0
"""The keep rate of the unpruned model."""


@dataclass(frozen=True)
class AnalysisBatch:
    """A batch of clips, what each model made of it as it is pruned, and the models.

    log_mel: (batch, frames, mels). labels: (batch, classes), ones and zeros. intensity: (batch, patches), mean of each
    patch. models, methods: of each keep rate, 1.0 (unpruned) among them. logits: (batch, classes) of each of these.
    """

    log_mel: Tensor
    labels: Tensor
    intensity: Tensor
    models: Mapping[float, Any]
    methods: Mapping[float, TopK]
    logits: Mapping[float, Tensor]

    @property
    def full(self) -> Tensor:
        """(batch, classes), the unpruned model's logits."""
        return self.logits[FULL]

    @torch.inference_mode()
    def forward(self, keep_rate: float, method: Method) -> Tensor:
        """(batch, classes) in float32 on the CPU: the logits of a keep rate's model, pruned in another way."""
        model = self.models[keep_rate]
        with prune(model, method):
            return model(self.log_mel.to(model.device, model.dtype)).logits.float().cpu()


class Intervention(Protocol):
    """As a `Question`, but it changes what the model does: it runs forwards of its own."""

    name: str
    title: str
    how: str

    def update(self, heard: AnalysisBatch) -> None:
        """Take in a batch."""

    def answer(self) -> Answer:
        """What was found so far."""

    def state(self) -> dict[str, Any]:
        """All that `update` has gathered."""

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a `state`."""


def has_cls(model: Any) -> bool:
    """Whether tokens can be ranked by the attention of a CLS token."""
    from ..adapters import find_adapter

    return find_adapter(model).has_cls


def metric_name(multi_label: bool) -> str:
    return "mAP" if multi_label else "accuracy"
