"""One question about one sound: the answer, streamed as it is generated, and its cost."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import TextStreamer

from ..adapters.audio_lm.entries import ENTRIES
from ..audio.files import AudioError
from ..core.cost import peak_memory, synchronize
from ..core.pruning import handle
from ..core.trace import Trace, trace
from .batch_generate import kept_counts
from .loading import ask_inputs, audio_tokens, end_tokens, sampling_rate


@dataclass(frozen=True)
class GeneratedAnswer:
    """An answer and its cost.

    Args:
        text: the answer.
        tokens: number of audio tokens from the encoder, and number that the language model read.
        first_token_seconds: time for encoding, selection and prefill.
        seconds: time for the whole answer.
        new_tokens: number of generated tokens.
        peak_bytes: peak memory of the process (on CUDA: of tensors); None if it cannot be measured.
        heard_seconds: length of the part of the sound that the tokens cover.
        record: trace of the kept tokens; None if nothing was pruned.
    """

    text: str
    tokens: tuple[int, int]
    first_token_seconds: float
    seconds: float
    new_tokens: int
    peak_bytes: int | None
    heard_seconds: float
    record: Trace | None

    def as_row(self) -> dict[str, Any]:
        """The answer as a row for JSON."""
        row = {key: value for key, value in vars(self).items() if key != "record"}
        if self.record is not None:
            spans = [[round(edge, 4) for edge in span] for span in self.record.seconds().tolist()]
            row |= {"kept": self.record.kept[0][0].tolist(), "kept_seconds": spans, "sources": self.record.sources(0)}
        return row


def answer(
    model: Any,
    processor: Any,
    waveform: np.ndarray,
    question: str,
    *,
    max_new_tokens: int = 64,
    say: Callable[[str], Any] = lambda text: None,
) -> GeneratedAnswer:
    """Ask a model a question about a sound. The model may be pruned; decoding is greedy.

    Args:
        model: the audio-language model.
        processor: its processor.
        waveform: (samples,) float32, mono at the processor's rate.
        question: the question.
        max_new_tokens: length of the longest answer.
        say: called with each piece of the answer as soon as it is generated.

    Raises `AudioError` for a sound of less than two tokens, which some models cannot read.
    """
    inputs = ask_inputs(processor, model, [waveform], [question])
    before = audio_tokens(processor, model, inputs["input_ids"])[0]
    if before < 2:
        seconds = len(waveform) / sampling_rate(processor)
        raise AudioError(
            f"the sound of {seconds:.2f} s is too short: it gives less than two tokens for this model; "
            "take a longer one"
        )
    words = _Words(processor, say, str(model.device))
    pruned = handle(model)
    greedy: dict[str, Any] = {"do_sample": False, "num_beams": 1, "temperature": None, "top_p": None, "top_k": None}
    output: dict[str, Tensor] = {}

    def run() -> None:
        words.begin()
        settings = greedy | end_tokens(processor, model) | {"max_new_tokens": max_new_tokens, "streamer": words}
        output["ids"] = model.generate(**inputs, **settings)
        synchronize(str(model.device))

    record = None
    with torch.inference_mode():
        if pruned is None:
            peak = peak_memory(run, device=str(model.device))
        else:
            with trace(model) as run_trace:
                peak = peak_memory(run, device=str(model.device))
            record = run_trace if run_trace.kept else None
    seconds = time.perf_counter() - words.begun
    prompt = inputs["input_ids"]
    after = before if record is None else kept_counts(record)[0]
    new = output["ids"].shape[1] - prompt.shape[1]
    covered = _covered_seconds(model, before, len(waveform) / sampling_rate(processor))
    return GeneratedAnswer(
        words.text.strip(), (before, after), words.first_seconds, seconds, new, peak, covered, record
    )


def _covered_seconds(model: Any, tokens: int, whole: float) -> float:
    """Seconds of a sound that `tokens` tokens cover; `whole`, its length, if that is unknown for the model."""
    entry = ENTRIES.get(type(model).__name__)
    if entry is None or entry.bounds is None:
        return whole
    return min(whole, float(entry.bounds(model, tokens)[-1, 1]))


class _Words(TextStreamer):
    """Streams the words of an answer, and measures the time of the first token."""

    def __init__(self, processor: Any, say: Callable[[str], Any], device: str) -> None:
        super().__init__(processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._say, self._device = say, device
        self.begin()

    def begin(self) -> None:
        self.text, self.first_seconds, self._puts, self.begun = "", 0.0, 0, time.perf_counter()

    def put(self, value: Tensor) -> None:
        self._puts += 1
        if self._puts == 2:  # the first is the prompt
            synchronize(self._device)
            self.first_seconds = time.perf_counter() - self.begun
        super().put(value)

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        self.text += text
        self._say(text)
