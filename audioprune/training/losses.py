"""Losses: cross-entropy or binary cross-entropy on soft labels, and distillation from a teacher's logits."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from .recipe import Distill


def label_loss(logits: Tensor, labels: Tensor, kind: str, smoothing: float = 0.0) -> Tensor:
    """Loss on the labels.

    Args:
        logits: (batch, classes).
        labels: (batch, classes).
        kind: "ce" if the labels are a distribution; "bce" if each class is independent.
        smoothing: label smoothing.
    """
    logits, labels = logits.float(), labels.float()
    if kind == "ce":
        return F.cross_entropy(logits, labels, label_smoothing=smoothing)
    return F.binary_cross_entropy_with_logits(logits, labels * (1 - smoothing) + smoothing / 2)


def distillation_loss(logits: Tensor, teacher: Tensor, settings: Distill) -> Tensor:
    """Distillation loss on (batch, classes) logits.

    It is KL(teacher ‖ student) at a temperature, times its square (Hinton et al., arXiv 1503.02531), or binary
    cross-entropy on the teacher's probabilities."""
    logits, teacher = logits.float(), teacher.float()
    if settings.loss == "bce":
        return F.binary_cross_entropy_with_logits(logits, teacher.sigmoid())
    t = settings.temperature
    student, target = (logits / t).log_softmax(1), (teacher / t).log_softmax(1)
    return F.kl_div(student, target, reduction="batchmean", log_target=True) * t**2
