"""Bias correction: what a pruned classifier's logits differ by in all clips alike is taken off them.

After data-free quantization (Nagel et al. 2019, arXiv 1906.04721), which takes the mean error of a compressed
layer out of its bias. Here it is the mean error of the logits, found on a few clips without labels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from ..adapters import Adapter
from ..adapters.blocks.adapter import BlockAdapter

Batch = Tensor | Mapping[str, Any]

_BIAS = "_audioprune_bias"
"""Buffer of the last layer, (labels,): what is taken off. It is not part of the state dict."""


class CorrectedLinear(nn.Linear):
    """The layer that gives the logits. Its class is swapped, so a compiled model notices; its parameters stay.

    It is the bias that differs, since a packed layer has a product of its own, with this bias.
    """

    @property
    def bias(self) -> Tensor:  # type: ignore[override]
        own, taken = self._parameters["bias"], getattr(self, _BIAS)
        return -taken if own is None else own - taken


class LogitBias:
    """Takes a bias off the logits of one model, which can be undone.

    adapter: how the model is entered. labels: of the model, None if it gives no logits.
    """

    def __init__(self, model: nn.Module, adapter: Adapter, labels: int | None) -> None:
        self._layer = _last_layer(model, adapter, labels)
        self._why = f"{type(model).__name__} is no classifier with a linear last layer: its logits have no bias"

    def set(self, bias: Sequence[float] | None) -> None:
        """Take this off from now on; None restores the layer. Raises `ValueError` if it does not fit the model."""
        self.check(bias)
        layer = self._layer
        if layer is None:
            return
        if _BIAS in layer._buffers:
            layer.__class__ = nn.Linear
            del layer._buffers[_BIAS]
            layer._non_persistent_buffers_set.discard(_BIAS)
        if bias is not None:
            with torch.inference_mode(False):  # the model may be trained later
                layer.register_buffer(_BIAS, layer.weight.new_tensor(bias), persistent=False)
            layer.__class__ = CorrectedLinear

    def check(self, bias: Sequence[float] | None) -> None:
        """Raise `ValueError` if a bias does not fit the model."""
        if bias is None:
            return
        self.check_layer()
        if len(bias) != self._layer.out_features:
            raise ValueError(f"bias has {len(bias)} numbers, and the model has {self._layer.out_features} labels")

    def check_layer(self) -> None:
        """Raise `ValueError` if the model has no layer that gives logits."""
        if self._layer is None:
            raise ValueError(self._why)

    def found(
        self, model: Any, inputs: Batch | Iterable[Batch], unpruned: Callable[[], AbstractContextManager[None]]
    ) -> tuple[float, ...]:
        """Mean over clips of what pruning adds to their logits. unpruned: within it, the model runs without.

        Raises `ValueError` for no clips, logits that are not the layer's, and such as are not finite.
        """
        given: list[Tensor] = []
        watch = self._layer.register_forward_hook(lambda _layer, _inputs, output: given.append(output))
        differences = []
        try:
            for batch in [inputs] if isinstance(inputs, Tensor | Mapping) else inputs:
                pruned = _logits(model, batch)
                if not given or not torch.allclose(given[-1].double().cpu(), pruned, rtol=0, atol=0, equal_nan=True):
                    raise ValueError(self._why)
                given.clear()
                with unpruned():
                    differences.append(pruned - _logits(model, batch))
        finally:
            watch.remove()
        if not sum(map(len, differences)):
            raise ValueError("no clips to correct the bias with; give some, such as 16")
        mean = torch.cat(differences).mean(dim=0)
        if not mean.isfinite().all():
            raise ValueError("the logits of these clips are not finite; look for NaN or infinity in the inputs")
        return tuple(mean.tolist())


def _logits(model: Any, batch: Batch) -> Tensor:
    """(clips, labels), in double precision, on the CPU."""
    output = model(**batch) if isinstance(batch, Mapping) else model(batch)
    return output.logits.double().cpu()


def _last_layer(model: nn.Module, adapter: Adapter, labels: int | None) -> Any:
    """The layer that gives a classifier's logits: its last linear one outside the encoder."""
    if labels is None or not isinstance(adapter, BlockAdapter) or adapter.is_decoded:
        return None
    inside = set(adapter.tower.modules())
    layers = [
        module
        for module in model.modules()
        if type(module) in (nn.Linear, CorrectedLinear) and module not in inside and module.out_features == labels
    ]
    return layers[-1] if layers else None
