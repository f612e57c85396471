"""What is compared on speech: pruning methods by name, and the baseline that cuts the window."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

from ..adapters import UnsupportedModelError
from ..core.pruning import prune
from ..core.recommend import recommended
from ..core.settings import describe, parse_method, parse_settings
from ..methods import Method
from ..methods.names import NamedMethod
from .window_cut import WindowCut

UNPRUNED = "unpruned"
DEFAULT_RATE = 0.7
"""Keep rate of a method that has none of its own."""

Rate = float | Sequence[float]


@dataclass(frozen=True)
class Contender:
    """The unpruned model (method None), a method, or the baseline. refused: why the model or the method refuses."""

    name: str
    method: Method | WindowCut | None = None
    refused: str | None = None

    @contextmanager
    def attached(self, model: Any) -> Iterator[None]:
        """Context in which the model is pruned so."""
        applied: AbstractContextManager[Any] = nullcontext()
        if isinstance(self.method, Method):
            applied = prune(model, self.method)
        elif self.method is not None:
            applied = self.method.applied(model)
        with applied:
            yield

    @property
    def settings(self) -> dict[str, Any]:
        """Settings for files: those of `describe`, or the margin of a cut."""
        if isinstance(self.method, WindowCut):
            return {"method": "cut", "margin": self.method.margin}
        return describe(self.method)


def parse_contender(word: str) -> NamedMethod | WindowCut:
    """The method behind a word, a JSON file, a folder with a `pruning.json`, or JSON itself; "cut" and "cut+128" are
    the baseline.

    Raises `ValueError` for a word that names no method, and for a method that must be trained first.
    """
    if word.lstrip().startswith(("{", "[")):
        method = parse_settings(word, "--method")
        return NamedMethod.of(method, str(method))
    found = re.fullmatch(r"cut(?:\+(\d+))?", word.lower())
    return WindowCut(int(found[1] or 0)) if found else parse_method(word)


def contenders(chosen: Sequence[NamedMethod | WindowCut], rates: Sequence[Rate], model: Any) -> list[Contender]:
    """The unpruned model, and each method. A method with a keep rate of its own (of a settings file, or by default, as
    PaddingMerge) has that; others have each of `rates`. "recommended" is what `recommended(model)` returns.

    Raises `ValueError` if two have one name.
    """
    made = [Contender(UNPRUNED)]
    for method in chosen:
        made += [Contender(str(method), method)] if isinstance(method, WindowCut) else _at_rates(method, rates, model)
    names = [one.name for one in made]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{', '.join(twice)}: named twice; name each method once, and give settings files other names")
    return made


def _at_rates(method: NamedMethod, rates: Sequence[Rate], model: Any) -> Iterator[Contender]:
    if method.fits_work:
        yield _made(method.word, lambda: recommended(model))
        return
    several = method.keep_rate is None and len(rates) > 0
    for rate in rates if several else [method.keep_rate or DEFAULT_RATE]:
        yield _made(f"{method.word} {_shown(rate)}" if several else method.word, partial(method.at, rate))


def _made(name: str, make: Callable[[], Method]) -> Contender:
    try:
        return Contender(name, make())
    except (ValueError, UnsupportedModelError) as error:
        return Contender(name, refused=str(error))


def _shown(rate: Rate) -> str:
    return ",".join(f"{one:g}" for one in rate) if isinstance(rate, Sequence) else f"{rate:g}"
