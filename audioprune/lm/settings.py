"""Which methods are compared at which keep rates, by the names that the command line gives them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..core.settings import parse_method
from ..methods import Method

UNPRUNED = "unpruned"


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
        chosen = parse_method(name, remedy=None)
        for rate in sorted(set(keep_rates) - {1.0}, reverse=True):
            try:
                made.append(Setting(chosen.word, rate, chosen.at(rate)))
            except ValueError as error:  # such as ToFu's lowest rate
                made.append(Setting(chosen.word, rate, refused=str(error)))
    files = [setting.file for setting in made]
    twice = sorted({file for file in files if files.count(file) > 1})
    if twice:
        raise ValueError(f"{', '.join(twice)} would be answered for twice; name each method once")
    return made


def method(name: str, keep_rate: float) -> Method:
    """A method by its word, or of a JSON file that `read_method` reads, at a keep rate.

    "topk+merge" is `topk` with `dropped="merge"`; so are fuse and discard. Raises `ValueError` for an unknown word, and
    if the method has no such choice.
    """
    return parse_method(name, remedy=None).at(keep_rate)
