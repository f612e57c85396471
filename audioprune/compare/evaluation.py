"""Accuracy or mean average precision, multiply-accumulates and throughput at several keep rates."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, default_collate

from ..audio.front_end import group_by

NOTHING: Callable[[int], Any] = lambda _: None  # noqa: E731


@torch.inference_mode()
def predict(
    model: nn.Module, dataset: Dataset[Any], batch_size: int = 32, advance: Callable[[int], Any] = NOTHING
) -> Tensor:
    """Logits (clips, classes) in float32, on the CPU.

    dataset: of dicts with `input_values` or `encoder_outputs`; clips of one length run together. advance: is called
    with the clips of each batch.
    """
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    rows: list[Tensor] = []
    for clips in DataLoader(dataset, batch_size, collate_fn=list):
        found: dict[int, Tensor] = {}
        for group in group_by([tuple(value.shape for value in clip.values()) for clip in clips]):
            batch = default_collate([clips[i] for i in group])
            there = {name: values.to(device) for name, values in batch.items()}
            found |= zip(group, call(model, there).logits.float().cpu(), strict=True)
        rows += (found[i] for i in range(len(clips)))
        advance(len(clips))
    model.train(was_training)
    return torch.stack(rows)


def call(model: nn.Module, batch: Mapping[str, Any]) -> Any:
    """Run a classifier on a batch of features, `input_values`, or on its encoder's outputs, `encoder_outputs`."""
    if "encoder_outputs" in batch:
        return model(encoder_outputs=(batch["encoder_outputs"],))
    return model(batch["input_values"])


def score(logits: np.ndarray, targets: np.ndarray, multi_label: bool) -> dict[str, float]:
    """{"accuracy": …}, or {"map": …}: the mean over classes of average precision, of classes that occur. Both also as
    "score", in [0, 1]. logits, targets: (clips, classes)."""
    if multi_label:
        from sklearn.metrics import average_precision_score  # of the train extra, and slow to import

        occurs = targets.any(axis=0)
        value = float(average_precision_score(targets[:, occurs] > 0.5, logits[:, occurs], average="macro"))
        return {"map": value, "score": value}
    value = float((logits.argmax(1) == targets.argmax(1)).mean())
    return {"accuracy": value, "score": value}


def spread(values: Sequence[float]) -> dict[str, float]:
    """Mean, and sample standard deviation where there are several."""
    found = {"mean": statistics.fmean(values)}
    return found | ({"std": statistics.stdev(values)} if len(values) > 1 else {})
