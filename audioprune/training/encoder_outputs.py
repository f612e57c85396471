"""Outputs of a frozen encoder, computed once for each clip."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import fingerprints
from ..adapters.blocks.adapter import find_blocks
from ..audio.front_end import FrontEnd


class EncoderOutputs(FrontEnd):
    """The mean of a Whisper's encoder over all positions, as a front end: what its head needs, since its projector is
    linear. A `SoundCache` keeps it, so that further heads, folds and seeds need no encoder.

    front: the model's own front end. model: a `WhisperForAudioClassification`, unpruned.
    """

    def __init__(self, front: FrontEnd, model: Any) -> None:
        super().__init__()
        self.front = front
        # Not a part of this module: it belongs to whoever trains it.
        self._encoder = [find_blocks(model).tower]
        self._fingerprint = fingerprints.of_weights(self._encoder[0])

    @property
    def max_seconds(self) -> float:
        return self.front.max_seconds

    @property
    def shape(self) -> tuple[int, int]:
        return (1, int(self._encoder[0].config.d_model))

    @property
    def settings(self) -> tuple[Any, ...]:
        return (*self.front.settings, self._fingerprint)

    @property
    def device(self) -> torch.device:
        return self._encoder[0].conv1.weight.device

    @torch.no_grad()
    def features(self, waveforms: Tensor, lengths: Tensor) -> Tensor:
        """(batch, 1, width); see `FrontEnd`."""
        encoder = self._encoder[0]
        there = self.front.device
        inputs = self.front.features(waveforms.to(there), lengths.to(there)).to(self.device)
        was_training = encoder.training
        encoder.eval()
        try:
            return encoder(inputs).last_hidden_state.float().mean(dim=1, keepdim=True)
        finally:
            encoder.train(was_training)
