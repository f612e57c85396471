"""What a count of disagreements shows: exact bounds of a share (Clopper & Pearson 1934), and the clips they need."""

from __future__ import annotations

import math

CONFIDENCE = 0.95
"""Of every bound: the true share is above it in one case of twenty at most."""


def at_most(count: int, clips: int, share: float) -> float:
    """P(X ≤ count) of X ~ Binomial(clips, share)."""
    if share <= 0 or count >= clips:
        return 1.0
    if share >= 1:
        return 0.0
    log_yes, log_no, whole = math.log(share), math.log1p(-share), math.lgamma(clips + 1)
    return min(
        1.0,
        math.fsum(
            math.exp(whole - math.lgamma(i + 1) - math.lgamma(clips - i + 1) + i * log_yes + (clips - i) * log_no)
            for i in range(count + 1)
        ),
    )


def upper_bound(count: int, clips: int, confidence: float = CONFIDENCE) -> float:
    """The one-sided Clopper-Pearson bound: the greatest share under which so few of so many are not too unlikely.

    Raises `ValueError` unless 0 ≤ count ≤ clips and 0 < confidence < 1.
    """
    if not 0 <= count <= clips:
        raise ValueError(f"{count} of {clips} clips; the count must be from 0 to the number of clips")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}; it is a share between 0 and 1, such as {CONFIDENCE}")
    if count == clips:
        return 1.0
    low, high = count / clips, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if at_most(count, clips, middle) > 1 - confidence else (low, middle)
    return high


def upper_bound_of_mean(mean: float, clips: int, confidence: float = CONFIDENCE) -> float:
    """The same for a mean over clips of losses between 0 and 1: the bound of Hoeffding and Bentkus (Bates et al., arXiv
    2101.02703, proposition 8).

    Raises `ValueError` for a mean that is no share.
    """
    if not 0 <= mean <= 1:
        raise ValueError(f"the mean is {mean}; it is a share between 0 and 1")
    count = math.ceil(round(mean * clips, 9))
    low, high = mean, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        chance = min(math.exp(-clips * _divergence(mean, middle)), math.e * at_most(count, clips, middle))
        low, high = (middle, high) if chance > 1 - confidence else (low, middle)
    return high


def _divergence(share: float, other: float) -> float:
    """Kullback-Leibler divergence of two coins, in nats."""
    if share in (other, 1.0):
        return 0.0 if share == other else -math.log(other)
    ends = 0.0 if share == 0 else share * math.log(share / other)
    return ends + (1 - share) * math.log((1 - share) / (1 - other)) if other < 1 else math.inf


def most_allowed(limit: float, clips: int, confidence: float = CONFIDENCE) -> int:
    """The greatest count of so many clips whose upper bound is within the limit; -1 where none is, not even 0."""
    low, high = -1, clips  # the bound of all of them is 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if at_most(middle, clips, limit) <= 1 - confidence else (low, middle)
    return low


def even_chance(limit: float, clips: int) -> float:
    """The true share at which a setting is shown to be within the limit in one case of two; 0 where it never is."""
    allowed = most_allowed(limit, clips)
    if allowed < 0:
        return 0.0
    low, high = 0.0, limit
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if at_most(allowed, clips, middle) >= 0.5 else (low, middle)
    return low


def clips_needed(limit: float, share: float = 0.0, confidence: float = CONFIDENCE) -> int:
    """The least number of clips that shows a limit where this share of them disagrees (none by default): 149 for 2 %.

    Raises `ValueError` where the limit is no share above the one that disagrees.
    """
    if not 0 <= share < limit < 1:
        raise ValueError(f"limit is {limit}; it is a share between the {share} that disagrees and 1")

    def least(count: int) -> int:
        """Clips of which `count` may disagree."""
        low, high = count, max(1, 2 * count)
        while most_allowed(limit, high, confidence) < count:
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if at_most(count, middle, limit) <= 1 - confidence else (middle, high)
        return high

    def is_enough(count: int) -> bool:
        return least(count) * share <= count

    high = 0
    while not is_enough(high):
        high = max(1, 2 * high)
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if is_enough(middle) else (middle, high)
    return least(high)
