"""The waveform itself as a model's input, normalised as the model's extractor says."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import Wav2Vec2FeatureExtractor

from .features import picture_of
from .files import SAMPLE_RATE
from .front_end import FrontEnd

MOST_SECONDS = 30.0
"""Seconds that are heard at once. The models take clips of any length, but their work grows with its square."""


class WaveformFeatures(FrontEnd):
    """transformers' `Wav2Vec2FeatureExtractor`, which serves HuBERT, Data2VecAudio and UniSpeech too.

    Each clip is normalised by itself. Zeros at the end of a row are not part of the clip, and the model would hear
    them; `batches` tells which clips need none.

    extractor: the extractor of the model.
    """

    place: Tensor

    def __init__(self, extractor: Wav2Vec2FeatureExtractor) -> None:
        super().__init__()
        if extractor.sampling_rate != SAMPLE_RATE:
            raise ValueError(
                f"the extractor takes {extractor.sampling_rate} Hz, but sounds are converted to {SAMPLE_RATE} Hz; "
                "prune the model in Python (audioprune.prune), with inputs from its own extractor"
            )
        self.extractor = extractor
        # It follows the module from device to device.
        self.register_buffer("place", torch.empty(0), persistent=False)

    @property
    def max_seconds(self) -> float:
        return MOST_SECONDS

    @property
    def shape(self) -> None:
        return None

    @property
    def settings(self) -> tuple[Any, ...]:
        return (self.extractor.do_normalize,)

    @property
    def device(self) -> torch.device:
        return self.place.device

    def extra_repr(self) -> str:
        return f"do_normalize={self.extractor.do_normalize}"

    def picture(self, waveform: np.ndarray) -> np.ndarray:
        return picture_of(waveform)

    def features(self, waveforms: Tensor, lengths: Tensor) -> Tensor:
        """(batch, samples), zeros after the end of a row; see `FrontEnd`."""
        clips = (row[:length].cpu().numpy() for row, length in zip(waveforms.detach(), lengths.tolist(), strict=True))
        made = [self.extractor(clip, sampling_rate=SAMPLE_RATE, return_tensors="pt").input_values[0] for clip in clips]
        return nn.utils.rnn.pad_sequence(made, batch_first=True).to(self.device)
