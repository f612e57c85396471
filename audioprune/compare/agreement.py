"""How far pruned logits are from unpruned ones: the same top label or not, and the KL divergence."""

from __future__ import annotations

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
