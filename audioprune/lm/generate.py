"""One question about one sound, answered as it is generated, and what that took."""

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
from .batch_generate import kept_of
from .loading import ask_inputs, audio_tokens, end_tokens, sampling_rate


@dataclass(frozen=True)
class Answer:
    """What was said, and what it took.

    tokens: audio tokens that the encoder made, and that the language model read. first_token_seconds: of encoding,
    choosing and reading the prompt. peak_bytes: the process's most (on CUDA: of tensors), None where it cannot be told.
    heard_seconds: of the sound, as long as the tokens reach. record: what was kept, None where nothing was pruned.
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
        """For JSON."""
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
) -> Answer:
    """Ask a model, pruned or not, about a sound, greedily.

    waveform: (samples,) float32, mono at the processor's rate. say: is given the answer's words as they come. Raises
    `AudioError` for a sound of less than two tokens, which not every model can read.
    """
    inputs = ask_inputs(processor, model, [waveform], [question])
    before = audio_tokens(processor, model, inputs["input_ids"])[0]
    if before < 2:
        seconds = len(waveform) / sampling_rate(processor)
        raise AudioError(
            f"the sound of {seconds:.2f} s is too short: it makes less than two tokens for this model; "
            "take a longer one"
        )
    words = _Words(processor, say, str(model.device))
    pruned = handle(model)
    greedy: dict[str, Any] = {"do_sample": False, "num_beams": 1, "temperature": None, "top_p": None, "top_k": None}
    found: dict[str, Tensor] = {}

    def run() -> None:
        words.begin()
        settings = greedy | end_tokens(processor, model) | {"max_new_tokens": max_new_tokens, "streamer": words}
        found["ids"] = model.generate(**inputs, **settings)
        synchronize(str(model.device))

    record = None
    with torch.inference_mode():
        if pruned is None:
            peak = peak_memory(run, device=str(model.device))
        else:
            with trace(model) as watched:
                peak = peak_memory(run, device=str(model.device))
            record = watched if watched.kept else None
    seconds = time.perf_counter() - words.begun
    prompt = inputs["input_ids"]
    after = before if record is None else kept_of(record)[0]
    new = found["ids"].shape[1] - prompt.shape[1]
    heard = _seconds(model, before, len(waveform) / sampling_rate(processor))
    return Answer(words.text.strip(), (before, after), words.first_seconds, seconds, new, peak, heard, record)


def _seconds(model: Any, tokens: int, whole: float) -> float:
    """How far so many tokens reach into a sound of `whole` seconds, as far as is known of the model."""
    entry = ENTRIES.get(type(model).__name__)
    if entry is None or entry.bounds is None:
        return whole
    return min(whole, float(entry.bounds(model, tokens)[-1, 1]))


class _Words(TextStreamer):
    """Hands words on as they come, and notes when the first token did."""

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
