"""The mildest setting that is so many times as fast as the unpruned model, by time measured on this machine.

Multiply-accumulates are not time: merging in every block costs time in every block, which few tokens do not win back.
So the search tries places with fewer merging blocks too, and measures them.
"""

from __future__ import annotations

import itertools
import operator
import time
import warnings
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..methods import Method, ToMe
from ..methods.base import block_at
from ..timing import UNSURE, Ratio, take_turns
from .cost import synchronize
from .pruning import prune

PLACES: tuple[tuple[int, ...] | None, ...] = (
    None,
    (0, 1, 2, 3, 4, 5),
    (0, 1, 2, 3),
    (0, 1, 2),
    (1, 3, 5, 7),
    (2, 5, 8),
    (2, 6),
)
"""Blocks that merge, in twelfths of the depth, those that agreed best at a quarter of the work first; None is every
block. At half of the work all of them agree within half a point (docs/results.md)."""
SHARES = (0.92, 0.85, 0.78, 0.71, 0.64, 0.57, 0.5, 0.43, 0.36, 0.29, 0.22, 0.15)
"""Shares of the tokens that a block has, mean over the blocks, from the mildest on."""
PASSES = (1, 2, 3)
LEAST = 0.95
"""Share of the speed-up that was asked for which the second measurement must show: times differ from run to run."""
SECONDS = 0.2
"""Of timing each setting, at least."""


class TooFastError(ValueError):
    """No setting is measured to be so fast."""


@dataclass(frozen=True)
class Measured:
    """A setting, the place of its share in `SHARES`, and how many times as fast as the unpruned model it is."""

    method: Method
    level: int
    ratio: Ratio


def fast_enough(model: nn.Module, depth: int, speed_up: float, inputs: Tensor | Mapping[str, Tensor]) -> Method:
    """The setting that merges least of those that are measured to be so fast.

    Each place is searched by halves over `SHARES`, all places and the unpruned model in turn. What is found is measured
    once more, so that no setting is returned that is slower than the model. Warns if that measurement is not sure.

    Args:
        model: the model, unpruned.
        depth: its number of blocks.
        speed_up: how many times as fast, more than 1.
        inputs: a typical batch; its size matters.

    Raises `TooFastError` if no setting is so fast.
    """
    with _evaluating(model):
        found = _search(model, _ladders(depth), speed_up, inputs)
        # The mildest first; of equal ones that with the best agreement, which is first among the places.
        for one in sorted(found, key=lambda one: one.level):
            (ratio,) = measure(model, [one.method], inputs, 3 * SECONDS)
            if ratio >= max(1.0, LEAST * speed_up):
                if not ratio.is_sure:
                    warnings.warn(f"{one.method} is {ratio} as fast as unpruned. {UNSURE}", stacklevel=4)
                return one.method
    raise TooFastError(
        f"speed_up is {speed_up:g}, but no setting was measured to be so fast with this batch on this machine; ask for "
        "less, try a larger batch, or choose by the work (macs=0.5)"
    )


def measure(
    model: nn.Module, methods: Sequence[Method], inputs: Tensor | Mapping[str, Tensor], seconds: float = SECONDS
) -> list[Ratio]:
    """How many times as fast as the unpruned model each setting is, in turn."""
    calls = [partial(_timed, model, method, inputs) for method in (None, *methods)]
    unpruned, *others = take_turns(calls, seconds)
    return [Ratio.between(unpruned, times) for times in others]


@torch.inference_mode()
def _timed(model: Any, method: Method | None, inputs: Tensor | Mapping[str, Tensor]) -> float:
    device = str(next(model.parameters()).device)
    with nullcontext() if method is None else prune(model, method):
        began = time.perf_counter()
        model(inputs) if isinstance(inputs, Tensor) else model(**inputs)
        synchronize(device)
        return time.perf_counter() - began


def _search(
    model: nn.Module, ladders: Sequence[Sequence[Method]], speed_up: float, inputs: Tensor | Mapping[str, Tensor]
) -> list[Measured]:
    """The mildest setting of each ladder that is fast enough, where one is."""
    low, high = [0] * len(ladders), [len(ladder) for ladder in ladders]
    found: dict[int, Measured] = {}
    while open_ladders := [i for i in range(len(ladders)) if low[i] < high[i]]:
        middle = {i: (low[i] + high[i]) // 2 for i in open_ladders}
        ratios = measure(model, [ladders[i][middle[i]] for i in open_ladders], inputs)
        for i, ratio in zip(open_ladders, ratios, strict=True):
            if ratio >= speed_up:
                high[i], found[i] = middle[i], Measured(ladders[i][middle[i]], middle[i], ratio)
            else:
                low[i] = middle[i] + 1
    return [found[i] for i in sorted(found)]


def _ladders(depth: int) -> list[list[Method]]:
    """The settings of each place, from the mildest on, as far as merging goes there."""
    ladders: dict[tuple[int, ...], list[Method]] = {}
    for place in PLACES:
        stages = tuple(range(depth)) if place is None else tuple(sorted({block_at(depth, i, 12) for i in place}))
        if stages[-1] < depth and stages not in ladders:
            settings = (_setting(stages, share, depth) for share in SHARES)
            ladders[stages] = list(itertools.takewhile(lambda one: one is not None, settings))  # type: ignore[arg-type]
    return list(ladders.values())


def _setting(stages: tuple[int, ...], share: float, depth: int) -> Method | None:
    """Merging at some blocks at the greatest keep rate that leaves at most this share of the tokens; None if merging
    does not go so far there."""
    steps = bisect_right(range(1, 1000), share, key=lambda step: mean_share(step / 1000, stages, depth))
    rate = steps / 1000
    layers: Any = "all" if len(stages) == depth else stages
    for passes in PASSES if steps else ():
        with suppress(ValueError):  # a pass of pairs leaves half at least
            return ToMe(rate, layers=layers, metric="hidden", passes=passes)
    return None


def mean_share(rate: float, stages: Sequence[int], depth: int) -> float:
    """Share of the tokens that a block's MLP has, mean over the blocks, where each stage keeps exactly `rate`."""
    each = [rate if block in stages else 1.0 for block in range(depth)]
    return sum(itertools.accumulate(each, operator.mul)) / depth


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """The model in evaluation, and as it was afterwards."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
