"""Tensor operations against slow, obvious references."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from audioprune import ops

seeds = st.integers(0, 2**31)


def random_scores(seed: int, batch: int, n: int, levels: int = 5) -> torch.Tensor:
    """Few distinct values, so that ties are common."""
    return torch.randint(levels, (batch, n), generator=torch.Generator().manual_seed(seed)).float()


@given(st.integers(1, 1000), st.integers(1, 4096))
def test_budget_is_the_exact_ceiling(thousandths: int, n: int) -> None:
    assert ops.budget(thousandths / 1000, n) == math.ceil(Fraction(thousandths, 1000) * n)


@given(seeds, st.integers(1, 40), st.data())
def test_top_k_takes_the_highest_and_of_equals_the_first(seed: int, n: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, n))
    scores = random_scores(seed, 2, n)
    expected = [sorted(sorted(range(n), key=lambda i: (-row[i], i))[:k]) for row in scores.tolist()]
    assert ops.top_k(scores, k).tolist() == expected


@given(seeds, st.integers(1, 40), st.data())
def test_segmentwise_against_its_definition(seed: int, n: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, n))
    segments = data.draw(st.integers(1, k))
    columns = data.draw(st.integers(1, 12))
    scores = random_scores(seed, 2, n)
    # Some tokens have no column, as fused ones have not.
    column = torch.randint(-1, columns, (2, n), generator=torch.Generator().manual_seed(seed + 1))
    segment = ops.segment_of(column, columns, segments)
    kept = ops.top_k_segmentwise(scores, segment, k, segments).tolist()
    for row in range(2):
        order = sorted(range(n), key=lambda i: (-float(scores[row, i]), i))
        chosen: list[int] = []
        for s in range(segments):
            mine = [i for i in order if column[row, i] >= 0 and int(column[row, i]) * segments // columns == s]
            chosen += mine[: k // segments]
        chosen += [i for i in order if i not in chosen][: k - len(chosen)]
        assert kept[row] == sorted(chosen)


@given(seeds, st.integers(2, 40), st.data())
def test_complement(seed: int, n: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, n - 1))
    kept = ops.top_k(random_scores(seed, 3, n), k)
    assert ops.complement(kept, n).tolist() == [[i for i in range(n) if i not in row] for row in kept.tolist()]


@given(seeds, st.integers(2, 20), st.data())
def test_merging_keeps_the_total(seed: int, n: int, data: st.DataObject) -> None:
    """Sizes add up, the size-weighted sum of tokens stays, and each group's mean is its mean."""
    k = data.draw(st.integers(1, n - 1))
    generator = torch.Generator().manual_seed(seed)
    x, keys = (torch.randn(2, n, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    size = torch.randint(1, 5, (2, n), generator=generator).double()
    kept = ops.top_k(torch.rand(2, n, generator=generator), k)
    dropped = ops.complement(kept, n)
    target = ops.nearest(keys, kept, dropped)
    merged, sizes = ops.merge(x, size, kept, dropped, target)
    assert torch.allclose(sizes.sum(1), size.sum(1))
    assert torch.allclose((merged * sizes[..., None]).sum(1), (x * size[..., None]).sum(1))
    for row in range(2):
        for j, keep in enumerate(kept[row].tolist()):
            group = [keep] + [d for d, t in zip(dropped[row].tolist(), target[row].tolist(), strict=True) if t == j]
            mean = (x[row, group] * size[row, group, None]).sum(0) / size[row, group].sum()
            assert torch.allclose(merged[row, j], mean)
        for d, t in zip(dropped[row].tolist(), target[row].tolist(), strict=True):
            cosines = [float(torch.cosine_similarity(keys[row, d], keys[row, i], dim=0)) for i in kept[row]]
            assert cosines[t] == pytest.approx(max(cosines))


def test_fuse_is_an_unnormalised_weighted_sum() -> None:
    x = torch.arange(6.0).reshape(1, 3, 2)
    fused = ops.fuse(x, torch.tensor([[0.5, 0.1, 0.2]]), torch.tensor([[1, 2]]))
    assert torch.allclose(fused, 0.1 * x[:, 1:2] + 0.2 * x[:, 2:3])


def test_pseudo_random_looks_uniform_and_depends_on_seed_and_layer() -> None:
    patch = torch.arange(4096)
    draws = torch.stack([ops.pseudo_random(patch, seed, layer) for seed in range(4) for layer in range(3)])
    assert draws.min() >= 0
    assert draws.max() < 1
    assert ((draws.mean(1) - 0.5).abs() < 0.02).all()
    histogram = torch.stack([torch.histc(row, 16, 0, 1) for row in draws])
    assert ((histogram - 256).abs() < 90).all()
    correlation = torch.corrcoef(draws) - torch.eye(len(draws))
    assert correlation.abs().max() < 0.08
    neighbours = torch.corrcoef(torch.stack((draws[0, :-1], draws[0, 1:])))[0, 1]
    assert neighbours.abs() < 0.08


def test_seeds_differ() -> None:
    patch = torch.arange(64)
    draws = [tuple(ops.pseudo_random(patch, seed, 3).tolist()) for seed in (0, 1, 2**20, 2**30, -1)]
    assert len(set(draws)) == 5


def test_merging_many_tokens_does_not_overflow_half_precision() -> None:
    x = torch.full((1, 226, 4), 400.0, dtype=torch.float16)
    kept, dropped = torch.tensor([[0]]), torch.arange(1, 226)[None]
    merged, size = ops.merge(x, torch.ones(1, 226), kept, dropped, torch.zeros_like(dropped))
    assert merged.dtype == torch.float16
    assert (merged == 400).all()
    assert size.tolist() == [[226.0]]
