"""A pruned forward pass as plain as it can be: every method's formula, on one clip, token by token, in Python lists.

It follows the papers. With the package it shares the settings' schedule of rates, the hash behind the random score,
which has tests of its own, and the weights of what is learnt. The model is a `SlowModel`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from audioprune import (
    ATS,
    DPP,
    EVS,
    LTBM,
    SAMAP,
    AToMe,
    AveragePooling,
    AViT,
    DivPrune,
    DynamicViT,
    FastAdaSP,
    Method,
    PaddingMerge,
    PeakSegments,
    SPViT,
    ToFu,
    ToMe,
    TopK,
    UniformStride,
    VisionZip,
)
from audioprune.core.ops import pseudo_random
from audioprune.core.tokens import Place

from .slow_models import SlowModel, slow_model


@dataclass
class Line:
    """The droppable tokens of one clip: vectors, the patch of each (−1: of no one), and how many it stands for."""

    tokens: list[Tensor]
    patches: list[int]
    sizes: list[float]

    def __len__(self) -> int:
        return len(self.tokens)

    def only(self, keep: list[int]) -> Line:
        return Line([self.tokens[i] for i in keep], [self.patches[i] for i in keep], [self.sizes[i] for i in keep])


@dataclass
class Seen:
    """What a method may look at. maps, keys, values: of the block's attention, special tokens first."""

    slow: SlowModel
    layer: int
    learned: nn.Module | None
    maps: list[list[list[float]]]
    keys: list[Tensor]
    values: list[Tensor]


def pruned_forward(
    model: nn.Module, inputs: dict[str, Tensor], method: Method, learned: nn.Module | None = None
) -> tuple[Tensor, list[list[list[int]]]]:
    """Logits (batch, labels) and the patches kept, [stage][clip] → ascending, then −1 for tokens of no one patch and
    where another clip keeps more."""
    batch = len(next(iter(inputs.values())))
    one = [slow_model(model, {name: x[i : i + 1] for name, x in inputs.items()}) for i in range(batch)]
    clips = [_forward_clip(slow, method, learned) for slow in one]
    stages = []
    for stage in range(len(clips[0][1])):
        rows = [kept[stage] for _, kept in clips]
        rows = [sorted(p for p in row if p >= 0) + [p for p in row if p < 0] for row in rows]
        widest = max(len(row) for row in rows)
        stages.append([row + [-1] * (widest - len(row)) for row in rows])
    return torch.stack([logits for logits, _ in clips]), stages


def _forward_clip(slow: SlowModel, method: Method, learned: nn.Module | None) -> tuple[Tensor, list[list[int]]]:
    entering = slow.tokens()
    head, patches = entering[: slow.special], entering[slow.special :]
    line = Line(patches, list(range(len(patches))), [1.0] * len(patches))
    halting = Halting(head, line)
    stages, kept = method.stages(slow.depth), []
    for layer in range(slow.depth):
        if isinstance(method, AViT) and {Place(layer), Place(layer, after=False)} & stages.keys():
            line = halting.halt(method, head, line)
            kept.append(line.patches)
        else:
            for one, rate in [stages[p] for p in sorted(stages) if p.layer == layer and not p.after]:
                keep, line = _form_of(one)(one, rate, line, Seen(slow, layer, learned, [], [], []))
                kept.append(keep)
        sizes = line.sizes if method.proportional else [1.0] * len(line)
        tokens, maps, keys, values = slow.attend(layer, head + line.tokens, sizes)
        head, line = tokens[: slow.special], Line(tokens[slow.special :], line.patches, line.sizes)
        if Place(layer) in stages and not isinstance(method, AViT):
            one, rate = stages[Place(layer)]
            seen = Seen(slow, layer, learned, [m.tolist() for m in maps], keys, values)
            keep, line = _form_of(one)(one, rate, line, seen)
            kept.append(keep)
        tokens = slow.feed(layer, head + line.tokens)
        head, line = tokens[: slow.special], Line(tokens[slow.special :], line.patches, line.sizes)
    if isinstance(method, AViT):
        tokens = halting.answer(method, head, line)
        return slow.read(tokens, [1.0] * len(patches)), kept
    return slow.read(head + line.tokens, line.sizes), kept


