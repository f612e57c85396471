"""Augmentations of waveforms and spectrograms. Each takes a NumPy generator as its source of randomness.

Each clip has its own generator, seeded by (seed, epoch, clip). So the result does not depend on the batch, the worker,
the process, or the point at which a run was interrupted.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .recipe import Augment


def roll(waveform: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Waveform (samples,), rotated by a random number of samples."""
    return np.roll(waveform, int(random.integers(len(waveform))))


def gain(waveform: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Waveform (samples,) times Beta(10, 10) + 0.5: a factor between 0.5 and 1.5, mostly near 1."""
    return waveform * np.float32(random.beta(10, 10) + 0.5)


def mix(waveform: np.ndarray, other: np.ndarray, share: float) -> np.ndarray:
    """Mixture share · waveform + (1 − share) · other, both without their means.

    `other` is cut, or filled with silence, to the length of `waveform`."""
    mixed = np.float32(share) * (waveform - waveform.mean())
    n = min(len(waveform), len(other))
    mixed[:n] += np.float32(1 - share) * (other - other.mean())[:n]
    return mixed


def noise(spectrogram: Tensor, random: np.random.Generator) -> Tensor:
    """Spectrogram (frames, mels) plus uniform noise of a level in [0, 0.1), then rolled by −10 … 9 frames."""
    level = random.random() / 10
    drawn = random.random(spectrogram.shape, dtype=np.float32) * np.float32(level)
    return (spectrogram + torch.from_numpy(drawn)).roll(int(random.integers(-10, 10)), 0)


def spec_augment(spectrogram: Tensor, frames: int, mels: int, random: np.random.Generator) -> Tensor:
    """SpecAugment (arXiv 1904.08779) of a normalised spectrogram (frames, mels).

    One stretch of up to `frames` frames and one of up to `mels` mel channels are set to 0, the data set's mean."""
    spectrogram = spectrogram.clone()
    for axis, widest in ((0, frames), (1, mels)):
        size = spectrogram.shape[axis]
        width = int(random.integers(min(widest, size) + 1))
        start = int(random.integers(size - width + 1))
        spectrogram.narrow(axis, start, width).zero_()
    return spectrogram


def augment_waveform(waveform: np.ndarray, settings: Augment, random: np.random.Generator) -> np.ndarray:
    if settings.roll:
        waveform = roll(waveform, random)
    if settings.gain:
        waveform = gain(waveform, random)
    return waveform


def augment_spectrogram(spectrogram: Tensor, settings: Augment, masked: bool, random: np.random.Generator) -> Tensor:
    if masked and (settings.time_mask or settings.frequency_mask):
        spectrogram = spec_augment(spectrogram, settings.time_mask, settings.frequency_mask, random)
    if settings.noise:
        spectrogram = noise(spectrogram, random)
    return spectrogram
