"""The kernels without a GPU, for tests and for whoever debugs them."""

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

_MODULE = f"{kernels.__name__}.received"


@contextmanager
def interpreted() -> Iterator[None]:
    """Within, the kernels serve CPU tensors too, through Triton's interpreter: the same code, slowly, in numpy."""
    import triton.language as tl

    compiled = sys.modules.pop(_MODULE, None)
    try:
        # Triton decides when a kernel is defined whether it will be interpreted.
        with patch.dict(os.environ, {"TRITON_INTERPRET": "1"}):
            received = import_module(_MODULE)
            # It knows its own sum and maximum, which are as ours, and would step through ours one number at a time.
            known = {"_add": tl.standard._sum_combine, "_larger": tl.standard._elementwise_max}
            with (
                patch.multiple(received, launch=_widened(received.launch), **known),
                patch.object(kernels, "_interpreting", True),
            ):
                yield
    finally:
        sys.modules.pop(_MODULE, None)
        if compiled is not None:
            sys.modules[_MODULE] = compiled


def _widened(launch: Callable[..., tuple[Tensor, Tensor]]) -> Callable[..., tuple[Tensor, Tensor]]:
    """`launch` with bfloat16 made float32 on the way in, as numpy has none and would multiply its bits."""

    def run(query: Tensor, key: Tensor, value: Tensor | None, *rest: Any) -> tuple[Tensor, Tensor]:
        if query.dtype != torch.bfloat16:
            return launch(query, key, value, *rest)
        context, received = launch(query.float(), key.float(), None if value is None else value.float(), *rest)
        return context.to(query.dtype), received

    return run
