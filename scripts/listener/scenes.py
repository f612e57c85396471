"""Scenes to ask about: spoken digits over two everyday sounds, cut from real recordings, with their truth.

A scene is a pure function of its recordings, a seed and an index: nothing is stored, and any scene can be made again.
It lasts 7 to 10 s. Two sounds of different classes follow one another; over them one to four digits are spoken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from audioprune.audio.files import SAMPLE_RATE, load_audio
from audioprune.data.esc import read_esc10
from audioprune.data.fsdd import read_fsdd_digits, read_fsdd_speakers
from audioprune.data.table import ClipRow, DataError

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SOUNDS = {
    "baby_cry": "baby",
    "chainsaw": "chainsaw",
    "clock_tick": "clock",
    "dog_bark": "dog",
    "fire_crackling": "fire",
    "helicopter": "helicopter",
    "person_sneeze": "sneeze",
    "rain": "rain",
    "rooster": "rooster",
    "sea_waves": "sea",
}
"""ESC-10's classes → the one word that stands for each."""

KINDS = ("order", "first", "count")
"""What is asked of every scene: the digits in order, which sound came first, how many digits."""

PARTS = ("train", "learn", "validation", "test")
"""`test`: ESC-10's fold 5 and the test takes of the digits. `train`: all else, which falls into `learn` and
`validation` (fold 4, and training takes 5 to 7) where settings are to be chosen."""

SECONDS = (7.0, 10.0)
MOST_DIGITS = 4
GAP = 0.15
"""Seconds of rest at least between two digits, and before and after them."""
SNR = (8.0, 20.0)
"""Decibels of a digit over what is heard under it, or over the whole background where that is louder."""
CHANGE = (0.35, 0.65)
"""When the second sound takes over, as a share of the scene."""

_MOST_CROWDED = 16
_CROWDED_GAP = 0.03
_FADE = 0.1
_LONGEST_DIGIT = 1.2
_LEVEL = 0.03
_VALIDATION_FOLD = "4"
_TEST_FOLD = "5"
_VALIDATION_TAKES = (5, 6, 7)


@dataclass(frozen=True)
class Recording:
    """A sound without the silence around it. `waveform`: (samples,) float32 at 16 kHz."""

    word: str
    waveform: np.ndarray
    path: Path


@dataclass(frozen=True)
class Recordings:
    """What scenes are cut from. `digits`: speaker → word → recordings; `sounds`: word → recordings."""

    digits: dict[str, dict[str, list[Recording]]]
    sounds: dict[str, list[Recording]]

    @property
    def paths(self) -> frozenset[Path]:
        spoken = [found for words in self.digits.values() for found in words.values()]
        return frozenset(recording.path for found in (*spoken, *self.sounds.values()) for recording in found)


@dataclass(frozen=True)
class Event:
    """What is heard from `start` to `end`, in seconds."""

    word: str
    start: float
    end: float


@dataclass(frozen=True)
class Question:
    """`kind`: one of `KINDS`; text and answer are words with a space between them; `choices`: the answers that the text
    names, in its order."""

    kind: str
    text: str
    answer: str
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Scene:
    """A sound and its truth.

    `waveform`: (samples,) float32 at 16 kHz; `digits`, `sounds`: in the order in which they are heard;
    `mentioned`: the two sounds in the order in which a question names them; `sources`: the files it was cut from.
    """

    waveform: np.ndarray
    digits: tuple[Event, ...]
    sounds: tuple[Event, Event]
    mentioned: tuple[str, str]
    sources: tuple[Path, ...]

    @property
    def seconds(self) -> float:
        return len(self.waveform) / SAMPLE_RATE

    @property
    def questions(self) -> tuple[Question, ...]:
        """One of each kind, in the order of `KINDS`."""
        one, other = self.mentioned
        return (
            Question("order", "which digits , in order ?", " ".join(digit.word for digit in self.digits)),
            Question("first", f"what was heard first , the {one} or the {other} ?", self.sounds[0].word, (one, other)),
            Question("count", "how many digits ?", DIGITS[len(self.digits)]),
        )


