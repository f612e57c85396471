"""Timelines: the scenes of the listener with a real ear. Sounds and a talk follow one another, with words in between.

A timeline is a pure function of its recordings, a seed and an index. Three blocks follow one another in any order: two
everyday sounds, and read speech that a third sound interrupts. One to four words (digits and commands) are spoken in
the gaps before, between and after the blocks; in one gap between two blocks there is exactly one word.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from audioprune.audio.files import SAMPLE_RATE
from audioprune.data.files import csv_rows
from audioprune.data.table import DataError
from commands_split import split

from .scenes import DIGITS, PARTS, SOUNDS, Event, Question, Recording, rms, trimmed, varied

COMMANDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
SPOKEN = (*DIGITS, *COMMANDS)
"""Words that are spoken."""
TALK, WORDS = "talk", "words"
"""What a question calls the read speech, and the spoken words."""
BLOCKS = (*SOUNDS.values(), TALK)
"""What a block may be."""
KINDS = ("order", "count", "first", "between", "sound")
"""What is asked of every timeline: the words in order, how many words, which of two came first, the word between two
blocks, the sound that interrupts the talk."""

MOST_WORDS = 4
SECONDS = 15.6
"""No timeline is longer."""
_SOUND, _TALK, _INTERRUPTION = (1.2, 1.8), (1.8, 2.4), (1.8, 2.4)
_GAP = (0.15, 0.4)
_LONGEST_WORD = 1.0
_LEVEL = 0.05
_FLOOR = (25.0, 45.0)
"""Decibels of a word over the hiss under everything."""
_TEST_FOLD, _VALIDATION_FOLD = "5", "4"
_FADE = round(0.01 * SAMPLE_RATE)


@dataclass(frozen=True)
class Voices:
    """What timelines are cut from. `words`: word → speaker → recordings; `sounds`: word → recordings; `talks`: speaker
    → recordings of read speech."""

    words: dict[str, dict[str, list[Recording]]]
    sounds: dict[str, list[Recording]]
    talks: dict[str, list[Recording]]

    @property
    def paths(self) -> frozenset[Path]:
        spoken = [found for speakers in self.words.values() for found in speakers.values()]
        every = (*spoken, *self.sounds.values(), *self.talks.values())
        return frozenset(recording.path for found in every for recording in found)


@dataclass(frozen=True)
class Truth:
    """What is heard, in the order in which it is heard. `interruption`: the sound within the talk."""

    blocks: tuple[Event, Event, Event]
    interruption: Event
    words: tuple[Event, ...]

    def questions(self, rng: np.random.Generator) -> tuple[Question, ...]:
        """One of each kind, in the order of `KINDS`. The blocks that a question names are drawn."""
        said = [word.word for word in self.words]
        return (
            Question("order", "which words , in order ?", " ".join(said)),
            Question("count", "how many words ?", DIGITS[len(said)]),
            self._first(rng),
            self._between(rng),
            Question("sound", f"which sound interrupts the {TALK} ?", self.interruption.word),
        )

    def _first(self, rng: np.random.Generator) -> Question:
        starts = {block.word: block.start for block in self.blocks} | {WORDS: self.words[0].start}
        one, other = (str(name) for name in rng.choice(sorted(starts), 2, replace=False))
        answer = one if starts[one] < starts[other] else other
        return Question("first", f"what was heard first , the {one} or the {other} ?", answer, (one, other))

    def _between(self, rng: np.random.Generator) -> Question:
        pairs = []
        for before, after in zip(self.blocks, self.blocks[1:]):
            found = [word.word for word in self.words if before.end <= word.start < after.start]
            if len(found) == 1:
                pairs.append((before.word, after.word, found[0]))
        before_word, after_word, answer = pairs[rng.integers(len(pairs))]
        one, other = (before_word, after_word) if rng.random() < 0.5 else (after_word, before_word)
        return Question("between", f"what was said between the {one} and the {other} ?", answer)


@dataclass(frozen=True)
class Timeline:
    """A sound, its truth, and one question of each kind.

    `waveform`: (samples,) float32 at 16 kHz; `sources`: the files it was cut from.
    """

    waveform: np.ndarray
    truth: Truth
    questions: tuple[Question, ...]
    sources: tuple[Path, ...]

    @property
    def seconds(self) -> float:
        return len(self.waveform) / SAMPLE_RATE


def read_voices(data: Path, part: str) -> Voices:
    """Decode one of `PARTS` of `data`/fsdd, commands, esc10 and speech; seconds of work.

    Test: a third of the speakers of each set, and ESC-10's fold 5. Of the rest, a third of the speakers and fold 4 are
    the validation where settings are to be chosen. Raises `DataError` where a set is missing or lacks a word.
    """
    if part not in PARTS:
        raise DataError(f"no part {part!r} of the recordings; there are {', '.join(PARTS)}")
    words: dict[str, dict[str, list[Recording]]] = {word: {} for word in SPOKEN}
    for folder, column in (("fsdd", "digit"), ("commands", "word")):
        for row in _of_speakers(data / folder, column, part):
            word = DIGITS[int(row[column])] if column == "digit" else row[column]
            if word in words:
                path = data / folder / row["path"]
                wave = trimmed(path, margin=0.03)
                if len(wave) <= _LONGEST_WORD * SAMPLE_RATE:
                    words[word].setdefault(row["speaker"], []).append(Recording(word, wave, path))
    talks: dict[str, list[Recording]] = {}
    for row in _of_speakers(data / "speech", "text", part):
        path = data / "speech" / row["path"]
        wave = trimmed(path, margin=0.03)
        if len(wave) >= (_TALK[1] + 0.1) * SAMPLE_RATE:
            talks.setdefault(row["speaker"], []).append(Recording(TALK, wave, path))
    return _complete(Voices(words, _sounds(data / "esc10", part), talks), data, part)


def make_timeline(voices: Voices, seed: int, index: int, *, vary: bool = False) -> Timeline:
    """Timeline `index` of the endless series `seed`.

    vary: for training, words and sounds come at a random speed and with random equalisation.
    """
    rng = np.random.default_rng((seed, index))
    names = [str(name) for name in rng.choice(sorted(voices.sounds), 3, replace=False)]
    track = _Track()
    blocks, interruption, words = [], None, []
    for slot in draw_order(rng):
        if slot is None:
            words.append(track.add(*_word(voices, vary, rng), rng))
        elif slot < 2:
            blocks.append(track.add(*_sound(voices.sounds[names[slot]], _SOUND, vary, rng), rng))
        else:
            before, interruption = _talk(voices, names[2], track, vary, rng)
            blocks.append(before)
    assert interruption is not None
    truth = Truth((blocks[0], blocks[1], blocks[2]), interruption, tuple(words))
    return Timeline(track.mixed(rng), truth, truth.questions(rng), tuple(track.sources))


def draw_order(rng: np.random.Generator) -> list[int | None]:
    """What follows what: the sounds 0 and 1, the talk 2, and words (None). In one gap between two of the three there is
    one word."""
    order, single, loose = rng.permutation(3), int(rng.integers(1, 3)), rng.integers(0, 3, rng.integers(0, MOST_WORDS))
    others = [gap for gap in range(4) if gap != single]
    slots: list[int | None] = []
    for gap in range(4):
        slots += [None] * (1 if gap == single else int((loose == others.index(gap)).sum()))
        slots += [int(order[gap])] if gap < 3 else []
    return slots


def make_timelines(voices: Voices, seed: int, count: int) -> list[Timeline]:
    """The first `count` timelines of the series `seed`, unvaried."""
    return [make_timeline(voices, seed, index) for index in range(count)]


class _Track:
    """Sounds one after the other, with rests between them."""

    def __init__(self) -> None:
        self.parts: list[np.ndarray] = []
        self.sources: list[Path] = []
        self.samples = 0

    def add(self, recording: Recording, wave: np.ndarray, rng: np.random.Generator, rest: bool = True) -> Event:
        """Append a rest and a sound at a random level. Returns where it is."""
        if rest:
            self._append(np.zeros(round(rng.uniform(*_GAP) * SAMPLE_RATE), np.float32))
        start = self.samples
        ramp = np.minimum(1, (np.arange(len(wave)) + 1) / _FADE).astype(np.float32)
        level = _LEVEL * 10 ** (rng.uniform(-4, 4) / 20)
        self._append(wave * ramp * ramp[::-1] * np.float32(level / max(rms(wave), 1e-5)))
        self.sources.append(recording.path)
        return Event(recording.word, start / SAMPLE_RATE, self.samples / SAMPLE_RATE)

    def _append(self, wave: np.ndarray) -> None:
        self.parts.append(wave)
        self.samples += len(wave)

    def mixed(self, rng: np.random.Generator) -> np.ndarray:
        """(samples,) the whole, with a rest at its end, over hiss, at a random level that does not clip."""
        self._append(np.zeros(round(rng.uniform(*_GAP) * SAMPLE_RATE), np.float32))
        wave = np.concatenate(self.parts)
        hiss = _LEVEL * 10 ** (-rng.uniform(*_FLOOR) / 20)
        wave += rng.standard_normal(len(wave), dtype=np.float32) * np.float32(hiss)
        return wave * np.float32(min(10 ** (rng.uniform(-6, 6) / 20), 0.99 / max(np.abs(wave).max(), 1e-6)))


def _word(voices: Voices, vary: bool, rng: np.random.Generator) -> tuple[Recording, np.ndarray]:
    recording = _of_anybody(voices.words[SPOKEN[rng.integers(len(SPOKEN))]], rng)
    wave = varied(recording.waveform, 0.12, 3.0, rng) if vary else recording.waveform
    return recording, wave[: round(_LONGEST_WORD * SAMPLE_RATE)]


def _sound(
    choices: Sequence[Recording], seconds: tuple[float, float], vary: bool, rng: np.random.Generator
) -> tuple[Recording, np.ndarray]:
    """A stretch of one recording in which it is heard: at least half as much energy as in its loudest stretch."""
    recording = choices[int(rng.integers(len(choices)))]
    wave = varied(recording.waveform, 0.12, 4.0, rng) if vary else recording.waveform
    samples, step = round(rng.uniform(*seconds) * SAMPLE_RATE), SAMPLE_RATE // 20
    if len(wave) <= samples:
        return recording, wave
    energy = np.concatenate(([0.0], np.cumsum(np.square(wave, dtype=np.float64))))
    starts = np.arange(0, len(wave) - samples + 1, step)
    heard = energy[starts + samples] - energy[starts]
    start = int(rng.choice(starts[heard >= heard.max() / 2]))
    return recording, wave[start : start + samples]


def _talk(voices: Voices, sound: str, track: _Track, vary: bool, rng: np.random.Generator) -> tuple[Event, Event]:
    """Append read speech with a sound in its midst. Returns where both are."""
    recording = _of_anybody(voices.talks, rng)
    samples = round(rng.uniform(*_TALK) * SAMPLE_RATE)
    start = int(rng.integers(len(recording.waveform) - samples + 1))
    cut = start + round(samples * rng.uniform(0.4, 0.6))
    before = track.add(recording, recording.waveform[start:cut], rng)
    interruption = track.add(*_sound(voices.sounds[sound], _INTERRUPTION, vary, rng), rng, rest=False)
    after = track.add(recording, recording.waveform[cut : start + samples], rng, rest=False)
    return Event(TALK, before.start, after.end), interruption


def _of_anybody(speakers: dict[str, list[Recording]], rng: np.random.Generator) -> Recording:
    """A recording of a speaker: all speakers equally likely."""
    choices = speakers[sorted(speakers)[rng.integers(len(speakers))]]
    return choices[rng.integers(len(choices))]


def _of_speakers(folder: Path, column: str, part: str) -> list[dict[str, str]]:
    """The lines of one part of a set; no speaker is heard in two of test, validation and learn."""
    rows = [{**row, "label": row[column]} for row in csv_rows(folder / "manifest.csv", ("path", column))]
    rest, test = _apart(row for row in rows if row.get("speaker"))
    learn, validation = _apart(rest)
    return {"test": test, "train": rest, "learn": learn, "validation": validation}[part]


def _apart(rows: Iterable[dict[str, str]]) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """Lines of two thirds of the speakers, and of the others."""
    rows = list(rows)
    parts = split(rows, seed=0)
    halves = ([row for row, name in zip(rows, parts) if name == wanted] for wanted in ("train", "test"))
    one, other = halves
    return one, other


def _sounds(folder: Path, part: str) -> dict[str, list[Recording]]:
    sounds: dict[str, list[Recording]] = {}
    for row in csv_rows(folder / "manifest.csv", ("path", "label", "fold")):
        parts: dict[str, Any] = {_TEST_FOLD: ("test",), _VALIDATION_FOLD: ("train", "validation")}
        if part in parts.get(row["fold"], ("train", "learn")):
            word, path = SOUNDS[row["label"]], folder / row["path"]
            sounds.setdefault(word, []).append(Recording(word, trimmed(path, margin=0.1), path))
    return sounds


def _complete(found: Voices, data: Path, part: str) -> Voices:
    if missing := [word for word, speakers in found.words.items() if not speakers]:
        raise DataError(f"{data}/fsdd and commands: in {part}, nobody says {', '.join(missing)}")
    if len(found.sounds) < 3:
        raise DataError(f"{data}/esc10: {part} has sounds of {len(found.sounds)} classes; a timeline needs three")
    if not found.talks:
        raise DataError(f"{data}/speech: {part} has no speech of {_TALK[1] + 0.1} s")
    return found
