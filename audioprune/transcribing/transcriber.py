"""Transcription of many sounds: decoding ahead, batches of about one length, long recordings in pieces."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import WhisperForConditionalGeneration

from ..audio.files import MIN_SECONDS, SAMPLE_RATE, AudioError, Clip, decode_ahead
from ..audio.waveforms import is_one, waveform_of
from ..bulk.sounds import Sound, find_clips, key, load
from ..core.pruning import prune
from ..files import Row
from ..methods import Method
from .differences import differences
from .options import Options
from .parts import WhisperParts
from .pieces import Piece, PieceLog
from .recognizer import Recognizer, Segment, Transcript, Word

AHEAD = 4
"""Number of batches that are decoded ahead and sorted by length: a batch takes as long as its longest text."""
PIECE_SECONDS = 600.0
"""A longer recording is read in pieces of ten minutes: a day of sound needs no more memory, and no more than a piece is
lost when a run is stopped."""
PASSES = ("pruned", "unpruned")
"""Names of the passes over a sound: with the method, and to compare."""
FAILURES = (IndexError, ValueError, RuntimeError)
"""What a model raises for a sound that it cannot cope with."""


@dataclass(frozen=True)
class InMemory:
    """A recording that is an array: (samples,) float32 at 16 kHz."""

    key: str
    waveform: np.ndarray

    def load(self, max_seconds: float, start_seconds: float = 0.0) -> Clip:
        first = round(start_seconds * SAMPLE_RATE)
        part = self.waveform[first : first + round(max_seconds * SAMPLE_RATE)]
        return Clip(part, len(self.waveform) / SAMPLE_RATE)

    def __str__(self) -> str:
        return self.key


def attach(model: WhisperForConditionalGeneration, method: Method | None) -> AbstractContextManager[Any]:
    """Prune a model within a `with`; None leaves it as it is."""
    return nullcontext() if method is None else prune(model, method)


@dataclass
class Transcriber:
    """A Whisper with its method, which gives a row of text for each sound.

    Args:
        recognizer: the model, and what it is asked for.
        method: how the encoder is pruned while it hears; None leaves the model as it is.
        compare: whether to transcribe each sound without the method too.
        batch_size: sounds per forward; recordings longer than the model's window are heard one by one.
        workers: number of threads that decode.
        progress: called with the share of a long recording that was heard.
        pieces: what earlier runs heard of long recordings. What this one hears is added.
    """

    recognizer: Recognizer
    method: Method | None = None
    compare: bool = False
    batch_size: int = 8
    workers: int = 2
    progress: Callable[[float], Any] = lambda share: None
    pieces: PieceLog = field(default_factory=PieceLog)

    def __post_init__(self) -> None:
        self._succeeded = self._is_warm = self._turn = False

    def __call__(self, sounds: Iterable[Path | Sound]) -> Iterator[Row]:
        """Yield a row for each sound, as they are done.

        A row has `path`, `duration`, `language` (of a multilingual model), `text`, `segments` and `words` if asked for,
        `compute_seconds` and `real_time_factor`; or `path` and `error`. With `compare` also `unpruned` (the text),
        `unpruned_compute_seconds`, `word_differences` (how many) and `differences` (unpruned, pruned words).
        """
        decoded = decode_ahead(sounds, self._begin, ahead=AHEAD * self.batch_size, workers=self.workers)
        while group := list(islice(decoded, AHEAD * self.batch_size)):
            short: list[tuple[Path | Sound, Clip]] = []
            long: list[tuple[Path | Sound, Clip]] = []
            for sound, clip in group:
                if isinstance(clip, AudioError):
                    yield {"path": key(sound), "error": str(clip)}
                elif self._is_long(clip):
                    long.append((sound, clip))
                elif clip.is_silent:
                    yield _silent(sound)
                else:
                    short.append((sound, clip))
            short.sort(key=lambda pair: len(pair[1].waveform))
            for first in range(0, len(short), self.batch_size):
                yield from self._short(short[first : first + self.batch_size])
            for sound, clip in long:
                yield self._long(sound, clip.seconds)

    def _begin(self, sound: Path | Sound) -> Clip:
        """The first window, and how long the whole is."""
        return load(sound, self.recognizer.parts.window_seconds)

    def _is_long(self, clip: Clip) -> bool:
        return clip.seconds > self.recognizer.parts.window_seconds

    def _short(self, batch: Sequence[tuple[Path | Sound, Clip]]) -> list[Row]:
        try:
            passes = self._passes(lambda _: self.recognizer.short([clip.waveform for _, clip in batch]))
        except FAILURES as error:
            if _is_fatal(error) or (len(batch) == 1 and not self._succeeded):
                raise
            if len(batch) > 1:  # find the one by which it failed
                return [row for one in batch for row in self._short([one])]
            return [_failed(batch[0][0], error)]
        return [self._row(sound, clip.seconds, [found[i] for found in passes]) for i, (sound, clip) in enumerate(batch)]

    def _long(self, sound: Path | Sound, seconds: float) -> Row:
        try:
            passes = self._passes(lambda name: self._in_pieces(sound, seconds, name))
        except AudioError as error:
            return {"path": key(sound), "error": str(error)}
        except FAILURES as error:
            if _is_fatal(error) or not self._succeeded:
                raise
            return _failed(sound, error)
        return _silent(sound) if passes[0] is None else self._row(sound, seconds, passes)

    def _passes(self, run: Callable[[str], Any]) -> list[Any]:
        """What `run` gives with the method, and, to compare, without it. It is called with the name of the pass."""
        methods = [self.method, None] if self.compare else [self.method]
        if self.compare and not self._is_warm:
            for method in methods:
                with attach(self.recognizer.model, method):
                    self.recognizer.warm_up()
            self._is_warm = True
        found = {}
        for i in reversed(range(len(methods))) if self._turn else range(len(methods)):
            with attach(self.recognizer.model, methods[i]):
                found[i] = run(PASSES[i])
        self._succeeded, self._turn = True, not self._turn  # neither is always the first, which may be slower
        return [found[i] for i in range(len(methods))]

    def _in_pieces(self, sound: Path | Sound, seconds: float, name: str) -> Transcript | None:
        """Transcript of a long recording; None if it is silent throughout."""
        pieces = self.pieces.of(sound, name)
        last = pieces[-1] if pieces else Piece(0.0, seconds)
        while last.of - last.end >= MIN_SECONDS:
            last = self._piece(sound, last)
            self.pieces.note(sound, name, last)
            pieces.append(last)
        if not any(piece.spoken for piece in pieces):
            return None
        segments = tuple(segment for piece in pieces for segment in piece.segments)
        text = " ".join(segment.text for segment in segments)
        return Transcript(text, segments, last.language, sum(piece.seconds for piece in pieces))

    def _piece(self, sound: Path | Sound, before: Piece) -> Piece:
        """What is heard after a piece of a recording."""
        start = before.end
        clip = load(sound, PIECE_SECONDS, start)
        seconds = min(before.of, clip.seconds)  # what was decoded to its end is counted
        end = start + clip.heard_seconds
        if clip.is_silent:
            return Piece(end, seconds, language=before.language)
        found = self.recognizer.long(clip.waveform, before.language, partial(self._note, start, end, seconds))
        segments = [segment.later(start) for segment in found.segments]
        is_last = seconds - end < MIN_SECONDS
        if not is_last and len(segments) > 1:  # the last was cut off by the end of the piece: hear it again
            end = segments.pop().start
        return Piece(end, seconds, tuple(segments), found.language, found.seconds, spoken=True)

    def _note(self, start: float, end: float, seconds: float, share: float) -> None:
        """Tell the share of a recording that was heard, from that of a piece."""
        self.progress((start + share * (end - start)) / seconds)

    def _row(self, sound: Path | Sound, seconds: float, passes: Sequence[Transcript]) -> Row:
        found, *unpruned = passes
        row: Row = {"path": key(sound), "duration": round(seconds, 3)}
        if found.language is not None:
            row["language"] = found.language
        row["text"] = found.text
        if self.recognizer.options.timestamps != "none":
            row["segments"] = [_timed(segment, text=segment.text) for segment in found.segments]
        if self.recognizer.options.timestamps == "word":
            row["words"] = [_timed(word, word=word.word) for segment in found.segments for word in segment.words]
        row |= {"compute_seconds": round(found.seconds, 3), "real_time_factor": round(found.seconds / seconds, 4)}
        for other in unpruned:
            apart = differences(other.text, found.text)
            row |= {
                "unpruned": other.text,
                "unpruned_compute_seconds": round(other.seconds, 3),
                "word_differences": apart.count,
                "differences": [list(place) for place in apart.places],
            }
        return row


def transcribe(
    model: WhisperForConditionalGeneration | str | Path,
    sounds: Any,
    *,
    processor: Any = None,
    language: str | None = None,
    task: str = "transcribe",
    timestamps: str = "none",
    beams: int = 1,
    batch_size: int = 8,
) -> list[Row]:
    """Transcribe sounds of any length with a Whisper, as it is: pruned where it was pruned.

        whisper = WhisperForConditionalGeneration.from_pretrained("openai/whisper-base")
        ap.prune(whisper, ap.recommended(whisper))
        for row in ap.transcribe(whisper, ["talk.mp3", "interview.wav"], language="en"):
            print(row["text"])

    Args:
        model: the model, or its folder or hub id.
        sounds: a path of a file or a folder, or a list of them; or a list of sounds in memory, as for `LogMel`.
        processor: transformers' processor of the model. By default it is read from where the model was loaded.
        language: of the speech, such as "de"; None lets a multilingual model find out for each sound.
        task: "transcribe", or "translate" into English.
        timestamps: "none", "segment", or "word".
        beams: number of beams; 1 is greedy.
        batch_size: sounds per forward.

    Returns a row for each sound, in order: see `Transcriber.__call__`. A file that cannot be decoded, or is silent, has
    an `error` in its row. The `path` of a sound in memory is its place, such as "sound 0".
    Raises `ValueError` for options that the model cannot serve, `CheckpointError` for a model of another kind, and
    `FileNotFoundError` for a path that is not there.
    """
    if isinstance(model, str | Path):
        parts = WhisperParts.read(model)
        model = parts.load(quick=True)
    else:
        parts = WhisperParts.of(model, processor)
    listed = _listed(sounds)
    options = Options(language, task, timestamps, beams)
    rows = {row["path"]: row for row in Transcriber(Recognizer(model, parts, options), batch_size=batch_size)(listed)}
    return [rows[key(sound)] for sound in listed]


def _listed(sounds: Any) -> list[Path | Sound]:
    if is_one(sounds) or getattr(sounds, "ndim", 2) == 1:
        sounds = [sounds]
    listed = list(sounds)
    if all(isinstance(sound, str | Path) for sound in listed):
        return list(find_clips(listed)[0])
    return [
        InMemory(f"sound {i}", waveform_of(sound, name=f"sound {i}").cpu().numpy()) for i, sound in enumerate(listed)
    ]


def _timed(of: Segment | Word, **text: str) -> Row:
    return {"start": round(of.start, 2), "end": round(of.end, 2), **text}


def _silent(sound: Path | Sound) -> Row:
    return {"path": key(sound), "error": f"{sound}: silent, so there is nothing to transcribe"}


def _failed(sound: Path | Sound, error: Exception) -> Row:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else "no reason given"
    return {"path": key(sound), "error": f"{sound}: cannot be transcribed ({type(error).__name__}: {reason})"}


def _is_fatal(error: Exception) -> bool:
    """Whether every other sound would fail too: memory is short, or the device is lost."""
    text = str(error)
    return (
        isinstance(error, torch.OutOfMemoryError)
        or "out of memory" in text
        or "can't allocate memory" in text
        or "CUDA error" in text
    )
