"""What a calibration may choose from: score × spending × fate × layers × keep rate, and merging."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..core.recommend import recommended_at
from ..core.settings import read_method
from ..methods import LearnedMethod, Method, ToMe, TopK

LEVELS = tuple(round(0.95 * 0.93**step, 3) for step in range(36))
"""Mean share of the tokens over all blocks, the steps of each family's ladder of keep rates."""
LEAST_RATE = 0.05
SEGMENTS = 8
MECHANISMS = ("discard", "fuse", "merge", "tome")
"""What becomes of tokens: `TopK`'s three fates, or similar ones merged."""


def families(depth: int, has_cls: bool, chosen: Sequence[str] = MECHANISMS) -> list[Method]:
    """Every family of settings for a model of `depth` blocks: methods whose keep rate is left to the search.

    has_cls: whether attention from a CLS token is there to rank by. chosen: of `MECHANISMS`, JSON files and folders
    with a `pruning.json`. The recommended family is first. Raises `ValueError` for another word.
    """
    found: list[Method] = []
    for word in chosen:
        if word == "tome":
            tome = (ToMe(1.0, layers, metric=metric) for layers in places(depth) for metric in ("hidden", "keys"))
            found += [recommended_at(1.0), *tome]
        elif word in MECHANISMS:
            scores = ("attention", *(("cls",) if has_cls else ()), "random", "intensity", "variation")
            parts = itertools.product(places(depth), scores, (None, SEGMENTS))
            found += [TopK(1.0, layers, score, segments, word) for layers, score, segments in parts]  # type: ignore[arg-type]
        elif word.endswith(".json") or Path(word).is_dir():
            found.append(_own(word))
        else:
            raise ValueError(
                f"no method {word!r} to calibrate; there are {', '.join(MECHANISMS)}, JSON files and folders with a "
                "pruning.json"
            )
    first = recommended_at(1.0)
    return list(dict.fromkeys(sorted(found, key=lambda method: method != first)))


def _own(path: str) -> Method:
    method = read_method(path)
    if isinstance(method, LearnedMethod) and method.weights is None:
        raise ValueError(f"{path}: {type(method).__name__} chooses by what it learnt; give the folder of a training")
    # Rates of a layer each are tried as they are: there is no one number to search over.
    return method if isinstance(method.keep_rate, Sequence) else method.with_keep_rate(1.0)


def places(depth: int) -> list[Any]:
    """`layers` to try: the default; a few early blocks; the first third; all."""
    early, front = (
        tuple(sorted({min(depth - 1, round(depth * i / 12)) for i in twelfths})) for twelfths in ((1, 4, 7), (0, 2, 4))
    )
    found: dict[tuple[int, ...], Any] = {}
    for layers in (None, early, front, "all"):
        found.setdefault(tuple(TopK(1.0, layers).schedule(depth)), layers)
    return list(found.values())


def kind(family: Method) -> str:
    """What costs about the same time at the same number of tokens: where and how, whatever the score."""
    layers = family.layers if isinstance(family.layers, str | None) else ",".join(map(str, family.layers))
    return f"{type(family).__name__} {getattr(family, 'dropped', '')} @ {layers or 'default'}"


def ladder(family: Method, depth: int) -> list[Method]:
    """A family's settings from the mildest to the harshest, about 7 % fewer tokens a step, as far as it goes."""
    if isinstance(family.keep_rate, Sequence):
        return [family]
    found = []
    for rate in _rates(tuple(family.schedule(depth)), depth):
        try:
            found.append(family.with_keep_rate(rate))
        except ValueError:  # merging in pairs has an end
            break
    return found


@lru_cache
def _rates(stages: tuple[int, ...], depth: int) -> list[float]:
    """The greatest keep rate within each of `LEVELS`, to three digits, descending."""
    steps = range(1000, round(1000 * LEAST_RATE) - 1, -1)
    shares = [(step / 1000, mean_share(step / 1000, stages, depth)) for step in steps]
    found = (next((rate for rate, share in shares if share <= level), None) for level in LEVELS)
    return list(dict.fromkeys(rate for rate in found if rate is not None))


def mean_share(rate: float, stages: Sequence[int], depth: int) -> float:
    """Share of the tokens that a block's MLP has, mean over the blocks, where each stage keeps exactly `rate`."""
    each = [rate if block in stages else 1.0 for block in range(depth)]
    return sum(itertools.accumulate(each, operator.mul)) / depth


def scored_by_attention(family: Method) -> Method:
    """The family of the same kind whose scores cost most, to time the kind by."""
    return replace(family, score="attention") if isinstance(family, TopK) else family
