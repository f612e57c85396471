"""Waveforms themselves as a front end, for models such as Wav2Vec2 and HuBERT."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from .files import SAMPLE_RATE
from .front_end import FrontEnd

SECONDS = 10.0
"""Length of a window of a model that takes any length: what Wav2Vec2 and HuBERT classifiers are often trained with."""


class RawWaveform(FrontEnd):
    """Waveforms of any length, each with mean 0 and variance 1 if `normalize`, as transformers'
    `Wav2Vec2FeatureExtractor` makes them.

    seconds: what is heard at once of a longer sound.
    """

    takes_any_length: ClassVar[bool] = True
    place: Tensor

    def __init__(self, normalize: bool = True, seconds: float = SECONDS) -> None:
        super().__init__()
        self.normalize, self.seconds = normalize, seconds
        # It follows the module from device to device.
        self.register_buffer("place", torch.empty(0), persistent=False)

    @property
    def max_seconds(self) -> float:
        return self.seconds

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a window: its samples."""
        return (round(self.seconds * SAMPLE_RATE),)

    @property
    def settings(self) -> tuple[Any, ...]:
        return (self.normalize, self.seconds)

    @property
    def device(self) -> torch.device:
        return self.place.device

    def extra_repr(self) -> str:
        return f"normalize={self.normalize}, seconds={self.seconds:g}"

    def features(self, waveforms: Tensor, lengths: Tensor) -> Tensor:
        """(batch, samples), zeros after the end of a row; see `FrontEnd`."""
        if not self.normalize:
            return waveforms
        inside = torch.arange(waveforms.shape[1], device=waveforms.device) < lengths[:, None]
        mean = torch.where(inside, waveforms, 0).sum(1, keepdim=True) / lengths[:, None]
        centred = torch.where(inside, waveforms - mean, 0)
        variance = centred.square().sum(1, keepdim=True) / lengths[:, None]
        return centred / (variance + 1e-7).sqrt()
