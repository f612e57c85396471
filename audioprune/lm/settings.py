"""Which methods are compared at which keep rates, by the names that the command line gives them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ..core.settings import read_method
from ..methods import METHODS, Method

UNPRUNED = "unpruned"

SHORT: dict[str, tuple[str, dict[str, Any]]] = {
    "topk": ("TopK", {}),
    "segmentwise": ("SegmentwiseTopK", {}),
    "random": ("TopK", {"score": "random"}),
    "uniform": ("UniformStride", {}),
    "pooling": ("AveragePooling", {}),
}
"""Names that are not their class's: class in `METHODS`, and its settings. Every other class goes by its own name, in
any case: visionzip, evs, atome, fastadasp, divprune, dpp …"""


@dataclass(frozen=True)
class Setting:
    """A method at a keep rate; `method=None` is the unpruned model. refused: why the method cannot be at this rate."""

    name: str
    keep_rate: float
    method: Method | None = None
    refused: str | None = None

    @property
    def file(self) -> str:
        """What its answers' file is called, without its suffix."""
        return self.name if self.name == UNPRUNED else f"{self.name}-{self.keep_rate:g}"


def settings(names: Sequence[str], keep_rates: Sequence[float]) -> list[Setting]:
    """The unpruned model, and each method at each keep rate below 1, from the highest.

    Raises `ValueError` for a name that is no method's or comes twice, and for a rate outside (0, 1].
    """
    for rate in keep_rates:
        if not 0 < rate <= 1:
            raise ValueError(f"the keep rate is {rate}; it is the share of audio tokens that stays, in (0, 1]")
    made = [Setting(UNPRUNED, 1.0)]
    for name in names:
        short, kind = _short(name), _kind(name)
        for rate in sorted(set(keep_rates) - {1.0}, reverse=True):
            try:
                made.append(Setting(short, rate, kind(rate)))
            except ValueError as error:  # such as ToFu's lowest rate
                made.append(Setting(short, rate, refused=str(error)))
    files = [setting.file for setting in made]
    twice = sorted({file for file in files if files.count(file) > 1})
    if twice:
        raise ValueError(f"{', '.join(twice)} would be answered for twice; name each method once")
    return made


def method(name: str, keep_rate: float) -> Method:
    """A method by name, or of a JSON file that `read_method` reads, at a keep rate.

    "topk+merge" is `topk` with `dropped="merge"`; so are fuse and discard. Raises `ValueError` for an unknown name, and
    where the method knows no such fate.
    """
    return _kind(name)(keep_rate)


def _short(name: str) -> str:
    """What tables and files call a method: a JSON file goes by its own name."""
    base, plus, fate = name.partition("+")
    return (Path(base).stem if base.endswith(".json") else base.lower()) + plus + fate


def _kind(name: str) -> Callable[[float], Method]:
    """Keep rate → method. Raises `ValueError` for a name that is none."""
    base, _, fate = name.partition("+")
    if base.endswith(".json"):
        made: Callable[[float], Method] = read_method(base).with_keep_rate
        example = read_method(base)
    else:
        kind, given = _class(base)
        made = partial(kind, **given)
        example = made(1.0)
    if not fate:
        return made
    if "dropped" not in {field.name for field in dataclasses.fields(example)}:
        raise ValueError(
            f"{name}: {type(example).__name__} has its own fate for what it drops; name it without +{fate}"
        )
    _with_fate(example, fate)  # said at once where there is no such fate
    return lambda rate: _with_fate(made(rate), fate)


def _with_fate(method: Method, fate: str) -> Method:
    changes: dict[str, Any] = {"dropped": fate}
    return dataclasses.replace(method, **changes)


def _class(name: str) -> tuple[Callable[..., Method], dict[str, Any]]:
    """A class of `METHODS`, and the settings that its short name stands for."""
    wanted, given = SHORT.get(name.lower(), (name, {}))
    known = {own.lower(): kind for own, kind in METHODS.items()}
    if wanted.lower() not in known:
        names = sorted({*SHORT, *known} - {kind.lower() for kind, _ in SHORT.values()} | {"topk"})
        raise ValueError(
            f"no method {name!r}; there are {', '.join(names)}, each with +merge if it has that; JSON files"
        )
    return known[wanted.lower()], given
