"""One table of words ↔ methods, for every command, help text, page and file name.

A word is the name of a method and, if wanted, modifiers: "topk", "topk+merge", "segmentwise+merge", "tome+unweighted".
A modifier is one of the choices that the method offers by name (a score, a fate, a metric), or "unweighted", or any
other setting with its value: "segmentwise+segments=10", "visionzip+contextual=0.18".

The table imports no PyTorch, so that `--help` can show it at once.
"""

from __future__ import annotations

import difflib
import importlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from .base import Method

RECOMMENDED = "recommended"
"""The word for what measured best without training; see `audioprune.recommended`."""
SEEDS = range(5)
"""Seeds of a random score: figures are their mean and standard deviation."""


class Entry(NamedTuple):
    """A line of the table.

    word: name in commands, tables and file names. module, kind: file in this folder and class. variants: modifiers
    whose figures are worth comparing. needs_training: whether the method cannot choose before it was trained.
    untrained_as: word of the method that it equals before it was trained.
    """

    word: str
    module: str
    kind: str
    variants: tuple[str, ...] = ()
    needs_training: bool = False
    untrained_as: str | None = None


TABLE = (
    Entry("topk", "topk", "TopK", ("cls", "random", "intensity", "variation", "merge", "cls+merge", "random+merge")),
    Entry("segmentwise", "topk", "SegmentwiseTopK", ("merge",)),
    Entry("evit", "evit", "EViT"),
    Entry("tome", "tome", "ToMe", ("unweighted",)),
    Entry("tofu", "tofu", "ToFu"),
    Entry("fastast", "tome", "FastAST", untrained_as="tome"),
    Entry("ats", "ats", "ATS"),
    Entry("visionzip", "visionzip", "VisionZip"),
    Entry("evs", "evs", "EVS"),
    Entry("divprune", "diversity", "DivPrune"),
    Entry("dpp", "diversity", "DPP"),
    Entry("atome", "adjacent", "AToMe"),
    Entry("fastadasp", "adjacent", "FastAdaSP"),
    Entry("ltbm", "ltbm", "LTBM"),
    Entry("peaks", "adjacent", "PeakSegments"),
    Entry("samap", "samap", "SAMAP"),
    Entry("padding", "padding", "PaddingMerge"),
    Entry("uniform", "baselines", "UniformStride"),
    Entry("pooling", "baselines", "AveragePooling"),
    Entry("dynamicvit", "dynamicvit", "DynamicViT", needs_training=True),
    Entry("spvit", "spvit", "SPViT", needs_training=True),
    Entry("avit", "avit", "AViT", needs_training=True),
    Entry("metr", "metr", "METR", untrained_as="evit"),
)
"""All methods. A new method is one file and one line here."""

SCORES = ("attention", "cls", "intensity", "variation", "random", "selective")
"""Scores of `TopK`. A new score is one function in `scores.py` and its name here."""
FATES = ("discard", "fuse", "merge")
"""Fates of the tokens that `TopK` drops."""

SEARCHED = ("topk", "topk+fuse", "topk+merge", "tome")
"""What a calibration searches by default: the fates of `TopK`, and similar tokens merged."""

SHORTCUTS = {
    "bottomk": "topk+lowest",
    "random": "topk+random",
    "intensity": "topk+intensity",
    "variation": "topk+variation",
}
"""Words for a score alone, as tables call these baselines."""
FORMER = {
    "topk-cls": "topk+cls",
    "topk-merged": "topk+merge",
    "cls-merged": "topk+cls+merge",
    "random-merged": "random+merge",
    "segments": "segmentwise",
    "segments-merged": "segmentwise+merge",
    "tome-unweighted": "tome+unweighted",
}
"""Words of earlier versions, which their results and scripts hold → today's."""


