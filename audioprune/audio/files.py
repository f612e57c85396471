"""Decoding of files to 16 kHz mono waveforms."""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import soxr

from .native import AudioError, read_native

Sound = TypeVar("Sound")
Decoded = TypeVar("Decoded")

SAMPLE_RATE = 16_000
"""Sampling rate of every model here, in hertz."""

SILENCE = 1e-4
"""Greatest distance from the mean in an inaudible sound: -80 dB of full scale."""

MIN_SECONDS = 0.025
"""One Kaldi analysis frame. A shorter sound has no spectrogram."""

LEAST_RATE = 1000
"""Least rate of a sound in hertz. A lower one is of a damaged header, and would make a short sound hours long."""

MOST_PEAK = 64.0
"""Greatest accepted sample of a sound in [-1, 1]: 36 dB over full scale. Whole numbers that were converted to floats
without scaling are far above."""


CODEC_PADDING = 0.1
"""Most seconds that codecs add to a sound: a file that is longer by less is of the length that was asked for."""


@dataclass(frozen=True)
class Clip:
    """A decoded sound.

    `waveform`: (samples,) float32 in [-1, 1], mono at `sample_rate` hertz;
    `seconds`: length of the whole file, which may be longer than `waveform`;
    `channels`, `file_rate`: of the file, in hertz, if they are known.
    """

    waveform: np.ndarray
    seconds: float
    sample_rate: int = SAMPLE_RATE
    channels: int | None = None
    file_rate: int | None = None

    @property
    def heard_seconds(self) -> float:
        """Seconds of sound in `waveform`."""
        return len(self.waveform) / self.sample_rate

    @property
    def is_cut(self) -> bool:
        """Whether the file has more sound than `waveform`, apart from what a codec added."""
        return is_cut(self.seconds, self.heard_seconds)

    @property
    def is_silent(self) -> bool:
        """Whether the sound is inaudible. A model still has to name a label for it."""
        return is_silent(self.waveform)


def is_silent(waveform: np.ndarray) -> bool:
    """Whether nothing is audible in (samples,): all is within `SILENCE` of its mean."""
    return float(np.abs(waveform - waveform.mean()).max()) <= SILENCE


def is_cut(seconds: float, heard_seconds: float) -> bool:
    """Whether a file has more sound than was heard, apart from what a codec added."""
    return seconds > heard_seconds + CODEC_PADDING


def load_audio(
    path: str | Path, *, max_seconds: float | None = None, sample_rate: int = SAMPLE_RATE, start_seconds: float = 0.0
) -> Clip:
    """Decode WAV, FLAC, OGG, MP3 … into a mono waveform; with the extra `media` also M4A, WMA, WebM, AMR, AC-3 …, and
    the sound of MP4, MOV and other videos.

    Channels are averaged, and the rate is converted with soxr's high quality. Only `max_seconds` from `start_seconds`
    on are decoded, so a two-hour recording costs only its first window.

    Raises `AudioError` if the file is missing, empty, not audio, protected, or shorter than `MIN_SECONDS`, ends before
    `start_seconds`, contains NaN or infinite samples, or needs the extra `media`. Raises `TypeError` if the input is
    not a path.
    """
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"expected the path of one sound, got {type(path).__name__}; load several one by one")
    path = Path(path)
    if not path.is_file():
        wrong = "is not a file; name the sound itself" if path.exists() else "no such file; check its name and folder"
        raise AudioError(f"{path}: {wrong}")
    if path.stat().st_size == 0:
        raise AudioError(f"{path}: the file is empty (0 bytes); record or copy it again")
    if not os.access(path, os.R_OK):
        raise AudioError(f"{path}: may not be read; change its permissions (chmod u+r)")
    return decode(
        os.fsencode(path) if os.name == "posix" else path,  # bytes, because a name may not be valid Unicode
        str(path),
        max_seconds=max_seconds,
        sample_rate=sample_rate,
        start_seconds=start_seconds,
    )


