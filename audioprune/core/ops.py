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


def widest(x: Tensor) -> Tensor:
    """In float64, on devices that have it."""
    return wide(x) if x.device.type == "mps" else x.double()


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


def bipartite_match(
    keys: Tensor, r: int, column: Tensor | None = None, window: int | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Bipartite soft matching (Token Merging, arXiv 2210.09461, §3): each even token proposes to the odd one of
    highest key cosine, and the r best of these pairs are to be merged.

    keys: (batch, n, dim), r at most n // 2 → kept (batch, n − r), dropped (batch, r), both ascending, and the target
    (batch, r) of each dropped one as an index into kept.
    window: greatest distance of a pair, in time columns (`column`, (batch, n)); None for any. Where an even token has
    no odd one so near, it proposes to the nearest, and only if r pairs are not to be had otherwise.
    """
    n = keys.shape[1]
    if r == 0:  # a single token has no other to propose to
        kept = torch.arange(n, device=keys.device).expand(keys.shape[0], -1)
        return kept, kept[:, :0], kept[:, :0]
    unit = torch.nn.functional.normalize(wide(keys), dim=-1)
    similarity = unit[:, ::2] @ unit[:, 1::2].transpose(1, 2)
    if window is not None:
        assert column is not None
        apart = (column[:, ::2, None] - column[:, None, 1::2]).abs()
        # A cosine is at least -1.
        similarity = torch.where(apart <= window, similarity, -1.0 - apart.to(similarity.dtype))
    best, partner = similarity.max(dim=2)
    even = top_k(best, r)
    dropped = 2 * even
    kept = complement(dropped, n)
    return kept, dropped, place_in(kept, 2 * partner.gather(1, even) + 1, n)


def bipartite_passes(
    keys: Tensor, size: Tensor | None, k: int, column: Tensor | None = None, window: int | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """As `bipartite_match`, until k of the n tokens are left: each pass matches what the one before has left, at most
    half of it goes, and the keys of what was merged are size-weighted means.

    keys: (batch, n, dim); size: (batch, n), None if all are 1 → kept (batch, k), dropped (batch, n − k), target.
    column, window: as in `bipartite_match`; what was merged has the column of the token that stays.
    """
    n = keys.shape[1]
    if n - k <= n // 2:
        return bipartite_match(keys, n - k, column, window)
    size = torch.ones_like(keys[..., 0], dtype=torch.float32) if size is None else size
    places = torch.arange(n, device=keys.device).expand(keys.shape[0], -1)
    kept = holder = places
    while keys.shape[1] > k:
        r = min(keys.shape[1] - k, keys.shape[1] // 2)
        stays, goes, target = bipartite_match(keys, r, column, window)
        column = None if column is None else column.gather(1, stays)
        holder = destination(stays, goes, target).gather(1, holder)
        kept = kept.gather(1, stays)
        keys, size = merge(keys, size, stays, goes, target)
    dropped = complement(kept, n)
    return kept, dropped, holder.gather(1, dropped)


def place_in(kept: Tensor, positions: Tensor, n: int) -> Tensor:
    """For each of some positions, of 0 … n − 1, that were kept its index into kept. (batch, m) → (batch, m)."""
    places = torch.arange(kept.shape[1], device=kept.device).expand_as(kept)
    return (
        torch.zeros(kept.shape[0], n, dtype=torch.long, device=kept.device)
        .scatter(1, kept, places)
        .gather(1, positions)
    )


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


def cosines(x: Tensor) -> Tensor:
    """(batch, n, dim) → (batch, n, n), exactly symmetric and exactly 1 between a vector and itself, 0 for a zero one.

    Products round differently in different corners of a matrix, and two that are nearest to each other must tie.
    """
    unit = torch.nn.functional.normalize(wide(x), dim=-1)
    product = unit @ unit.transpose(1, 2)
    own = (unit != 0).any(dim=-1).to(product.dtype)
    return ((product + product.transpose(1, 2)) / 2).diagonal_scatter(own, dim1=1, dim2=2)


def farthest_points(features: Tensor, k: int) -> Tensor:
    """k of n tokens that are far apart, in the order in which they are chosen; distance is 1 − cosine.

    The first is the token whose nearest other is farthest, each next one that whose nearest chosen one is farthest; of
    equals the earlier (DivPrune, arXiv 2503.02175, algorithm 1, and its official code for the first).
    features: (batch, n, dim) → (batch, k) positions, all different.
    """
    distance = 1 - cosines(features)
    n = distance.shape[1]
    itself = torch.eye(n, dtype=torch.bool, device=distance.device)
    pick = distance.masked_fill(itself, float("inf")).amin(dim=2).argmax(dim=1, keepdim=True)
    gap, order = torch.full_like(distance[:, 0], float("inf")), [pick]
    while len(order) < k:
        to_pick = distance.gather(1, pick[..., None].expand(-1, 1, n))[:, 0]
        # The chosen stay out: no distance is smaller than −inf.
        gap = torch.minimum(gap, to_pick).scatter(1, pick, float("-inf"))
        pick = gap.argmax(dim=1, keepdim=True)
        order.append(pick)
    return torch.cat(order, dim=1)


def greedy_dpp(kernel: Tensor, relevance: Tensor, k: int) -> Tensor:
    """k of n tokens, each the one that makes the determinant of the kernel over the chosen greatest, in the order in
    which they are chosen: greedy MAP inference of a determinantal point process, by an incremental Cholesky
    factorisation (Chen et al., arXiv 1709.05135, algorithm 1).

    Once the chosen span all others, so that the determinant would be 0, the most relevant come next. Of equals the
    earlier. kernel: (batch, n, n), positive semidefinite. relevance: (batch, n). Returns (batch, k) positions, all
    different.
    """
    own = kernel.diagonal(dim1=1, dim2=2)
    # Rounding leaves a little of a token that the chosen ones span, in proportion to itself.
    least = own * torch.finfo(kernel.dtype).eps ** 0.75
    # gain: the factor by which a token would multiply the determinant. factors: rows of the Cholesky factor.
    gain, factors = own, kernel.new_zeros(kernel.shape[0], k, kernel.shape[1])
    left, order = torch.ones_like(own, dtype=torch.bool), []
    for i in range(k):
        live = left & (gain > least)
        some = live.any(dim=1, keepdim=True)
        best = gain.masked_fill(~live, float("-inf")).argmax(dim=1, keepdim=True)
        rest = relevance.masked_fill(~left, float("-inf")).argmax(dim=1, keepdim=True)
        pick = torch.where(some, best, rest)
        factor = torch.where(some, _cholesky_row(kernel, factors[:, :i], gain, pick), 0.0)
        factors[:, i], gain, left = factor, gain - factor**2, left.scatter(1, pick, False)
        order.append(pick)
    return torch.cat(order, dim=1)


def _cholesky_row(kernel: Tensor, factors: Tensor, gain: Tensor, pick: Tensor) -> Tensor:
    """(batch, n), the next row of the factor, for a pick (batch, 1), after those (batch, i, n) of earlier ones."""
    row = kernel.gather(1, pick[..., None].expand(-1, 1, kernel.shape[1]))
    column = factors.gather(2, pick[:, None].expand(-1, factors.shape[1], 1))
    root = gain.gather(1, pick).clamp_min(torch.finfo(gain.dtype).tiny).sqrt()
    return (row - column.transpose(1, 2) @ factors)[:, 0] / root


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


def places_of(kept: Tensor, count: int) -> Tensor:
    """(batch, count), which of the kept tokens each of `count` became, -1 where none. kept: as in `Reduction`."""
    places = torch.arange(kept.shape[1], device=kept.device).expand(len(kept), -1)
    # One spare place takes the filler.
    table = torch.full((len(kept), count + 1), -1, device=kept.device)
    return table.scatter(1, torch.where(kept < 0, count, kept), places)[:, :-1]
