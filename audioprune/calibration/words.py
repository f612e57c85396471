"""How much of the sound a Whisper may merge before its own words change too much, found without transcripts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from ..compare.benchmark import machine
from ..core.pruning import AlreadyPrunedError, handle, prune
from ..core.recommend import decoded_at
from ..core.settings import RECORD, describe
from ..files import Row, write_json
from ..methods import Method
from ..transcribing.speech_model import SpeechModel
from ..transcribing.timing import EncoderClock
from ..transcribing.word_errors import normalizer, require, word_errors
from .bounds import upper_bound_of_mean

LADDER = (None, 0.98, 0.96, 0.94, 0.92, 0.9, 0.87, 0.84, 0.8)
"""Keep rates of neighbours in the sound at each block, from the mildest on; None merges the padding alone."""


@dataclass(frozen=True)
class WordCalibration:
    """The outcome of `calibrate_words`.

    method: the setting to prune with; None if the mildest changes too many words even by its estimate.
    shown: whether the limit is shown with 95 % confidence; if not, the setting keeps it by its estimate alone.
    max_word_error: what was asked for.
    rows: every setting that was tried, in order: "name", "setting", "word_error" (mean over clips), "bound" (its upper
    95 % bound), "passed", "same" (clips with the same words), "tokens", "encoder_faster".
    about: number of clips and their seconds, batch size, machine.
    """

    method: Method | None
    shown: bool
    max_word_error: float
    rows: list[Row]
    about: Row

    @property
    def record(self) -> Row:
        """What a settings file tells of how its setting was found."""
        asked = {"asked": {"max_word_error": self.max_word_error}, "shown": self.shown}
        row = next((row for row in self.rows if self.method is not None and row["name"] == str(self.method)), {})
        return {**asked, **{k: v for k, v in row.items() if k not in ("name", "setting", "passed")}, **self.about}

    def save(self, path: str | Path, **more: Any) -> Path:
        """Write a settings file that `prune`, and `--method` of every command, read. more: what else it should tell.

        Raises `ValueError` if no setting was found.
        """
        if self.method is None:
            raise ValueError("no setting was found, so there is none to save; " + self.sentences[-1])
        write_json(Path(path), {**describe(self.method), RECORD: {**more, **self.record}})
        return Path(path)

    def as_dict(self) -> Row:
        """Everything, for JSON."""
        setting = None if self.method is None else describe(self.method)
        return {"setting": setting, **self.record, "sentences": list(self.sentences), "rows": self.rows}

    @property
    def sentences(self) -> tuple[str, ...]:
        """What was found, and how sure it is."""
        limit, clips = f"{100 * self.max_word_error:g} %", self.about["clips"]
        if self.method is None:
            return (f"Padding alone changes more than {limit} of the words of a clip; ask for more, or do not prune.",)
        row = next(row for row in self.rows if row["name"] == str(self.method))
        found = (
            f"{self.method}: {100 * row['word_error']:.2f} % of the words of a clip change (mean of {clips} clips, "
            f"upper 95 % bound {100 * row['bound']:.2f} %), {row['same']} transcripts are the same, the encoder is "
            f"{row['encoder_faster']:.2f}× as fast."
        )
        if self.shown:
            return (found, f"With 95 % confidence the limit of {limit} is kept, the choice among settings included.")
        least = 100 * upper_bound_of_mean(0.0, clips)
        return (found, f"Not shown: {clips} clips that all stay the same show {least:.1f} % at best; give more clips.")


def calibrate_words(
    speech_model: SpeechModel,
    waveforms: Sequence[np.ndarray],
    *,
    max_word_error: float,
    batch_size: int = 8,
    advance: Callable[[int], Any] = lambda clips: None,
) -> WordCalibration:
    """Find the strongest merging that leaves the words of a Whisper as they are, but for a share. No transcripts are
    needed: the unpruned model's own words are the reference.

    Settings are tested in a fixed order, from the mildest on, until one fails. So the chance that the last one that
    passes is worse than the limit is 5 % at most, whatever their number (fixed-sequence testing). The test is that of
    Bates et al., arXiv 2101.02703 (Hoeffding and Bentkus), of the mean over clips of the share of wrong words, at most
    1 a clip.

    Args:
        speech_model: the Whisper, unpruned; it is left as it was.
        waveforms: (samples,) each, 16 kHz, no longer than the model's window.
        max_word_error: the greatest share of a clip's words that may change, mean over clips, in (0, 1).
        batch_size: clips per transcription.
        advance: called with the clips that were heard.

    Raises:
        ValueError: the limit is no share, or there is no clip.
        AlreadyPrunedError: the model is pruned.
    """
    require()
    if not 0 < max_word_error < 1:
        raise ValueError(f"max_word_error is {max_word_error!r}; it is a share of words, more than 0 and less than 1")
    if not len(waveforms):
        raise ValueError("there is no clip; give some sounds as the model will hear them")
    pruned = handle(speech_model.model)
    if pruned is not None:
        raise AlreadyPrunedError(f"this model is pruned with {pruned.method}; call remove() on its handle first")
    listener = _Listener(speech_model, waveforms, batch_size, advance)
    own, _, slow = listener()
    rows: list[Row] = []
    chosen, estimate = None, None
    for keep_rate in LADDER:
        method = decoded_at(keep_rate)
        with prune(speech_model.model, method):
            texts, tokens, seconds = listener()
        errors = [min(1.0, word_errors(a, b).rate) for a, b in zip(own, texts, strict=True)]
        row = _row(method, errors, max_word_error) | {"tokens": tokens, "encoder_faster": slow / seconds}
        rows.append(row)
        if not row["passed"]:
            estimate = method if row["word_error"] <= max_word_error else None
            break
        chosen = method
    about = {"clips": len(waveforms), "seconds": sum(map(len, waveforms)) / 16_000, "batch_size": batch_size}
    found = chosen or estimate
    return WordCalibration(found, chosen is not None, max_word_error, rows, {**about, "machine": machine()})


def _row(method: Method, errors: Sequence[float], limit: float) -> Row:
    mean = fmean(errors)
    bound = upper_bound_of_mean(mean, len(errors))
    return {
        "name": str(method),
        "setting": describe(method),
        "word_error": mean,
        "bound": bound,
        "passed": bound <= limit,
        "same": sum(error == 0 for error in errors),
    }


@dataclass
class _Listener:
    """Transcribes all clips: normalized texts, mean tokens of a clip, and the encoder's seconds."""

    speech_model: SpeechModel
    waveforms: Sequence[np.ndarray]
    batch_size: int
    advance: Callable[[int], Any]

    def __call__(self) -> tuple[list[str], float, float]:
        normalize = normalizer(self.speech_model.language, self.speech_model.tokenizer)
        # Clips of like length go together, since a batch takes as long as its longest.
        order = sorted(range(len(self.waveforms)), key=lambda i: len(self.waveforms[i]))
        texts, tokens, seconds = [""] * len(order), 0.0, 0.0
        for begin in range(0, len(order), self.batch_size):
            batch = order[begin : begin + self.batch_size]
            with EncoderClock(self.speech_model.model) as clock:
                said = self.speech_model([self.waveforms[i] for i in batch])
            for i, text in zip(batch, said, strict=True):
                texts[i] = normalize(text)
            tokens, seconds = tokens + sum(clock.tokens), seconds + clock.seconds
            self.advance(len(batch))
        return texts, tokens / len(order), seconds
