"""Pure tensor functions that methods are composed of. No model, no method, no state."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def budget(keep_rate: float, n: int) -> int:
    """K = ceil(keep_rate · n), at least 1. Rounding noise of the product (0.1 · 30 = 3.0000000000000004) is ignored."""
    return max(1, math.ceil(round(keep_rate * n, 9)))


def top_k(scores: Tensor, k: int) -> Tensor:
    """Positions of the k highest scores, (batch, n) → (batch, k), ascending. Of equal scores the earlier wins."""
    order = scores.argsort(dim=1, descending=True, stable=True)
    return order[:, :k].sort(dim=1).values


def segment_of(column: Tensor, columns: int, segments: int) -> Tensor:
    """⌊S·t/T⌋ for each token's time column t of T, same shape; tokens without a column (t < 0) are in segment S."""
    return torch.where(column < 0, segments, (column * segments) // columns)


def top_k_segmentwise(scores: Tensor, segment: Tensor, k: int, segments: int) -> Tensor:
    """The ⌊k/S⌋ highest scores of each of S time segments, and the remainder by score over all.

    scores: (batch, n). segment: (batch, n) integers; those outside 0 … S − 1 have no quota. A segment with fewer
    tokens than its quota keeps them all. Returns (batch, k) positions, ascending; of equal scores the earlier wins.
    Segmentwise Pruning in Audio-Language Models (arXiv 2511.14293), with S ≤ k.
    """
    order = scores.argsort(dim=1, descending=True, stable=True)
    sorted_segment = segment.gather(1, order)
    # Grouping the score order by segment (stably) puts each token at its rank plus its group's start.
    grouped = sorted_segment.argsort(dim=1, stable=True)
    counts = torch.zeros(scores.shape[0], segments + 1, dtype=torch.long, device=scores.device)
    counts = counts.scatter_add(1, segment, torch.ones_like(segment))
    starts = counts.cumsum(1) - counts
    position = torch.arange(scores.shape[1], device=scores.device).expand_as(order)
    rank_in_group = position - starts.gather(1, sorted_segment.gather(1, grouped))
    rank = torch.empty_like(rank_in_group).scatter(1, grouped, rank_in_group)
    guaranteed = (rank < k // segments) & (sorted_segment < segments)
    # Stable: first the guaranteed, then the others, each by descending score.
    chosen = (~guaranteed).to(torch.uint8).argsort(dim=1, stable=True)[:, :k]
    return order.gather(1, chosen).sort(dim=1).values


def complement(kept: Tensor, n: int) -> Tensor:
    """Positions 0 … n − 1 that are not in kept, (batch, k) → (batch, n − k), ascending."""
    mask = torch.zeros(kept.shape[0], n, dtype=torch.uint8, device=kept.device).scatter(1, kept, 1)
    return mask.argsort(dim=1, stable=True)[:, : n - kept.shape[1]]


def gather_tokens(x: Tensor, positions: Tensor) -> Tensor:
    """x: (batch, n, width), positions: (batch, k) → (batch, k, width)."""
    return x.gather(1, positions[..., None].expand(-1, -1, x.shape[2]))


def wide(x: Tensor) -> Tensor:
    """In float32 at least: sums over many tokens overflow float16, and cosines tie in bfloat16."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def nearest(keys: Tensor, kept: Tensor, dropped: Tensor) -> Tensor:
    """For each dropped token the index *into kept* of the kept token with the highest key cosine.

    keys: (batch, n, dim) → (batch, n − k).
    """
    unit = torch.nn.functional.normalize(wide(keys), dim=-1)
    cosine = gather_tokens(unit, dropped) @ gather_tokens(unit, kept).transpose(1, 2)
    return cosine.argmax(dim=2)


def merge(x: Tensor, size: Tensor, kept: Tensor, dropped: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Size-weighted mean of each kept token and the dropped ones that joined it (Token Merging, arXiv 2210.09461).

    x: (batch, n, width); size: (batch, n); target: (batch, n − k) indices into kept.
    Returns (batch, k, width) and the new sizes (batch, k), which sum to the old.
    """
    size_kept, size_dropped = size.gather(1, kept), size.gather(1, dropped)
    total = size_kept.scatter_add(1, target, size_dropped)
    weighted = wide(gather_tokens(x, kept)) * size_kept[..., None]
    incoming = wide(gather_tokens(x, dropped)) * size_dropped[..., None]
    weighted = weighted.scatter_add(1, target[..., None].expand_as(incoming), incoming)
    return (weighted / total[..., None]).to(x.dtype), total


def absorb(x: Tensor, size: Tensor, kept: Tensor, dropped: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """As `merge`, but kept tokens stay as they are, and only their sizes grow by those of the dropped."""
    return gather_tokens(x, kept), size.gather(1, kept).scatter_add(1, target, size.gather(1, dropped))


def merge_keeping_norm(x: Tensor, size: Tensor, kept: Tensor, dropped: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """As `merge`, but each merged token is as long as the longest that went into it: MLERP, the mean's direction and
    the greatest norm (Token Fusion, arXiv 2312.01026)."""
    mean, total = merge(x, size, kept, dropped, target)
    norm = wide(x).norm(dim=-1)
    longest = norm.gather(1, kept).scatter_reduce(1, target, norm.gather(1, dropped), "amax")
    length = wide(mean).norm(dim=-1)
    alone = total == size.gather(1, kept)
    factor = torch.where(alone, 1.0, longest / length.clamp_min(torch.finfo(length.dtype).tiny))
    return (wide(mean) * factor[..., None]).to(x.dtype), total


def bipartite_match(keys: Tensor, r: int) -> tuple[Tensor, Tensor, Tensor]:
    """Bipartite soft matching (Token Merging, arXiv 2210.09461, §3): each even token proposes to the odd one of
    highest key cosine, and the r best of these pairs are to be merged.

    keys: (batch, n, dim), r at most n // 2 → kept (batch, n − r), dropped (batch, r), both ascending, and the target
    (batch, r) of each dropped one as an index into kept.
    """
    n = keys.shape[1]
    if r == 0:  # a single token has no other to propose to
        kept = torch.arange(n, device=keys.device).expand(keys.shape[0], -1)
        return kept, kept[:, :0], kept[:, :0]
    unit = torch.nn.functional.normalize(wide(keys), dim=-1)
    best, partner = (unit[:, ::2] @ unit[:, 1::2].transpose(1, 2)).max(dim=2)
    even = top_k(best, r)
    dropped = 2 * even
    kept = complement(dropped, n)
    return kept, dropped, _place_in(kept, 2 * partner.gather(1, even) + 1, n)


def _place_in(kept: Tensor, positions: Tensor, n: int) -> Tensor:
    """For each of some positions that were kept its index into kept."""
    places = torch.arange(kept.shape[1], device=kept.device).expand_as(kept)
    return (
        torch.zeros(kept.shape[0], n, dtype=torch.long, device=kept.device)
        .scatter(1, kept, places)
        .gather(1, positions)
    )


def runs(order: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """k runs of neighbours, as even in length as can be: the i-th of n tokens in some order is in run ⌊i·k/n⌋.

    order: (batch, n), positions. Returns, as `bipartite_match`, kept (the first of each run), dropped and target.
    """
    n = order.shape[1]
    run = torch.arange(n, device=order.device) * k // n
    first = torch.searchsorted(run, torch.arange(k, device=order.device))
    kept = order[:, first].sort(dim=1).values
    dropped = complement(kept, n)
    run_of = torch.zeros_like(order).scatter(1, order, run.expand_as(order))
    leader = order[:, first].gather(1, run_of.gather(1, dropped))
    return kept, dropped, _place_in(kept, leader, n)


def destination(kept: Tensor, dropped: Tensor, target: Tensor) -> Tensor:
    """(batch, n), the index into kept that each token goes to: its own, or its target's."""
    places = torch.arange(kept.shape[1], device=kept.device).expand_as(kept)
    return torch.cat((places, target), dim=1).gather(1, torch.cat((kept, dropped), dim=1).argsort(dim=1))


def positions(mask: Tensor) -> tuple[Tensor, Tensor]:
    """(batch, n) booleans → positions (batch, K) of the true ones, ascending, -1 as filler, and their numbers (batch,).

    K is the greatest number in a row, so that it depends on the data.
    """
    lengths = mask.sum(dim=1)
    order = (~mask).to(torch.uint8).argsort(dim=1, stable=True)[:, : int(lengths.max())]
    real = torch.arange(order.shape[1], device=mask.device) < lengths[:, None]
    return torch.where(real, order, -1), lengths


def inverse_transform_sample(scores: Tensor, k: int) -> Tensor:
    """(batch, n) booleans: the tokens that k evenly spaced quantiles of the scores' distribution fall on.

    Tokens are laid out by ascending score; quantile (2i − 1) / 2k, i = 1 … k, falls on the first token at which the
    cumulative share of the scores reaches it. A token that several fall on is taken once, so that at most k are
    taken (Adaptive Token Sampling, arXiv 2111.15667, §3.2).
    """
    scores = wide(scores)
    ordered, order = scores.sort(dim=1, stable=True)
    cumulative = ordered.double().cumsum(dim=1)
    quantile = (torch.arange(k, device=scores.device, dtype=torch.float64) + 0.5) / k
    wanted = quantile * cumulative[:, -1:]
    index = torch.searchsorted(cumulative, wanted).clamp_max(scores.shape[1] - 1)
    return torch.zeros_like(scores, dtype=torch.bool).scatter(1, order.gather(1, index), True)


def fuse(x: Tensor, weights: Tensor, dropped: Tensor) -> Tensor:
    """One token Σ wᵢ·xᵢ of the dropped ones, unnormalised (EViT, arXiv 2202.07800). (batch, 1, width)."""
    weight = weights.gather(1, dropped)[..., None]
    return (wide(gather_tokens(x, dropped)) * weight).sum(dim=1, keepdim=True).to(x.dtype)


def pseudo_random(patch: Tensor, seed: int, layer: int) -> Tensor:
    """A number in [0, 1) for each patch, the same for every clip, batch, device and backend.

    A counter-based hash in 31-bit integer arithmetic: it needs no generator, so it compiles and exports.
    """
    mask = 0x7FFFFFFF
    x = (patch + 2 + ((1_000_003 * (layer + 1) + 2_654_435_761 * seed) & mask)) & mask
    for multiplier in (0x2545F491, 0x4F6CDD1D, 0x369DEA0F):
        x = ((x ^ (x >> 15)) * multiplier) & mask
    return (x ^ (x >> 16)).to(torch.float64).div(mask + 1).to(torch.float32)
