"""A Whisper with its feature extractor and tokenizer: waveforms → texts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import torch
from transformers import WhisperForConditionalGeneration

from ..audio.files import SAMPLE_RATE
from .parts import WhisperParts

_MARK = re.compile(r"<\|[^|]*\|>")
"""Timestamps and other marks, which some tokenizers do not know as special."""


class SpeechModel:
    """Transcribes waveforms, greedily or with beams, and without a fallback to other temperatures.

    Args:
        model: a `WhisperForConditionalGeneration`, in evaluation mode.
        extractor: its feature extractor.
        tokenizer: its tokenizer.
        language: code or name of the language; None lets the model detect it. Ignored by English models.
        beams: beams of the search; 1 is greedy.
    """

    def __init__(self, model: Any, extractor: Any, tokenizer: Any, language: str | None = "en", beams: int = 1) -> None:
        if beams < 1:
            raise ValueError(f"beams is {beams}; it must be at least 1, which is greedy search")
        self.model, self.extractor, self.tokenizer = model, extractor, tokenizer
        self.language, self.beams = language, beams

    @classmethod
    def of(cls, model: WhisperForConditionalGeneration, language: str | None = None) -> Self:
        """A loaded model with the tokenizer of the place where it was loaded. Raises as `WhisperParts.of` does."""
        parts = WhisperParts.of(model)
        return cls(model, parts.extractor, parts.tokenizer, language)

    @property
    def window(self) -> int:
        """Samples of the model's window."""
        return int(self.extractor.n_samples)

    @torch.inference_mode()
    def __call__(self, waveforms: Sequence[np.ndarray], max_new_tokens: int | None = None) -> list[str]:
        """Transcribe a batch. A clip that is longer than the window must be alone in it.

        waveforms: (samples,) each, 16 kHz in [-1, 1]. max_new_tokens: longest transcript of a window, in tokens; None
        for the model's own limit.
        """
        long = max(map(len, waveforms)) > self.window
        if long and len(waveforms) > 1:
            raise ValueError(f"a clip of more than {self.window / SAMPLE_RATE:g} s must be alone in its batch")
        # A long clip is read window by window, each from where the last timestamp of the one before it is.
        more = {"truncation": False, "padding": "longest"} if long else {}
        inputs = self.extractor(
            list(waveforms), sampling_rate=SAMPLE_RATE, return_tensors="pt", return_attention_mask=True, **more
        )
        limit = {} if max_new_tokens is None else {"max_new_tokens": max_new_tokens}
        ids = self.model.generate(
            inputs.input_features.to(self.model.device, self.model.dtype),
            attention_mask=inputs.attention_mask.to(self.model.device),
            num_beams=self.beams,
            do_sample=False,
            return_timestamps=long,
            **self._task(),
            **limit,
        )
        texts = self.tokenizer.batch_decode(ids, skip_special_tokens=True)
        return [" ".join(_MARK.sub("", text).split()) for text in texts]

    def _task(self) -> dict[str, Any]:
        if not getattr(self.model.generation_config, "is_multilingual", False):
            return {}
        return {"task": "transcribe"} | ({} if self.language is None else {"language": self.language})


def open_speech_model(
    source: str,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    language: str | None = "en",
    beams: int = 1,
    *,
    quick: bool = False,
) -> SpeechModel:
    """Open a Whisper from a folder or the hub, unpruned. Raises as `WhisperParts.read` and `WhisperParts.load` do."""
    parts = WhisperParts.read(source)
    return SpeechModel(parts.load(device, dtype, quick=quick), parts.extractor, parts.tokenizer, language, beams)
