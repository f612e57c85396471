"""Tensor operations against slow, obvious references."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from audioprune.core import neighbours, ops

from .reference import most_determinant

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


def drawn(seed: int, n: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Vectors, keys and sizes of two clips."""
    generator = torch.Generator().manual_seed(seed)
    x, keys = (torch.randn(2, n, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    return x, keys, torch.randint(1, 5, (2, n), generator=generator).double()


def groups(kept: torch.Tensor, dropped: torch.Tensor, target: torch.Tensor, row: int) -> list[list[int]]:
    """For each kept token itself, and those that joined it."""
    pairs = list(zip(dropped[row].tolist(), target[row].tolist(), strict=True))
    return [[keep] + [d for d, t in pairs if t == j] for j, keep in enumerate(kept[row].tolist())]


@given(seeds, st.integers(1, 30), st.data())
def test_bipartite_match_takes_the_best_pairs(seed: int, n: int, data: st.DataObject) -> None:
    r = data.draw(st.integers(0, n // 2))
    _, keys, _ = drawn(seed, n)
    kept, dropped, target = ops.bipartite_match(keys, r)
    assert kept.shape == (2, n - r)
    assert dropped.shape == target.shape == (2, r)
    for row in range(2):
        unit = [k / k.norm() for k in keys[row]]
        best = []
        for source in range(0, n, 2):
            edges = [(float(unit[source] @ unit[into]), source, into) for into in range(1, n, 2)]
            best.append(max(edges, default=(-2.0, source, 0)))
        best.sort(reverse=True)
        joined = {source: into for _, source, into in best[:r]}
        assert dropped[row].tolist() == sorted(joined)
        assert kept[row].tolist() == [i for i in range(n) if i not in joined]
        assert [kept[row].tolist()[t] for t in target[row].tolist()] == [joined[d] for d in sorted(joined)]


@given(seeds, st.integers(1, 20), st.data())
def test_passes_are_matches_one_after_the_other(seed: int, n: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, n))
    _, keys, sizes = drawn(seed, n)
    kept, dropped, target = ops.bipartite_passes(keys, sizes, k)
    assert kept.shape == (2, k)
    found = [groups(kept, dropped, target, row) for row in range(2)]
    for row in range(2):
        x, size, members = keys[row : row + 1], sizes[row : row + 1], [[i] for i in range(n)]
        while len(members) > k:
            stays, goes, into = ops.bipartite_match(x, min(len(members) - k, len(members) // 2))
            x, size = ops.merge(x, size, stays, goes, into)
            left = [list(members[i]) for i in stays[0].tolist()]
            for source, place in zip(goes[0].tolist(), into[0].tolist()):
                left[place] += members[source]
            members = left
        assert sorted(map(sorted, found[row])) == sorted(map(sorted, members))
        assert kept[row].tolist() == [each[0] for each in members]


@given(seeds, st.integers(1, 40), st.data())
def test_runs_are_even_and_of_neighbours(seed: int, n: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, n))
    order = torch.stack([torch.randperm(n, generator=torch.Generator().manual_seed(seed + i)) for i in range(2)])
    kept, dropped, target = neighbours.runs(order, k)
    for row in range(2):
        expected: dict[int, list[int]] = {}
        for place, position in enumerate(order[row].tolist()):
            expected.setdefault(place * k // n, []).append(position)
        runs = sorted([run[0], *sorted(run[1:])] for run in expected.values())
        assert groups(kept, dropped, target, row) == runs
        lengths = [len(run) for run in runs]
        assert max(lengths) - min(lengths) <= 1


@given(seeds, st.integers(1, 30), st.data())
def test_destination_is_where_each_went(seed: int, n: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, n))
    kept = ops.top_k(random_scores(seed, 2, n), k)
    dropped = ops.complement(kept, n)
    target = torch.randint(k, dropped.shape, generator=torch.Generator().manual_seed(seed))
    destination = ops.destination(kept, dropped, target)
    for row in range(2):
        for j, group in enumerate(groups(kept, dropped, target, row)):
            assert [destination[row, i].item() for i in group] == [j] * len(group)


@given(seeds, st.integers(1, 30), st.integers(1, 4))
def test_positions_of_rows_that_differ(seed: int, n: int, batch: int) -> None:
    mask = torch.rand(batch, n, generator=torch.Generator().manual_seed(seed)) < 0.4
    mask[:, seed % n] = True
    places, lengths = ops.positions(mask)
    expected = [[i for i in range(n) if row[i]] for row in mask.tolist()]
    assert lengths.tolist() == [len(row) for row in expected]
    assert places.tolist() == [row + [-1] * (max(lengths.tolist()) - len(row)) for row in expected]


@given(seeds, st.integers(1, 40), st.data())
def test_inverse_transform_sampling_takes_what_the_quantiles_fall_on(seed: int, n: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, n))
    # Whole numbers, so that the reference is exact; ties and zeros among them.
    scores = torch.randint(0, 50, (2, n), generator=torch.Generator().manual_seed(seed)) ** 2
    scores[:, 0] += 1
    taken = ops.inverse_transform_sample(scores.float(), k)
    for row, mask in zip(scores.tolist(), taken.tolist(), strict=True):
        order = sorted(range(n), key=lambda i: (row[i], i))
        chosen = set()
        for i in range(1, k + 1):
            reached = 0
            for token in order:
                reached += row[token]
                if Fraction(reached, sum(row)) >= Fraction(2 * i - 1, 2 * k):
                    chosen.add(token)
                    break
        assert [i for i in range(n) if mask[i]] == sorted(chosen)
        assert 1 <= len(chosen) <= k


def test_inverse_transform_sampling_of_nothing_takes_one() -> None:
    assert ops.inverse_transform_sample(torch.zeros(2, 6), 3).sum(1).tolist() == [1, 1]


@given(seeds, st.integers(2, 20), st.data())
def test_merging_with_the_norm_kept_and_absorbing(seed: int, n: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, n - 1))
    x, keys, size = drawn(seed, n)
    kept = ops.top_k(random_scores(seed, 2, n), k)
    dropped = ops.complement(kept, n)
    target = ops.nearest(keys, kept, dropped)
    (mean, sizes), (long, long_sizes), (same, same_sizes) = (
        how(x, size, kept, dropped, target) for how in (ops.merge, ops.merge_keeping_norm, ops.absorb)
    )
    assert torch.equal(sizes, long_sizes)
    assert torch.equal(sizes, same_sizes)
    for row in range(2):
        for j, group in enumerate(groups(kept, dropped, target, row)):
            assert sizes[row, j] == size[row, group].sum()
            assert torch.equal(same[row, j], x[row, group[0]])
            if len(group) == 1:
                assert torch.allclose(long[row, j], x[row, group[0]])
            else:
                assert float(long[row, j].norm()) == pytest.approx(float(x[row, group].norm(dim=1).max()))
                assert float(torch.cosine_similarity(long[row, j], mean[row, j], dim=0)) == pytest.approx(1)


def test_tokens_that_cancel_merge_to_nothing_finite() -> None:
    """Their mean has no direction that could be kept."""
    x = torch.tensor([[[1.0, 2.0], [-1.0, -2.0]]])
    kept, dropped, target = torch.tensor([[0]]), torch.tensor([[1]]), torch.tensor([[0]])
    merged, _ = ops.merge_keeping_norm(x, torch.ones(1, 2), kept, dropped, target)
    assert merged.tolist() == [[[0.0, 0.0]]]


# Neighbours in time


def in_rows(seed: int, n: int, rows: int) -> torch.Tensor:
    """(2, n), the frequency rows of tokens in time order: ascending, each there at least once."""
    generator = torch.Generator().manual_seed(seed)
    more = torch.randint(rows, (2, n - rows), generator=generator)
    return torch.cat((torch.arange(rows).expand(2, -1), more), dim=1).sort(dim=1).values


def cosine(one: torch.Tensor, other: torch.Tensor) -> float:
    return float(one @ other / (one.norm() * other.norm()))


def numbered(lists: list[list[int]]) -> list[int]:
    """The place in the list of each number's list."""
    return [place for _, place in sorted((i, place) for place, one in enumerate(lists) for i in one)]


@given(seeds, st.integers(1, 6), st.integers(1, 6), st.data())
def test_time_order_goes_along_the_rows(seed: int, columns: int, rows: int, data: st.DataObject) -> None:
    n = data.draw(st.integers(1, columns * rows))
    cells = torch.stack(
        [torch.randperm(columns * rows, generator=torch.Generator().manual_seed(seed + i))[:n] for i in range(2)]
    )
    row, column = cells // columns, cells % columns
    for found, r, c in zip(
        neighbours.time_order(row, column, columns).tolist(), row.tolist(), column.tolist(), strict=True
    ):
        assert found == sorted(range(n), key=lambda i: (r[i], c[i]))


def joined_runs(n: int, joined: list[int]) -> list[list[int]]:
    """Runs of n tokens if each of these links joins its token and the next."""
    runs: list[list[int]] = []
    for i in range(n):
        if i - 1 in joined:
            runs[-1].append(i)
        else:
            runs.append([i])
    return runs


@given(seeds, st.integers(1, 20), st.data())
def test_the_most_similar_links_make_runs(seed: int, n: int, data: st.DataObject) -> None:
    rows = data.draw(st.integers(1, n))
    k = data.draw(st.integers(rows, n))
    x, _, _ = drawn(seed, n)
    row = in_rows(seed, n, rows)
    found = neighbours.linked_runs(x, row, k)
    for clip in range(2):
        links = [i for i in range(n - 1) if row[clip, i] == row[clip, i + 1]]
        joined = sorted(links, key=lambda i: -cosine(x[clip, i], x[clip, i + 1]))[: n - k]
        runs = joined_runs(n, joined)
        assert len(runs) == k
        assert found[clip].tolist() == numbered(runs)


@given(seeds, st.integers(1, 20), st.data())
def test_segments_end_at_peaks_first(seed: int, n: int, data: st.DataObject) -> None:
    rows = data.draw(st.integers(1, n))
    k = data.draw(st.integers(rows, n))
    x, _, _ = drawn(seed, n)
    row = in_rows(seed, n, rows)
    found = neighbours.segment_runs(x, row, k)
    for clip in range(2):
        links = {i: 1 - cosine(x[clip, i], x[clip, i + 1]) for i in range(n - 1) if row[clip, i] == row[clip, i + 1]}
        peaks = {i for i, d in links.items() if all(d > links[j] for j in (i - 1, i + 1) if j in links)}
        joined = sorted(links, key=lambda i: (i in peaks, links[i]))[: n - k]
        assert found[clip].tolist() == numbered(joined_runs(n, joined))


@given(seeds, st.integers(1, 20), st.integers(1, 4), st.floats(-1, 1))
def test_a_token_is_compared_with_the_whole_run_before_it(seed: int, n: int, rows: int, threshold: float) -> None:
    x, _, _ = drawn(seed, n)
    row = in_rows(seed, n, min(rows, n))
    unit = torch.nn.functional.normalize(x.double(), dim=-1)
    found = neighbours.run_similarity(unit, row, threshold)
    assert found.shape == (2, n - 1)
    for clip in range(2):
        run = [0]
        for i in range(1, n):
            if row[clip, i] != row[clip, i - 1]:
                assert found[clip, i - 1] == float("-inf")
                run = [i]
                continue
            mean = sum(float(unit[clip, i] @ unit[clip, j]) for j in run) / len(run)
            assert float(found[clip, i - 1]) == pytest.approx(mean, abs=1e-12)
            run = [*run, i] if float(found[clip, i - 1]) >= threshold else [i]


@given(seeds, st.integers(2, 20), st.integers(0, 20), st.data())
def test_pairs_under_a_window(seed: int, n: int, window: int, data: st.DataObject) -> None:
    """A pair beyond the window is merged only if no pair within it is left; of those the nearest."""
    r = data.draw(st.integers(1, n // 2))
    x, _, _ = drawn(seed, n)
    column = torch.randint(0, 12, (2, n), generator=torch.Generator().manual_seed(seed)).sort(dim=1).values
    kept, dropped, target = ops.bipartite_match(x, r, column, window)
    for clip in range(2):
        edges = []
        for i in range(0, n, 2):
            apart = {j: abs(int(column[clip, i] - column[clip, j])) for j in range(1, n, 2)}
            near = [j for j in apart if apart[j] <= window]
            if near:
                best = max(near, key=lambda j: (cosine(x[clip, i], x[clip, j]), -j))
                edges.append((0, -cosine(x[clip, i], x[clip, best]), i, best))
            else:
                best = min(apart, key=lambda j: (apart[j], j))
                edges.append((1, apart[best], i, best))
        chosen = {i: best for _, _, i, best in sorted(edges)[:r]}
        assert dropped[clip].tolist() == sorted(chosen)
        assert kept[clip].gather(0, target[clip]).tolist() == [chosen[i] for i in sorted(chosen)]


@given(seeds, st.integers(1, 24), st.data())
def test_pairs_merge_until_k_are_left(seed: int, n: int, data: st.DataObject) -> None:
    rows = data.draw(st.integers(1, n))
    k = data.draw(st.integers(rows, n))
    x, _, size = drawn(seed, n)
    row = in_rows(seed, n, rows)
    found = neighbours.paired_runs(x, size, row, k, rows)
    for clip in range(2):
        assert found[clip].tolist() == numbered(merge_pairs(x[clip], size[clip], row[clip].tolist(), k))


def merge_pairs(x: torch.Tensor, size: torch.Tensor, row: list[int], k: int) -> list[list[int]]:
    """A-ToMe on one clip, one list of runs a row."""
    lines = [[[i] for i in range(len(row)) if row[i] == r] for r in sorted(set(row))]
    while (count := sum(map(len, lines))) > k:
        mean = {run[0]: (x[run] * size[run, None]).sum(0) / size[run].sum() for line in lines for run in line}
        pairs = [(line, line[i], line[i + 1]) for line in lines for i in range(0, len(line) - 1, 2)]
        pairs.sort(key=lambda pair: -cosine(mean[pair[1][0]], mean[pair[2][0]]))
        for line, first, second in pairs[: count - k]:
            first += second
            line.remove(second)
    return [run for line in lines for run in line]


def test_neighbours_in_other_rows_are_none() -> None:
    x = torch.tensor([[[1.0, 0], [2.0, 0], [3.0, 0], [0, 1.0]]])
    assert neighbours.neighbour_cosine(x, torch.tensor([[0, 0, 1, 1]])).tolist() == [[1.0, -math.inf, 0.0]]


# Tokens that differ

EXACT = [
    *([[sign * (i == axis) for i in range(4)] for axis in range(4) for sign in (1.0, -3.0)]),
    *([[a, b, c, d] for a in (1.0, -1.0) for b in (1.0, -1.0) for c in (1.0, -1.0) for d in (1.0, -1.0)]),
    [0.0, 0.0, 0.0, 0.0],
]
"""Vectors whose cosines are exact, of which many are equal: −1, −1/2, 0, 1/2 and 1."""
exact = st.lists(st.integers(0, len(EXACT) - 1), min_size=1, max_size=14)


def farthest(features: list[list[float]], k: int) -> list[int]:
    """Farthest-point selection by its definition."""
    norms = [math.sqrt(sum(a * a for a in x)) or 1.0 for x in features]
    unit = [[a / norm for a in x] for x, norm in zip(features, norms, strict=True)]
    n = len(features)
    distance = [[1 - sum(a * b for a, b in zip(unit[i], unit[j], strict=True)) for j in range(n)] for i in range(n)]
    chosen: list[int] = []
    while len(chosen) < k:
        gap = {i: min([distance[i][j] for j in chosen or range(n) if j != i], default=0) for i in range(n)}
        chosen.append(max((i for i in range(n) if i not in chosen), key=lambda i: (gap[i], -i)))
    return chosen


@given(exact, st.data())
def test_farthest_points_with_many_that_are_alike(numbers: list[int], data: st.DataObject) -> None:
    """Duplicates, opposites and vectors of zeros among them: of equals the earlier is chosen, and none twice."""
    k = data.draw(st.integers(1, len(numbers)))
    features = [EXACT[i] for i in numbers]
    order = ops.farthest_points(torch.tensor([features, features[::-1]]), k)
    assert order.tolist() == [farthest(features, k), farthest(features[::-1], k)]
    assert all(len(set(row)) == k for row in order.tolist())


@given(seeds, st.integers(1, 20), st.data())
def test_farthest_points_against_their_definition(seed: int, n: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, n))
    x, _, _ = drawn(seed, n)
    order = ops.farthest_points(x, k)
    assert order.tolist() == [farthest(row, k) for row in x.tolist()]
    # In half precision too no token is taken twice.
    assert all(len(set(row)) == k for row in ops.farthest_points(x.bfloat16(), k).tolist())


@given(seeds, st.integers(3, 20), st.data())
def test_farthest_points_do_not_depend_on_the_order(seed: int, n: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, n))
    x, _, _ = drawn(seed, n)
    # Two that are nearest to each other tie for the first place, and then the order decides.
    gap = (
        (1 - ops.cosines(x)).masked_fill(torch.eye(n, dtype=torch.bool), math.inf).amin(2).sort(descending=True).values
    )
    assume(bool((gap[:, 0] > gap[:, 1]).all()))
    moved = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(moved[ops.farthest_points(x[:, moved], k)], ops.farthest_points(x, k))


@given(seeds, st.integers(1, 20))
def test_cosines_are_exactly_symmetric(seed: int, n: int) -> None:
    x = drawn(seed, n)[0].float()
    x[:, n // 2] = 0
    found = ops.cosines(x)
    assert torch.equal(found, found.transpose(1, 2))
    assert found.diagonal(dim1=1, dim2=2).tolist() == [[float(i != n // 2) for i in range(n)]] * 2
    assert torch.allclose(found, torch.cosine_similarity(x[:, :, None], x[:, None], dim=-1), atol=1e-6)


def kernel_of(features: torch.Tensor, relevance: torch.Tensor) -> torch.Tensor:
    return relevance[:, :, None] * ops.cosines(features) * relevance[:, None, :]


@given(seeds, st.integers(1, 12), st.data())
def test_greedy_dpp_makes_the_determinant_greatest(seed: int, n: int, data: st.DataObject) -> None:
    """The kernel has rank 5 at most: where more are wanted, the most relevant of the rest come last."""
    k = data.draw(st.integers(1, n))
    features, _, _ = drawn(seed, n)
    relevance = torch.rand(2, n, generator=torch.Generator().manual_seed(seed)).double() + 1e-3
    kernel = kernel_of(features, relevance)
    order = ops.greedy_dpp(kernel, relevance, k).tolist()
    expected = [most_determinant(one, r, k) for one, r in zip(kernel.tolist(), relevance.tolist(), strict=True)]
    assert order == expected
    single = ops.greedy_dpp(kernel_of(features.float(), relevance.float()), relevance.float(), k)
    assert all(len(set(row)) == k for row in single.tolist())


@given(exact, seeds, st.data())
def test_greedy_dpp_of_many_that_are_alike(numbers: list[int], seed: int, data: st.DataObject) -> None:
    """Duplicates and vectors of zeros add nothing: first as many as the kernel's rank, then by relevance."""
    n = len(numbers)
    k = data.draw(st.integers(1, n))
    features = torch.tensor([[EXACT[i] for i in numbers]])
    relevance = 2.0 ** -random_scores(seed, 1, n, levels=3)
    (order,) = ops.greedy_dpp(kernel_of(features, relevance), relevance, k).tolist()
    assert len(set(order)) == k
    rank = int(torch.linalg.matrix_rank(features[0]))
    spanning, rest = order[:rank], order[rank:]
    assert torch.linalg.matrix_rank(features[0, spanning]) == len(spanning)
    others = sorted((i for i in range(n) if i not in spanning), key=lambda i: (-float(relevance[0, i]), i))
    assert rest == others[: len(rest)]


@given(seeds, st.integers(1, 16), st.data())
def test_greedy_dpp_does_not_depend_on_the_order(seed: int, n: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, n))
    features, _, _ = drawn(seed, n)
    relevance = torch.rand(2, n, generator=torch.Generator().manual_seed(seed)).double() + 1e-3
    moved = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    expected = ops.greedy_dpp(kernel_of(features, relevance), relevance, k)
    assert torch.equal(
        moved[ops.greedy_dpp(kernel_of(features[:, moved], relevance[:, moved]), relevance[:, moved], k)], expected
    )


def test_greedy_dpp_without_relevance_takes_the_first_first() -> None:
    features = torch.randn(1, 30, 7, generator=torch.Generator().manual_seed(3))
    assert ops.greedy_dpp(ops.cosines(features), torch.ones(1, 30), 4)[0, 0] == 0
    nothing = torch.zeros(1, 5, 5)
    assert ops.greedy_dpp(nothing, torch.tensor([[1.0, 3, 2, 3, 0]]), 5).tolist() == [[1, 3, 2, 0, 4]]
