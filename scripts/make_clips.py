"""Synthesise the example clips that ship with the package. They contain no recording.

    python scripts/make_clips.py audioprune/assets/clips

The clips were adjusted until the shipped model recognised them. They illustrate, and measure nothing.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import soundfile

RATE = 16_000
SECONDS = 5.0


def noise(rng: np.random.Generator, slope: float, low: float = 20.0, high: float = 8000.0) -> np.ndarray:
    """Make noise whose amplitude spectrum falls as 1/f^slope between two frequencies (hertz)."""
    n = int(RATE * SECONDS)
    f = np.fft.rfftfreq(n, 1 / RATE)
    shape = np.where((f >= low) & (f <= high), np.maximum(f, 20.0) ** -slope, 0.0)
    return normal(np.fft.irfft(shape * np.exp(2j * np.pi * rng.random(len(f))), n))


def normal(x: np.ndarray) -> np.ndarray:
    return x / np.abs(x).max()


def clock() -> np.ndarray:
    """Make a tick and a softer tock, half a second apart: short bursts of damped resonances."""
    rng, out = np.random.default_rng(1), np.zeros(int(RATE * SECONDS))
    t = np.arange(int(0.03 * RATE)) / RATE
    for i, start in enumerate(np.arange(0.2, SECONDS - 0.1, 0.5)):
        tones = (2300, 3900, 5600) if i % 2 == 0 else (1900, 3300, 5100)
        click = sum(np.sin(2 * np.pi * f * t + rng.random()) for f in tones) + rng.normal(0, 0.6, len(t))
        out[int(start * RATE) :][: len(t)] += click * np.exp(-t / 0.004) * (1.0 if i % 2 == 0 else 0.7)
    return normal(out) * 0.7 + noise(rng, 0.5) * 0.002


def helicopter() -> np.ndarray:
    """Make low thumps at blade rate, with a little turbine hiss that follows them."""
    rng, t = np.random.default_rng(2), np.arange(int(RATE * SECONDS)) / RATE
    blade = 0.5 + 0.5 * np.cos(2 * np.pi * 11.0 * t)
    thumps = noise(rng, 1.0, 40, 1500) * (0.1 + 0.9 * blade**6)
    return normal(thumps + 0.02 * noise(rng, 0.8, 300, 4000) * (0.3 + blade)) * 0.8


def rain() -> np.ndarray:
    """Make steady hiss and many small drops."""
    rng = np.random.default_rng(3)
    drops = (rng.random(int(RATE * SECONDS)) < 0.004) * rng.normal(0, 1, int(RATE * SECONDS))
    ring = np.exp(-np.arange(160) / 25) * np.sin(2 * np.pi * 3200 * np.arange(160) / RATE)
    return normal(noise(rng, 0.15, 300) * 0.6 + 0.25 * np.convolve(drops, ring)[: len(drops)]) * 0.5


def chainsaw() -> np.ndarray:
    """Make a two-stroke engine that revs up and down: many harmonics of its firing rate, and noise."""
    rng, t = np.random.default_rng(8), np.arange(int(RATE * SECONDS)) / RATE
    rate = 140 * (1 + 0.25 * np.clip(np.sin(2 * np.pi * 0.35 * t), -0.2, 1) + 1e-4 * rng.normal(size=len(t)).cumsum())
    phase = 2 * np.pi * np.cumsum(rate) / RATE
    engine = sum(np.sin(h * phase) / h**0.5 for h in range(1, 40) if h * 182 < 7800)
    return normal(normal(engine) * (1 + 0.2 * np.sin(phase / 2)) + 0.2 * noise(rng, 0.3, 200)) * 0.7


def baby() -> np.ndarray:
    """Make cries: a gliding harmonic voice around 450 Hz with pauses for breath."""
    out = np.zeros(int(RATE * SECONDS))
    for start, length in ((0.2, 1.1), (1.6, 1.2), (3.2, 1.3)):
        t = np.arange(int(length * RATE)) / RATE
        pitch = 400 + 130 * np.sin(np.pi * t / length) + 8 * np.sin(2 * np.pi * 6 * t)
        phase = 2 * np.pi * np.cumsum(pitch) / RATE
        formants = [
            np.exp(-(((h * 480 - 1100) / 900) ** 2)) + 0.5 * np.exp(-(((h * 480 - 3300) / 900) ** 2))
            for h in range(1, 15)
        ]
        voice = sum(a * np.sin(h * phase) for h, a in enumerate(formants, start=1))
        out[int(start * RATE) :][: len(t)] += voice * np.sin(np.pi * t / length) ** 0.5
    return normal(out) * 0.6 + noise(np.random.default_rng(5), 0.8) * 0.003


def fire() -> np.ndarray:
    """Make crackles: noise bursts of random strength that die away at once, over a low rumble."""
    rng, samples = np.random.default_rng(9), int(RATE * SECONDS)
    places = rng.random(samples) < 0.0012
    crackles = places * rng.exponential(1, samples) * rng.choice([-1, 1], samples)
    ring = np.exp(-np.arange(320) / 40) * rng.normal(0, 1, 320)
    return normal(normal(np.convolve(crackles, ring)[:samples]) + 0.12 * noise(rng, 1.0, 30, 3000)) * 0.7


CLIPS = (baby, chainsaw, clock, fire, helicopter, rain)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    for make in CLIPS:
        path = folder / f"{make.__name__}.ogg"
        soundfile.write(path, make().astype(np.float32), RATE, format="OGG", subtype="VORBIS")
        print(path, path.stat().st_size)


if __name__ == "__main__":
    main()
