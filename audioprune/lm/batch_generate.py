"""Answers to many items: sounds decoded ahead, batches padded on the left, greedy decoding, and timing."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import StoppingCriteria, StoppingCriteriaList

from ..audio.files import AudioError, decode_ahead, load_audio
from ..core.cost import synchronize
from ..core.trace import Trace
from ..files import Row
from .items import Item
from .loading import ask_inputs, audio_tokens, decode, end_tokens, sampling_rate
from .prompts import fill_prompt

AHEAD = 4
"""Number of batches that are decoded ahead and sorted by length."""


@dataclass(frozen=True)
class BatchGenerator:
    """A model, its processor, and the settings of generation.

    Args:
        model: the audio-language model.
        processor: its processor.
        prompt: a prompt as in `PROMPTS`.
        max_new_tokens: length of the longest answer.
        batch_size: sounds per forward.
        workers: number of threads that decode sounds.
    """

    model: Any
    processor: Any
    prompt: str
    max_new_tokens: int
    batch_size: int = 1
    workers: int = 2

    def __call__(self, items: Sequence[Item], trace: Trace | None = None) -> Iterator[list[Row]]:
        """Yield the rows of each batch.

        Sounds of a batch have similar lengths: sounds that are decoded ahead are sorted, shortest first, to save
        padding. A row has the item's "id", the prompt as "asked", the "answer", its audio "tokens" [before, after
        pruning], its share of the batch's "prefill_seconds", and the "batch" size. If the sound cannot be decoded, it
        has the "id" and an "error". trace: trace of the pruned model, or None if the model is not pruned.
        """
        decoded = self._decoded(items)
        while ahead := list(islice(decoded, AHEAD * self.batch_size)):
            if self.batch_size > 1:
                ahead.sort(key=lambda pair: 0 if isinstance(pair[1], AudioError) else len(pair[1]))
            for start in range(0, len(ahead), self.batch_size):
                yield self._rows(ahead[start : start + self.batch_size], trace)

    def _decoded(self, items: Sequence[Item]) -> Iterator[tuple[Item, np.ndarray | AudioError]]:
        """Decode sounds ahead of the model, in order."""
        load = partial(waveform, rate=sampling_rate(self.processor))
        ahead = AHEAD * self.batch_size
        return decode_ahead(items, load, ahead=ahead, workers=self.workers, name=lambda item: item.path)

    def _rows(self, batch: Sequence[tuple[Item, np.ndarray | AudioError]], trace: Trace | None) -> list[Row]:
        good = [(item, sound) for item, sound in batch if not isinstance(sound, AudioError)]
        rows = {row["id"]: row for row in self._answers(good, trace)} if good else {}
        return [rows.get(item.id) or {"id": item.id, "error": str(sound)} for item, sound in batch]

    @torch.inference_mode()
    def _answers(self, batch: Sequence[tuple[Item, np.ndarray]], trace: Trace | None) -> Iterator[Row]:
        questions = [fill_prompt(item, self.prompt) for item, _ in batch]
        inputs = ask_inputs(self.processor, self.model, [sound for _, sound in batch], questions)
        clock = _FirstToken()
        # Otherwise a checkpoint's own sampling settings cause warnings.
        greedy: dict[str, Any] = {"do_sample": False, "num_beams": 1, "temperature": None, "top_p": None, "top_k": None}
        output = self.model.generate(
            **inputs,
            **greedy,
            **end_tokens(self.processor, self.model),
            max_new_tokens=self.max_new_tokens,
            stopping_criteria=StoppingCriteriaList([clock]),
        )
        prompt = inputs["input_ids"]
        before = audio_tokens(self.processor, self.model, prompt)
        after = before if trace is None else kept_counts(trace)
        answers = decode(self.processor, output[:, prompt.shape[1] :])
        for (item, _), question, answer, *counts in zip(batch, questions, answers, before, after, strict=True):
            yield {
                "id": item.id,
                "asked": question,
                "answer": answer,
                "tokens": counts,
                "prefill_seconds": clock.seconds / len(batch),
                "batch": len(batch),
            }


def kept_counts(trace: Trace) -> list[int]:
    """Number of audio tokens that pruning kept, for each sound of the latest forward."""
    return (trace.kept[0] >= 0).sum(dim=1).tolist()


def waveform(item: Item, rate: int) -> np.ndarray:
    """Waveform of an item, from its start to its end: (samples,) float32, mono, at `rate` hertz.

    Raises `AudioError` as `load_audio` does, and if `start` is after the end of the file.
    """
    sound = load_audio(item.path, max_seconds=item.end, sample_rate=rate).waveform[round(item.start * rate) :]
    if not len(sound):
        raise AudioError(f"{item.path}: the item starts at {item.start} s, but the file ends before; correct the list")
    return sound


class _FirstToken(StoppingCriteria):
    """Measures the seconds until the first token of an answer: encoder and prefill. It never stops the generation."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._begun = time.perf_counter()

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        if not self.seconds:
            synchronize(str(input_ids.device))
            self.seconds = time.perf_counter() - self._begun
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
