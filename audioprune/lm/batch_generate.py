"""A model's answers to many items: sounds decoded ahead, batches padded on the left, greedy decoding, and the clock."""

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
from .answer_log import Row
from .items import Item
from .loading import ask_inputs, audio_tokens, decoded, end_tokens, sampling_rate
from .prompts import asked

AHEAD = 4
"""Batches that are decoded ahead, and sorted by length."""


@dataclass(frozen=True)
class Asker:
    """A model, its processor, and how they are asked.

    prompt: as in `PROMPTS`. max_new_tokens: the longest answer. batch_size: sounds per forward. workers: threads that
    decode.
    """

    model: Any
    processor: Any
    prompt: str
    max_new_tokens: int
    batch_size: int = 1
    workers: int = 2

    def __call__(self, items: Sequence[Item], trace: Trace | None = None) -> Iterator[list[Row]]:
        """The rows of one batch after the other.

        A batch is of sounds of about one length: of those decoded ahead, the shortest first, so that little is padded.
        A row has the item's "id", what was "asked", the "answer", its audio "tokens" [before, after pruning], the
        "prefill_seconds" of its share of the batch, and the "batch" size; or the "id" and an "error", where the sound
        cannot be decoded. trace: of the pruned model, None where it is not pruned.
        """
        decoded = self._decoded(items)
        while ahead := list(islice(decoded, AHEAD * self.batch_size)):
            if self.batch_size > 1:
                ahead.sort(key=lambda pair: 0 if isinstance(pair[1], AudioError) else len(pair[1]))
            for start in range(0, len(ahead), self.batch_size):
                yield self._rows(ahead[start : start + self.batch_size], trace)

    def _decoded(self, items: Sequence[Item]) -> Iterator[tuple[Item, np.ndarray | AudioError]]:
        """Decode ahead of the model, in order."""
        load = partial(waveform, rate=sampling_rate(self.processor))
        ahead = AHEAD * self.batch_size
        return decode_ahead(items, load, ahead=ahead, workers=self.workers, name=lambda item: item.path)

    def _rows(self, batch: Sequence[tuple[Item, np.ndarray | AudioError]], trace: Trace | None) -> list[Row]:
        heard = [(item, sound) for item, sound in batch if not isinstance(sound, AudioError)]
        rows = {row["id"]: row for row in self._answers(heard, trace)} if heard else {}
        return [rows.get(item.id) or {"id": item.id, "error": str(sound)} for item, sound in batch]

    @torch.inference_mode()
    def _answers(self, heard: Sequence[tuple[Item, np.ndarray]], trace: Trace | None) -> Iterator[Row]:
        questions = [asked(item, self.prompt) for item, _ in heard]
        inputs = ask_inputs(self.processor, self.model, [sound for _, sound in heard], questions)
        clock = _FirstToken()
        # A checkpoint's own settings for sampling would only be warned of.
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
        after = before if trace is None else kept_of(trace)
        answers = decoded(self.processor, output[:, prompt.shape[1] :])
        for (item, _), question, answer, *counts in zip(heard, questions, answers, before, after, strict=True):
            yield {
                "id": item.id,
                "asked": question,
                "answer": answer,
                "tokens": counts,
                "prefill_seconds": clock.seconds / len(heard),
                "batch": len(heard),
            }


def kept_of(trace: Trace) -> list[int]:
    """Each sound's audio tokens after the pruning of the latest forward."""
    return (trace.kept[0] >= 0).sum(dim=1).tolist()


def waveform(item: Item, rate: int) -> np.ndarray:
    """(samples,) float32, mono at `rate` hertz, from the item's start to its end.

    Raises `AudioError` as `load_audio` does, and where `start` lies beyond the file's end.
    """
    sound = load_audio(item.path, max_seconds=item.end, sample_rate=rate).waveform[round(item.start * rate) :]
    if not len(sound):
        raise AudioError(f"{item.path}: starts at {item.start} s, but ends before")
    return sound


class _FirstToken(StoppingCriteria):
    """Stops nothing, but notes the seconds until the first token of an answer: the encoder's and the prefill's."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._begun = time.perf_counter()

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        if not self.seconds:
            synchronize(str(input_ids.device))
            self.seconds = time.perf_counter() - self._begun
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