def read_recordings(data: Path, part: str) -> Recordings:
    """Decode one of `PARTS` of `data`/esc10 and `data`/fsdd; seconds of work.

    Raises `DataError` where a set is missing or broken, a class has no word in `SOUNDS`, or a speaker lacks a digit.
    """
    if part not in PARTS:
        raise DataError(f"no part {part!r} of the recordings; there are {', '.join(PARTS)}")
    spoken, heard = read_fsdd_digits(data / "fsdd").rows, read_esc10(data / "esc10").rows
    speaker = {row.path: row.labels[0] for row in read_fsdd_speakers(data / "fsdd").rows}
    digits: dict[str, dict[str, list[Recording]]] = {}
    for row in _of(part, spoken, "test", _is_validation_take):
        recording = Recording(DIGITS[int(row.labels[0])], trimmed(row.path, margin=0.02), row.path)
        if len(recording.waveform) <= _LONGEST_DIGIT * SAMPLE_RATE:
            digits.setdefault(speaker[row.path], {}).setdefault(recording.word, []).append(recording)
    sounds: dict[str, list[Recording]] = {}
    for row in _of(part, heard, _TEST_FOLD, lambda row: row.part == _VALIDATION_FOLD):
        if row.labels[0] not in SOUNDS:
            raise DataError(f"{row.path}: no word for the class {row.labels[0]!r}; scenes know {', '.join(SOUNDS)}")
        # A third of a second of rest stays, so that a bark that is repeated is a row of barks and not a rattle.
        recording = Recording(SOUNDS[row.labels[0]], trimmed(row.path, margin=0.3), row.path)
        sounds.setdefault(recording.word, []).append(recording)
    return _complete(Recordings(digits, sounds), data, part)


def make_scene(recordings: Recordings, seed: int, index: int, *, vary: bool = False, crowded: bool = False) -> Scene:
    """Scene `index` of the endless series `seed`.

    vary: for training, each recording comes at a random speed and with random equalisation, and sometimes two sounds
        of one class are heard at once: there are only 320 sounds to learn from.
    crowded: for training, as many as sixteen digits close together, some of them clearer: more to learn from in less
        time. Of more than nine there is no word for the count.
    """
    rng = np.random.default_rng((seed, index))
    seconds = rng.uniform(*SECONDS)
    background, sounds, sources = _background(recordings, seconds, vary, rng)
    fewest, most, gap, clearest = (8, _MOST_CROWDED, _CROWDED_GAP, 30.0) if crowded else (1, MOST_DIGITS, GAP, SNR[1])
    spoken = _spoken(recordings, int(rng.integers(fewest, most + 1)), vary, rng)
    while sum(len(wave) for _, wave in spoken) / SAMPLE_RATE + gap * (len(spoken) + 1) > seconds - 0.1:
        spoken.pop()
    starts = _places([len(wave) for _, wave in spoken], len(background), gap, rng)
    waveform, whole = background.copy(), rms(background)
    digits = []
    for (recording, wave), start in zip(spoken, starts):
        span = slice(start, start + len(wave))
        level = max(rms(background[span]), whole) * 10 ** (rng.uniform(SNR[0], clearest) / 20)
        waveform[span] += wave * np.float32(level / rms(wave))
        digits.append(Event(recording.word, start / SAMPLE_RATE, (start + len(wave)) / SAMPLE_RATE))
        sources.append(recording.path)
    mentioned = (sounds[0].word, sounds[1].word)
    if rng.random() < 0.5:
        mentioned = mentioned[::-1]
    loudest = np.abs(waveform).max()
    waveform *= np.float32(min(10 ** (rng.uniform(-6, 6) / 20), 0.99 / max(loudest, 1e-6)))
    return Scene(waveform, tuple(digits), sounds, mentioned, tuple(sources))


def make_scenes(recordings: Recordings, seed: int, count: int) -> list[Scene]:
    """The first `count` scenes of the series `seed`, unvaried."""
    return [make_scene(recordings, seed, index) for index in range(count)]


def _of(part: str, rows: Iterable[ClipRow], test: str, validation: Callable[[ClipRow], bool]) -> list[ClipRow]:
    if part == "test":
        return [row for row in rows if row.part == test]
    rest = [row for row in rows if row.part != test]
    return rest if part == "train" else [row for row in rest if validation(row) == (part == "validation")]


def _is_validation_take(row: ClipRow) -> bool:
    take = row.path.stem.rsplit("_", 1)[-1]
    return take.isdigit() and int(take) in _VALIDATION_TAKES


def _complete(found: Recordings, data: Path, part: str) -> Recordings:
    if len(found.sounds) < 2:
        raise DataError(f"{data}/esc10: {part} has sounds of {len(found.sounds)} classes; a scene needs two")
    if not found.digits:
        raise DataError(f"{data}/fsdd: {part} has no digit")
    for name, words in found.digits.items():
        if missing := [word for word in DIGITS if word not in words]:
            raise DataError(f"{data}/fsdd: in {part}, {name} never says {', '.join(missing)}")
    return found


