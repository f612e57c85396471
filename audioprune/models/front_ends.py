"""Front ends from the extractors that stand beside models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoFeatureExtractor, PreTrainedModel, Wav2Vec2FeatureExtractor, WhisperFeatureExtractor
from transformers.models.audio_spectrogram_transformer import ASTFeatureExtractor

from ..audio.extractor import AudioMAEFeatureExtractor
from ..audio.features import LogMel
from ..audio.files import SAMPLE_RATE
from ..audio.front_end import FrontEnd
from ..audio.raw_waveform import RawWaveform
from ..audio.whisper_features import WhisperFeatures
from .sources import resolve

OF_WAVEFORMS = ("wav2vec2", "hubert", "data2vec-audio", "unispeech", "unispeech-sat")
"""Types of models that take waveforms, and that can be pruned."""


def front_end_of(extractor: Any, model: PreTrainedModel) -> FrontEnd:
    """The front end with the settings of a model's extractor, one of transformers' or ours.

    Raises `ValueError` for an extractor of another kind.
    """
    name = type(extractor).__name__
    if isinstance(extractor, WhisperFeatureExtractor):
        return WhisperFeatures(extractor)
    if isinstance(extractor, Wav2Vec2FeatureExtractor) and model.config.model_type in OF_WAVEFORMS:
        return RawWaveform(bool(extractor.do_normalize))
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


def load_raw_waveform(source: str | Path) -> RawWaveform:
    """Load the front end of a model of waveforms. Raises `ValueError` for an extractor of another kind or rate."""
    path = resolve(source)
    if isinstance(path, Path) and not (path / "preprocessor_config.json").exists():
        return RawWaveform()
    extractor = AutoFeatureExtractor.from_pretrained(path)
    if not isinstance(extractor, Wav2Vec2FeatureExtractor) or extractor.sampling_rate != SAMPLE_RATE:
        raise ValueError(
            f"{source}: its extractor is {type(extractor).__name__} at {extractor.sampling_rate} Hz, but a model of "
            f"waveforms needs a Wav2Vec2FeatureExtractor at {SAMPLE_RATE} Hz; save both together"
        )
    return RawWaveform(bool(extractor.do_normalize))
