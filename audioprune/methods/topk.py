"""TopK token pruning, and its three free choices."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from ..core import ops
from ..core.tokens import Evidence, Reduction, Tokens
from .base import LATER, Method
from .fates import FATES
from .scores import SCORES
from .spending import segmentwise, whole


@dataclass(frozen=True)
class TopK(Method):
    """Keep the ceil(keep_rate · n) tokens with the highest scores, after the attention of a few blocks.

    Token Pruning in Audio Transformers (Lee & Lee, arXiv 2504.01690, §3.1). The defaults are the paper's.

    score: "attention" received (eq. 2a), "cls" attention (eq. 2b), "intensity", "variation" of the patch, "random", or
        "selective" (attention received, of selective heads above all).
    order: "highest" scores stay, or the "lowest": Bottom-K, a baseline of arXiv 2511.14293.
    segments: None spends the budget on the whole clip; a number S gives each of S time segments ⌊K/S⌋ tokens.
    dropped: "discard", "fuse" into one token (EViT), or "merge" into the nearest kept token, with sizes carried on.
    seed: of the random score.
    proportional: whether later attention counts a merged token as often as it stands for patches.
    """

    choices: ClassVar = {"score": SCORES, "dropped": FATES, "order": ("highest", "lowest")}

    score: str = "attention"
    segments: int | None = None
    dropped: str = "discard"
    seed: int = 0
    proportional: bool = True
    order: str = field(default="highest", metadata={LATER: True})

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.seed, int):
            raise ValueError(f"seed is {self.seed!r}; it is a whole number")
        if self.segments is not None and (type(self.segments) is not int or self.segments < 1):
            raise ValueError(f"segments is {self.segments!r}; it is a number of time segments, at least 1, or None")

    @property
    def needs(self) -> frozenset[str]:
        return SCORES[self.score].needs | FATES[self.dropped].needs

    @property
    def needs_gradient(self) -> bool:
        # The fused token is weighted by its scores, so they are part of the function that is trained.
        return self.dropped == "fuse"

    def spend_in(self, default: int = 8) -> int | None:
        """Number of time segments to spend the budget in, None for the whole clip at once. default: the adapter's."""
        return self.segments

    @property
    def appends(self) -> bool:
        return FATES[self.dropped].adds > 0

    def count_after(self, n: int, keep_rate: float) -> int:
        kept = super().count_after(n, keep_rate)
        return kept + FATES[self.dropped].adds if kept < n else n

    def reduce(self, tokens: Tokens, evidence: Evidence, keep_rate: float) -> Reduction:
        score, k = SCORES[self.score], ops.budget(keep_rate, tokens.count)
        scores = score.compute(evidence, self.seed)
        segments = self.spend_in(evidence.default_segments)
        ranked = scores.detach() if self.order == "highest" else -scores.detach()
        kept = whole(ranked, k) if segments is None else segmentwise(ranked, evidence, k, segments)
        weights = scores if score.is_share else _even(tokens, tokens.count - k)
        if k == tokens.count:
            return Reduction(tokens, kept, scores)
        left, destination = FATES[self.dropped].apply(tokens, evidence, kept, weights)
        return Reduction(left, kept, scores, destination)


def _even(tokens: Tokens, dropped: int) -> Tensor:
    """(batch, n), the same weight for each token that is dropped."""
    return ops.wide(tokens.hidden[..., 0]).new_full(tokens.patch.shape, 1 / max(1, dropped))


@dataclass(frozen=True)
class SegmentwiseTopK(TopK):
    """Segmentwise Top-K: the ⌊K/S⌋ best tokens of each of S time segments (Gibier et al., arXiv 2511.14293).

    The named form of `TopK(segments=S)`: `segments=None` means 8 in a classifier and S = K, one token in each segment,
    in an audio-language model. Figure 1 of the paper shows S = K. A secondary source says that its tables have S = 10,
    and that S was varied from 2 to 15; we could not see them.
    """

    def spend_in(self, default: int = 8) -> int:
        return default if self.segments is None else self.segments
