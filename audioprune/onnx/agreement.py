"""What was written as ONNX, and whether ONNX Runtime answers as the model does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..core.pruning import handle
from .translation import OUTPUT, ExportError

TOLERANCE = 1e-3
"""Greatest difference of onnxruntime's logits from PyTorch's, as a share of the greatest logit."""
ROUNDING = 3e-6
"""Relative change of an input with the same effect as rounding inside the model."""


@dataclass(frozen=True)
class Exported:
    """A written ONNX file and the result of its check.

    Args:
        path: the file; for a model of more than 1.5 GB, the weights are in `<path>.data`.
        size: bytes of both.
        input: name of its input.
        shape: shape of one clip.
        labels: number of logits of a clip.
        opset: version of ONNX's operators.
        nodes: number of nodes of its graph.
        difference: greatest difference of onnxruntime's logits from PyTorch's, as a share of the greatest logit,
            without ties.
        clips: number of clips in the check.
        ties: number of clips for which PyTorch itself keeps other tokens if the input changes as little as by rounding;
            both results are then correct.
    """

    path: Path
    size: int
    input: str
    shape: tuple[int, ...]
    labels: int
    opset: int
    nodes: int
    difference: float
    clips: int
    ties: int


def noise(batch: int, shape: Sequence[int]) -> Tensor:
    """Noise of the shape (batch, *shape), the same for each batch size."""
    return torch.randn(batch, *shape, generator=torch.Generator().manual_seed(batch))


def logits_of(model: Any, name: str, batch: Tensor) -> Tensor:
    return model(**{name: batch}).logits.cpu()


def compare_logits(
    model: nn.Module, session: Any, name: str, batches: list[Tensor], expected: list[Tensor]
) -> tuple[float, int, int]:
    """Difference, clips and ties for `Exported`. Raises `ExportError` if the file gives other logits.

    Args:
        model: the model.
        session: session of the file.
        name: name of the input.
        batches: inputs of the check.
        expected: the model's logits for them.
    """
    scale = float(torch.cat(expected).abs().max().clamp_min(1e-12))
    difference, ties = 0.0, 0
    for batch, logits in zip(batches, expected, strict=True):
        outputs = torch.from_numpy(session.run([OUTPUT], {name: batch.numpy()})[0])
        for clip, ours, theirs in zip(batch, logits, outputs, strict=True):
            distance = float((ours - theirs).abs().max()) / scale
            if distance <= TOLERANCE:
                difference = max(difference, distance)
            elif _is_tie(model, name, clip, ours, TOLERANCE * scale):
                ties += 1
            else:
                raise ExportError(
                    f"{type(model).__name__}: onnxruntime's logits differ from PyTorch's by {distance:.1e} of the "
                    f"greatest logit, but only {TOLERANCE:g} is allowed, so no file was left; please report this, with "
                    "the versions of torch, onnxscript and onnxruntime"
                )
    return difference, sum(map(len, batches)), ties


def _is_tie(model: nn.Module, name: str, clip: Tensor, logits: Tensor, tolerance: float, draws: int = 8) -> bool:
    """Whether PyTorch itself gives other logits if the input changes as little as by rounding.

    Then two tokens have the same rank, and either may be kept.

    Args:
        model: the model.
        name: name of the input.
        clip: one clip.
        logits: its logits.
        tolerance: greatest difference of equal logits.
        draws: number of changed inputs.
    """
    if handle(model) is None:
        return False
    changed = clip * (1 + ROUNDING * noise(draws, clip.shape))
    answers = logits_of(model, name, changed.to(next(model.parameters()).device))
    return bool(((answers - logits).abs() > tolerance).any())