@dataclass(frozen=True)
class NamedMethod:
    """A method as a word names it, at any keep rate.

    word: its name in tables and files. kind, settings: the class, and every setting but the keep rate. keep_rate: its
    own, of a settings file or the method's default; None if it has none. bias: of a settings file; it is that of this
    keep rate alone. fits_work: whether the method, at its keep
    rate, follows from the model and the share of its work that is to stay ("recommended").
    """

    word: str
    kind: type[Method]
    settings: Mapping[str, Any] = field(default_factory=dict)
    keep_rate: float | Sequence[float] | None = None
    fits_work: bool = False
    bias: Sequence[float] | None = None

    @classmethod
    def of(cls, method: Method, word: str | None = None) -> NamedMethod:
        """A method that is there already, such as that of a settings file."""
        settings = {f.name: getattr(method, f.name) for f in fields(method) if f.name not in ("keep_rate", "bias")}
        return cls(word or word_of(method), type(method), settings, method.keep_rate, bias=method.bias)

    def at(self, keep_rate: float | Sequence[float], **more: Any) -> Method:
        """The method at a keep rate. Raises `ValueError` if it cannot be at this rate."""
        bias = self.bias if keep_rate == self.keep_rate and not more else None
        return self.kind(**{"keep_rate": keep_rate, **self.settings, "bias": bias, **more})

    def seeds(self, keep_rate: float | Sequence[float], **more: Any) -> list[Method]:
        """The method; once for each of `SEEDS` if its score is random and it has no seed of its own."""
        if self.settings.get("score") != "random" or "seed" in self.settings:
            return [self.at(keep_rate, **more)]
        return [self.at(keep_rate, seed=seed, **more) for seed in SEEDS]

    def plus(self, modifier: str) -> NamedMethod:
        """The method with one more modifier. Raises `ValueError` if it has no such choice or setting."""
        if "=" in modifier:
            name, value = _setting(self.kind, modifier, self.word)
            return NamedMethod(f"{self.word}+{modifier}", self.kind, {**self.settings, name: value}, self.keep_rate)
        known = modifiers(self.kind)
        if modifier not in known:
            choices = f"it has {', '.join(f'+{name}' for name in known)}" if known else "it has none"
            raise ValueError(f"{self.word}+{modifier}: {self.kind.__name__} has no modifier +{modifier}; {choices}")
        return NamedMethod(f"{self.word}+{modifier}", self.kind, {**self.settings, **known[modifier]}, self.keep_rate)


def kind_of(entry: Entry) -> type[Method]:
    """The class of an entry."""
    return getattr(importlib.import_module(f".{entry.module}", __package__), entry.kind)


def modifiers(kind: type[Method]) -> dict[str, dict[str, Any]]:
    """Modifier → the setting that it stands for."""
    settings: dict[str, dict[str, Any]] = {}
    for name, values in kind.choices.items():
        settings |= {value: {name: value} for value in values}
    if any(f.name == "proportional" for f in fields(kind)):
        settings["unweighted"] = {"proportional": False}
    return settings


def _setting(kind: type[Method], modifier: str, word: str) -> tuple[str, Any]:
    """Name and value of a modifier "NAME=VALUE". The value is JSON, None, or a word."""
    name, _, text = modifier.partition("=")
    known = [f.name for f in fields(kind) if f.name not in ("keep_rate", "methods", "bias")]
    if name not in known:
        raise ValueError(f"{word}+{modifier}: {kind.__name__} has no setting {name!r}; it has {', '.join(known)}")
    if text.lower() == "none" and "none" not in kind.choices.get(name, ()):
        return name, None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = text
    return name, tuple(value) if isinstance(value, list) else value


def named(word: str) -> NamedMethod:
    """The method that a word stands for.

    Words are read in any case, with modifiers in any order. The name of a class is a word too, and so are those of
    earlier versions. Raises `ValueError` for a word that names no method, or has two modifiers for one setting.
    """
    if word.lower() == RECOMMENDED:
        # Similar tokens are merged in every block, compared by their hidden states (docs/results.md).
        return NamedMethod(RECOMMENDED, kind_of(_entry("tome")), {"layers": "all", "metric": "hidden"}, fits_work=True)
    entry, given = _entry(_base(word)), _expanded(word).split("+")[1:]
    method = NamedMethod(entry.word, kind_of(entry))
    for modifier in sorted(given, key=lambda modifier: "=" in modifier):
        if "=" in modifier and "=" not in method.word:
            method = replace(method, word=word_of(method.at(1.0)))
        method = method.plus(modifier)
    if len(method.settings) < len(given):
        raise ValueError(f"{word}: two of its choices are for the same setting; name one of them")
    made = method.at(1.0)  # raises for a value that cannot be right
    return replace(method, word=method.word if "=" in method.word else word_of(made), keep_rate=_own_rate(method.kind))


