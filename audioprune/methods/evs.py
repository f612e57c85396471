"""EVS: what changes stays."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import pad

from ..core import neighbours, ops
from ..core.tokens import Evidence, Tokens
from .selection import Selection


@dataclass(frozen=True)
class EVS(Selection):
    """Keep the K tokens that are least like the one before them in time.

    Efficient Video Sampling (Bagrov et al., arXiv 2510.14624), which drops the patches of a video that resemble those
    of the frame before, applied to sound. A token's score is 1 − cosine of its hidden state and that of the token
    before it in its frequency row, of those that are left; the first of a row has none before it, and scores 2, the
    most there can be.
    """

    def select(self, tokens: Tokens, evidence: Evidence, k: int) -> tuple[Tensor, Tensor]:
        order = neighbours.time_order(evidence.row, evidence.column, evidence.columns)
        hidden = ops.gather_tokens(tokens.hidden.detach(), order)
        # Without a token before it the cosine is −inf, and the score is cut to 2.
        change = 1 - pad(neighbours.neighbour_cosine(hidden, evidence.row.gather(1, order)), (1, 0), value=-1.0)
        scores = change.new_zeros(change.shape).scatter(1, order, change.clamp_max(2.0))
        return ops.top_k(scores, k), scores
