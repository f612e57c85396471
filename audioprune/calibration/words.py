"""How much of the sound a Whisper may merge before its own words change too much, found without transcripts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np

from .. import fingerprints
from ..audio.files import SAMPLE_RATE
from ..compare.benchmark import machine
from ..core.pruning import AlreadyPrunedError, handle, prune
from ..core.recommend import decoded_at
from ..core.settings import RECORD, describe, file_settings
from ..files import Row, write_json
from ..methods import Method
from ..timing import ROUNDS, Ratio, in_turns
from ..transcribing.speech_model import SpeechModel
from ..transcribing.timing import EncoderClock
from ..transcribing.word_errors import normalizer, require, word_errors
from .bounds import upper_bound_of_mean
from .ledger import TranscriptLedger

TIMED = 8
"""Batches whose encoder is timed."""
LADDER = (None, 0.98, 0.96, 0.94, 0.92, 0.9, 0.87, 0.84, 0.8)
"""Keep rates of neighbours in the sound at each block, from the mildest on; None merges the padding alone."""


@dataclass(frozen=True)
class WordCalibration:
    """The outcome of `calibrate_words`.

    method: the setting to prune with; None if the mildest changes too many words even by its estimate.
    shown: whether the limit is shown with 95 % confidence; if not, the setting keeps it by its estimate alone.
    max_word_error: what was asked for.
    rows: every setting that was tried, in order: "name", "setting", "word_error" (mean over clips), "bound" (its upper
    95 % bound), "passed", "same" (clips with the same words), "tokens" (mean that leave the encoder).
    about: number of clips and their seconds, batch size, machine, and "encoder_faster": how many times as fast the
    encoder is as unpruned, mean and standard deviation over batches that took turns; None if nothing was found.
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
        write_json(Path(path), {**file_settings(self.method), RECORD: {**more, **_sure(self.record)}})
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
            f"{_shown(self.about['encoder_faster'])} as fast."
        )
        if self.shown:
            return (found, f"With 95 % confidence the limit of {limit} is kept, the choice among settings included.")
        least = 100 * upper_bound_of_mean(0.0, clips)
        return (found, f"Not shown: {clips} clips that all stay the same show {least:.1f} % at best; give more clips.")


def _shown(faster: Row) -> str:
    """A ratio of time; with a question mark if it is not sure."""
    return f"{faster['mean']:.2f}× ± {faster['std']:.2f}{'' if faster['sure'] else ' ?'}"


def _sure(record: Row) -> Row:
    """A record without a speed that was not sure."""
    is_sure = (record.get("encoder_faster") or {}).get("sure", True)
    return {key: value for key, value in record.items() if is_sure or key != "encoder_faster"}