def trimmed(path: Path, margin: float) -> np.ndarray:
    """A file without what is 45 dB under its loudest 10 ms at either end, but for `margin` seconds of it."""
    wave = load_audio(path).waveform
    step = SAMPLE_RATE // 100
    frames = np.sqrt(np.square(wave[: len(wave) // step * step]).reshape(-1, step).mean(1))
    loud = np.flatnonzero(frames > frames.max() * 10 ** (-45 / 20))
    if not len(loud):
        raise DataError(f"{path}: is silent; remove it and its line")
    rest = round(margin * SAMPLE_RATE)
    return wave[max(0, loud[0] * step - rest) : (loud[-1] + 1) * step + rest]


def _background(
    recordings: Recordings, seconds: float, vary: bool, rng: np.random.Generator
) -> tuple[np.ndarray, tuple[Event, Event], list[Path]]:
    total, change = round(seconds * SAMPLE_RATE), round(seconds * rng.uniform(*CHANGE) * SAMPLE_RATE)
    half = round(_FADE * SAMPLE_RATE / 2)
    names = [str(name) for name in rng.choice(sorted(recordings.sounds), 2, replace=False)]
    first, from_first = _sound(recordings.sounds[names[0]], change + half, vary, rng)
    second, from_second = _sound(recordings.sounds[names[1]], total - change + half, vary, rng)
    ramp = np.linspace(0, 1, 2 * half, dtype=np.float32)
    first[-2 * half :] *= 1 - ramp
    second[: 2 * half] *= ramp
    background = np.zeros(total, dtype=np.float32)
    background[: change + half] += first
    background[change - half :] += second
    middle = change / SAMPLE_RATE
    sounds = Event(names[0], 0.0, middle), Event(names[1], middle, total / SAMPLE_RATE)
    return background, sounds, [*from_first, *from_second]


def _sound(
    choices: Sequence[Recording], samples: int, vary: bool, rng: np.random.Generator
) -> tuple[np.ndarray, list[Path]]:
    """(samples,) of one recording from a random place on, repeated where it is shorter."""
    heard, paths = np.zeros(samples, dtype=np.float32), []
    for share in (1.0, rng.uniform(0.3, 1.0)) if vary and rng.random() < 0.3 else (1.0,):
        recording = choices[int(rng.integers(len(choices)))]
        wave = varied(recording.waveform, 0.15, 4.0, rng) if vary else recording.waveform
        cut = np.take(wave, np.arange(samples) + rng.integers(len(wave)), mode="wrap")
        heard += np.float32(share / max(rms(cut), 1e-5)) * cut
        paths.append(recording.path)
    return heard * np.float32(_LEVEL * 10 ** (rng.uniform(-5, 5) / 20) / max(rms(heard), 1e-5)), paths


def _spoken(
    recordings: Recordings, count: int, vary: bool, rng: np.random.Generator
) -> list[tuple[Recording, np.ndarray]]:
    """Digits drawn independently; in half of the scenes one speaker says them all."""
    speakers = sorted(recordings.digits)
    only, same = speakers[rng.integers(len(speakers))], rng.random() < 0.5
    spoken = []
    for _ in range(count):
        speaker = only if same else speakers[rng.integers(len(speakers))]
        choices = recordings.digits[speaker][DIGITS[rng.integers(len(DIGITS))]]
        recording = choices[rng.integers(len(choices))]
        spoken.append((recording, varied(recording.waveform, 0.12, 3.0, rng) if vary else recording.waveform))
    return spoken


def _places(lengths: Sequence[int], total: int, rest: float, rng: np.random.Generator) -> list[int]:
    """Starts, in samples, of stretches with `rest` seconds between them at least: all arrangements equally likely."""
    gap = round(rest * SAMPLE_RATE)
    room = total - sum(lengths) - gap * (len(lengths) + 1)
    starts, spent = [], gap
    for shift, length in zip(np.sort(rng.integers(0, room, len(lengths))), lengths):
        starts.append(int(shift) + spent)
        spent += length + gap
    return starts


def varied(wave: np.ndarray, speed: float, decibels: float, rng: np.random.Generator) -> np.ndarray:
    """Up to `speed` (a share) faster or slower, and equalised by a curve of `decibels` standard deviation."""
    rate = rng.uniform(1 - speed, 1 + speed)
    samples = int(len(wave) / rate)
    # Linear interpolation: what it dulls is one more variation.
    wave = np.interp(np.arange(samples) * rate, np.arange(len(wave)), wave).astype(np.float32)
    # A power of two: lengths with large prime factors take ten times as long. And torch, which takes a third of NumPy.
    size = 1 << (samples - 1).bit_length()
    hertz = np.linspace(0, SAMPLE_RATE / 2, 256)
    curve = 10 ** (np.interp(hertz, (0, 250, 500, 1000, 2000, 4000, 8000), rng.normal(0, decibels, 7)) / 20)
    spectrum = torch.fft.rfft(torch.from_numpy(wave), size)
    steps = torch.from_numpy(curve.astype(np.float32)).repeat_interleave(-(-len(spectrum) // 256))[: len(spectrum)]
    return torch.fft.irfft(spectrum * steps, size)[:samples].numpy()


def rms(wave: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(wave)))) if len(wave) else 0.0
