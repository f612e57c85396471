"""What turns waveforms into a model's inputs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from .waveforms import Sound, batch_of


class FrontEnd(nn.Module, ABC):
    """A module from waveforms to features: of a fixed shape, unless it takes any length."""

    takes_any_length: ClassVar[bool] = False
    """Whether sounds of different lengths give features of different lengths. Only equal lengths then make a batch."""

    @property
    @abstractmethod
    def max_seconds(self) -> float:
        """Seconds of sound that the model hears at most."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Shape of one clip's features."""

    @property
    @abstractmethod
    def settings(self) -> tuple[Any, ...]:
        """What the features depend on, besides the sound."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where the features are made."""

    @abstractmethod
    def features(self, waveforms: Tensor, lengths: Tensor) -> Tensor:
        """Features of waveforms that were checked, (batch, *shape) in float32, on `device`.

        waveforms: (batch, samples), 16 kHz, mono, zeros after the end of a row. lengths: (batch,), samples of each row.
        Both are on `device`.
        """

    def forward(
        self,
        waveforms: Tensor | np.ndarray | Iterable[Sound] | Sound,
        lengths: Tensor | None = None,
        *,
        sampling_rate: int | None = None,
    ) -> Tensor:
        """Features of a batch of sounds, (batch, *shape) in float32, under autocast too.

        Args:
            waveforms: (batch, samples), (samples,), one sound, or a sequence of sounds of different lengths. A sound
                is any input of `audioprune.audio.waveforms.waveform_of`: the result of `load_audio`, an array of floats
                in [-1, 1] or of whole numbers in full scale, with or without channels, or a dict of `datasets`.
            lengths: (batch,), true samples of each row of a padded tensor.
            sampling_rate: hertz of arrays, 16,000 by default; other rates are converted.

        Raises `AudioError` (a `ValueError`) if an input is not a sound: a wrong shape or type, NaN, floats far outside
        [-1, 1], or less than one 25 ms frame. Raises `TypeError` for a path.
        """
        batch, true = batch_of(waveforms, lengths, sampling_rate=sampling_rate)
        with torch.autocast(self.device.type, enabled=False):
            return self.features(batch.to(self.device), true.to(self.device))