def calibrate_words(
    speech_model: SpeechModel,
    waveforms: Sequence[np.ndarray],
    *,
    max_word_error: float,
    batch_size: int = 8,
    advance: Callable[[int], Any] = lambda clips: None,
    state: str | Path | None = None,
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
        state: file that holds what was heard so far, so that a run that is stopped goes on; removed at the end.

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
    batches = _batches(waveforms, batch_size)
    ledger = _ledger(state, speech_model, waveforms, batch_size)
    transcribe = partial(_transcribe, speech_model, waveforms, batches, advance, ledger)
    try:
        rows, found, is_shown = _climb(speech_model, transcribe, max_word_error)
        faster = None if found is None else _faster(speech_model, found, waveforms, batches)
    except BaseException:
        ledger.close()
        raise
    ledger.remove()
    about = {
        "clips": len(waveforms),
        "seconds": sum(map(len, waveforms)) / SAMPLE_RATE,
        "batch_size": batch_size,
        "encoder_faster": faster,
        "machine": machine(),
    }
    return WordCalibration(found, is_shown, max_word_error, rows, about)


def _climb(
    speech_model: SpeechModel, transcribe: Callable[[Method | None], tuple[list[str], float]], limit: float
) -> tuple[list[Row], Method | None, bool]:
    """Test settings until one fails: their rows, the strongest that keeps the limit, and whether that is shown."""
    own, _ = transcribe(None)
    rows, chosen = list[Row](), None
    for keep_rate in LADDER:
        method = decoded_at(keep_rate)
        with prune(speech_model.model, method):
            texts, tokens = transcribe(method)
        errors = [min(1.0, word_errors(a, b).rate) for a, b in zip(own, texts, strict=True)]
        rows.append(_row(method, errors, limit) | {"tokens": tokens})
        if not rows[-1]["passed"]:
            estimate = method if chosen is None and rows[-1]["word_error"] <= limit else None
            return rows, chosen or estimate, chosen is not None
        chosen = method
    return rows, chosen, True


def _ledger(
    state: str | Path | None, speech_model: SpeechModel, waveforms: Sequence[np.ndarray], batch_size: int
) -> TranscriptLedger:
    """The ledger of what was written so far, begun anew if it is of another run."""
    if state is None:
        return TranscriptLedger()
    sounds = (part for one in waveforms for part in (f"{one.dtype} {one.shape}".encode(), one.tobytes()))
    run = {
        "model": fingerprints.of_weights(speech_model.model),
        "clips": fingerprints.of_parts(sounds),
        "batch_size": batch_size,
        "language": speech_model.language,
        "beams": speech_model.beams,
        "dtype": str(speech_model.model.dtype),
        "machine": machine(),
    }
    return TranscriptLedger(Path(state), run)


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


def _batches(waveforms: Sequence[np.ndarray], size: int) -> list[list[int]]:
    """Indices of the clips of each batch. Clips of like length go together, since a batch takes as long as its
    longest."""
    order = sorted(range(len(waveforms)), key=lambda i: len(waveforms[i]))
    return [order[begin : begin + size] for begin in range(0, len(order), size)]


def _transcribe(
    speech_model: SpeechModel,
    waveforms: Sequence[np.ndarray],
    batches: Sequence[Sequence[int]],
    advance: Callable[[int], Any],
    ledger: TranscriptLedger,
    method: Method | None,
) -> tuple[list[str], float]:
    """Normalized texts of all clips, and the mean number of tokens that leave the encoder. method: what prunes the
    model now."""
    normalize = normalizer(speech_model.language, speech_model.tokenizer)
    texts, tokens = [""] * len(waveforms), 0.0
    for number, batch in enumerate(batches):
        written = ledger.texts(method, number)
        if written is None:
            with EncoderClock(speech_model.model) as clock:
                said = speech_model([waveforms[i] for i in batch])
            written = [normalize(text) for text in said], clock.tokens
            ledger.note(method, number, written)
        for i, text in zip(batch, written[0], strict=True):
            texts[i] = text
        tokens += sum(written[1])
        advance(len(batch))
    return texts, tokens / len(waveforms)


def _faster(
    speech_model: SpeechModel, method: Method, waveforms: Sequence[np.ndarray], batches: Sequence[Sequence[int]]
) -> Row:
    """How many times as fast the encoder is with a method, on some batches of all lengths, in turns: mean and standard
    deviation over batches, and whether each batch's ratio is sure."""
    chosen = [batches[i * len(batches) // TIMED] for i in range(TIMED)] if len(batches) > TIMED else batches
    ratios = []
    for number, batch in enumerate(chosen):
        sounds = [waveforms[i] for i in batch]
        slow, fast = list[float](), list[float]()
        turns = [partial(_time, speech_model, sounds, None, slow), partial(_time, speech_model, sounds, method, fast)]
        in_turns(turns, ROUNDS, seed=str(number))
        ratios.append(Ratio.between(slow, fast))
    std = stdev(ratios) if len(ratios) > 1 else 0.0
    return {"mean": fmean(ratios), "std": std, "sure": all(ratio.is_sure for ratio in ratios)}


def _time(speech_model: SpeechModel, sounds: list[np.ndarray], method: Method | None, into: list[float]) -> None:
    """Add the encoder's seconds for a batch; two tokens of text are enough for that."""
    with prune(speech_model.model, method) if method else nullcontext(), EncoderClock(speech_model.model) as clock:
        speech_model(sounds, max_new_tokens=2)
    into.append(clock.seconds)
