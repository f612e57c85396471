"""The settings that a comparison runs: each method at each keep rate, or at each share of the work."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ..adapters.blocks.adapter import find_blocks
from ..core.fitting import TooMuchWorkError, fit
from ..core.pruning import prune
from ..core.recommend import recommended
from ..core.settings import parse_settings
from ..files import Row
from ..methods import LearnedMethod, Method, TopK
from ..methods.names import NamedMethod
from .benchmark import mean_macs
from .row_log import RowLog
from .settings import FineTuned

Given = NamedMethod | Method | Sequence[Method]
"""A method, or one for each seed."""


@dataclass(frozen=True)
class Planned:
    """A row to be: a method at a keep rate.

    runs: one a seed; none if it is refused, for the reason `refused`. passes: how often the clips are heard for it, if
    it is not refused. share: of the work, if that is what was asked for. done: the row, if it is there already.
    """

    name: str
    keep_rate: Any
    runs: Sequence[Method]
    passes: int = 1
    refused: str | None = None
    tuned: FineTuned | None = None
    share: float | None = None
    done: Row | None = None


@dataclass(frozen=True)
class Plan:
    """Methods by name, at keep rates or at shares of the work, and models that were trained with a method."""

    methods: Mapping[str, Given]
    keep_rates: Sequence[float]
    fine_tuned: Mapping[str, FineTuned]
    shares: Sequence[float] = ()

    @property
    def passes(self) -> int:
        """How often all clips are heard, the unpruned model's pass left out."""
        candidates = self._candidates()
        return sum(one.seeds * len(one.rates(self)) for one in candidates) + len(self.fine_tuned)

    def settings(self, model: PreTrainedModel, few: Sequence[Tensor], log: RowLog) -> Iterator[Planned]:
        """Each setting when its turn comes: to find a keep rate takes forwards.

        few: clips on which work is counted where the sound or its length decides. log: the rows that are there already.
        """
        for candidate in self._candidates():
            for rate in candidate.rates(self):
                share = rate if self.shares and not candidate.runs_as_it_is else None
                done = log.row(candidate.name, rate, share)
                yield candidate.planned(rate, share, model, few) if done is None else _planned_before(done, candidate)
        for name, tuned in self.fine_tuned.items():
            rate = tuned.method.keep_rate
            yield Planned(name, rate, [tuned.method], tuned=tuned, done=log.row(name, rate, None))

    def _candidates(self) -> list[_Candidate]:
        return [_Candidate.of(name, given) for name, given in self.methods.items()]


@dataclass(frozen=True)
class _Candidate:
    """A method by its name. given: one for each seed, where the caller chose them."""

    name: str
    method: NamedMethod
    given: Sequence[Method] | None = None

    @classmethod
    def of(cls, name: str, given: Given) -> _Candidate:
        if isinstance(given, NamedMethod):
            return cls(name, given)
        if isinstance(given, Method):
            return cls(name, NamedMethod.of(given))
        return cls(name, NamedMethod.of(given[0]), given)

    @property
    def runs_as_it_is(self) -> bool:
        """Whether it has a keep rate for each layer, or has learnt its rate."""
        is_learnt = issubclass(self.method.kind, LearnedMethod) and not self.method.kind.static
        return isinstance(self.method.keep_rate, Sequence) or is_learnt

    @property
    def seeds(self) -> int:
        return len(self.at(1.0))

    def rates(self, plan: Plan) -> Sequence[Any]:
        """The keep rates, or shares of the work, at which it runs."""
        return [self.method.keep_rate] if self.runs_as_it_is else plan.shares or plan.keep_rates

    def at(self, keep_rate: Any, **settings: Any) -> list[Method]:
        """The method at a keep rate, once a seed. settings: in place of its own."""
        if self.given is not None:
            return [replace(one.with_keep_rate(keep_rate), **settings) for one in self.given]
        return self.method.seeds(keep_rate, **settings)

    def planned(self, rate: Any, share: float | None, model: PreTrainedModel, few: Sequence[Tensor]) -> Planned:
        try:
            runs = self._at_rate(rate, model, few) if share is None else self._at_share(share, model, few)
        except ValueError as error:
            return Planned(self.name, 1.0 if share else rate, [], self.seeds, str(error), share=share)
        return Planned(self.name, runs[0].keep_rate if share else rate, runs, len(runs), share=share)

    def _at_rate(self, rate: Any, model: PreTrainedModel, few: Sequence[Tensor]) -> list[Method]:
        """The method at a keep rate; one that fits the work, at the cost of TopK at that rate."""
        if not self.method.fits_work:
            return self.at(rate)
        unpruned = mean_macs(model, few)
        with prune(model, TopK(rate)):
            share = mean_macs(model, few) / unpruned
        return [recommended(model, macs=share, inputs=_longest(model, few))]

    def _at_share(self, share: float, model: PreTrainedModel, few: Sequence[Tensor]) -> list[Method]:
        """The method at the greatest keep rate that leaves at most this share of the work: at its own layers, or at the
        first alone where those come too late."""
        if self.method.fits_work:
            heard = torch.stack(list(few)) if find_blocks(model).pads else _longest(model, few)
            return [recommended(model, macs=share, inputs=heard)]
        try:
            return self._fitted(share, model, few)
        except TooMuchWorkError as error:
            if self.at(1.0)[0].layers:
                raise
            with suppress(TooMuchWorkError):
                return self._fitted(share, model, few, layers=(0,))
            raise error from None

    def _fitted(self, share: float, model: PreTrainedModel, few: Sequence[Tensor], **settings: Any) -> list[Method]:
        def at(rate: float) -> Method:
            return self.at(rate, **settings)[0]

        found = fit(model, at, share, partial(mean_macs, clips=few), at(1.0).least_rate)
        return self.at(found.keep_rate, **settings)


def _longest(model: PreTrainedModel, few: Sequence[Tensor]) -> Tensor | None:
    """Shape of the longest clip, for a model that takes clips of any length."""
    return None if find_blocks(model).frames is not None else max(few, key=Tensor.numel)[None].to("meta")


def _planned_before(row: Row, candidate: _Candidate) -> Planned:
    """The setting of a row that is there already; its method is still to be timed."""
    rate, share = row["keep_rate"], row.get("macs_share")
    if "refused" in row:
        return Planned(candidate.name, rate, [], candidate.seeds, row["refused"], share=share, done=row)
    method = parse_settings(json.dumps(row["setting"]))
    return Planned(candidate.name, rate, [method], row["runs"], share=share, done=row)
