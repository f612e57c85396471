"""Files to 16 kHz mono waveforms."""

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
import soundfile
import soxr

Sound = TypeVar("Sound")
Decoded = TypeVar("Decoded")

SAMPLE_RATE = 16_000
"""Hertz. Every model here listens at this rate."""

SILENCE = 1e-4
"""Greatest distance from the mean of a sound that nobody hears: -80 dB of full scale."""

MIN_SECONDS = 0.025
"""One Kaldi analysis frame: nothing shorter has a spectrogram."""

MOST_PEAK = 64.0
"""Greatest sample of a sound that may be meant to lie in [-1, 1]: 36 dB over full scale. Whole numbers that somebody
turned into floats as they were lie far above."""

_DECODED = {".wav", ".wave", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc", ".au", ".caf", ".w64"}
# libsndfile does not decode these, but each gets its error and remedy rather than being passed over.
_REFUSED = {".m4a", ".aac", ".wma", ".amr", ".ape"}
EXTENSIONS = frozenset(_DECODED | _REFUSED)
"""Suffixes taken when a folder is searched; a file that is named explicitly is always tried."""


class AudioError(ValueError):
    """A sound that cannot be used. The message names the file and the remedy."""


@dataclass(frozen=True)
class Clip:
    """A decoded sound.

    `waveform`: (samples,) float32 in [-1, 1], mono at `sample_rate` hertz;
    `seconds`: length of the whole file, which may be more than was read.
    """

    waveform: np.ndarray
    seconds: float
    sample_rate: int = SAMPLE_RATE

    @property
    def heard_seconds(self) -> float:
        """Seconds of sound in `waveform`."""
        return len(self.waveform) / self.sample_rate

    @property
    def is_silent(self) -> bool:
        """Whether nobody hears anything: a model has to name something all the same."""
        return float(np.abs(self.waveform - self.waveform.mean()).max()) <= SILENCE


def load_audio(path: str | Path, *, max_seconds: float | None = None, sample_rate: int = SAMPLE_RATE) -> Clip:
    """Decode WAV, FLAC, OGG, MP3 … into a mono waveform.

    Channels are averaged and the rate converted with soxr's high quality. Of a file longer than `max_seconds`
    only the beginning is decoded, so that a two-hour recording costs no more than its first window.

    Raises `AudioError` for a file that is missing, empty, not audio, shorter than `MIN_SECONDS`, or holds NaN or
    infinite samples, and `TypeError` for what is no path.
    """
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"expected the path of one sound, got {type(path).__name__}; load several one by one")
    path = Path(path)
    if not path.is_file():
        wrong = "is not a file; name the sound itself" if path.exists() else "no such file; see to its name and folder"
        raise AudioError(f"{path}: {wrong}")
    if path.stat().st_size == 0:
        raise AudioError(f"{path}: the file is empty (0 bytes); record or copy it again")
    if not os.access(path, os.R_OK):
        raise AudioError(f"{path}: may not be read; change its rights (chmod u+r)")
    # Bytes, because a name may be no valid Unicode.
    return decode(
        os.fsencode(path) if os.name == "posix" else path, str(path), max_seconds=max_seconds, sample_rate=sample_rate
    )


def decode(source: Any, name: str, *, max_seconds: float | None = None, sample_rate: int = SAMPLE_RATE) -> Clip:
    """As `load_audio`, of a path or a binary file object that soundfile takes. name: what messages call it.

    Raises `AudioError` for what is not audio, shorter than `MIN_SECONDS`, or holds NaN or infinite samples.
    """
    try:
        with soundfile.SoundFile(source) as file:
            rate, seconds = file.samplerate, file.frames / file.samplerate
            frames = -1 if max_seconds is None else math.ceil(max_seconds * rate)
            samples = file.read(frames, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, RuntimeError, TypeError, ZeroDivisionError) as error:
        raise undecodable(name, error) from error
    return Clip(to_mono(samples, rate, name=name, sample_rate=sample_rate), seconds, sample_rate)


def decode_ahead(
    sounds: Iterable[Sound],
    load: Callable[[Sound], Decoded],
    *,
    ahead: int,
    workers: int = 2,
    name: Callable[[Sound], Any] = str,
) -> Iterator[tuple[Sound, Decoded | AudioError]]:
    """Each sound, in order, with what `load` makes of it or the error that it raises.

    ahead: how many are decoded, in `workers` threads, before they are asked for. name: what errors call a sound. One
    sound's trouble, whatever it is, stops nobody.
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


def undecodable(name: str | Path, error: Exception) -> AudioError:
    """What is said of a file that libsndfile does not decode, by its own reason."""
    reason = str(getattr(error, "error_string", error)).strip().removeprefix("Error : ").rstrip(".")
    return AudioError(
        f"{name}: cannot be decoded as audio ({reason}); convert it to WAV or FLAC, or copy it again if it is torn"
    )


def to_mono(samples: np.ndarray, rate: int, *, name: str = "waveform", sample_rate: int = SAMPLE_RATE) -> np.ndarray:
    """Average the channels of (samples,) or (samples, channels) at `rate` hertz and resample to `sample_rate`.

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
    """Raise `AudioError` for a sound that is empty, shorter than `MIN_SECONDS`, not finite, or no floats in [-1, 1].

    peak: the greatest absolute value of its samples, NaN if one is NaN.
    """
    if not samples:
        raise AudioError(f"{name}: holds no samples; record or copy it again")
    if not math.isfinite(peak):
        raise AudioError(f"{name}: holds NaN or infinite samples; repair or re-export it")
    if samples < MIN_SECONDS * rate:
        heard, needed = round(samples / rate * 1000, 1), MIN_SECONDS * 1000
        raise AudioError(f"{name}: {heard:g} ms is too short; a spectrogram needs {needed:g} ms")
    if peak > MOST_PEAK:
        raise AudioError(
            f"{name}: its greatest sample is {peak:.0f}, but floats lie in [-1, 1]; divide by full scale (32768 for "
            "16 bits)"
        )
