"""The models of an analysis: one model for all keep rates, or one that was fine-tuned for each."""

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
"""Scores by which an analysis can prune. There is no other, because the statistics describe attention."""

ModelAndFrontEnd = tuple[Any, LogMel]


@dataclass(frozen=True)
class ModelSet:
    """The models to analyse, with the method of each.

    Args:
        sources: keep rate → name of its model; 1.0 (unpruned) comes first.
        by_rate: keep rate → loaded model; several rates may share one model.
        methods: keep rate → pruning method.
        front: the log-mel front end that all models share.
        tuned: whether each keep rate has a model of its own.
        multi_label: whether a clip may have several labels.
    """

    sources: Mapping[float, str]
    by_rate: Mapping[float, Any]
    methods: Mapping[float, TopK]
    front: LogMel
    tuned: bool = False
    multi_label: bool = False

    @property
    def keep_rates(self) -> tuple[float, ...]:
        """Keep rates below 1.0, highest first."""
        return tuple(rate for rate in self.by_rate if rate < FULL)

    @property
    def score(self) -> str:
        return self.methods[FULL].score

    @property
    def how(self) -> str:
        """Sentence that says which model was pruned at which rate."""
        names = {rate: source for rate, source in self.sources.items() if rate < FULL}
        if not self.tuned:
            return f"One model, {self.sources[FULL]}, was pruned at every keep rate without fine-tuning for it."
        each = ", ".join(f"{source} at {rate:g}" for rate, source in names.items())
        unpruned = self.sources[FULL]
        own = "" if unpruned not in names.values() else ", that of the highest keep rate, because no other was given"
        return f"Each keep rate has its own model: {each}. The unpruned model is {unpruned}{own}."

    @property
    def identity(self) -> dict[str, Any]:
        """Identity of a saved state: the models and their weights, the methods and the front end."""
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
    """Models by keep rate, from --model options: ["M"], or ["1.0=U", "0.9=A", "0.5=C"].

    keep_rates: the requested rates; None means the default, or the rates of the models. Without 1.0=…, the model of the
    highest keep rate is also the unpruned model. Returns the models, 1.0 first and then by falling rate, and whether
    each rate has its own. Raises `ValueError` if the options do not say which model belongs to which rate.
    """
    wanted = None if keep_rates is None else _below_one(keep_rates, "--keep-rates")
    pairs = [_split(one) for one in given]
    if all(rate is None for rate, _ in pairs):
        if len(pairs) != 1:
            raise ValueError(f"--model names {len(pairs)} models; write RATE=MODEL, with the keep rate of each")
        return dict.fromkeys((FULL, *(wanted or DEFAULT_RATES)), pairs[0][1]), False
    by_rate: dict[float, str] = {}
    for rate, source in pairs:
        if rate is None:
            raise ValueError(f"--model {source!r} has no keep rate, but others have one; write RATE=MODEL for each")
        if rate in by_rate:
            raise ValueError(f"--model names two models for keep rate {rate:g}; give one for each rate")
        by_rate[rate] = source
    own = _below_one(list(by_rate), "--model")
    if wanted is not None and wanted != own:
        raise ValueError(
            f"--keep-rates are {_join_rates(wanted)}, but --model has models for {_join_rates(own)}; leave out "
            "--keep-rates"
        )
    return {FULL: by_rate.get(FULL, by_rate[own[0]])} | {rate: by_rate[rate] for rate in own}, True


def _split(given: str) -> tuple[float | None, str]:
    """Split RATE=MODEL into both parts; the rate is None for a model alone."""
    match = re.fullmatch(r"([0-9.eE+-]+)=(.+)", given)
    if match is None:
        return None, given
    try:
        return float(match[1]), match[2]
    except ValueError:
        raise ValueError(f"--model is {given}; write RATE=MODEL, such as 0.7={match[2]}") from None


