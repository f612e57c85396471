"""What every method is: settings, the layers where it acts, and one `reduce`."""

from __future__ import annotations

import dataclasses
import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any, ClassVar, Literal, Self

from torch import Tensor, nn

from ..core import ops
from ..core.tokens import Evidence, Finish, LossInputs, ModelShape, Place, Reduction, Tokens

BUDGETS = ("layer", "clip")
MOST_LAYERS = 1000
"""More blocks than any model has."""
LATER = "later"
"""Key of the metadata of a setting that came after version 0.1."""


class _EarlierSpacing:
    """`layers=None` of a file that version 0.1 wrote: the same three blocks as it took. It is equal to None."""

    def __eq__(self, other: object) -> bool:
        return other is None or other is self

    def __hash__(self) -> int:
        return hash(None)

    def __bool__(self) -> bool:
        return False

    def __repr__(self) -> str:
        return repr(None)

    def __reduce__(self) -> str:
        return "EARLIER_SPACING"


EARLIER_SPACING: Any = _EarlierSpacing()
"""Rounds halves to even, so that the three blocks are not evenly spaced in some models: 2, 3, 4 of 6."""


def block_at(depth: int, part: int, parts: int) -> int:
    """The block at a part of the depth, halves rounded up: floor(depth · part / parts + ½)."""
    return (2 * depth * part + parts) // (2 * parts)


