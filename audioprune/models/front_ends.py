"""Front ends from the extractors that stand beside models."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel, Wav2Vec2FeatureExtractor, WhisperFeatureExtractor
from transformers.models.audio_spectrogram_transformer import ASTFeatureExtractor

from ..audio.extractor import AudioMAEFeatureExtractor
from ..audio.features import LogMel
from ..audio.front_end import FrontEnd
from ..audio.waveform_features import WaveformFeatures
from ..audio.whisper_features import WhisperFeatures


def front_end_of(extractor: Any, model: PreTrainedModel) -> FrontEnd:
    """The front end with the settings of a model's extractor, one of transformers' or ours.

    Raises `ValueError` for an extractor of another kind.
    """
    name = type(extractor).__name__
    if isinstance(extractor, WhisperFeatureExtractor):
        return WhisperFeatures(extractor)
    if isinstance(extractor, Wav2Vec2FeatureExtractor):
        return WaveformFeatures(extractor)
    if not isinstance(extractor, AudioMAEFeatureExtractor | ASTFeatureExtractor):
        raise ValueError(
            f"{name} is no extractor of a model that can be heard here; give what ap.load_features returns"
        )
    front = log_mel_of(extractor)
    check_length(name, front, model)
    return front


def log_mel_of(extractor: AudioMAEFeatureExtractor | ASTFeatureExtractor) -> LogMel:
    """The log-mel front end with an extractor's settings."""
    if isinstance(extractor, AudioMAEFeatureExtractor):
        return extractor.log_mel
    mean, std = (extractor.mean, extractor.std) if extractor.do_normalize else (0.0, 0.5)
    return LogMel(extractor.max_length, mean, std, num_mel_bins=extractor.num_mel_bins, padding=0.0)


def check_length(source: str, front: LogMel, model: PreTrainedModel) -> None:
    """Raise `ValueError` if a front end makes another length than the model takes."""
    length = getattr(model.config, "max_length", None)
    if front.max_length != length:
        raise ValueError(
            f"{source}: its extractor makes {front.max_length} frames, but its model takes {length}; save them together"
        )
