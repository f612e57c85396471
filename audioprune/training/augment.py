"""Augmentations of a waveform and of its spectrogram. Each takes its randomness as a NumPy generator.

Clips are augmented with a generator of their own, seeded by (seed, epoch, clip): what a clip becomes does not depend
on the batch, the worker or the process that asks, nor on where a run was interrupted.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .recipe import Augment


def roll(waveform: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """(samples,) turned round by a random number of samples."""
    return np.roll(waveform, int(random.integers(len(waveform))))


def gain(waveform: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """(samples,) times Beta(10, 10) + 0.5: between half and one and a half, mostly near one."""
    return waveform * np.float32(random.beta(10, 10) + 0.5)


def mix(waveform: np.ndarray, other: np.ndarray, share: float) -> np.ndarray:
    """share · waveform + (1 − share) · other, each without its mean; `other` is cut or filled with silence."""
    mixed = np.float32(share) * (waveform - waveform.mean())
    n = min(len(waveform), len(other))
    mixed[:n] += np.float32(1 - share) * (other - other.mean())[:n]
    return mixed


def noise(spectrogram: Tensor, random: np.random.Generator) -> Tensor:
    """(frames, mels) plus uniform noise of a level in [0, 0.1), then rolled by −10 … 9 frames."""
    level = random.random() / 10
    drawn = random.random(spectrogram.shape, dtype=np.float32) * np.float32(level)
    return (spectrogram + torch.from_numpy(drawn)).roll(int(random.integers(-10, 10)), 0)


def spec_augment(spectrogram: Tensor, frames: int, mels: int, random: np.random.Generator) -> Tensor:
    """SpecAugment (arXiv 1904.08779): one stretch of up to `frames` frames and one of up to `mels` mel channels of a
    normalised (frames, mels) are set to 0, the data set's mean."""
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