def decode(
    source: Any,
    name: str,
    *,
    max_seconds: float | None = None,
    sample_rate: int = SAMPLE_RATE,
    start_seconds: float = 0.0,
) -> Clip:
    """Decode a path or a binary file object, like `load_audio`.

    Args:
        source: a path or a binary file object.
        name: name of the sound in messages.
        max_seconds: only so much is decoded; None decodes everything.
        sample_rate: rate of the waveform in hertz.
        start_seconds: where decoding begins; `AudioError` if the sound ends before.

    Raises `AudioError` as `load_audio` does.
    """
    sound = read_native(source, name, start_seconds, max_seconds)
    if start_seconds and not len(sound.samples):
        raise AudioError(
            f"{name}: the clip starts at {start_seconds} s, but the file ends at {sound.seconds:.2f} s; correct the "
            "start"
        )
    if start_seconds:
        name = f"{name} from {start_seconds} s"
    waveform = to_mono(sound.samples, sound.rate, name=name, sample_rate=sample_rate)
    return Clip(waveform, sound.seconds, sample_rate, sound.channels, sound.rate)


def decode_ahead(
    sounds: Iterable[Sound],
    load: Callable[[Sound], Decoded],
    *,
    ahead: int,
    workers: int = 2,
    name: Callable[[Sound], Any] = str,
) -> Iterator[tuple[Sound, Decoded | AudioError]]:
    """Decode sounds ahead of their use. Yields each sound, in order, with the result of `load` or its error.

    An error in one sound does not stop the others.

    Args:
        sounds: the sounds.
        load: decodes a sound.
        ahead: number of sounds to decode ahead.
        workers: number of threads.
        name: name of a sound in errors.
    """

    def outcome(sound: Sound, future: Future[Decoded]) -> tuple[Sound, Decoded | AudioError]:
        try:
            return sound, future.result()
        except AudioError as error:
            return sound, error
        except Exception as error:
            return sound, AudioError(f"{name(sound)}: cannot be read ({type(error).__name__}: {error})")

    waiting: deque[tuple[Sound, Future[Decoded]]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="decode") as pool:
        try:
            for sound in sounds:
                waiting.append((sound, pool.submit(load, sound)))
                if len(waiting) > ahead:
                    yield outcome(*waiting.popleft())
            while waiting:
                yield outcome(*waiting.popleft())
        finally:
            for _, future in waiting:
                future.cancel()


def to_mono(samples: np.ndarray, rate: int, *, name: str = "waveform", sample_rate: int = SAMPLE_RATE) -> np.ndarray:
    """Average the channels of a sound and resample it to `sample_rate`.

    Args:
        samples: (samples,) or (samples, channels).
        rate: its rate in hertz.
        name: name of the sound in messages.
        sample_rate: rate of the result in hertz.

    Returns (samples',) float32. Raises `AudioError` as `check_sound` does.
    """
    samples = np.asarray(samples, dtype=np.float32)
    if samples.ndim == 2:
        samples = samples.mean(axis=1)
    if samples.ndim != 1:
        raise AudioError(f"{name}: expected (samples,) or (samples, channels), got shape {samples.shape}")
    check_sound(name, len(samples), rate, float(np.abs(samples).max(initial=0.0)))
    if rate != sample_rate:
        samples = soxr.resample(samples, rate, sample_rate, quality="HQ")
    return np.ascontiguousarray(samples, dtype=np.float32)


def check_sound(name: str, samples: int, rate: float, peak: float = 0.0) -> None:
    """Raise `AudioError` if a sound is empty, shorter than `MIN_SECONDS`, of a rate below `LEAST_RATE`, not finite, or
    far outside [-1, 1].

    Args:
        name: name of the sound in messages.
        samples: number of samples.
        rate: rate in hertz.
        peak: greatest absolute value of its samples, NaN if one is NaN.
    """
    if not samples:
        raise AudioError(f"{name}: contains no samples; record or copy it again")
    if not math.isfinite(peak):
        raise AudioError(f"{name}: contains NaN or infinite samples; repair or re-export it")
    if rate < LEAST_RATE:
        raise AudioError(f"{name}: its rate is {rate:g} Hz, but sounds have {LEAST_RATE} Hz or more; export it again")
    if samples < MIN_SECONDS * rate:
        length, needed = round(samples / rate * 1000, 1), MIN_SECONDS * 1000
        raise AudioError(f"{name}: {length:g} ms is too short; a spectrogram needs {needed:g} ms")
    if peak > MOST_PEAK:
        raise AudioError(
            f"{name}: its greatest sample is {peak:.0f}, but floats must be in [-1, 1]; divide by full scale (32768 "
            "for 16 bits)"
        )