def _below_one(keep_rates: Sequence[float], option: str) -> list[float]:
    """Keep rates below 1.0, highest first; raise `ValueError` if there is none."""
    for rate in keep_rates:
        TopK(rate)  # raises if the number is not a keep rate
    below = sorted({rate for rate in keep_rates if rate < FULL}, reverse=True)
    if not below:
        raise ValueError(f"{option} has no keep rate below 1.0; give at least one, such as 0.7")
    return below


def open_models(
    sources: Mapping[float, str], score: str | None, open_model: Callable[[str], ModelAndFrontEnd], tuned: bool
) -> ModelSet:
    """Load the models and check that they can be compared.

    Args:
        sources: keep rate → name of its model.
        score: "attention", "cls", or None for the score that fits the model's pooling.
        open_model: loads a model and its front end by name.
        tuned: whether each keep rate has a model that was trained for it.

    Raises `ValueError` if the models take different spectrograms, have different labels, or were trained with another
    pruning method.
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
    """The same models, for clips with several labels (`multi_label`) or with one."""
    return replace(models, multi_label=multi_label)


def default_score(model: Any) -> str:
    """Default score: "cls" if the model classifies from its CLS token, otherwise "attention"."""
    return "cls" if find_blocks(model).reads_cls else "attention"


def clips_fingerprint(rows: Sequence[ClipRow]) -> str:
    """SHA-256 prefix of the clips and of their files' paths, sizes and times, in hex."""

    def identity(row: ClipRow) -> tuple[object, ...]:
        stat = os.stat(row.path)
        return str(row.path), row.labels, row.start, row.end, stat.st_size, stat.st_mtime_ns

    return fingerprints.of_parts(repr(identity(row)).encode() for row in rows)


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
    base = TopK(FULL, next(iter(layers)) if len(layers) == 1 else None, score)
    find_adapter(model).check_method(base)
    for rate, method in trained.items():
        if method is not None and method != base.with_keep_rate(rate):
            raise ValueError(
                f"{sources[rate]}: its {SETTINGS} says that it was fine-tuned with {method}, not with "
                f"{base.with_keep_rate(rate)}; give models that share one method, and --score {method.score}"
            )
    return {rate: base.with_keep_rate(rate) for rate in sources}


def _trained(source: str, rate: float) -> TopK | None:
    """Method that a model was fine-tuned with, read from its folder; None if the folder has no settings."""
    path = Path(source) / SETTINGS
    if not path.exists():
        return None
    method = read_method(path)
    if type(method) is not TopK or replace(method, keep_rate=rate, layers=None, score="attention") != TopK(rate):
        raise ValueError(
            f"{source}: was fine-tuned with {method}; an analysis needs TopK, which keeps or drops every token"
        )
    if method.keep_rate != rate:
        raise ValueError(f"{source}: was fine-tuned at keep rate {method.keep_rate}, but is given for {rate:g}")
    return method


def _check_alike(first: str, one: ModelAndFrontEnd, second: str, other: ModelAndFrontEnd) -> None:
    keys = ("max_length", "mean", "std", "num_mel_bins", "padding")
    fronts = [[getattr(front, key) for key in keys] for _, front in (one, other)]
    if fronts[0] != fronts[1]:
        differ = next(i for i, pair in enumerate(zip(*fronts)) if pair[0] != pair[1])
        raise ValueError(
            f"{second}: takes a log-mel with {keys[differ]} {fronts[1][differ]}, but {first} one with "
            f"{fronts[0][differ]}; compared models must take the same spectrograms"
        )
    if find_adapter(one[0]).grid != find_adapter(other[0]).grid:
        raise ValueError(f"{second}: has another patch grid than {first}; analyse the models one by one")
    if one[0].config.id2label != other[0].config.id2label:
        raise ValueError(f"{second}: has other labels than {first}; both must be trained for the same labels")


def _join_rates(rates: Sequence[float]) -> str:
    return ", ".join(f"{rate:g}" for rate in rates)
