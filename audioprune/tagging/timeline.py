"""What a model hears in the windows of a long sound, and the answer for the whole."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..audio.windows import bounds


@dataclass(frozen=True)
class Timeline:
    """What a model heard in each window of a sound.

    Args:
        spans: (windows, 2), start and end of each in seconds.
        probabilities: (windows, labels), float32, on the CPU.
        silent: (windows,) bool.
        pool: one of `POOLS`.
        envelope: (bins, 2), lowest and highest sample of each tenth of a second.
    """

    spans: np.ndarray
    probabilities: Tensor
    silent: np.ndarray
    pool: str
    envelope: np.ndarray

    def __len__(self) -> int:
        return len(self.spans)

    @property
    def is_silent(self) -> bool:
        return bool(self.silent.all())

    def pooled(self) -> Tensor:
        """The answer for the whole sound, (labels,). Silent windows have no part in it, unless all are silent."""
        heard = self.probabilities if self.is_silent else self.probabilities[torch.from_numpy(~self.silent)]
        return heard.mean(0) if self.pool == "mean" else heard.amax(0)

    def clearest(self) -> tuple[float, float]:
        """Start and end of the window in which the whole sound's top label is most probable."""
        scores = self.probabilities[:, int(self.pooled().argmax())].clone()
        if not self.is_silent:
            scores[torch.from_numpy(self.silent)] = -1
        start, end = self.spans[int(scores.argmax())].tolist()
        return start, end

    @property
    def bounds(self) -> np.ndarray:
        """(windows + 1,), see `windows.bounds`."""
        return bounds(self.spans)
