"""`LogMel` in the form of a transformers feature extractor, saved and loaded with a model."""

from __future__ import annotations

from typing import Any, ClassVar, Self

import numpy as np
from transformers import BatchFeature, SequenceFeatureExtractor

from .features import PRESETS, LogMel, Padding
from .files import SAMPLE_RATE
from .waveforms import Sound


class AudioMAEFeatureExtractor(SequenceFeatureExtractor):
    """Waveforms at 16 kHz to `input_values` of (batch, max_length, num_mel_bins).

    The parameters are `LogMel`'s. `padding` of `LogMel` is called `pad_with` here, because transformers gives
    `padding` another meaning.
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
            raise ValueError(f"sampling_rate is {sampling_rate} Hz; the filter bank is made for {SAMPLE_RATE} Hz")
        self.max_length, self.mean, self.std = max_length, mean, std
        self.num_mel_bins, self.pad_with = num_mel_bins, pad_with

    @classmethod
    def of(cls, front: LogMel) -> Self:
        """The extractor that makes what `front` makes."""
        return cls(front.max_length, front.mean, front.std, front.num_mel_bins, front.padding)

    @property
    def log_mel(self) -> LogMel:
        """The front end as a module, to be moved to any device."""
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
        """raw_speech: (samples,), (batch, samples), or a list of sounds, as `LogMel` takes them.

        Raises `ValueError` if `sampling_rate` is not 16 kHz, as transformers' extractors do, and for what is no sound.
        """
        if sampling_rate not in (None, self.sampling_rate):
            raise ValueError(
                f"the sound has {sampling_rate} Hz and the model hears {self.sampling_rate} Hz; resample it first "
                "(audioprune.load_audio does)"
            )
        features = self.log_mel(raw_speech).numpy()
        return BatchFeature({"input_values": list(features)}, tensor_type=return_tensors)
