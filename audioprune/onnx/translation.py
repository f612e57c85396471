"""From a pruned model to a graph of ONNX operators."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..core.pruning import handle
from .operators import translations

OUTPUT = "logits"
MOST_CLIPS = 2**20
"""Greatest number of clips in a batch, because the tracer needs a number."""
_NOISY = ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")
"""Loggers of the exporter whose messages do not help a caller."""


class ExportError(RuntimeError):
    """Raised if a model cannot be written as ONNX, or if the file gives other logits than the model."""


class _Logits(nn.Module):
    """Wraps a model to give only its logits, from the input of the file."""

    def __init__(self, model: nn.Module, name: str) -> None:
        super().__init__()
        self.model, self.name = model, name

    def forward(self, clips: Tensor) -> Tensor:
        return self.model(**{self.name: clips}).logits


def translate(model: nn.Module, name: str, example: Tensor, opset: int) -> Any:
    """Translate the model to PyTorch's `ONNXProgram`, for batches of any size."""
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass

    batch = torch.export.Dim("batch", min=1, max=MOST_CLIPS)
    module = _Logits(model, name).eval()
    try:
        with _silent():
            # A separate step: if the batch size cannot be free, torch.onnx.export would silently write a fixed one.
            traced = torch.export.export(module, (example,), dynamic_shapes={"clips": {0: batch}}, strict=False)
            program = torch.onnx.export(
                traced,
                dynamo=True,
                verbose=False,
                opset_version=opset,
                input_names=[name],
                output_names=[OUTPUT],
                custom_translation_table=translations(),
            )
    except Exception as error:  # the tracer may raise any error
        pruned = handle(model)
        by = "" if pruned is None else f", pruned with {pruned.method},"
        raise ExportError(f"{type(model).__name__}{by} could not be written as ONNX: {reason(error)}") from error
    assert program is not None
    # For every node, the exporter stores the file and line on this machine from which it came.
    ClearMetadataAndDocStringPass()(program.model)
    for value in (
        *program.model.graph.initializers.values(),
        *program.model.graph.inputs,
        *program.model.graph.outputs,
    ):
        value.metadata_props.clear()
    return program


def reason(error: BaseException) -> str:
    """Reason of an error, without the exporter's advice: the first line of its cause."""
    while isinstance(error, torch.onnx.OnnxExporterError) and error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@contextmanager
def _silent() -> Iterator[None]:
    """Suppress the exporter's warnings and log lines."""
    loggers = [logging.getLogger(name) for name in _NOISY]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
