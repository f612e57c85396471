"""Spending: where the budget of K tokens goes. The second of a method's three choices."""

from __future__ import annotations

from torch import Tensor

from ..core import ops
from ..core.tokens import Evidence


def whole(scores: Tensor, k: int) -> Tensor:
    """The K highest scores of the clip: (batch, n) → (batch, k) positions, ascending."""
    return ops.top_k(scores, k)


def segmentwise(scores: Tensor, evidence: Evidence, k: int, segments: int) -> Tensor:
    """⌊K/S⌋ tokens of each of S time segments, so that every moment stays represented (arXiv 2511.14293).

    Segments are cut by the original time column of each patch. S is at most K and at most the number of columns.
    """
    segments = min(segments, k, evidence.columns)
    segment = ops.segment_of(evidence.column, evidence.columns, segments)
    return ops.top_k_segmentwise(scores, segment, k, segments)
