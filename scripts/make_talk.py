"""Synthesise the clip of the listener's examples: three spoken digits, over rain and then over a rooster.

    python scripts/make_talk.py audioprune/assets/talk.ogg

The script needs espeak-ng (`apt install espeak-ng`). The clip contains no recording. Voice, pace and levels were
adjusted until the listener understood it. It illustrates, and measures nothing.
"""

from __future__ import annotations

import argparse
import io
import subprocess
from pathlib import Path

import numpy as np
import soundfile
import soxr

from make_clips import RATE, noise, normal, rain
from make_clips import SECONDS as CLIP_SECONDS

WORDS = (("four", 1.3), ("six", 3.1), ("two", 6.6))
"""Words, and when they are said, in seconds."""
SECONDS, CHANGE = 8.0, 4.2
VOICE, PACE, PITCH = "en-us+Denis", 170, 45


def rooster() -> np.ndarray:
    """Make a crow in four syllables. The last one is long and falls."""
    out = np.zeros(int(RATE * CLIP_SECONDS))
    for start, length, low, high in (
        (0.6, 0.2, 600, 800),
        (0.9, 0.25, 750, 900),
        (1.25, 0.3, 800, 1000),
        (1.65, 0.9, 1050, 650),
    ):
        t = np.arange(int(length * RATE)) / RATE
        pitch = low + (high - low) * t / length + 20 * np.sin(2 * np.pi * 30 * t)
        phase = 2 * np.pi * np.cumsum(pitch) / RATE
        voice = sum(np.sin(h * phase) / h**0.6 for h in range(1, 8))
        out[int(start * RATE) :][: len(t)] += voice * np.sin(np.pi * t / length) ** 0.4
    return normal(out) * 0.7 + noise(np.random.default_rng(6), 0.6) * 0.004


def spoken(word: str, voice: str = VOICE, pace: int = PACE, pitch: int = PITCH) -> np.ndarray:
    """Speak a word as on a telephone: nothing above 4 kHz, like the recordings that the listener learnt from."""
    command = ["espeak-ng", "-v", voice, "-s", str(pace), "-p", str(pitch), "--stdout", word]
    heard = subprocess.run(command, check=True, capture_output=True).stdout
    samples, rate = soundfile.read(io.BytesIO(heard))
    loud = np.abs(samples) > 0.02 * np.abs(samples).max()
    samples = samples[loud.argmax() : len(loud) - loud[::-1].argmax()]
    return normal(soxr.resample(soxr.resample(samples, rate, 8000), 8000, RATE))


def talk(voice: str = VOICE, pace: int = PACE, pitch: int = PITCH, level: float = 0.5) -> np.ndarray:
    """Make the clip: (samples,) at 16 kHz."""
    out = np.zeros(int(SECONDS * RATE))
    half = int(CHANGE * RATE)
    out[:half] += 0.1 * rain()[:half]
    out[half:] += 0.1 * rooster()[: len(out) - half]
    for word, start in WORDS:
        said = level * spoken(word, voice, pace, pitch)
        out[int(start * RATE) :][: len(said)] += said
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path)
    path = parser.parse_args().path
    soundfile.write(path, talk().astype(np.float32), RATE, format="OGG", subtype="VORBIS")
    print(path, path.stat().st_size)


if __name__ == "__main__":
    main()
