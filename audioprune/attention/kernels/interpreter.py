"""Running of the kernels without a GPU, for tests and debugging."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from audioprune.attention import kernels

_MODULE = f"{kernels.__name__}.triton_attention"


@contextmanager
def interpreted() -> Iterator[None]:
    """Context in which the kernels also run on CPU tensors, by Triton's interpreter: the same code, slow, in numpy."""
    import triton.language as tl

    compiled = sys.modules.pop(_MODULE, None)
    try:
        # Triton decides at the definition of a kernel whether to interpret it.
        with patch.dict(os.environ, {"TRITON_INTERPRET": "1"}):
            module = import_module(_MODULE)
            # Triton's own sum and maximum give the same results, but ours would run one number at a time.
            known = {"_add": tl.standard._sum_combine, "_larger": tl.standard._elementwise_max}
            with (
                patch.multiple(module, launch=_with_float32(module.launch), **known),
                patch.object(kernels, "_interpreting", True),
            ):
                yield
    finally:
        sys.modules.pop(_MODULE, None)
        if compiled is not None:
            sys.modules[_MODULE] = compiled


def _with_float32(launch: Callable[..., tuple[Tensor, Tensor]]) -> Callable[..., tuple[Tensor, Tensor]]:
    """`launch` with bfloat16 inputs converted to float32, because numpy has no bfloat16 and would use its bits."""

    def run(query: Tensor, key: Tensor, value: Tensor | None, *rest: Any) -> tuple[Tensor, Tensor]:
        if query.dtype != torch.bfloat16:
            return launch(query, key, value, *rest)
        context, received = launch(query.float(), key.float(), None if value is None else value.float(), *rest)
        return context.to(query.dtype), received

    return run
