"""Rows of a clip table as a PyTorch data set of spectrograms."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..audio.front_end import FrontEnd
from ..data import ClipRow, ClipTable, SoundCache
from .augment import augment_spectrogram, augment_waveform, mix
from .encoder_outputs import EncoderOutputs
from .recipe import Augment


class SpectrogramDataset(Dataset):
    """Items with the features of a clip and `labels` (classes,): one-hot, multi-hot or, after mixup, in between.

    Features are called `input_values` whatever the model calls them, or `encoder_outputs` if the front end is a frozen
    encoder.

    Without `augment`, spectrograms come from the cache; with it, waveforms do. `mask_until` is the epoch at which
    SpecAugment stops.
    """

    def __init__(
        self,
        table: ClipTable,
        rows: Sequence[ClipRow],
        front: FrontEnd,
        cache: SoundCache,
        augment: Augment | None = None,
        *,
        seed: int = 0,
        mask_until: float = math.inf,
    ) -> None:
        self.rows, self.front, self.cache = rows, front, cache
        self.name = "encoder_outputs" if isinstance(front, EncoderOutputs) else "input_values"
        self.augment, self.seed, self.mask_until = augment, seed, mask_until
        targets = torch.as_tensor(table.targets(rows))
        if targets.ndim == 1:
            targets = torch.nn.functional.one_hot(targets, len(table.labels))
        self.targets = targets.float()
        # In shared memory, because persistent workers have a copy of everything else.
        self._epoch = torch.zeros((), dtype=torch.long).share_memory_()

    def __len__(self) -> int:
        return len(self.rows)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch. The Trainer's data loader calls this at the start of each epoch."""
        self._epoch.fill_(epoch)

    @property
    def epoch(self) -> int:
        return int(self._epoch)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        augment = self.augment
        if augment is None:
            return {self.name: self.cache.features(self.rows[index], self.front), "labels": self.targets[index]}
        random = np.random.default_rng((self.seed, self.epoch, index))
        if augment.on_waveform:
            waveform, target = self._augmented_waveform(index, augment, random)
            spectrogram = self.front(torch.from_numpy(waveform))[0]
        else:
            spectrogram, target = self.cache.features(self.rows[index], self.front), self.targets[index]
        spectrogram = augment_spectrogram(spectrogram, augment, self.epoch < self.mask_until, random)
        return {self.name: spectrogram, "labels": target}

    def _augmented_waveform(
        self, index: int, augment: Augment, random: np.random.Generator
    ) -> tuple[np.ndarray, Tensor]:
        """Waveform of the clip, possibly mixed with another, and its target."""
        waveform = augment_waveform(self.cache.waveform(self.rows[index]), augment, random)
        if random.random() >= augment.mixup:
            return waveform, self.targets[index]
        other = int(random.integers(len(self.rows)))
        share = float(random.beta(augment.mixup_alpha, augment.mixup_alpha))
        second = augment_waveform(self.cache.waveform(self.rows[other]), augment, random)
        return mix(waveform, second, share), share * self.targets[index] + (1 - share) * self.targets[other]