@dataclass(frozen=True)
class Method(ABC):
    """A token-reduction method.

    keep_rate: share of the droppable tokens that stays at each pruned layer, in (0, 1]; one number, or one a layer.
    layers: 0-based blocks after whose attention tokens are dropped, ascending; "all" of them; None is a quarter, half
        and three quarters of the depth, floor(depth · i / 4 + ½) (blocks 4, 7 and 10 of 12, counted from 1).
    bias: what is taken off the logits of a classifier, a number for each label; `Pruned.correct_bias` finds it. It
        belongs to one model and one keep rate.

    Raises `ValueError` for settings that cannot be right; those that depend on the model are checked when it is pruned.
    """

    keep_rate: float | Sequence[float]
    layers: Sequence[int] | Literal["all"] | None = None
    bias: Sequence[float] | None = field(default=None, kw_only=True, repr=False, metadata={LATER: True})

    before = False
    """Whether tokens are reduced before a block, and not between its attention and its MLP."""
    static: ClassVar[bool] = True
    """Whether the number of tokens that stay is known without the sound; if not, `counts` are the most there can be."""
    sequential: ClassVar[bool] = False
    """Whether tokens are chosen one after the other, each by those before it: a graph would have a step for each."""
    needs_teacher: ClassVar[bool] = False
    """Whether `loss` compares with the unpruned model."""
    learns: ClassVar[bool] = False
    """Whether training, or what the model reads, needs what `reduce` noted at every pruned block: none of them may then
    be skipped, or run without gradients. A method with a `build`, `finish` or `loss` of its own must say so."""
    choices: ClassVar[Mapping[str, Collection[str]]] = {}
    """Setting → the names that it may have. Each is a modifier of the method's word (`names.modifiers`)."""
    budget = "layer"
    """What keep_rate counts: the tokens that come into a "layer", or those of the whole "clip". By the clip, a layer
    leaves as many tokens as it would if no other method acted, and all where so few are left already. This is for
    chains such as `[PaddingMerge(), ToMe(0.9, layers="all", budget="clip")]`: the sound is left alone as long as
    merging the padding is enough. Methods with a field of this name can count by the clip."""
    proportional = True
    """Whether attention counts a merged token as often as it stands for patches (log(size) is added to its logits)."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        own = [name for name in ("build", "finish", "loss") if getattr(cls, name) is not getattr(Method, name)]
        if own and not any("learns" in vars(base) for base in cls.__mro__ if base is not Method):
            raise TypeError(
                f"{cls.__name__} has a {own[0]} of its own and does not say whether it learns: set learns = True, or "
                "False if a block may be skipped in training"
            )

    def __post_init__(self) -> None:
        rates = self.keep_rate if isinstance(self.keep_rate, Sequence) else [self.keep_rate]
        given: list[Any] = list(rates) or [None]
        for rate in given:
            is_number = isinstance(rate, Real) and not isinstance(rate, bool)
            if not is_number or not 0 < rate <= 1:
                raise ValueError(
                    f"keep_rate is {self.keep_rate!r}; it is the share of tokens that stay at each pruned layer, "
                    "more than 0 and at most 1 (1.0 prunes nothing)"
                )
        if isinstance(self.keep_rate, Sequence):
            object.__setattr__(self, "keep_rate", tuple(float(rate) for rate in rates))
        for name, known in self.choices.items():
            if getattr(self, name) not in tuple(known):  # a list cannot be looked up
                raise ValueError(f"{name} is {getattr(self, name)!r}; {type(self).__name__} takes {', '.join(known)}")
        if self.layers not in (None, "all"):
            object.__setattr__(self, "layers", self._checked_layers(self.layers))
        if self.bias is not None:
            object.__setattr__(self, "bias", self._checked_bias(self.bias))

    @staticmethod
    def _checked_bias(bias: Any) -> tuple[float, ...]:
        numbers: list[Any] = list(bias) if isinstance(bias, Sequence) and not isinstance(bias, str) else [None]
        if not all(isinstance(one, Real) and not isinstance(one, bool) and math.isfinite(one) for one in numbers):
            raise ValueError("bias is no list of finite numbers, one for each label of the model")
        return tuple(map(float, numbers))

    @staticmethod
    def _checked_layers(layers: Any) -> tuple[int, ...]:
        if isinstance(layers, bool | str) or not isinstance(layers, Integral | Sequence):
            raise ValueError(f'layers are {layers!r}; give 0-based block indices such as (3, 6, 9), "all", or None')
        layers = (layers,) if isinstance(layers, Integral) else tuple(layers)
        if not layers or any(isinstance(n, bool) or not isinstance(n, Integral) or n < 0 for n in layers):
            raise ValueError(f"layers are {layers}; give 0-based block indices such as (3, 6, 9), or None")
        layers = tuple(map(int, layers))
        if max(layers) > MOST_LAYERS:
            raise ValueError(f"layers are {layers}; no model has so many blocks")
        if any(a >= b for a, b in itertools.pairwise(layers)):
            raise ValueError(f"layers are {layers}; they must ascend without repeats")
        return layers

    def __str__(self) -> str:
        """The name and whatever differs from the defaults, as one would write it."""
        told = [f for f in dataclasses.fields(self) if f.repr and f.name != "keep_rate"]
        rest = [f for f in told if getattr(self, f.name) != f.default]
        settings = [repr(self.keep_rate), *(f"{f.name}={getattr(self, f.name)!r}" for f in rest)]
        return f"{type(self).__name__}({', '.join(settings)})"

    def schedule(self, depth: int) -> dict[int, float]:
        """Pruned layer → keep rate, for a model of `depth` blocks.

        Raises `ValueError` where a layer lies outside the model or the rates do not match the layers in number.
        """
        layers = range(depth) if self.layers == "all" else self.layers
        if not layers:  # the default, of this version or of an earlier one
            layers = self._spaced(depth)
        assert not isinstance(layers, str)
        if layers[-1] >= depth:
            raise ValueError(
                f"layer {layers[-1]} does not exist: the model has {depth} blocks, 0 … {depth - 1}; name others, or "
                "leave layers out"
            )
        rates = self.keep_rate if isinstance(self.keep_rate, Sequence) else [self.keep_rate] * len(layers)
        if len(rates) != len(layers):
            raise ValueError(f"{len(rates)} keep rates for {len(layers)} pruned layers {tuple(layers)}; give one each")
        return dict(zip(layers, map(float, rates), strict=True))

    def _spaced(self, depth: int) -> tuple[int, ...]:
        """The blocks of `layers=None`."""
        is_earlier = self.layers is EARLIER_SPACING
        blocks = {round(depth * i / 4) if is_earlier else block_at(depth, i, 4) for i in (1, 2, 3)}
        return tuple(sorted(block for block in blocks if block < depth))

    def stages(self, depth: int) -> dict[Place, tuple[Method, float]]:
        """Where each method acts in a model of `depth` blocks, and its keep rate there."""
        return {Place(layer, not self.before): (self, rate) for layer, rate in self.schedule(depth).items()}

    @property
    def methods(self) -> Sequence[Method]:
        """The methods of a chain; of any other method, itself."""
        return (self,)

    def with_keep_rate(self, keep_rate: float | Sequence[float]) -> Self:
        """A copy with another keep rate. The bias of this one is not that of another."""
        changed = dataclasses.replace(self, keep_rate=keep_rate)
        return changed if changed == self else dataclasses.replace(changed, bias=None)

    @property
    @abstractmethod
    def needs(self) -> frozenset[str]:
        """The fields of `Evidence` that `reduce` reads."""

    @property
    def needs_gradient(self) -> bool:
        """Whether gradients must flow through the scores in training."""
        return False

    @property
    def least_rate(self) -> float:
        """Least keep rate that the method takes, to within a hundredth."""
        return 0.01

    @property
    def appends(self) -> bool:
        """Whether a stage leaves one token more, of what it dropped: it has no place in time."""
        return False

    @abstractmethod
    def reduce(self, tokens: Tokens, evidence: Evidence, keep_rate: float) -> Reduction:
        """Keep ceil(keep_rate · n) of the n tokens."""

    def build(self, shape: ModelShape) -> nn.Module | None:
        """What is to be learnt, for a model of this shape; `Evidence.learned` gives it back. None: nothing."""
        return None

    def finish(self, tokens: Tokens, special: Tensor) -> Finish | None:
        """What the model reads in place of the last block's output. None: that output."""
        return None

    def loss(self, learning: LossInputs) -> Tensor | None:
        """What training adds to the loss of the labels, a scalar. None: nothing."""
        return None

    def counts(self, patches: int, depth: int) -> list[int]:
        """Droppable tokens before the first stage and after each, for an input of `patches`."""
        counts = [patches]
        for rate in self.schedule(depth).values():
            counts.append(self.count_after(counts[-1], rate))
        return counts

    def left(self, n: int, evidence: Evidence, keep_rate: float) -> int:
        """How many of n tokens `reduce` should leave, by the budget."""
        if self.budget == "layer":
            return ops.budget(keep_rate, n)
        return min(n, self.clip_budget(evidence))

    def clip_budget(self, evidence: Evidence) -> int:
        """How many tokens of a clip this stage leaves if no other method acts."""
        count = evidence.patches
        for layer, rate in self.schedule(evidence.depth).items():
            count = ops.budget(rate, count) if layer <= evidence.layer else count
        return count

    def count_after(self, n: int, keep_rate: float) -> int:
        """Droppable tokens that a stage leaves of n."""
        return n if keep_rate == 1 else ops.budget(keep_rate, n)
