"""The precision of a training: bfloat16 only where the machine computes it."""

from __future__ import annotations

import warnings

import torch

from .recipe import Recipe


def precision_of(recipe: Recipe) -> str:
    """The precision in which this machine trains a recipe: "fp32", "bf16" or "fp16"."""
    if recipe.precision == "auto":
        return "bf16" if _computes_bf16() else "fp32"
    return recipe.precision


def check_precision(recipe: Recipe) -> None:
    """Warn of a bf16 that a CPU without instructions for it computes number by number.

    Raises `ValueError` for fp16 without a GPU.
    """
    if recipe.precision == "fp16" and not torch.cuda.is_available():
        raise ValueError("precision is fp16, which needs a GPU; on a CPU use --set precision=auto")
    if recipe.precision == "bf16" and not _computes_bf16():
        warnings.warn(
            "precision is bf16, for which this machine has no instructions: training takes several times as long; "
            "--set precision=auto avoids it",
            stacklevel=2,
        )


def _computes_bf16() -> bool:
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
