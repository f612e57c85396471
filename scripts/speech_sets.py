"""Make sets of short clips and of full windows from real recordings, with transcripts, for `audioprune eval-asr`.

    python scripts/speech_sets.py DATA OUT

DATA holds the folders fsdd, commands and speech, each with a `manifest.csv`. OUT gets, each with a manifest:

- digits: 40 rows of three spoken digits of one speaker, at most 3 s.
- commands: 40 rows of two spoken commands, at most 3 s.
- pieces: the 80 utterances of speech, cut at the quietest place between 1.5 and 3 s. What is said in a piece is not
  known, so its text is "unknown": compare with the unpruned model, and leave the word error rate aside.
- windows: the utterances joined, one after the other, to windows of at most 30 s.
- odd: silence, noise, a chord, a tenth of a second, a bit less and a bit more than a window, ten minutes. Their text is
  "unknown" too.
"""

from __future__ import annotations

import argparse
import csv
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile

import audioprune as ap
from audioprune.audio.files import SAMPLE_RATE
from audioprune.transcribing.manifest import read_manifest

ROWS = 40
LONGEST, WINDOW = 3 * SAMPLE_RATE, 30 * SAMPLE_RATE
GAP = np.zeros(SAMPLE_RATE // 10, np.float32)
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

Clip = tuple[str, str, np.ndarray]
"""Name, text, and waveform."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    asked = parser.parse_args()
    sets = {"digits": digits, "commands": commands, "pieces": pieces, "windows": windows, "odd": odd}
    for name, make in sets.items():
        folder = asked.out / name
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "manifest.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(("path", "text"))
            for clip, text, waveform in make(asked.data):
                soundfile.write(folder / f"{clip}.wav", waveform, SAMPLE_RATE)
                rows.writerow((f"{clip}.wav", text))
        print(folder / "manifest.csv")


def digits(data: Path) -> Iterator[Clip]:
    rows = [row for row in _rows(data / "fsdd") if row["split"] == "test"]
    said = [(row["path"], DIGITS[int(row["digit"])], row["speaker"]) for row in rows]
    yield from _in_rows(data / "fsdd", said, 3)


def commands(data: Path) -> Iterator[Clip]:
    rows = [row for row in _rows(data / "commands") if row["speaker"]]
    yield from _in_rows(data / "commands", [(row["path"], row["word"], "") for row in rows], 2)


def pieces(data: Path) -> Iterator[Clip]:
    for i, one in enumerate(read_manifest(data / "speech" / "manifest.csv")):
        waveform = ap.load_audio(one.path).waveform[:LONGEST]
        frame = SAMPLE_RATE // 50
        loudness = [np.square(waveform[at : at + 5 * frame]).mean() for at in range(0, len(waveform), frame)]
        quietest = 75 + int(np.argmin(loudness[75:])) if len(loudness) > 75 else len(loudness)
        yield f"{i:02}", "unknown", waveform[: quietest * frame + 2 * frame]


def windows(data: Path) -> Iterator[Clip]:
    texts: list[str] = []
    waveforms: list[np.ndarray] = []
    made = 0
    for one in read_manifest(data / "speech" / "manifest.csv"):
        waveform = ap.load_audio(one.path).waveform
        if sum(map(len, waveforms)) + len(waveform) > WINDOW:
            yield f"{made:02}", " ".join(texts), np.concatenate(waveforms)
            made, texts, waveforms = made + 1, [], []
        texts.append(one.text)
        waveforms.append(waveform)


def odd(data: Path) -> Iterator[Clip]:
    speech = read_manifest(data / "speech" / "manifest.csv")
    talk = np.concatenate([ap.load_audio(one.path).waveform for one in speech])
    talk = np.concatenate((talk, talk))[: 600 * SAMPLE_RATE]
    time = np.arange(5 * SAMPLE_RATE) / SAMPLE_RATE
    chord = sum(np.sin(2 * np.pi * hertz * time) * np.exp(-time % 0.5) for hertz in (220.0, 277.2, 329.6)) / 6
    yield "silence", "unknown", np.zeros(5 * SAMPLE_RATE, np.float32)
    yield "noise", "unknown", np.random.default_rng(0).standard_normal(5 * SAMPLE_RATE).astype(np.float32) / 20
    yield "chord", "unknown", chord.astype(np.float32)
    for name, seconds in (("0.1s", 0.1), ("29.99s", 29.99), ("30s", 30), ("30.01s", 30.01), ("10min", 600)):
        yield name, "unknown", talk[: round(seconds * SAMPLE_RATE)]


def _rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "manifest.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def _in_rows(folder: Path, said: list[tuple[str, str, str]], count: int) -> Iterator[Clip]:
    """Rows of so many words, drawn at random, each row of one speaker where speakers are given."""
    draw = random.Random(0)
    for made in range(ROWS):
        speaker = draw.choice(said)[2]
        chosen = draw.sample([one for one in said if one[2] == speaker], count)
        spoken = [ap.load_audio(folder / path).waveform for path, _, _ in chosen]
        row = np.concatenate([part for one in spoken for part in (GAP, one)])[:LONGEST]
        yield f"{made:02}", " ".join(word for _, word, _ in chosen), row


if __name__ == "__main__":
    main()