def _form_of(method: Method) -> Callable[..., tuple[list[int], Line]]:
    for kind, form in FORMS.items():
        if isinstance(method, kind):
            return form
    pytest.fail(f"{type(method).__name__} has no slow form yet: write it here, and list it in FORMS")


def _budget(rate: float, n: int) -> int:
    """⌈rate · n⌉ for the fraction that was meant."""
    return math.ceil(Fraction(rate).limit_denominator(10**6) * n)


def _attention(name: str, seen: Seen, line: Line) -> list[float]:
    """Equation 2a (received from the patches) or 2b (from CLS) of arXiv 2504.01690."""
    first, heads = seen.slow.special, len(seen.maps)
    if name == "cls":
        return [sum(m[0][first + i] for m in seen.maps) / heads for i in range(len(line))]
    rows = range(first, first + len(line))
    return [sum(m[row][first + i] for m in seen.maps for row in rows) / (heads * len(line)) for i in range(len(line))]


def _of_each_head(seen: Seen, line: Line) -> list[list[float]]:
    """Equation 2a for each head alone."""
    first = seen.slow.special
    rows = range(first, first + len(line))
    return [[sum(m[row][first + i] for row in rows) / len(line) for i in range(len(line))] for m in seen.maps]


def _selective(seen: Seen, line: Line) -> list[float]:
    """Heads that attend to few tokens count for more."""
    heads, weights = _of_each_head(seen, line), []
    for head in heads:
        shares = [score / sum(head) for score in head]
        entropy = -sum(share * math.log(share) for share in shares if share > 0)
        weights.append(max(1e-6, 1 - entropy / math.log(max(2, len(line)))))
    return [
        sum(weight * head[i] for weight, head in zip(weights, heads, strict=True)) / sum(weights)
        for i in range(len(line))
    ]


def _units(seen: Seen) -> list[Tensor]:
    """Keys of length 1, of which a product is a cosine."""
    return [key / key.norm() for key in seen.keys[seen.slow.special :]]


def _cosine(one: Tensor, other: Tensor) -> float:
    return float(one @ other) / float(one.norm() * other.norm())


def _cosines(tokens: list[Tensor]) -> list[list[float]]:
    units = [x / x.norm() for x in tokens]
    return [[float(one @ other) for other in units] for one in units]


def _in_time(line: Line, seen: Seen) -> dict[int, list[int]]:
    """Tokens in time order, by frequency row."""
    rows: dict[int, list[int]] = {}
    for i in sorted(range(len(line)), key=lambda i: seen.slow.place(line.patches[i])[::-1]):
        rows.setdefault(seen.slow.place(line.patches[i])[1], []).append(i)
    return rows


def _left(method: Any, keep: list[int], line: Line, seen: Seen) -> tuple[list[int], Line]:
    """The kept tokens, when the others are discarded or merged."""
    kept = [line.patches[i] for i in keep]
    if method.dropped == "discard":
        return kept, line.only(keep)
    keys = _units(seen)
    dropped = [i for i in range(len(line)) if i not in keep]
    target = {i: max(keep, key=lambda j: (float(keys[i] @ keys[j]), -j)) for i in dropped}
    return kept, _joined(line, keep, target, _mean)


# TopK, Segmentwise Top-K, EViT, METR


def _top_k(method: TopK, rate: float, line: Line, seen: Seen) -> tuple[list[int], Line]:
    scores = _scores(method, line, seen)
    keep = _choose(method, _budget(rate, len(line)), scores, line, seen.slow)
    if method.dropped == "fuse":
        dropped = [i for i in range(len(line)) if i not in keep]
        share = method.score in ("attention", "cls")
        fused = sum((scores[i] if share else 1 / len(dropped)) * line.tokens[i] for i in dropped)
        rest = line.only(keep)
        return rest.patches, Line([*rest.tokens, fused], [*rest.patches, -1], [*rest.sizes, 1.0])
    return _left(method, keep, line, seen)


