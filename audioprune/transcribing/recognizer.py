"""Waveforms → text with times, by transformers' own short-form and long-form generation."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import WhisperForConditionalGeneration
from transformers.models.whisper.tokenization_whisper import LANGUAGES, _combine_tokens_into_words

from ..adapters.replacement import Replacement
from ..audio.files import SAMPLE_RATE
from ..core.cost import synchronize
from .options import Options
from .parts import WhisperParts

HEAVY = ("cross_attentions", "decoder_attentions", "encoder_attentions", "past_key_values")


@dataclass(frozen=True)
class Word:
    """A word with its punctuation, and when it is spoken, in seconds."""

    word: str
    start: float
    end: float


@dataclass(frozen=True)
class Segment:
    """A piece of text as the model cuts it, its time in seconds, and its words if they were asked for."""

    text: str
    start: float
    end: float
    words: tuple[Word, ...] = ()

    def later(self, seconds: float) -> Segment:
        """The same, so much later."""
        words = (replace(word, start=word.start + seconds, end=word.end + seconds) for word in self.words)
        return replace(self, start=self.start + seconds, end=self.end + seconds, words=tuple(words))


@dataclass(frozen=True)
class Transcript:
    """What was recognized in one sound.

    segments: empty where no times were asked for. language: code, None for a model that knows English only.
    seconds: of computation; of a batch, an equal share.
    """

    text: str
    segments: tuple[Segment, ...] = ()
    language: str | None = None
    seconds: float = 0.0


class Recognizer:
    """A Whisper, pruned or not, with what it is asked for.

    Args:
        model: the model, on its device.
        parts: its tokenizer and front end.
        options: language, task, times, beams; see `Options.for_model`.
    """

    def __init__(self, model: WhisperForConditionalGeneration, parts: WhisperParts, options: Options) -> None:
        self.parts, self.options = parts, options.for_model(parts)
        self.model: Any = model

    @torch.inference_mode()
    def short(self, waveforms: Sequence[np.ndarray]) -> list[Transcript]:
        """Transcripts of sounds that are no longer than the model's window, in one batch.

        waveforms: each (samples,) float32 at 16 kHz.
        """
        begun = time.perf_counter()
        inputs = self._features(waveforms, padding="max_length")
        with_times = self.options.timestamps != "none"
        found = self._with_times(inputs, waveforms) if with_times else self._text_alone(inputs)
        synchronize(str(self.model.device))
        share = (time.perf_counter() - begun) / len(waveforms)
        return [replace(transcript, seconds=share) for transcript in found]

    @torch.inference_mode()
    def long(
        self, waveform: np.ndarray, language: str | None = None, progress: Callable[[float], Any] = lambda share: None
    ) -> Transcript:
        """Transcript of a sound that is longer than the model's window, with segments whatever was asked for.

        Args:
            waveform: (samples,) float32 at 16 kHz.
            language: code, if it is known.
            progress: called with the share that was heard, before each window.
        """
        begun = time.perf_counter()
        inputs = self._features([waveform], padding="longest", truncation=False)

        def note(frames: Tensor) -> None:
            heard, of = frames[0].tolist()
            progress(heard / of)

        (found,) = self._with_times(inputs, [waveform], None if language is None else [language], monitor_progress=note)
        synchronize(str(self.model.device))
        return replace(found, seconds=time.perf_counter() - begun)

    @torch.inference_mode()
    def warm_up(self) -> None:
        """One token of nothing: the first pass of a process is slow whatever it is."""
        inputs = self._features([np.zeros(SAMPLE_RATE // 10, np.float32)], padding="max_length")
        self.model.generate(**inputs, max_new_tokens=1)

    def _features(self, waveforms: Sequence[np.ndarray], **how: Any) -> dict[str, Tensor]:
        """ "input_features" (batch, mels, frames) in the model's dtype and "attention_mask" (batch, frames)."""
        found: Any = self.parts.extractor(
            list(waveforms), sampling_rate=SAMPLE_RATE, return_tensors="pt", return_attention_mask=True, **how
        )
        device, dtype = self.model.device, self.model.dtype
        return {
            "input_features": found["input_features"].to(device, dtype),
            "attention_mask": found["attention_mask"].to(device),
        }

    def _text_alone(self, inputs: dict[str, Tensor]) -> list[Transcript]:
        features, mask = inputs["input_features"], inputs["attention_mask"]
        languages: list[str] | None = None
        given: dict[str, Any] = inputs
        if self.parts.is_multilingual and self.options.language is None:
            # Heard once, for the language and for the text.
            encoded = self.model.get_encoder()(features, attention_mask=mask)
            languages = self._detect(encoder_outputs=encoded)
            given = {"encoder_outputs": encoded, "attention_mask": mask}
        # One pass: a model that tells a time though it was asked for none would be sent back to hear the rest again.
        once = {"return_timestamps": False, "force_unique_generate_call": True}
        tokens = self.model.generate(**given, **self._asked(languages, len(features)), **once)
        texts = self.parts.tokenizer.batch_decode(tokens, skip_special_tokens=True)
        return [
            Transcript(text.strip(), language=language)
            for text, language in zip(texts, self._named(languages, len(features)), strict=True)
        ]

    def _with_times(
        self,
        inputs: dict[str, Tensor],
        waveforms: Sequence[np.ndarray],
        languages: list[str] | None = None,
        **more: Any,
    ) -> list[Transcript]:
        features, words = inputs["input_features"], self.options.timestamps == "word"
        if languages is None and self.parts.is_multilingual and self.options.language is None:
            frames = self.parts.extractor.nb_max_frames
            languages = self._detect(input_features=_padded(features[:, :, :frames], frames))
        asked = self._asked(languages, len(features)) | more
        with _attention_kept(self.model), _forgetting(self.model):
            output = self.model.generate(
                **inputs,
                **asked,
                return_timestamps=True,
                return_segments=True,
                return_token_timestamps=True if words else None,
            )
        transcripts = []
        for raw, waveform, language in zip(
            output["segments"], waveforms, self._named(languages, len(features)), strict=True
        ):
            read = [self._segment(one, len(waveform) / SAMPLE_RATE, language) for one in raw]
            segments = tuple(segment for segment in read if segment is not None)
            text = "".join(segment.text for segment in segments).strip()
            stripped = tuple(replace(segment, text=segment.text.strip()) for segment in segments)
            transcripts.append(Transcript(text, stripped, language))
        return transcripts

    def _asked(self, languages: list[str] | None, count: int) -> dict[str, Any]:
        """Arguments of `generate`."""
        asked: dict[str, Any] = {"num_beams": self.options.beams}
        if self.parts.is_multilingual:
            asked |= {"language": self._named(languages, count), "task": self.options.task}
        return asked

    def _named(self, languages: list[str] | None, count: int) -> list[str] | list[None]:
        if not self.parts.is_multilingual:
            return [None] * count
        return languages or [str(self.options.language)] * count

    def _detect(self, **heard: Any) -> list[str]:
        """Code of each clip's language."""
        by_token = {token: code for code, token in self.parts.languages.items()}
        found = self.model.detect_language(**heard, generation_config=self.model.generation_config)
        return [by_token[token] for token in found.tolist()]

    def _segment(self, raw: dict[str, Any], seconds: float, language: str | None) -> Segment | None:
        """A segment as `generate` tells it; None if it is empty, or of the silence after the clip."""
        start, end = float(raw["start"]), min(float(raw["end"]), seconds)
        tokens: list[int] = raw["tokens"].tolist()
        text = self.parts.tokenizer.decode(tokens, skip_special_tokens=True)
        if not text.strip() or start >= seconds:
            return None
        end = max(start, end)
        words: tuple[Word, ...] = ()
        if self.options.timestamps == "word":
            words = self._words(tokens, [start, *raw["token_timestamps"].tolist()], seconds, language)
        return Segment(text, round(start, 2), round(end, 2), words)

    def _words(self, tokens: list[int], times: list[float], seconds: float, language: str | None) -> tuple[Word, ...]:
        """Words of a segment. times[i] to times[i + 1] is when token i is spoken, in seconds."""
        is_text = [i for i, token in enumerate(tokens) if token < self.parts.tokenizer.eos_token_id]
        spoken, _, places = _combine_tokens_into_words(
            self.parts.tokenizer, [tokens[i] for i in is_text], LANGUAGES.get(language or "en", "english")
        )
        words = []
        for word, group in zip(spoken, places, strict=True):
            start = min(times[is_text[group[0]]], seconds)
            end = max(start, min(times[is_text[group[-1]] + 1], seconds))
            words.append(Word(word.strip(), round(start, 2), round(end, 2)))
        return tuple(word for word in words if word.word)


def _padded(features: Tensor, frames: int) -> Tensor:
    return torch.nn.functional.pad(features, (0, frames - features.shape[-1]))


@contextmanager
def _attention_kept(model: Any) -> Iterator[None]:
    """`generate` turns to eager attention for the times of words, and leaves it so."""
    config, before = model.model.config, model.model.config._attn_implementation
    try:
        yield
    finally:
        config._attn_implementation = before


@contextmanager
def _forgetting(model: Any) -> Iterator[None]:
    """`generate` keeps, for each window, the attention and scores that its times were computed from: gigabytes for an
    hour of sound. Nothing reads them later."""

    def light(own: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        sequences, outputs = own(*args, **kwargs)
        is_scored = kwargs["generation_config"].logprob_threshold is not None
        for output in outputs if isinstance(outputs, list) else ():
            for name in (*HEAVY, *(() if is_scored else ("scores",))):
                output.pop(name, None)
        return sequences, outputs

    replacement = Replacement(model, "_postprocess_outputs", light)
    try:
        yield
    finally:
        replacement.undo()
