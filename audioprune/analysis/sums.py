"""Sums that grow clip by clip: means with their spread."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .question import mean_std


class Spread(NamedTuple):
    """Mean, sample standard deviation and number of clips of a value; None if there are too few clips."""

    mean: float | None
    std: float | None
    n: int

    @property
    def error(self) -> float | None:
        """Standard error of the mean."""
        return None if self.std is None else self.std / math.sqrt(self.n)

    def side(self, reference: float = 0.0) -> int | None:
        """Side of `reference` on which the mean lies: 1 above, -1 below, 0 not clear, None for too few clips.

        Clear means more than two standard errors.
        """
        if self.mean is None or self.error is None:
            return None
        return _side(self.mean - reference, self.error)


def compare_means(one: Spread, other: Spread) -> int | None:
    """Comparison of two means: 1 if `one` is clearly greater, -1 if it is clearly less, 0 and None as in `side`.

    Clear means more than two standard errors of the difference. The error assumes independent clips. For values of the
    same clips that rise and fall together, it is too large, never too small."""
    if one.mean is None or other.mean is None or one.error is None or other.error is None:
        return None
    return _side(one.mean - other.mean, math.hypot(one.error, other.error))


def _side(gap: float, error: float) -> int:
    # All values are of the order of 1, so a difference below 1e-9 is rounding.
    return 0 if abs(gap) <= max(2 * error, 1e-9) else (1 if gap > 0 else -1)


def ratio(above: Tensor, below: Tensor) -> Tensor:
    """Quotient above / below in float64; NaN ("no value") if below is 0."""
    below = below.double()
    return torch.where(below == 0, math.nan, above.double() / torch.where(below == 0, 1.0, below))


class Moments:
    """Running sums of a value per clip, of any fixed shape. A clip without a value (NaN) is left out.

    sums: (3, …): number of clips, sum, sum of squares. seen: number of all clips, with those left out.
    """

    def __init__(self) -> None:
        self.sums: np.ndarray | None = None
        self.seen = 0

    def add(self, values: Tensor | np.ndarray) -> None:
        """Add values of clips, (clips, …)."""
        values = np.asarray(values, dtype=np.float64)
        there = np.isfinite(values)
        known = np.where(there, values, 0.0)
        sums = np.stack([there.sum(0), known.sum(0), np.square(known).sum(0)])
        self.sums = sums if self.sums is None else self.sums + sums
        self.seen += len(values)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the value of one clip."""
        return () if self.sums is None else self.sums.shape[1:]

    def at(self, *index: int) -> Spread:
        """The spread of one number of the value."""
        if self.sums is None:
            return Spread(None, None, 0)
        count, total, squares = (float(part[index]) for part in self.sums)
        return Spread(*mean_std(total, squares, count), int(count))

    def lists(self) -> dict[str, Any]:
        """{"mean", "std", "n"}, each as nested lists in the value's shape; None if there are too few clips."""

        def nested(part: str, index: tuple[int, ...]) -> Any:
            if len(index) == len(self.shape):
                return getattr(self.at(*index), part)
            return [nested(part, (*index, i)) for i in range(self.shape[len(index)])]

        return {part: nested(part, ()) for part in ("mean", "std", "n")}
