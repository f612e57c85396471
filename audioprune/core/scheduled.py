"""A method laid out over one model's layers."""

from __future__ import annotations

import copy

from torch import Tensor, nn

from ..methods import Method
from .tokens import Evidence, Finish, Place, Reduction, Tokens


class ScheduledMethod:
    """A method with its keep rates laid out over one model's layers: the adapter's `Reducer`.

    It never changes: a forward that runs as another keep rate is set ends as it began.
    """

    def __init__(self, method: Method, depth: int, learned: nn.Module | None) -> None:
        # A keep rate of 1.0 skips the stage: nothing is scored, the model computes what it always did.
        self._stages = {place: stage for place, stage in method.stages(depth).items() if stage[1] < 1}
        self.rates = {layer: rate for layer, rate in method.schedule(depth).items() if rate < 1}
        self.reduces = bool(self._stages)
        self.depth, self.method, self.learned = depth, method, learned
        self.needs_gradient = method.needs_gradient
        self.proportional = method.proportional
        self.learns = method.learns

    def without_stages(self) -> ScheduledMethod:
        """One that reduces nothing: the model computes what it always did."""
        idle = copy.copy(self)
        idle._stages, idle.rates, idle.reduces = {}, {}, False
        return idle

    def with_method(self, method: Method) -> ScheduledMethod:
        """The same for other settings, with what was learnt."""
        return ScheduledMethod(method, self.depth, self.learned)

    def prunes(self, place: Place) -> bool:
        return place in self._stages

    def before(self, layer: int) -> list[Place]:
        return [place for place in self._stages if place.layer == layer and not place.after]

    def needs(self, place: Place) -> frozenset[str]:
        return self._stages[place][0].needs if place in self._stages else frozenset()

    def reduce(self, tokens: Tokens, evidence: Evidence) -> Reduction:
        method, rate = self._stages[evidence.place]
        return method.reduce(tokens, evidence, rate)

    def finish(self, tokens: Tokens, special: Tensor) -> Finish | None:
        return self.method.finish(tokens, special) if self.reduces else None
