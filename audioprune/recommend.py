"""recommended(model): the best training-free setting that was measured, at the size that is asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from .adapters import find_adapter
from .cost import macs as count
from .methods import Method, ToMe
from .pruning import prune

STARTS = (0.0, 0.25, 0.5)
"""Where the recommended method reduces, in shares of the depth: after the attention of blocks 1, 4 and 7 of 12."""
STEPS = 10


def recommended_at(keep_rate: float, depth: int) -> Method:
    """The recommended method at a keep rate, for a model of `depth` blocks."""
    return ToMe(keep_rate, layers=sorted({round(start * depth) for start in STARTS}))


def recommended(model: nn.Module, macs: float = 0.5, *, inputs: Tensor | Mapping[str, Tensor] | None = None) -> Method:
    """The training-free method that agreed best with the unpruned model in our measurements (docs/results.md), with
    the greatest keep rate at which the model computes at most `macs` of its multiply-accumulates, its own cost
    included.

        ap.prune(model, ap.recommended(model, macs=0.25))

    Args:
        macs: share of the unpruned model's multiply-accumulates, in (0, 1].
        inputs: a typical batch, for models that take clips of any length; others need none.

    Raises:
        ValueError: `macs` is no share, or so small that even one token a stage would cost more.
        UnsupportedModelError, AlreadyPrunedError: as `prune`.
    """
    if not 0 < macs <= 1:
        raise ValueError(f"macs is {macs!r}; it is a share of the unpruned model's multiply-accumulates, in (0, 1]")
    depth = len(find_adapter(model).layers)
    method = recommended_at(1.0, depth)
    with prune(model, method) as handle:
        unpruned = count(model, inputs=inputs)

        def share(keep_rate: float) -> float:
            handle.keep_rate = keep_rate
            return count(model, inputs=inputs) / unpruned

        return method.with_keep_rate(_greatest(share, macs, least=0.5))


def _greatest(share: Callable[[float], float], limit: float, least: float) -> float:
    """The greatest keep rate from `least` to 1, to three digits, whose share of the work is within the limit."""
    low, high = round(1000 * least), 1000
    if share(1.0) <= limit:
        return 1.0
    if share(least) > limit:
        raise ValueError(
            f"macs is {limit}, but at keep rate {least} there are still {share(least):.2f} of the "
            "multiply-accumulates; ask for more, or set keep_rate and layers by hand"
        )
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if share(middle / 1000) <= limit else (low, middle)
    return low / 1000
