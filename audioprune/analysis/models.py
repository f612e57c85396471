"""The models of an analysis: one at all keep rates, or one that was fine-tuned for each."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .. import fingerprints
from ..adapters import find_adapter
from ..adapters.blocks.adapter import find_blocks
from ..audio.features import LogMel
from ..core.settings import SETTINGS, describe, read_method
from ..data import ClipRow
from ..methods import TopK
from .batches import FULL

DEFAULT_RATES = (0.9, 0.7, 0.5)
SCORES = ("attention", "cls")
"""By which an analysis can prune: the statistics tell what attention does."""

Opened = tuple[Any, LogMel]


@dataclass(frozen=True)
class ModelSet:
    """What is analysed.

    sources: model of each keep rate as it was named, 1.0 (unpruned) first. by_rate: the same, loaded; one model may
    serve several. methods: how each is pruned. front: the log-mel that all take. tuned: whether each keep rate has a
    model of its own. multi_label: whether a clip may have several labels.
    """

    sources: Mapping[float, str]
    by_rate: Mapping[float, Any]
    methods: Mapping[float, TopK]
    front: LogMel
    tuned: bool = False
    multi_label: bool = False

    @property
    def keep_rates(self) -> tuple[float, ...]:
        """Those that prune, from the highest."""
        return tuple(rate for rate in self.by_rate if rate < FULL)

    @property
    def score(self) -> str:
        return self.methods[FULL].score

    @property
    def how(self) -> str:
        """A sentence on which model was pruned at which rate."""
        names = {rate: source for rate, source in self.sources.items() if rate < FULL}
        if not self.tuned:
            return f"One model, {self.sources[FULL]}, was pruned at every keep rate without fine-tuning for it."
        each = ", ".join(f"{source} at {rate:g}" for rate, source in names.items())
        unpruned = self.sources[FULL]
        own = "" if unpruned not in names.values() else ", the one of the highest keep rate, as no other was given"
        return f"Each keep rate has a model of its own: {each}. The unpruned model is {unpruned}{own}."

    @property
    def identity(self) -> dict[str, Any]:
        """What a state belongs to: models with their weights, and how they are pruned and fed."""
        prints = {id(model): fingerprints.of_weights(model) for model in self.by_rate.values()}
        front = self.front
        return {
            "models": {f"{rate:g}": self.sources[rate] for rate in self.by_rate},
            "weights": {f"{rate:g}": prints[id(model)] for rate, model in self.by_rate.items()},
            "keep rates": list(self.keep_rates),
            "methods": {f"{rate:g}": describe(method) for rate, method in self.methods.items()},
            "front end": [front.max_length, front.mean, front.std, front.num_mel_bins, front.padding],
        }


def parse_models(given: Sequence[str], keep_rates: Sequence[float] | None = None) -> tuple[dict[float, str], bool]:
    """["M"], or ["1.0=U", "0.9=A", "0.5=C"] → model of each keep rate, 1.0 first and then from the highest; and whether
    each has its own.

    keep_rates: asked for, None for the default or those of the models. Without 1.0=… the unpruned model is that of the
    highest keep rate. Raises `ValueError` where it cannot be told which model is meant.
    """
    wanted = None if keep_rates is None else _below_one(keep_rates, "--keep-rates")
    pairs = [_split(one) for one in given]
    if all(rate is None for rate, _ in pairs):
        if len(pairs) != 1:
            raise ValueError(f"--model names {len(pairs)} models; write RATE=MODEL, the keep rate that each is for")
        return dict.fromkeys((FULL, *(wanted or DEFAULT_RATES)), pairs[0][1]), False
    found: dict[float, str] = {}
    for rate, source in pairs:
        if rate is None:
            raise ValueError(f"--model {source!r} has no keep rate, and others have; write RATE=MODEL for each")
        if rate in found:
            raise ValueError(f"--model names two models for keep rate {rate:g}; give each keep rate one")
        found[rate] = source
    own = _below_one(list(found), "--model")
    if wanted is not None and wanted != own:
        raise ValueError(f"--keep-rates are {_listed(wanted)}, but --model has models for {_listed(own)}; leave it out")
    return {FULL: found.get(FULL, found[own[0]])} | {rate: found[rate] for rate in own}, True


def _split(given: str) -> tuple[float | None, str]:
    """RATE=MODEL → both; a model alone has no rate."""
    match = re.fullmatch(r"([0-9.eE+-]+)=(.+)", given)
    if match is None:
        return None, given
    try:
        return float(match[1]), match[2]
    except ValueError:
        raise ValueError(f"--model is {given}; write RATE=MODEL, such as 0.7={match[2]}") from None


def _below_one(keep_rates: Sequence[float], option: str) -> list[float]:
    """Those that prune, from the highest."""
    for rate in keep_rates:
        TopK(rate)  # a rate that is none is a mistake
    found = sorted({rate for rate in keep_rates if rate < FULL}, reverse=True)
    if not found:
        raise ValueError(f"{option} has no keep rate below 1.0; give one at least, such as 0.7, to see what it prunes")
    return found


def open_models(
    sources: Mapping[float, str], score: str | None, open_model: Callable[[str], Opened], tuned: bool
) -> ModelSet:
    """Load models and see that they fit together.

    score: "attention", "cls", or None for what the model pools by. open_model: a model and its front end, by name.
    tuned: whether each keep rate has a model that was trained for it. Raises `ValueError` where the models take other
    spectrograms or answer in other labels than each other, or were trained to be pruned in another way.
    """
    opened = {source: open_model(source) for source in dict.fromkeys(sources.values())}
    first = sources[FULL]
    for source, (model, front) in opened.items():
        _check_alike(first, opened[first], source, (model, front))
    trained = {rate: _trained(source, rate) for rate, source in sources.items() if tuned and rate < FULL}
    methods = _methods(sources, trained, score, opened[first][0])
    models = {rate: opened[source][0] for rate, source in sources.items()}
    return ModelSet(sources, models, methods, opened[first][1].cpu(), tuned)


def with_labels(models: ModelSet, multi_label: bool) -> ModelSet:
    """The models, on sounds of one label each or of several."""
    return replace(models, multi_label=multi_label)


def default_score(model: Any) -> str:
    """ "cls" for an AST that answers by its CLS token, otherwise "attention"."""
    return "cls" if find_blocks(model).reads_cls else "attention"


def clips_fingerprint(rows: Sequence[ClipRow]) -> str:
    """The same for the same clips of the same files, by their paths, sizes and times."""

    def told(row: ClipRow) -> tuple[object, ...]:
        found = os.stat(row.path)
        return str(row.path), row.labels, row.start, row.end, found.st_size, found.st_mtime_ns

    return fingerprints.of_parts(repr(told(row)).encode() for row in rows)


def spaced(rows: Sequence[ClipRow], limit: int | None) -> tuple[ClipRow, ...]:
    """At most `limit` rows at even distances, so that all classes of a sorted data set are there."""
    if limit is None or limit >= len(rows):
        return tuple(rows)
    if limit < 1:
        raise ValueError(f"--limit is {limit}; it is a number of clips, at least 1")
    return tuple(rows[i * len(rows) // limit] for i in range(limit))


def _methods(
    sources: Mapping[float, str], trained: Mapping[float, TopK | None], score: str | None, model: Any
) -> dict[float, TopK]:
    own = {method.score for method in trained.values() if method is not None}
    layers = {method.layers for method in trained.values() if method is not None}
    if score is None and len(own) == 1:
        score = own.pop()
    score = score or default_score(model)
    if score not in SCORES:
        raise ValueError(f"--score is {score!r}; an analysis prunes by {' or '.join(SCORES)}")
    base = TopK(FULL, next(iter(layers)) if len(layers) == 1 else None, score)  # type: ignore[arg-type]
    find_adapter(model).check_method(base)
    for rate, method in trained.items():
        if method is not None and method != base.with_keep_rate(rate):
            raise ValueError(
                f"{sources[rate]}: was fine-tuned with {method}, which its {SETTINGS} says, not with "
                f"{base.with_keep_rate(rate)}; give models of one kind, and --score {method.score}"
            )
    return {rate: base.with_keep_rate(rate) for rate in sources}


def _trained(source: str, rate: float) -> TopK | None:
    """How a model was trained to be pruned, where its folder says so."""
    path = Path(source) / SETTINGS
    if not path.exists():
        return None
    method = read_method(path)
    if type(method) is not TopK or replace(method, keep_rate=rate, layers=None, score="attention") != TopK(rate):
        raise ValueError(
            f"{source}: was fine-tuned with {method}; an analysis is of TopK, where every token is kept or forgotten"
        )
    if method.keep_rate != rate:
        raise ValueError(f"{source}: was fine-tuned at keep rate {method.keep_rate}, and is given for {rate:g}")
    return method


def _check_alike(first: str, one: Opened, second: str, other: Opened) -> None:
    keys = ("max_length", "mean", "std", "num_mel_bins", "padding")
    fronts = [[getattr(front, key) for key in keys] for _, front in (one, other)]
    if fronts[0] != fronts[1]:
        differ = next(i for i, pair in enumerate(zip(*fronts)) if pair[0] != pair[1])
        raise ValueError(
            f"{second}: takes a log-mel with {keys[differ]} {fronts[1][differ]}, {first} one with "
            f"{fronts[0][differ]}; models that are compared must hear the same"
        )
    if find_adapter(one[0]).grid != find_adapter(other[0]).grid:
        raise ValueError(f"{second}: cuts a spectrogram into other patches than {first}; analyse them one by one")
    if one[0].config.id2label != other[0].config.id2label:
        raise ValueError(f"{second}: answers in other labels than {first}; both must be trained for the same")


def _listed(rates: Sequence[float]) -> str:
    return ", ".join(f"{rate:g}" for rate in rates)
