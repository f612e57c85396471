"""What turns waveforms into a model's inputs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .waveforms import Sound, batch_of


class FrontEnd(nn.Module, ABC):
    """A module from waveforms to what a model takes: features of a fixed shape, or waveforms again."""

    @property
    @abstractmethod
    def max_seconds(self) -> float:
        """Seconds of sound that the model hears at most."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int] | None:
        """Shape of one clip's features; None if it depends on the clip's length."""

    @property
    @abstractmethod
    def settings(self) -> tuple[Any, ...]:
        """What the features depend on, besides the sound."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where the features are made."""

    @abstractmethod
    def picture(self, waveform: np.ndarray) -> np.ndarray:
        """Log-mel spectrogram of what the model hears of a clip, padding included, to draw: (frames, mels)."""

    def batches(self, waveforms: Sequence[np.ndarray]) -> list[list[int]]:
        """Numbers of the clips that can be one batch. Clips of different lengths are several batches for a model that
        would hear their padding, so that each answer is that of the clip alone."""
        return [list(range(len(waveforms)))] if self.shape else group_by([len(one) for one in waveforms])

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


def group_by(keys: Sequence[Hashable]) -> list[list[int]]:
    """Places of equal keys together, in the order of the first of each."""
    groups: dict[Hashable, list[int]] = {}
    for place, key in enumerate(keys):
        groups.setdefault(key, []).append(place)
    return list(groups.values())
