"""Whisper's own log-mel features as a front end."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import WhisperFeatureExtractor

from .features import picture_of
from .files import SAMPLE_RATE
from .front_end import FrontEnd


class WhisperFeatures(FrontEnd):
    """transformers' `WhisperFeatureExtractor`: 30 s of log-mel, of which what the sound does not fill is padding.

    extractor: the extractor of the model. Features are computed on the CPU, then moved.
    """

    place: Tensor

    def __init__(self, extractor: WhisperFeatureExtractor) -> None:
        super().__init__()
        if extractor.sampling_rate != SAMPLE_RATE:
            raise ValueError(f"the extractor takes {extractor.sampling_rate} Hz; Whisper's takes {SAMPLE_RATE} Hz")
        self.extractor = extractor
        # It follows the module from device to device.
        self.register_buffer("place", torch.empty(0), persistent=False)

    @property
    def max_seconds(self) -> float:
        return self.extractor.n_samples / SAMPLE_RATE

    @property
    def shape(self) -> tuple[int, int]:
        return (self.extractor.feature_size, self.extractor.nb_max_frames)

    @property
    def settings(self) -> tuple[Any, ...]:
        extractor = self.extractor
        return (*self.shape, extractor.n_fft, extractor.hop_length, extractor.padding_value, extractor.dither)

    @property
    def device(self) -> torch.device:
        return self.place.device

    def picture(self, waveform: np.ndarray) -> np.ndarray:
        return picture_of(waveform, self.max_seconds)

    def extra_repr(self) -> str:
        return f"num_mel_bins={self.shape[0]}, frames={self.shape[1]}"

    def features(self, waveforms: Tensor, lengths: Tensor) -> Tensor:
        """(batch, mels, frames), as `input_features` of the extractor; see `FrontEnd`."""
        rows = [row[:length].numpy() for row, length in zip(waveforms.detach().cpu(), lengths.tolist(), strict=True)]
        made = self.extractor(rows, sampling_rate=SAMPLE_RATE, return_tensors="pt").input_features
        return made.to(self.device)
