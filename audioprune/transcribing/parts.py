"""Whisper with its decoder, and what stands beside its weights: tokenizer, front end, generation settings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from transformers import (
    GenerationConfig,
    PreTrainedConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperTokenizer,
)

from ..models.loading import has_decoder, is_language_model, load_whisper_extractor
from ..models.sources import resolve
from ..models.state import CheckpointError, check_keys, reading
from .quick_whisper import QuickWhisper

TAKES = "a Whisper with its decoder (WhisperForConditionalGeneration), such as openai/whisper-base"
FRAMES_PER_TOKEN = 2


@dataclass(frozen=True)
class WhisperParts:
    """What a Whisper needs beside its weights.

    source: folder or hub id, for messages. extractor: waveforms → log-mel. generation: which tokens are languages,
    tasks and times.
    """

    source: str
    config: WhisperConfig
    generation: GenerationConfig
    tokenizer: Any
    extractor: WhisperFeatureExtractor

    def __post_init__(self) -> None:
        made, taken = self.extractor.feature_size, self.config.num_mel_bins
        if made != taken:
            raise CheckpointError(
                f"{self.source}: its feature extractor makes {made} mel channels, but its model takes {taken}; take "
                "the preprocessor_config.json of the model that it was made from (openai/whisper-large-v3 and "
                "its kin: 128, all others: 80)"
            )
        frames = FRAMES_PER_TOKEN * self.config.max_source_positions
        if self.extractor.nb_max_frames != frames:
            raise CheckpointError(
                f"{self.source}: its feature extractor makes {self.extractor.nb_max_frames} frames, but its model "
                f"takes {frames}; save both together"
            )
        if self.tokenizer.eos_token_id != self.config.eos_token_id:
            raise CheckpointError(
                f"{self.source}: the texts of its tokenizer end with token {self.tokenizer.eos_token_id}, those of "
                f"its model with {self.config.eos_token_id}; save the tokenizer of the model beside it"
            )

    @classmethod
    def read(cls, source: str | Path) -> Self:
        """Read all but the weights of a folder in transformers' format, or of a hub id.

        Raises `CheckpointError` for another kind of model, and for parts that are missing or of different models, and
        `FileNotFoundError` for a path that is not there.
        """
        path = resolve(source)
        if isinstance(path, Path) and path.is_file():
            raise CheckpointError(f"{source}: a file; give the folder or hub id of {TAKES}")
        if isinstance(path, Path) and not (path / "config.json").exists():
            raise CheckpointError(f"{source}: no config.json in this folder; give the folder or hub id of {TAKES}")
        with reading(source, f"give the folder or hub id of {TAKES}"):
            raw, _ = PreTrainedConfig.get_config_dict(path)
            _check_kind(source, raw)
            config = WhisperConfig.from_pretrained(path)
            tokenizer = WhisperTokenizer.from_pretrained(path)
            extractor = load_whisper_extractor(path, config)
            return cls(str(source), config, _generation(path, config), tokenizer, extractor)

    @classmethod
    def of(cls, model: WhisperForConditionalGeneration, processor: Any = None) -> Self:
        """The parts of a loaded model, from its processor, or from where it was loaded. Raises as `read` does."""
        if not isinstance(model, WhisperForConditionalGeneration):
            raise TypeError(f"expected {TAKES}, got {type(model).__name__}")
        name = str(model.name_or_path or "")
        if processor is None and not name:
            raise ValueError("this model was loaded from nowhere; give its processor as well (processor=…)")
        generation: Any = model.generation_config
        if processor is None:
            parts = cls.read(name)
            tokenizer, extractor = parts.tokenizer, parts.extractor
        else:
            tokenizer, extractor = processor.tokenizer, processor.feature_extractor
        return cls(name or type(model).__name__, model.config, generation, tokenizer, extractor)

    def load(
        self, device: str = "cpu", dtype: torch.dtype = torch.float32, *, quick: bool = False
    ) -> WhisperForConditionalGeneration:
        """The model, in evaluation mode. quick: as `QuickWhisper`, which writes the same words in less time.

        Raises `CheckpointError` for weights that are damaged or incomplete.
        """
        loader: Any = QuickWhisper if quick else WhisperForConditionalGeneration
        with reading(self.source):
            model, report = loader.from_pretrained(resolve(self.source), dtype=dtype, output_loading_info=True)
        check_keys(self.source, list(report["missing_keys"]), list(report["unexpected_keys"]))
        return model.to(device).eval()

    def skeleton(self) -> WhisperForConditionalGeneration:
        """The model without its weights, made in no time: enough to count its work."""
        with torch.device("meta"):
            return WhisperForConditionalGeneration(self.config).eval()

    @property
    def is_multilingual(self) -> bool:
        """Whether the model knows other languages than English."""
        known = getattr(self.generation, "is_multilingual", None)
        return bool(self.languages) if known is None else bool(known)

    @property
    def languages(self) -> dict[str, int]:
        """Code of each language, such as "en", → its token."""
        return {
            name.strip("<|>"): token for name, token in (getattr(self.generation, "lang_to_id", None) or {}).items()
        }

    @property
    def window_seconds(self) -> float:
        """Seconds of sound that the model hears at once: 30."""
        return self.extractor.n_samples / self.extractor.sampling_rate


def _check_kind(source: str | Path, raw: dict[str, Any]) -> None:
    """Raise `CheckpointError` that names the right command, where a model has no decoder that writes text."""
    if has_decoder(raw):
        return
    kind = str(next(iter(raw.get("architectures") or []), None) or raw.get("model_type", "timm's"))
    hint = ""
    if kind.endswith(("Classification", "timm's")):
        hint = "; for the labels of sounds there is audioprune tag"
    elif is_language_model(source):
        hint = "; an audio-language model answers questions, with audioprune ask"
    raise CheckpointError(f"{source}: is of the kind {kind}, but this takes {TAKES}{hint}")


def _generation(path: str | Path, config: WhisperConfig) -> GenerationConfig:
    try:
        return GenerationConfig.from_pretrained(path)
    except OSError:  # of before there were such files
        return GenerationConfig.from_model_config(config)
