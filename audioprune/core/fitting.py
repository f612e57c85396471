"""The greatest keep rate at which a method leaves at most a share of a model's work."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

from torch import nn

from ..methods import Method
from .pruning import prune


class TooMuchWorkError(ValueError):
    """No keep rate of a method leaves so little work."""


def fit(
    model: nn.Module, at: Callable[[float], Method], macs: float, count: Callable[[nn.Module], int], least: float
) -> Method:
    """A method at the greatest keep rate, to three digits, at which the model computes at most a share of its
    multiply-accumulates.

    Args:
        model: the model, unpruned.
        at: keep rate → method.
        macs: share of the unpruned model's multiply-accumulates.
        count: multiply-accumulates of a model.
        least: least keep rate that is tried.

    Raises `TooMuchWorkError` if even that leaves more.
    """
    unpruned = count(model)
    with prune(model, at(1.0)) as handle:

        def share(keep_rate: float) -> float:
            handle.keep_rate = at(keep_rate).keep_rate
            return count(model) / unpruned

        return at(greatest(share, macs, least))


def greatest(share: Callable[[float], float], limit: float, least: float) -> float:
    """The greatest keep rate from `least` to 1, to three digits, whose share of the work is within the limit."""
    low, high = math.ceil(1000 * least), 1000
    if (most := share(1.0)) <= limit:
        return 1.0
    if (fewest := share(least)) > limit:
        raise TooMuchWorkError(
            f"macs is {limit}, but at keep rate {least:g} there are still {fewest:.2f} of the "
            "multiply-accumulates, and this method goes no further in a block; ask for more, or drop tokens by TopK"
        )
    for step in itertools.count():
        if high - low <= 1:
            break
        # Work grows almost evenly with the rate, and each count takes long: a line finds it sooner than halves. Where
        # work bends, a line alone would creep.
        line = (limit - fewest) / (most - fewest) if step % 3 < 2 else 0.5
        rate = min(max(round(low + line * (high - low)), low + 1), high - 1)
        if (work := share(rate / 1000)) <= limit:
            low, fewest = rate, work
        else:
            high, most = rate, work
    return low / 1000
