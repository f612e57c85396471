"""Outputs of a frozen encoder, computed once for each clip."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .. import fingerprints
from ..adapters.blocks.adapter import find_blocks
from ..audio.front_end import FrontEnd
from ..core.pruning import prune
from ..core.settings import describe
from ..methods import Method


class EncoderOutputs(FrontEnd):
    """The mean of a Whisper's encoder over all positions, as a front end: what its head needs, since its projector is
    linear. A `SoundCache` keeps it, so that further heads, folds and seeds need no encoder.

    front: the model's own front end. model: a `WhisperForAudioClassification`, unpruned. method: with what it is pruned
    while it hears; the mean then counts each token as often as it stands for positions.
    """

    def __init__(self, front: FrontEnd, model: Any, method: Method | None = None) -> None:
        super().__init__()
        self.front, self.method = front, method
        # Not a part of this module: it belongs to whoever trains it.
        self._model, self._encoder = [model], [find_blocks(model).tower]
        self._fingerprint = fingerprints.of_weights(self._encoder[0])

    @property
    def max_seconds(self) -> float:
        return self.front.max_seconds

    @property
    def shape(self) -> tuple[int, int]:
        return (1, int(self._encoder[0].config.d_model))

    @property
    def settings(self) -> tuple[Any, ...]:
        pruned = () if self.method is None else (json.dumps(describe(self.method), sort_keys=True),)
        return (*self.front.settings, self._fingerprint, *pruned)

    @property
    def device(self) -> torch.device:
        return self._encoder[0].conv1.weight.device

    def picture(self, waveform: np.ndarray) -> np.ndarray:
        return self.front.picture(waveform)

    @torch.no_grad()
    def features(self, waveforms: Tensor, lengths: Tensor) -> Tensor:
        """(batch, 1, width); see `FrontEnd`."""
        model = self._model[0]
        there = self.front.device
        inputs = self.front.features(waveforms.to(there), lengths.to(there)).to(self.device)
        with _without_head(model), nullcontext() if self.method is None else prune(model, self.method):
            return model(inputs).logits.float()[:, None]


@contextmanager
def _without_head(model: Any) -> Iterator[None]:
    """The model answers, in evaluation, with the mean that its head would read."""
    head, was_training = (model.projector, model.classifier), model.training
    model.projector = model.classifier = nn.Identity()
    model.eval()
    try:
        yield
    finally:
        model.projector, model.classifier = head
        model.train(was_training)
