"""`LogMel` as a transformers feature extractor, saved and loaded with a model."""

from __future__ import annotations

from typing import Any, ClassVar, Self

import numpy as np
from transformers import BatchFeature, SequenceFeatureExtractor

from .features import PRESETS, LogMel, Padding
from .files import SAMPLE_RATE
from .waveforms import Sound


class AudioMAEFeatureExtractor(SequenceFeatureExtractor):
    """Feature extractor from 16 kHz waveforms to `input_values`, (batch, max_length, num_mel_bins).

    The parameters are those of `LogMel`. Its `padding` has the name `pad_with` here, because transformers uses
    `padding` for something else.
    """

    model_input_names: ClassVar = ["input_values"]

    def __init__(
        self,
        max_length: int = PRESETS["audioset"].max_length,
        mean: float = PRESETS["audioset"].mean,
        std: float = PRESETS["audioset"].std,
        num_mel_bins: int = 128,
        pad_with: Padding = "minimum",
        sampling_rate: int = SAMPLE_RATE,
        **kwargs: Any,
    ) -> None:
        kwargs.pop("feature_size", None)
        kwargs.pop("padding_value", None)
        super().__init__(feature_size=num_mel_bins, sampling_rate=sampling_rate, padding_value=0.0, **kwargs)
        if sampling_rate != SAMPLE_RATE:
            raise ValueError(f"sampling_rate is {sampling_rate} Hz; the filter bank needs {SAMPLE_RATE} Hz")
        self.max_length, self.mean, self.std = max_length, mean, std
        self.num_mel_bins, self.pad_with = num_mel_bins, pad_with

    @classmethod
    def of(cls, front: LogMel) -> Self:
        """Extractor with the settings of `front`."""
        return cls(front.max_length, front.mean, front.std, front.num_mel_bins, front.padding)

    @property
    def log_mel(self) -> LogMel:
        """The front end as a module, which can be moved to any device."""
        return LogMel(
            self.max_length,
            self.mean,
            self.std,
            num_mel_bins=self.num_mel_bins,
            padding=self.pad_with,
        )

    def __call__(
        self,
        raw_speech: np.ndarray | list[float] | list[np.ndarray] | Sound,
        sampling_rate: int | None = None,
        return_tensors: str | None = None,
        **_: Any,
    ) -> BatchFeature:
        """Extract features. raw_speech: (samples,), (batch, samples), or a list of sounds, as for `LogMel`.

        Raises `ValueError` if `sampling_rate` is not 16 kHz, as transformers' extractors do, or if an input is not a
        sound.
        """
        if sampling_rate not in (None, self.sampling_rate):
            raise ValueError(
                f"the sound has {sampling_rate} Hz, but the model needs {self.sampling_rate} Hz; resample it first "
                "(audioprune.load_audio does)"
            )
        features = self.log_mel(raw_speech).numpy()
        return BatchFeature({"input_values": list(features)}, tensor_type=return_tensors)