def _scores(method: TopK, line: Line, seen: Seen) -> list[float]:
    if method.score in ("attention", "cls"):
        return _attention(method.score, seen, line)
    if method.score == "selective":
        return _selective(seen, line)
    if method.score == "random":
        return pseudo_random(torch.tensor([line.patches]), method.seed, seen.layer)[0].tolist()
    every = seen.slow.statistic(method.score)
    return [every[patch] if patch >= 0 else sum(every) / len(every) for patch in line.patches]


def _choose(method: TopK, k: int, scores: list[float], line: Line, slow: SlowModel) -> list[int]:
    sign = -1 if method.order == "highest" else 1
    order = sorted(range(len(scores)), key=lambda i: (sign * scores[i], i))
    segments = method.spend_in()
    if segments is None:
        return sorted(order[:k])
    segments = min(segments, k, slow.columns)
    chosen: list[int] = []
    for segment in range(segments):
        patches = [(i, line.patches[i]) for i in order]
        mine = [i for i, p in patches if p >= 0 and slow.place(p)[0] * segments // slow.columns == segment]
        chosen += mine[: k // segments]
    chosen += [i for i in order if i not in chosen][: k - len(chosen)]
    return sorted(chosen)


# ToMe, FastAST, ToFu, AveragePooling: each dropped token goes into its target


def _mean(line: Line, group: list[int]) -> Tensor:
    return sum(line.sizes[i] * line.tokens[i] for i in group) / sum(line.sizes[i] for i in group)


def _first(line: Line, group: list[int]) -> Tensor:
    """Pruned, not merged: the target stays as it is."""
    return line.tokens[group[0]]


def _mlerp(line: Line, group: list[int]) -> Tensor:
    """The mean's direction, the longest one's norm."""
    mean = _mean(line, group)
    return mean / mean.norm() * max(line.tokens[i].norm() for i in group)


def _joined(line: Line, keep: list[int], target: dict[int, int], how: Callable[[Line, list[int]], Tensor]) -> Line:
    groups = {i: [i] for i in keep}
    for source, into in target.items():
        groups[into].append(source)
    tokens = [how(line, g) if len(g) > 1 else line.tokens[i] for i, g in groups.items()]
    return Line(tokens, [line.patches[i] for i in keep], [sum(line.sizes[i] for i in g) for g in groups.values()])


def _to_me(method: ToMe | LTBM, rate: float, line: Line, seen: Seen) -> tuple[list[int], Line]:
    """Groups of tokens, at first each its own; in a pass each even group may go into an odd one. Under a window, the
    nearest groups beyond it come after all pairs within."""
    window = getattr(method, "window", None)
    columns = [seen.slow.place(patch)[0] if patch >= 0 else -1 for patch in line.patches]

    def likeness(cosine: float, one: list[int], other: list[int]) -> float:
        apart = abs(columns[one[0]] - columns[other[0]])
        return cosine if window is None or apart <= window else -1 - apart

    compared = line.tokens if method.metric == "hidden" else seen.keys[seen.slow.special :]
    keys, sizes, groups = list(compared), list(line.sizes), [[i] for i in range(len(line))]
    k = _left_of(method, rate, line, seen)
    while (n := len(groups)) > k:
        units, edges = [one / one.norm() for one in keys], []
        for source in range(0, n, 2):
            cosine, into = max(
                (likeness(float(units[source] @ units[odd]), groups[source], groups[odd]), -odd)
                for odd in range(1, n, 2)
            )
            edges.append((-cosine, source, -into))
        target = {source: into for _, source, into in sorted(edges)[: min(n - k, n // 2)]}
        members = {
            i: [i, *(source for source, into in target.items() if into == i)] for i in range(n) if i not in target
        }
        groups = [[j for i in each for j in groups[i]] for each in members.values()]
        keys = [sum(sizes[i] * keys[i] for i in each) / sum(sizes[i] for i in each) for each in members.values()]
        sizes = [sum(sizes[i] for i in each) for each in members.values()]
    how = _mean
    if isinstance(method, ToFu):
        how = _first if seen.layer < method.pruned_share * seen.slow.depth else _mlerp
    keep = [group[0] for group in groups]
    into = {i: group[0] for group in groups for i in group[1:]}
    return [line.patches[i] for i in keep], _joined(line, keep, into, how)


def _left_of(method: Method, rate: float, line: Line, seen: Seen) -> int:
    """By the clip: as many as the method would leave after this block if it were alone, or all if they are fewer."""
    if method.budget == "layer":
        return _budget(rate, len(line))
    return min(_clip_budget(method, seen), len(line))


def _clip_budget(method: Method, seen: Seen) -> int:
    left = len(seen.slow.tokens()) - seen.slow.special
    for layer, rate in method.schedule(seen.slow.depth).items():
        left = _budget(rate, left) if layer <= seen.layer else left
    return left


def _average(method: AveragePooling, rate: float, line: Line, seen: Seen) -> tuple[list[int], Line]:
    n, k = len(line), _budget(rate, len(line))
    order = [i for row in _in_time(line, seen).values() for i in row]
    runs: dict[int, list[int]] = {}
    for place, i in enumerate(order):
        runs.setdefault(place * k // n, []).append(i)
    return _averaged(line, list(runs.values()))


def _averaged(line: Line, groups: list[list[int]]) -> tuple[list[int], Line]:
    """Each group becomes its mean, in its first token's place."""
    keep = sorted(group[0] for group in groups)
    target = {i: group[0] for group in groups for i in group[1:]}
    return [line.patches[i] for i in keep], _joined(line, keep, target, _mean)


def _runs_of_padding(
    method: PaddingMerge, rate: float, line: Line, seen: Seen, after: list[int], alone: list[int]
) -> int:
    """Into how many runs a row's padding goes. after: this padding; alone: that of all rows."""
    if method.budget == "layer":
        return _budget(rate, len(after))
    surplus = max(0, len(line) - _clip_budget(method, seen)) * len(after) // len(alone)
    patches = sum(round(float(line.sizes[i])) for i in alone)
    return max(len(after) - surplus, min(len(after), math.ceil(patches * len(after) / (25 * len(alone)) - 1e-9)))


def _stand_ins(method: PaddingMerge, rate: float, line: Line, seen: Seen) -> tuple[list[int], Line]:
    """Of the padding at each row's end the margin and two at the end stay, and of each of k even runs between them the
    middle one, half way to the mean. Sinks are in no such run, but those that touch are in one of their own."""
    padding, sinks, groups = seen.slow.padding(), seen.slow.sinks(), []
    rows = _in_time(line, seen)
    inner = {r: [i for i in row if padding[line.patches[i]]][method.margin : -2] for r, row in rows.items()}
    alone = [i for after in inner.values() for i in after if not sinks[line.patches[i]]]
    for r, row in rows.items():
        after = inner[r]
        groups += [[i] for i in row if i not in after]
        for before, i in zip([None, *after], after, strict=False):
            if sinks[line.patches[i]]:
                if before is not None and sinks[line.patches[before]]:
                    groups[-1].append(i)
                else:
                    groups.append([i])
        after = [i for i in after if not sinks[line.patches[i]]]
        k, runs = _runs_of_padding(method, rate, line, seen, after, alone) if after else 0, {}
        for place, i in enumerate(after):
            runs.setdefault(place * k // len(after), []).append(i)
        groups += runs.values()
    middle = [group[(len(group) - 1) // 2] for group in groups]
    target = {i: m for group, m in zip(groups, middle, strict=True) for i in group if i != m}

    def half_way(line: Line, group: list[int]) -> Tensor:
        return (line.tokens[group[0]] + _mean(line, group)) / 2

    return [line.patches[i] for i in sorted(middle)], _joined(line, sorted(middle), target, half_way)


# AToMe, FastAdaSP: neighbours in time are averaged


def _compared(method: AToMe | FastAdaSP, line: Line, seen: Seen) -> Line:
    """What is compared, in the tokens' place."""
    compared = line.tokens if method.metric == "hidden" else seen.keys[seen.slow.special :]
    return Line(compared, line.patches, line.sizes)


def _pair_by_pair(method: AToMe, rate: float, line: Line, seen: Seen) -> tuple[list[int], Line]:
    """arXiv 2306.16009, in as many passes as it takes."""
    k, compared = _left_of(method, rate, line, seen), _compared(method, line, seen)
    rows = [[[i] for i in row] for row in _in_time(line, seen).values()]
    while (surplus := sum(len(row) for row in rows) - k) > 0:
        pairs = []
        for r, row in enumerate(rows):
            for i in range(0, len(row) - 1, 2):
                pairs.append((-_cosine(_mean(compared, row[i]), _mean(compared, row[i + 1])), r, i))
        assert pairs
        for _, r, i in sorted(pairs)[:surplus]:
            rows[r][i] = rows[r][i] + rows[r][i + 1]
            rows[r][i + 1] = []
        rows = [[group for group in row if group] for row in rows]
    return _averaged(line, [group for row in rows for group in row])


def _link_by_link(method: FastAdaSP, rate: float, line: Line, seen: Seen) -> tuple[list[int], Line]:
    """The most similar neighbours are joined, and with them what they are joined to."""
    n, k, compared = len(line), _left_of(method, rate, line, seen), _compared(method, line, seen).tokens
    rows = list(_in_time(line, seen).values())
    links = [(-_cosine(compared[a], compared[b]), r, b) for r, row in enumerate(rows) for a, b in pairwise(row)]
    return _groups_by(line, rows, {b for _, _, b in sorted(links)[: n - k]})


def _segment_by_segment(method: PeakSegments, rate: float, line: Line, seen: Seen) -> tuple[list[int], Line]:
    """arXiv 2511.20973: boundaries at the highest peaks of dissimilarity, then at the greatest of the others."""
    n, k, compared = len(line), _left_of(method, rate, line, seen), _compared(method, line, seen).tokens
    rows = list(_in_time(line, seen).values())
    links = []
    for r, row in enumerate(rows):
        unlike = [1 - _cosine(compared[a], compared[b]) for a, b in pairwise(row)]
        for i, b in enumerate(row[1:]):
            beside = unlike[max(0, i - 1) : i] + unlike[i + 1 : i + 2]
            links.append((all(unlike[i] > other for other in beside), unlike[i], r, b))
    return _groups_by(line, rows, {b for *_, b in sorted(links)[: n - k]})


def _groups_by(line: Line, rows: list[list[int]], joined: set[int]) -> tuple[list[int], Line]:
    """Runs in which each joined token belongs to the one before it."""
    groups: list[list[int]] = []
    for i in (i for row in rows for i in row):
        if i in joined:
            groups[-1].append(i)
        else:
            groups.append([i])
    return _averaged(line, groups)


# SA-MAP: runs are merged, and then pruned


def _merged_and_pruned(method: SAMAP, rate: float, line: Line, seen: Seen) -> tuple[list[int], Line]:
    n, k = len(line), _budget(rate, len(line))
    if k == n:
        return list(line.patches), line
    units = [token / token.norm() for token in line.tokens]
    joins: list[tuple[float, int]] = []
    rows = list(_in_time(line, seen).values())
    for row in rows:
        run = [row[0]]
        for i in row[1:]:
            likeness = sum(float(units[i] @ units[j]) for j in run) / len(run)
            if likeness >= method.threshold:
                run.append(i)
                joins.append((-likeness, i))
            else:
                run = [i]
    joined = {i for _, i in sorted(joins)[: n - k]}
    runs: list[list[int]] = []
    for i in (i for row in rows for i in row):
        if i in joined:
            runs[-1].append(i)
        else:
            runs.append([i])
    runs.sort(key=lambda run: run[0])
    heads, received = _of_each_head(seen, line), _attention("attention", seen, line)
    weight = [max(head[i] for head in heads) * line.sizes[i] for i in range(n)]
    means = [sum(weight[i] * line.tokens[i] for i in run) / sum(weight[i] for i in run) for run in runs]
    relevance = [sum(received[i] for i in run) / len(run) for run in runs]
    cosine = _cosines(means)
    kernel = [
        [relevance[i] * (cosine[i][j] if i != j else 1.0) * relevance[j] for j in range(len(runs))]
        for i in range(len(runs))
    ]
    chosen = sorted(most_determinant(kernel, relevance, k))
    patches = [line.patches[runs[i][0]] for i in chosen]
    return patches, Line([means[i] for i in chosen], patches, [sum(line.sizes[j] for j in runs[i]) for i in chosen])


# UniformStride, EVS, DivPrune, DPP: a choice, and the fate of the rest


def _stride(method: UniformStride, rate: float, line: Line, seen: Seen) -> tuple[list[int], Line]:
    n, k = len(line), _budget(rate, len(line))
    return _left(method, [i * n // k for i in range(k)], line, seen)


def _changing(method: EVS, rate: float, line: Line, seen: Seen) -> tuple[list[int], Line]:
    """arXiv 2510.14624, over time: what is unlike the token before it."""
    scores = {}
    for row in _in_time(line, seen).values():
        for place, i in enumerate(row):
            scores[i] = 1 - _cosine(line.tokens[i], line.tokens[row[place - 1]]) if place else 2.0
    order = sorted(scores, key=lambda i: (-scores[i], i))
    return _left(method, sorted(order[: _budget(rate, len(line))]), line, seen)


def _far_apart(method: DivPrune, rate: float, line: Line, seen: Seen) -> tuple[list[int], Line]:
    """arXiv 2503.02175, algorithm 1."""
    n, k = len(line), _budget(rate, len(line))
    distance = [[1 - cosine for cosine in row] for row in _cosines(line.tokens)]
    chosen: list[int] = []
    while len(chosen) < k:
        others = {i: [j for j in chosen or range(n) if j != i] for i in range(n) if i not in chosen}
        chosen.append(max(others, key=lambda i: (min((distance[i][j] for j in others[i]), default=0.0), -i)))
    return _left(method, sorted(chosen), line, seen)


def _determinantal(method: DPP, rate: float, line: Line, seen: Seen) -> tuple[list[int], Line]:
    """Greedy MAP by its definition: determinants of what is chosen with each that could be. arXiv 2506.10967."""
    n, k = len(line), _budget(rate, len(line))
    relevance = [1.0] * n
    if method.score == "attention":
        scores = _attention("attention", seen, line)
        relevance = [max((s - min(scores)) / (max(scores) - min(scores)), 1e-6) for s in scores]
    cosine = _cosines(line.tokens)
    kernel = [[relevance[i] * (cosine[i][j] if i != j else 1.0) * relevance[j] for j in range(n)] for i in range(n)]
    return _left(method, sorted(most_determinant(kernel, relevance, k)), line, seen)


def most_determinant(kernel: list[list[float]], relevance: list[float], k: int) -> list[int]:
    """Each the one that makes the determinant greatest, then, where none makes it more than 0, the most relevant."""
    chosen: list[int] = []
    before, matrix = 0.0, torch.tensor(kernel, dtype=torch.float64)
    while len(chosen) < k:
        left = [i for i in range(len(kernel)) if i not in chosen]
        after = _log_determinants(matrix, chosen, [i for i in left if kernel[i][i] > 0])
        # A determinant that should be 0 comes out a little more, or less.
        after = {i: log for i, log in after.items() if log - before - math.log(kernel[i][i]) > math.log(1e-10)}
        if not after:
            return chosen + sorted(left, key=lambda i: (-relevance[i], i))[: k - len(chosen)]
        chosen.append(max(after, key=lambda i: (after[i], -i)))
        before = after[chosen[-1]]
    return chosen


def _log_determinants(matrix: Tensor, chosen: list[int], others: list[int]) -> dict[int, float]:
    """Logarithm of the determinant over the chosen rows and columns and each other one; −∞ if it is 0 or, by rounding,
    less."""
    places = torch.tensor([[*chosen, i] for i in others], dtype=torch.long).reshape(len(others), -1)
    sign, log = torch.linalg.slogdet(matrix[places[:, :, None], places[:, None, :]])
    found = zip(others, sign.tolist(), log.tolist(), strict=True)
    return {i: log if sign > 0 else -math.inf for i, sign, log in found}


# VisionZip


def _zipped(method: VisionZip, rate: float, line: Line, seen: Seen) -> tuple[list[int], Line]:
    """arXiv 2412.04467: dominant tokens, and contextual ones that the rest is averaged into."""
    n, k = len(line), _budget(rate, len(line))
    contextual = max(0, min(round(method.contextual * k), k - 1))
    scores = _attention(method.score, seen, line)
    dominant = sorted(range(n), key=lambda i: (-scores[i], i))[: k - contextual]
    rest = [i for row in _in_time(line, seen).values() for i in row if i not in dominant]
    targets = rest[:: len(rest) // contextual][:contextual] if contextual else []
    keep, keys = sorted(dominant + targets), _units(seen)
    if not targets:
        return [line.patches[i] for i in keep], line.only(keep)
    joining = [i for i in rest if i not in targets]
    target = {i: max(targets, key=lambda j: float(keys[i] @ keys[j])) for i in joining}
    return [line.patches[i] for i in keep], _joined(line, keep, target, _mean)


# ATS


def _sampled(method: ATS, rate: float, line: Line, seen: Seen) -> tuple[list[int], Line]:
    """arXiv 2111.15667, eqs. 3–5: significance, its cumulative distribution, and the tokens at its quantiles."""
    attention = _attention(method.score, seen, line)
    values = seen.values[seen.slow.special :]
    significance = [a * float(v.norm()) for a, v in zip(attention, values, strict=True)]
    total, k = sum(significance), _budget(rate, len(line))
    order = sorted(range(len(line)), key=lambda i: significance[i])
    chosen = set()
    for i in range(1, k + 1):
        reached = 0.0
        for token in order:
            reached += significance[token] / total
            if reached >= (2 * i - 1) / (2 * k):
                chosen.add(token)
                break
    keep = sorted(chosen)
    return [line.patches[i] for i in keep], line.only(keep)


# DynamicViT, SPViT


def _gelu(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


def _dense(module: Any, x: Tensor) -> Tensor:
    return module.weight @ x + module.bias


def _predict(predictor: Any, tokens: list[Tensor]) -> list[Tensor]:
    """arXiv 2106.02034, eqs. 1–5: log-probabilities (keep, drop) of each token."""
    norm, enter = predictor.enter[0], predictor.enter[1]
    inner = []
    for x in tokens:
        standard = (x - x.mean()) / torch.sqrt(x.var(correction=0) + norm.eps)
        inner.append(_gelu(_dense(enter, standard * norm.weight + norm.bias)))
    half = len(tokens[0]) // 2
    shared = sum(z[half : 2 * half] for z in inner) / len(inner)
    first, second, third = predictor.leave[0], predictor.leave[2], predictor.leave[4]
    found = []
    for z in inner:
        out = _dense(third, _gelu(_dense(second, _gelu(_dense(first, torch.cat((z[:half], shared)))))))
        found.append(out - torch.logsumexp(out, dim=0))
    return found


def _dynamic(method: DynamicViT, rate: float, line: Line, seen: Seen) -> tuple[list[int], Line]:
    scores = [float(p[0]) for p in _predict(seen.learned.at(seen.layer), line.tokens)]
    order = sorted(range(len(line)), key=lambda i: (-scores[i], i))
    keep = sorted(order[: _budget(rate, len(line))])
    return [line.patches[i] for i in keep], line.only(keep)


def _soft(method: SPViT, rate: float, line: Line, seen: Seen) -> tuple[list[int], Line]:
    """arXiv 2112.13890, eqs. 4–11: a predictor a head, the heads weighed for each token, and a package token."""
    part = seen.learned.at(seen.layer)
    width = len(line.tokens[0]) // part.heads
    by_head = [
        _predict(predictor, [x[h * width : (h + 1) * width] for x in line.tokens])
        for h, predictor in enumerate(part.predictors)
    ]
    keep_probability, keeps = [], []
    for i, x in enumerate(line.tokens):
        means = torch.stack([x[h * width : (h + 1) * width].mean() for h in range(part.heads)])
        gate = torch.sigmoid(_dense(part.gate[2], _gelu(_dense(part.gate[0], means))))
        score = sum(gate[h] * by_head[h][i] for h in range(part.heads)) / gate.sum()
        probability = torch.exp(score) / torch.exp(score).sum()
        keep_probability.append(float(probability[0]))
        keeps.append(float(probability[0]) >= float(probability[1]) or line.patches[i] < 0)
    if not any(keeps):
        keeps[max(range(len(line)), key=lambda i: keep_probability[i])] = True
    keep = [i for i in range(len(line)) if keeps[i]]
    dropped = [i for i in range(len(line)) if not keeps[i]]
    kept, left = [line.patches[i] for i in keep], line.only(keep)
    if not dropped:
        return kept, left
    package = sum(keep_probability[i] * line.tokens[i] for i in dropped) / sum(keep_probability[i] for i in dropped)
    return kept, Line([*left.tokens, package], [*left.patches, -1], [*left.sizes, 1.0])


# A-ViT


class Halting:
    """arXiv 2112.07658: what each token has summed up. Special tokens are −1, −2, …; patches are their numbers."""

    def __init__(self, head: list[Tensor], line: Line) -> None:
        self.names = [-1 - i for i in range(len(head))]
        every = zip(self.names + line.patches, head + line.tokens, strict=True)
        self.sums = {name: (0.0, torch.zeros_like(x)) for name, x in every}

    def halt(self, method: AViT, head: list[Tensor], line: Line) -> Line:
        for name, x in zip(self.names + line.patches, head + line.tokens, strict=True):
            total, output = self.sums[name]
            if total >= 1 - method.epsilon:
                continue
            halting = 1 / (1 + math.exp(-(method.gamma * float(x[0]) - method.beta)))
            ends = total + halting >= 1 - method.epsilon
            weight = 1 - total if ends else halting
            self.sums[name] = (1.0 if ends else total + halting, output + weight * x)
        running = [i for i, patch in enumerate(line.patches) if self.sums[patch][0] < 1 - method.epsilon]
        return line.only(running or [0])

    def answer(self, method: AViT, head: list[Tensor], line: Line) -> list[Tensor]:
        for name, x in zip(self.names + line.patches, head + line.tokens, strict=True):
            total, output = self.sums[name]
            if total < 1 - method.epsilon:
                self.sums[name] = (1.0, output + (1 - total) * x)
        return [output for _, output in self.sums.values()]


FORMS: dict[type[Method], Callable[..., tuple[list[int], Line]]] = {
    TopK: _top_k,
    ToMe: _to_me,
    ATS: _sampled,
    UniformStride: _stride,
    PaddingMerge: _stand_ins,
    AveragePooling: _average,
    AToMe: _pair_by_pair,
    FastAdaSP: _link_by_link,
    LTBM: _to_me,
    PeakSegments: _segment_by_segment,
    SAMAP: _merged_and_pruned,
    EVS: _changing,
    DivPrune: _far_apart,
    DPP: _determinantal,
    VisionZip: _zipped,
    DynamicViT: _dynamic,
    SPViT: _soft,
}
