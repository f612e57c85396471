"""What a calibration may choose from: score × spending × fate × layers × keep rate, and merging."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from functools import lru_cache
from typing import Any

from ..core.recommend import padded_at
from ..core.recommend_speed import mean_share
from ..core.settings import parse_method, settings_path
from ..methods import Method, TopK
from ..methods.base import block_at
from ..methods.chain import Chain
from ..methods.names import RECOMMENDED, SEARCHED, NamedMethod, named

LEVELS = tuple(round(0.95 * 0.93**step, 3) for step in range(36))
"""Mean share of the tokens over all blocks, the steps of each family's ladder of keep rates."""
LEAST_RATE = 0.05
SEGMENTS = 8
FORMER = {"discard": "topk", "fuse": "topk+fuse", "merge": "topk+merge"}
"""Words of earlier versions → today's."""
OPEN = ("score", "metric")
"""Choices of a method that are searched unless its word names one. Its fate is as the word says."""

UNSEARCHED = ("selective",)
"""Choices that must be named: nobody has measured yet that they are worth the time."""


def families(depth: int, has_cls: bool, chosen: Sequence[str] = SEARCHED, *, pads: bool = False) -> list[Method]:
    """Every family of settings for a model of `depth` blocks: methods whose keep rate is left to the search.

    Args:
        has_cls: whether attention from a CLS token is there to rank by.
        chosen: words of methods that need no training, JSON files, and folders with a `pruning.json`.
        pads: whether the model pads every clip. Then "recommended" merges the padding first, and is searched by
            default.

    The recommended family is first. Raises `ValueError` for another word.
    """
    if pads and tuple(chosen) == SEARCHED:
        chosen = (RECOMMENDED, *SEARCHED)
    best = padded_at(1.0) if pads else named(RECOMMENDED).at(1.0)
    found: list[Method] = []
    for word in chosen:
        method = parse_method(FORMER.get(word, word))
        if settings_path(word) is not None:
            # Rates of a layer each are tried as they are: there is no one number to search over.
            rate = method.keep_rate if isinstance(method.keep_rate, Sequence) else 1.0
            found.append(method.at(rate or 1.0))
        elif method.fits_work:
            found.append(best)
        else:
            found += _variants(method, depth, has_cls)
    return list(dict.fromkeys(sorted(found, key=lambda method: method != best)))


def _variants(method: NamedMethod, depth: int, has_cls: bool) -> Iterator[Method]:
    """A method at all places, with every score, metric and number of segments that its word leaves open."""
    settings = {f.name for f in fields(method.kind)}
    choices: dict[str, Sequence[Any]] = {"layers": places(depth)}
    for name in OPEN:
        if name in method.kind.choices and name not in method.settings:
            left_out = UNSEARCHED if has_cls else ("cls", *UNSEARCHED)
            choices[name] = [one for one in method.kind.choices[name] if one not in left_out]
    if "segments" in settings:
        choices["segments"] = (None, SEGMENTS)
    for values in itertools.product(*choices.values()):
        yield method.at(1.0, **dict(zip(choices, values, strict=True)))


def places(depth: int) -> list[Any]:
    """`layers` to try: the default; a few early blocks; the first third; all."""
    early, front = (
        tuple(sorted({min(depth - 1, block_at(depth, i, 12)) for i in twelfths})) for twelfths in ((1, 4, 7), (0, 2, 4))
    )
    found: dict[tuple[int, ...], Any] = {}
    for layers in (None, early, front, "all"):
        found.setdefault(tuple(TopK(1.0, layers).schedule(depth)), layers)
    return list(found.values())


def kind(family: Method) -> str:
    """What costs about the same time at the same number of tokens: where and how, whatever the score."""
    layers = family.layers if family.layers in (None, "all") else ",".join(map(str, family.layers))
    return f"{type(family).__name__} {getattr(family, 'dropped', '')} @ {layers or 'default'}"


def ladder(family: Method, depth: int) -> list[Method]:
    """A family's settings from the mildest to the harshest, about 7 % fewer tokens a step, as far as it goes."""
    if isinstance(family.keep_rate, Sequence) and not _shares_one_rate(family):
        return [family]
    found = []
    for rate in _rates(tuple(family.schedule(depth)), depth):
        try:
            found.append(family.with_keep_rate([rate] * len(family.methods) if isinstance(family, Chain) else rate))
        except ValueError:  # merging in pairs has an end
            break
    return found


def _shares_one_rate(family: Method) -> bool:
    """Whether it is a chain whose methods all leave a clip's budget of tokens, so that they have one rate."""
    return isinstance(family, Chain) and all(method.budget == "clip" for method in family.methods)


@lru_cache
def _rates(stages: tuple[int, ...], depth: int) -> list[float]:
    """The greatest keep rate within each of `LEVELS`, to three digits, descending."""
    steps = range(1000, round(1000 * LEAST_RATE) - 1, -1)
    shares = [(step / 1000, mean_share(step / 1000, stages, depth)) for step in steps]
    found = (next((rate for rate, share in shares if share <= level), None) for level in LEVELS)
    return list(dict.fromkeys(rate for rate in found if rate is not None))


def scored_by_attention(family: Method) -> Method:
    """The family of the same kind whose scores cost most, to time the kind by."""
    settings: dict[str, Any] = {"score": "attention"} if "attention" in family.choices.get("score", ()) else {}
    return replace(family, **settings)
