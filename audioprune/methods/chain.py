"""Chain: several methods, one after the other. A list of methods is a method."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ..core.tokens import Evidence, Place, Reduction, Tokens
from .base import Method


@dataclass(frozen=True)
class Chain(Method):
    """Methods that act in one model, each at its own places: `prune(model, [PaddingMerge(), AToMe(0.9, "all")])`.

    Before a block, several of them may act, one after the other; after the attention of a block, only one. keep_rate
    is that of each, in order; set to 1.0 it turns all of them off.

    Raises `ValueError` for no method, for one that learns (it must be alone), and for methods that do not agree
    whether merged tokens count by size.
    """

    keep_rate: Any = ()
    layers: Sequence[int] | Literal["all"] | None = None
    methods: tuple[Method, ...] = ()

    @classmethod
    def of(cls, methods: Sequence[Method]) -> Method:
        """The chain of some methods; of one, that method itself."""
        if not methods:
            raise ValueError("an empty list of methods; give one at least, such as [PaddingMerge()]")
        for method in methods:
            if not isinstance(method, Method):
                raise TypeError(f"a list of methods has {method!r} in it; expected methods such as TopK(keep_rate=0.7)")
        if len(methods) == 1:
            return methods[0]
        if any(method.bias for method in methods):
            raise ValueError("a bias is that of one method alone; correct the bias of the whole list")
        flat = [part for method in methods for part in (method.methods if isinstance(method, Chain) else (method,))]
        return cls(methods=tuple(flat))

    def __post_init__(self) -> None:
        if self.keep_rate != ():
            rates = zip(self.methods, self._rate_of_each(), strict=True)
            object.__setattr__(self, "methods", tuple(method.with_keep_rate(rate) for method, rate in rates))
        object.__setattr__(self, "keep_rate", tuple(method.keep_rate for method in self.methods))
        if self.bias is not None:
            object.__setattr__(self, "bias", self._checked_bias(self.bias))
        for method in self.methods:
            kind = type(method)
            if any(getattr(kind, name) is not getattr(Method, name) for name in ("build", "finish", "loss")):
                raise ValueError(f"{kind.__name__} learns, and cannot be one of several methods; use it alone")
        if len({bool(method.proportional) for method in self.methods}) > 1:
            raise ValueError(
                f"{self}: proportional must be the same for all, since it is one attention that counts sizes"
            )

    def __str__(self) -> str:
        return " + ".join(map(str, self.methods))

    @property
    def proportional(self) -> bool:  # type: ignore[override]
        return all(method.proportional for method in self.methods)

    @property
    def static(self) -> bool:  # type: ignore[override]
        return all(method.static for method in self.methods)

    @property
    def before(self) -> bool:  # type: ignore[override]
        return any(method.before for method in self.methods)

    @property
    def sequential(self) -> bool:  # type: ignore[override]
        return any(method.sequential for method in self.methods)

    @property
    def needs(self) -> frozenset[str]:
        return frozenset().union(*(method.needs for method in self.methods))

    @property
    def needs_gradient(self) -> bool:
        return any(method.needs_gradient for method in self.methods)

    @property
    def least_rate(self) -> float:
        return max(method.least_rate for method in self.methods)

    @property
    def appends(self) -> bool:
        return any(method.appends for method in self.methods)

    def _rate_of_each(self) -> Sequence[float]:
        if self.keep_rate == 1:
            return [1.0] * len(self.methods)
        if not isinstance(self.keep_rate, Sequence) or len(self.keep_rate) != len(self.methods):
            raise ValueError(
                f"keep_rate is {self.keep_rate!r}, but these are {len(self.methods)} methods: {self}; give a list with "
                "the rate of each, or 1.0 to prune nothing"
            )
        return self.keep_rate

    def schedule(self, depth: int) -> dict[int, float]:
        """Pruned layer → keep rate, the product where two methods act at one layer."""
        rates: dict[int, list[float]] = {}
        for place, (_, rate) in self.stages(depth).items():
            rates.setdefault(place.layer, []).append(rate)
        return {layer: math.prod(found) for layer, found in rates.items()}

    def stages(self, depth: int) -> dict[Place, tuple[Method, float]]:
        stages: dict[Place, tuple[Method, float]] = {}
        for method in self.methods:
            for place, stage in method.stages(depth).items():
                if place.after and place in stages:
                    raise ValueError(
                        f"{stages[place][0]} and {method} both act after the attention of block {place.layer}; give "
                        "them other layers"
                    )
                while place in stages:
                    place = place._replace(turn=place.turn + 1)
                stages[place] = stage
        return dict(sorted(stages.items(), key=lambda item: item[0]))

    def counts(self, patches: int, depth: int) -> list[int]:
        counts = [patches]
        for method, rate in self.stages(depth).values():
            counts.append(method.count_after(counts[-1], rate))
        return counts

    def reduce(self, tokens: Tokens, evidence: Evidence, keep_rate: float) -> Reduction:
        raise AssertionError("each of the methods reduces by itself, at its own places")