def _own_rate(kind: type[Method]) -> float | None:
    """The keep rate that a method has by default."""
    default = next(f.default for f in fields(kind) if f.name == "keep_rate")
    return None if default is MISSING else default


def canonical(word: str) -> str:
    """Today's spelling of a word: "TopK+Merge" → "topk+merge", "segments" → "segmentwise"."""
    word = word.lower()
    word = FORMER.get(word, word)
    base, plus, rest = word.partition("+")
    entry = next((entry for entry in TABLE if entry.kind.lower() == base), None)
    word = f"{entry.word if entry else base}{plus}{rest}"
    shorter = {long: short for short, long in SHORTCUTS.items()}
    return next((short + word[len(long) :] for long, short in shorter.items() if _begins(word, long)), word)


def word_of(method: Method) -> str:
    """The word of a method, whatever its keep rate; its full description if no word names it."""
    entry = next((entry for entry in TABLE if entry.kind == type(method).__name__), None)
    if entry is None:
        return str(method)
    method_named = NamedMethod(entry.word, type(method))
    method = replace(method, bias=None)
    plain, known = method_named.at(method.keep_rate), modifiers(type(method))
    for modifier, setting in known.items():
        ((name, value),) = setting.items()
        if getattr(method, name) == value != getattr(plain, name):
            method_named = method_named.plus(modifier)
    return canonical(method_named.word) if method_named.at(method.keep_rate) == method else str(method)


def words(trained: bool = True, but: Collection[str] = ()) -> list[str]:
    """Every word without modifiers. trained: with those of methods that need a training. but: words to leave out."""
    known = [RECOMMENDED, *(entry.word for entry in TABLE if trained or not entry.needs_training)]
    return [word for word in known if word not in but]


def compared() -> list[str]:
    """The words that a comparison shows: methods that need no training, and their variants."""
    return [*_compared(), RECOMMENDED]


def check_trained(word: str, remedy: str) -> None:
    """Raise `ValueError` if the method behind a word cannot choose before it was trained.

    remedy: what to do then, after "train a model with it first (audioprune train), and ".
    """
    if _entry(_base(word)).needs_training:
        raise ValueError(
            f"{word} chooses by what it has learnt: train a model with it first (audioprune train), and {remedy}"
        )


def untrained_as(word: str) -> str | None:
    """The word of the method that this one equals before it was trained; None if it has no such double."""
    return _entry(_base(word)).untrained_as


def _compared() -> Iterator[str]:
    for entry in TABLE:
        if not entry.needs_training and entry.untrained_as is None:
            yield entry.word
            yield from (canonical(f"{entry.word}+{variant}") for variant in entry.variants)


def _expanded(word: str) -> str:
    base, plus, rest = canonical(word).partition("+")
    return {**SHORTCUTS, RECOMMENDED: "tome"}.get(base, base) + plus + rest


def _base(word: str) -> str:
    return _expanded(word).partition("+")[0]


def _begins(word: str, start: str) -> bool:
    return word == start or word.startswith(f"{start}+")


def _entry(word: str) -> Entry:
    entry = next((entry for entry in TABLE if entry.word == word), None)
    if entry is None:
        close = difflib.get_close_matches(word, [*words(), *SHORTCUTS], n=1)
        hint = f"did you mean {close[0]}? There" if close else "there"
        raise ValueError(
            f"no method {word!r}; {hint} are {', '.join([*words(), *SHORTCUTS])}, some with a choice such as "
            "+merge; JSON files; folders with a pruning.json"
        )
    return entry
