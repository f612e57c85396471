"""Pure tensor functions of neighbours in time: runs of tokens that become one."""

from __future__ import annotations

import torch
from torch import Tensor

from . import ops

BELOW_ALL = 4.0
"""More than two cosines can differ by."""


def time_order(row: Tensor, column: Tensor, columns: int) -> Tensor:
    """Positions along time, one frequency row after the other, (batch, n) → (batch, n). With a single row: in time.

    row, column: of each token, `columns` in all, no two tokens alike.
    """
    return (row * columns + column).argsort(dim=1)


def runs(order: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """k runs of neighbours, as even in length as can be: the i-th of n tokens in some order is in run ⌊i·k/n⌋.

    order: (batch, n), positions. Returns kept, dropped and target, as `run_targets`.
    """
    n = order.shape[1]
    return run_targets(order, (torch.arange(n, device=order.device) * k // n).expand_as(order), k)


def run_targets(order: Tensor, run: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Who joins whom where each run of neighbours becomes its first.

    order: (batch, n), positions. run: (batch, n), the run of each place in that order, from 0 to k − 1, ascending.
    Returns, as `bipartite_match`, kept (the first of each run), dropped and target.
    """
    wanted = torch.arange(k, device=order.device).expand(order.shape[0], -1)
    first = order.gather(1, torch.searchsorted(run.contiguous(), wanted.contiguous()))
    kept = first.sort(dim=1).values
    dropped = ops.complement(kept, order.shape[1])
    run_of = torch.zeros_like(order).scatter(1, order, run)
    return kept, dropped, ops.place_in(kept, first.gather(1, run_of.gather(1, dropped)), order.shape[1])


def neighbour_cosine(x: Tensor, row: Tensor) -> Tensor:
    """Cosine of each token and the next, −inf where that is in another row.

    x: (batch, n, dim), row: (batch, n), both in time order → (batch, n − 1).
    """
    unit = torch.nn.functional.normalize(ops.wide(x), dim=-1)
    return (unit[:, :-1] * unit[:, 1:]).sum(dim=-1).masked_fill(row[:, :-1] != row[:, 1:], float("-inf"))


def linked_runs(x: Tensor, row: Tensor, k: int) -> Tensor:
    """The run of each token, of k, where the n − k most similar links between neighbours join them (after FastAdaSP,
    arXiv 2410.03007). Of equal links the earlier joins.

    x: (batch, n, dim), row: (batch, n), both in time order; k is at least the number of rows. Returns (batch, n), from
    0 to k − 1, ascending.
    """
    return _joined_by(neighbour_cosine(x, row), row, k)


def segment_runs(x: Tensor, row: Tensor, k: int) -> Tensor:
    """As `linked_runs`, but a boundary lies where a peak of dissimilarity is: a link that is less similar than the
    links beside it in its row. Other links are boundaries only if there are too few peaks.
    """
    similarity = neighbour_cosine(x, row)
    # Beyond the ends of a row nothing is dissimilar.
    beside = torch.nn.functional.pad(similarity, (1, 1), value=float("inf"))
    beside = torch.where(beside.isneginf(), float("inf"), beside)
    is_peak = (similarity < beside[:, :-2]) & (similarity < beside[:, 2:])
    return _joined_by(torch.where(is_peak, similarity - BELOW_ALL, similarity), row, k)


def _joined_by(similarity: Tensor, row: Tensor, k: int) -> Tensor:
    """Runs if the n − k most similar of the links, (batch, n − 1), join their tokens."""
    linked = ops.top_k(similarity, row.shape[1] - k)
    return torch.ones_like(row).scatter(1, linked + 1, 0).cumsum(dim=1) - 1


def run_similarity(unit: Tensor, row: Tensor, threshold: float) -> Tensor:
    """Mean cosine of each token but the first with the run before it, (batch, n − 1); −inf at the start of a row.

    A token belongs to that run if its mean cosine is at least the threshold; else it begins the next (SA-MAP).
    unit: (batch, n, dim), of length 1, row: (batch, n), both in time order.
    """
    total, count, found = unit[:, 0], torch.ones_like(unit[:, 0, :1]), []
    for i in range(1, unit.shape[1]):
        new_row = row[:, i] != row[:, i - 1]
        similarity = ((unit[:, i] * total).sum(dim=1) / count[:, 0]).masked_fill(new_row, float("-inf"))
        joins = (similarity >= threshold)[:, None]
        total = torch.where(joins, total + unit[:, i], unit[:, i])
        count = torch.where(joins, count + 1, 1.0)
        found.append(similarity)
    return torch.stack(found, dim=1) if found else unit[:, 1:, 0]


def paired_runs(x: Tensor, size: Tensor, row: Tensor, k: int, rows: int) -> Tensor:
    """The run of each token, of k, where pairs of neighbours merge into their size-weighted means, the most similar
    first, pass after pass until k are left (A-ToMe, arXiv 2306.16009).

    x: (batch, n, dim), size and row: (batch, n), all in time order; k is at least `rows`, the number of rows. Returns
    (batch, n), from 0 to k − 1, ascending.
    """
    n = x.shape[1]
    run = torch.arange(n, device=x.device).expand_as(row)
    # Means point where sums do, and nothing but the direction is compared.
    weighted = ops.wide(x) * size[..., None]
    # A row of m tokens has ⌊m/2⌋ pairs, so that a pass at least halves what there is beyond one token a row.
    surplus = n - rows
    while surplus > k - rows:
        run = _join_pairs(weighted, run, row, k)
        surplus //= 2
    return run


def _join_pairs(weighted: Tensor, run: Tensor, row: Tensor, k: int) -> Tensor:
    """One pass of `paired_runs`: in each row, run 2i + 1 joins run 2i, the most similar first, until k are left."""
    places = torch.arange(run.shape[1], device=run.device).expand_as(run)
    sums = torch.zeros_like(weighted).scatter_add(1, run[..., None].expand_as(weighted), weighted)
    # Of each run, in slots of which those past the last run are empty.
    row_of = torch.zeros_like(row).scatter(1, run, row)
    similarity = neighbour_cosine(sums, row_of)
    pair = _opens_pair(row_of) & (similarity > float("-inf")) & (places[:, 1:] <= run[:, -1:])
    order = similarity.masked_fill(~pair, float("-inf")).argsort(dim=1, descending=True, stable=True)
    rank = torch.empty_like(order).scatter(1, order, places[:, :-1])
    joins = pair & (rank < run[:, -1:] + 1 - k)
    return run - torch.nn.functional.pad(joins, (1, 0)).cumsum(dim=1).gather(1, run)


def similar_pairs(x: Tensor, row: Tensor, threshold: float, most: int) -> Tensor:
    """Pairs of neighbours 2i and 2i + 1 of a row whose cosine exceeds a threshold, the most similar first, of `most`
    at most (A-ToMe, arXiv 2306.16009, with its threshold).

    x: (batch, n, dim), row: (batch, n), both in time order, row by row. Returns (batch, n) booleans: whether a token
    joins the one before it.
    """
    similarity = neighbour_cosine(x, row)
    pair = _opens_pair(row) & (similarity > threshold)
    order = similarity.masked_fill(~pair, float("-inf")).argsort(dim=1, descending=True, stable=True)
    rank = torch.empty_like(order).scatter(1, order, torch.arange(order.shape[1], device=x.device).expand_as(order))
    return torch.nn.functional.pad(pair & (rank < most), (1, 0))


def _opens_pair(row: Tensor) -> Tensor:
    """(batch, n − 1) booleans: whether a token has an even place in its row, (batch, n)."""
    places = torch.arange(row.shape[1], device=row.device).expand_as(row)
    enters = torch.nn.functional.pad(row[:, 1:] != row[:, :-1], (1, 0), value=True)
    return (places - last_true(enters))[:, :-1] % 2 == 0


def last_true(mask: Tensor) -> Tensor:
    """(batch, n) booleans → (batch, n), position of the last true one at or before each; 0 if there is none."""
    places = torch.arange(mask.shape[1], device=mask.device).expand_as(mask)
    return torch.where(mask, places, 0).cummax(dim=1).values


def place_in_run(mask: Tensor, row: Tensor) -> Tensor:
    """Place of each true one among the true ones right before it in its row, from 0; negative numbers for others.

    mask: (batch, n) booleans, row: (batch, n), both row by row → (batch, n).
    """
    places = torch.arange(mask.shape[1], device=mask.device).expand_as(row)
    return torch.where(mask, places - last_true(_begins_run(mask, row)), -1)


def length_of_run(mask: Tensor, row: Tensor) -> Tensor:
    """Number of true ones in the run that each true one is in, 0 for others. Arguments as in `place_in_run`."""
    run = _begins_run(mask, row).cumsum(dim=1)
    counts = run.new_zeros(run.shape[0], run.shape[1] + 1).scatter_add(1, run, mask.long())
    return torch.where(mask, counts.gather(1, run), 0)


def middle_of_run(begins: Tensor) -> Tensor:
    """Position of the middle token, the earlier of two, of the run that each token is in.

    begins: (batch, n) booleans, whether a run begins; the first does → (batch, n).
    """
    run = begins.cumsum(dim=1) - 1
    length = torch.zeros_like(run).scatter_add(1, run, torch.ones_like(run)).gather(1, run)
    return last_true(begins) + (length - 1) // 2


def _begins_run(mask: Tensor, row: Tensor) -> Tensor:
    goes_on = torch.nn.functional.pad(mask[:, :-1] & (row[:, 1:] == row[:, :-1]), (1, 0))
    return mask & ~goes_on
