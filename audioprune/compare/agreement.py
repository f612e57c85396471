"""How far pruned logits are from unpruned ones: the same top label or not, and the KL divergence."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def same_top(logits: Tensor, full: Tensor) -> Tensor:
    """Whether each clip has the same top label in both. logits, full: (…, clips, classes) → (…, clips) booleans."""
    return logits.argmax(-1) == full.argmax(-1)


def agreement(logits: Tensor, full: Tensor) -> float:
    """Share of clips with the same top label. logits, full: (clips, classes)."""
    return int(same_top(logits, full).sum()) / len(full)


def divergences(logits: Tensor, full: Tensor, multi_label: bool = False) -> Tensor:
    """KL(full ‖ logits) of each clip in nats: of the softmax over classes, or, if a clip may have several labels, of
    each label's own probability, summed. logits, full: (clips, classes) → (clips,) float64."""
    logits, full = logits.double(), full.double()
    if not multi_label:
        p, q = full.log_softmax(1), logits.log_softmax(1)
        return (p.exp() * (p - q)).sum(1)
    yes = full.sigmoid() * (F.logsigmoid(full) - F.logsigmoid(logits))
    no = (-full).sigmoid() * (F.logsigmoid(-full) - F.logsigmoid(-logits))
    return (yes + no).sum(1)


def divergence(logits: Tensor, full: Tensor, multi_label: bool = False) -> float:
    """Mean of `divergences` over the clips."""
    return float(divergences(logits, full, multi_label).mean())


def pooled(logits: Tensor, owners: Tensor, pool: str = "mean", multi_label: bool = False) -> Tensor:
    """Logits of recordings from those of their windows: their probabilities are the mean, or the maximum, of those of
    the windows. Those of a recording with one window stay as they are.

    logits: (windows, classes). owners: (windows,), the recording of each, 0 … n - 1. Returns (n, classes).
    """
    count = torch.bincount(owners)
    index = owners[:, None].expand_as(logits)
    probabilities = (logits.sigmoid() if multi_label else logits.softmax(1)).double()
    kind = "mean" if pool == "mean" else "amax"
    empty = probabilities.new_zeros(len(count), logits.shape[1])
    found = empty.scatter_reduce(0, index, probabilities, kind, include_self=False)
    least = torch.finfo(torch.float32).tiny
    logs = found.clamp_min(least).log()
    if multi_label:
        logs = logs - (1 - found).clamp_min(torch.finfo(torch.float32).eps).log()
    result = logs.to(logits.dtype)
    alone = count[owners] == 1
    result[owners[alone]] = logits[alone]
    return result
