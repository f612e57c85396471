"""The statistics of an analysis against slow, obvious ones: plain loops over clips, blocks and tokens."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kendalltau
from torch import Tensor

from audioprune.analysis.attention_ratio import AttentionRatio
from audioprune.analysis.correlation import RankCorrelation, published, signs, tau_b
from audioprune.analysis.heat import MeanVariation
from audioprune.analysis.norms import NormRatio
from audioprune.analysis.observe import Block, Observation
from audioprune.analysis.question import Finding, Question
from audioprune.analysis.signal import RetainedSignal
from audioprune.analysis.sums import Moments, Spread, compare_means
from audioprune.analysis.survey import Survey

TAU = -0.2
PATCHES, STAGES, DEPTH = 16, (1, 3), 6
BOUNDARIES = torch.tensor([-0.8, -0.3, 0.2, 0.9])


def cluster_of(intensity: Tensor) -> Tensor:
    return torch.bucketize(intensity, BOUNDARIES)


def evenness_of(variation: Tensor) -> Tensor:
    return torch.bucketize(variation, torch.tensor([0.2, 0.3, 0.5, 0.9]))


QUESTIONS: dict[str, Callable[[], Question]] = {
    "signal": lambda: RetainedSignal(TAU),
    "attention": lambda: AttentionRatio(TAU),
    "norms": NormRatio,
    "correlation": lambda: RankCorrelation(cluster_of, evenness_of),
    "heat": lambda: MeanVariation(cluster_of, (-2.0, 2.0), (0.0, 1.0)),
}
every_question = pytest.mark.parametrize("ask", QUESTIONS.values(), ids=QUESTIONS)


def observe(
    keep_rate: float, clips: int = 6, seed: int = 0, intensity: Tensor | None = None, variation: Tensor | None = None
) -> Observation:
    """Clips of random numbers through a model of 6 blocks, of which the second and the fourth prune, and which hands
    its tokens on in any order."""
    generator = torch.Generator().manual_seed(seed)
    rand = lambda *shape: torch.rand(shape, generator=generator)  # noqa: E731
    intensity = 2 * rand(clips, PATCHES) - 1 if intensity is None else intensity
    patch, blocks = torch.arange(PATCHES).expand(clips, -1), []
    for layer in range(DEPTH):
        kept = None
        if keep_rate < 1 and layer in STAGES:
            count = math.ceil(keep_rate * patch.shape[1])
            kept = rand(*patch.shape).argsort(1)[:, :count].sort(1).values
        attention = rand(*patch.shape) + 0.3 * intensity.gather(1, patch).clamp(min=0)
        blocks.append(Block(layer, patch, attention, None, attention, kept, 5 + rand(clips), 1 + rand(clips)))
        if kept is not None:
            patch = patch.gather(1, kept)
        patch = patch[:, torch.randperm(patch.shape[1], generator=generator)]
    variation = rand(clips, PATCHES) if variation is None else variation
    nothing = torch.zeros(clips, 2)
    return Observation(
        keep_rate, torch.arange(clips), nothing, nothing, rand(clips, 8, 4), intensity, variation, tuple(blocks)
    )


def part(observation: Observation, clips: slice) -> Observation:
    """Some clips of a batch."""

    def of(one: Any) -> Any:
        taken = {name: value[clips] for name, value in vars(one).items() if isinstance(value, Tensor)}
        return replace(one, **taken)

    return replace(of(observation), blocks=tuple(of(block) for block in observation.blocks))


def asked(question: Question, *observations: Observation) -> Finding:
    for observation in observations:
        question.update(observation)
    return checked(question.answer())


def checked(answer: Finding) -> Finding:
    """Plain numbers throughout, none of them NaN, and tables whose rows fit."""
    json.dumps(answer.values, allow_nan=False)
    for table in answer.tables:
        assert all(len(row) == len(table.columns) for row in table.rows)
        json.dumps(table.rows, allow_nan=False)
    for text in (*answer.found, answer.note or ""):
        assert not any(word in text for word in ("nan", "None", "inf "))
    return answer


def same(found: dict[str, Any], *where: int, clips: Iterable[float | None]) -> None:
    """The mean, standard deviation and number of one of {"mean", "std", "n"} against those of a list of clips."""
    values = [value for value in clips if value is not None]
    mean, std, n = (_at(found[name], where) for name in ("mean", "std", "n"))
    assert n == len(values)
    assert mean == (pytest.approx(statistics.mean(values), abs=1e-6) if values else None)
    assert std == (pytest.approx(statistics.stdev(values), abs=1e-6) if len(values) > 1 else None)


def _at(nested: Any, where: tuple[int, ...]) -> Any:
    for i in where:
        nested = nested[i]
    return nested


def divided(above: float, below: float) -> float | None:
    return above / below if below else None


def average(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def patches_of(block: Block, clip: int) -> tuple[list[int], list[int]]:
    """The patches before a block prunes, and those that it keeps."""
    before = block.patch[clip].tolist()
    return before, before if block.kept is None else [before[i] for i in block.kept[clip].tolist()]


# --- against plain loops ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep_rate", [0.9, 0.5, 0.3])
def test_retained_signal(keep_rate: float) -> None:
    observation = observe(keep_rate)
    answer = asked(RetainedSignal(TAU), observation)
    found = answer.values["rates"][str(keep_rate)]
    assert found["layers"] == list(STAGES)
    signals = [{p for p in range(PATCHES) if row[p] > TAU} for row in observation.intensity.tolist()]
    same(found["input"], clips=[len(signal) / PATCHES for signal in signals])
    for i, stage in enumerate(observation.stages):
        rows = [(*patches_of(stage, clip), signal) for clip, signal in enumerate(signals)]
        a = [len(signal & set(kept)) / len(before) for before, kept, signal in rows]
        b = [divided(len(signal & set(kept)), len(signal)) for _, kept, signal in rows]
        share = [len(signal & set(kept)) / len(kept) for _, kept, signal in rows]
        same(found["a"], i, clips=a)
        same(found["b"], i, clips=b)
        same(found["kept"], i, clips=share)
        chance = [len(kept) / PATCHES for _, kept, _ in rows]
        same(found["random_b"], i, clips=chance)
        same(found["random_a"], i, clips=[c * len(s) / len(n) for c, (n, _, s) in zip(chance, rows)])
        same(found["excess"], i, clips=[s - len(signal) / PATCHES for s, signal in zip(share, signals)])
        for name, values in (("distribution_a", a), ("distribution_b", b)):
            assert found[name][i] == np.histogram([v for v in values if v is not None], 20, (0, 1))[0].tolist()
    assert answer.tables[0].rows[1][:5] == (keep_rate, 2, 4, found["a"]["mean"][1], found["a"]["std"][1])


@pytest.mark.parametrize("keep_rate", [0.9, 0.5, 0.1])
def test_attention_ratio(keep_rate: float) -> None:
    observation = observe(keep_rate, seed=1)
    answer = asked(AttentionRatio(TAU), observation)
    found = answer.values["rates"][str(keep_rate)]
    assert (found["layers"], found["stages"]) == ([0, 1, 2, 3], [1, 3])
    for kind, wanted in enumerate((True, False)):
        of_blocks: list[list[float | None]] = []
        pooled: list[float | None] = []
        for at in range(4):
            block, stage = observation.blocks[at], observation.blocks[1 if at <= 1 else 3]
            of_blocks.append([])
            totals = [0.0, 0.0]
            for clip in range(6):
                survivors, loud = patches_of(stage, clip)[1], (observation.intensity[clip] > TAU).tolist()
                scores = dict(zip(block.patch[clip].tolist(), block.score[clip].tolist()))
                retained = average([scores[p] for p in scores if p in survivors and loud[p] == wanted])
                pruned = average([scores[p] for p in scores if p not in survivors])
                of_blocks[-1].append(None if retained is None or pruned is None else divided(retained, pruned))
                if retained is not None and pruned is not None:
                    totals = [totals[0] + retained, totals[1] + pruned]
            pooled.append(divided(*totals))
            same(found["gamma"], kind, at, clips=of_blocks[-1])
        averages = [[None if None in pair else sum(pair) / 2 for pair in zip(*of_blocks[i : i + 2])] for i in (0, 2)]
        for group in (0, 1):
            same(found["Gamma"], kind, group, clips=averages[group])
            pair = pooled[2 * group : 2 * group + 2]
            expected = None if None in pair else sum(pair) / 2
            assert found["pooled"][kind][group] == (expected if expected is None else pytest.approx(expected, abs=1e-6))
        growth = [None if None in pair else pair[1] - pair[0] for pair in zip(*averages)]
        same(found["growth"], kind, clips=growth)
    row = next(row for row in answer.tables[0].rows if row[1:3] == ("background", "G2"))
    assert row[3:5] == (found["pooled"][1][1], found["Gamma"]["mean"][1][1])
    assert row[6] + row[7] == 6


def test_norm_ratio() -> None:
    observations = observe(1.0), observe(0.5, seed=3)
    answer = asked(NormRatio(), *observations)
    means = {}
    for observation in observations:
        found = answer.values["rates"][str(observation.keep_rate)]
        ratios = [(block.residual / block.attended).tolist() for block in observation.blocks]
        for at, clips in enumerate(ratios):
            same(found["ratio"], at, clips=clips)
        means[observation.keep_rate] = [statistics.mean(clips) for clips in ratios]
        of_clips = list(zip(*ratios))
        same(found["change"], clips=[(clip[4] + clip[5] - clip[0] - clip[1]) / 2 for clip in of_clips])
    relative = [pruned / unpruned for pruned, unpruned in zip(means[0.5], means[1.0])]
    assert answer.values["rates"]["0.5"]["relative"] == pytest.approx(relative, rel=1e-6)
    assert answer.values["rates"]["1.0"]["relative"] == [1.0] * DEPTH
    assert answer.note is None


def slow_kendall(a: list[float], b: list[float]) -> float:
    """As the authors count: a tie is concordant."""
    n = len(a)
    concordant = sum((a[i] - a[j]) * (b[i] - b[j]) >= 0 for i in range(n) for j in range(i))
    return (2 * concordant - n * (n - 1) / 2) / (n * (n - 1) / 2)


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=30))
def test_kendall(pairs: list[tuple[int, int]]) -> None:
    a, b = (list(map(float, values)) for values in zip(*pairs))
    of_a, of_b = signs(np.array(a)), signs(np.array(b))
    if len(set(a)) == 1 or len(set(b)) == 1:
        assert math.isnan(tau_b(of_a, of_b))
    else:
        assert tau_b(of_a, of_b) == pytest.approx(kendalltau(a, b).statistic, abs=1e-12)
    if len(a) == 1:
        assert all(map(math.isnan, published(of_a, of_b)))
    else:
        tied = statistics.mean(float(b[i] == b[j]) for i in range(len(b)) for j in range(i))
        assert published(of_a, of_b) == pytest.approx((slow_kendall(a, b), tied), abs=1e-12)


@pytest.mark.parametrize("keep_rate", [1.0, 0.5])
def test_rank_correlation(keep_rate: float) -> None:
    intensity = torch.randint(-3, 3, (6, PATCHES), generator=torch.Generator().manual_seed(0)) / 3.0
    observation = observe(keep_rate, intensity=intensity)
    found = asked(QUESTIONS["correlation"](), observation).values["rates"][str(keep_rate)]
    overall = []
    features = ((observation.intensity, cluster_of), (observation.variation, evenness_of))
    for i, (values, cluster) in enumerate(features):
        by_clip: list[list[float]] = [[] for _ in range(6)]
        ranks = cluster(values).tolist()
        for at, block in enumerate(observation.blocks):
            here = [block.patch[clip].tolist() for clip in range(6)]
            scores = [block.score[clip].tolist() for clip in range(6)]
            taus = [
                kendalltau(scores[clip], [values[clip, p].item() for p in here[clip]]).statistic for clip in range(6)
            ]
            same(found["tau_b"], i, at, clips=[None if math.isnan(tau) else tau for tau in taus])
            ranked = [[ranks[clip][p] for p in here[clip]] for clip in range(6)]
            same(found["paper"], i, at, clips=list(map(slow_kendall, scores, ranked)))
            tied = [statistics.mean(float(a == b) for j, a in enumerate(row) for b in row[:j]) for row in ranked]
            same(found["ties"], i, at, clips=tied)
            for clip, tau in enumerate(taus):
                by_clip[clip] += [] if math.isnan(tau) else [tau]
        overall.append([statistics.mean(taus) for taus in by_clip])
        same(found["overall"], i, clips=overall[-1])
    same(found["more"], clips=[one - other for one, other in zip(*overall)])


def test_unrelated_scores() -> None:
    """The published statistic is then the share of ties, τ-b 0."""
    rng = np.random.default_rng(0)
    pairs = [(signs(rng.random(256)), signs(rng.integers(0, 4, 256))) for _ in range(50)]
    assert np.mean([tau_b(*pair) for pair in pairs]) == pytest.approx(0, abs=0.02)
    both = np.array([published(*pair) for pair in pairs])
    assert both.mean(0) == pytest.approx([0.25, 0.25], abs=0.02)


def test_the_authors_statistic() -> None:
    """Written as their script counts: clips pooled, each pair once."""
    observation = observe(0.5)
    found = asked(QUESTIONS["correlation"](), observation).values["rates"]["0.5"]["paper"]["mean"][0]
    rank = cluster_of(observation.intensity).float()
    for at, block in enumerate(observation.blocks):
        here = rank.gather(1, block.patch)
        attention_gap = block.score[:, None] - block.score[:, :, None]
        rank_gap = here[:, None] - here[:, :, None]
        once = torch.ones_like(rank_gap[0]).triu(1).bool()
        agree = (attention_gap * rank_gap >= 0)[:, once].sum().item()
        differ = (attention_gap * rank_gap < 0)[:, once].sum().item()
        assert found[at] == pytest.approx((agree - differ) / (agree + differ), abs=1e-9)


@pytest.mark.parametrize("keep_rate", [1.0, 0.5])
def test_mean_variation(keep_rate: float) -> None:
    observation = observe(keep_rate)
    answer = asked(MeanVariation(cluster_of, (-0.9, 0.9), (0.0, 0.9)), observation)
    found = answer.values["rates"][str(keep_rate)]
    assert found["layers"] == [stage.layer for stage in observation.stages]
    there = [list(range(PATCHES))] * 6
    for i, stage in enumerate([None, *observation.stages]):
        if stage is not None:
            there = [patches_of(stage, clip)[1] for clip in range(6)]
        slow = [[0] * 40 for _ in range(40)]
        for clip, patches in enumerate(there):
            for p in patches:
                mean, variation = observation.intensity[clip, p].item(), observation.variation[clip, p].item()
                column, row = math.floor((mean + 0.9) / 1.8 * 40), math.floor(variation / 0.9 * 40)
                slow[min(max(column, 0), 39)][min(row, 39)] += 1
        assert found["histograms"][i] == slow
        if stage is not None:
            assert found["random"][i - 1] == len(there[0]) / PATCHES
            check_clusters(found, i - 1, observation.intensity, there)
            check_shift(found, i - 1, (observation.intensity, observation.variation), there)
    assert (answer.note == "No tokens were pruned.") == (keep_rate == 1)


def check_clusters(found: dict[str, Any], stage: int, intensity: Tensor, there: list[list[int]]) -> None:
    shares: list[list[float | None]] = []
    for cluster in range(5):
        members = [[p for p in range(PATCHES) if cluster_of(row)[p] == cluster] for row in intensity]
        shares.append([divided(len({*own} & {*kept}), len(own)) for own, kept in zip(members, there)])
        same(found["kept"], stage, cluster, clips=shares[-1])
    ends = zip(shares[0], shares[-1])
    louder = [None if low is None or high is None else high - low for low, high in ends]
    same(found["louder"], stage, clips=louder)


def check_shift(found: dict[str, Any], stage: int, features: tuple[Tensor, ...], there: list[list[int]]) -> None:
    for i, feature in enumerate(features):
        rows = zip(feature.tolist(), there)
        shifts = [sum(row[p] for p in kept) / len(kept) - sum(row) / PATCHES for row, kept in rows]
        same(found["shift"], stage, i, clips=shifts)


# --- in any portions, and interrupted --------------------------------------------------------------------------------


def close(one: Any, other: Any) -> None:
    """Equal in structure, and in numbers to rounding."""
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            close(one[key], other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for left, right in zip(one, other):
            close(left, right)
    else:
        assert one == (pytest.approx(other, rel=1e-6, abs=1e-6) if isinstance(other, float) else other)


@every_question
def test_batches_do_not_matter(ask: Callable[[], Question]) -> None:
    observations = [observe(rate, seed=i) for i, rate in enumerate((1.0, 0.7, 0.5))]
    whole = asked(ask(), *observations)
    # Rates in turn, as an analysis hears them.
    portions = [part(one, slice(first, first + 2)) for first in (0, 2, 4) for one in observations]
    split = asked(ask(), *portions)
    close(whole.values, split.values)
    assert whole.found == split.found
    assert whole.note == split.note


def listed(state: Any) -> Any:
    if isinstance(state, dict):
        return {key: listed(value) for key, value in state.items()}
    return state.tolist() if isinstance(state, np.ndarray) else state


@every_question
@pytest.mark.parametrize("through", [lambda state: state, lambda state: json.loads(json.dumps(listed(state)))])
def test_a_state_is_gone_on_with(ask: Callable[[], Question], through: Callable[[Any], Any]) -> None:
    first, second = [observe(rate) for rate in (1.0, 0.5)], [observe(rate, seed=9) for rate in (1.0, 0.5)]
    interrupted, resumed = ask(), ask()
    asked(interrupted, *first)
    resumed.load(through(interrupted.state()))
    assert resumed.answer() == interrupted.answer()
    before = interrupted.answer()
    answer = asked(resumed, *second)
    assert interrupted.answer() == before
    assert answer == asked(ask(), *first, *second)


@every_question
def test_memory_does_not_grow(ask: Callable[[], Question]) -> None:
    def size(state: Any) -> int:
        if isinstance(state, dict):
            return sum(map(size, state.values()))
        return np.size(state)

    question = ask()
    asked(question, observe(0.5))
    before = size(question.state())
    asked(question, *(observe(0.5, seed=i) for i in range(5)))
    assert size(question.state()) == before


# --- where there is little to say ------------------------------------------------------------------------------------

LOUD, QUIET = torch.full((6, PATCHES), 0.5), torch.full((6, PATCHES), -0.5)
DEGENERATE = {
    "nothing": [],
    "unpruned": [observe(1.0)],
    "no unpruned": [observe(0.7), observe(0.5)],
    "one clip": [observe(1.0, 1), observe(0.5, 1)],
    "no background": [observe(1.0, intensity=LOUD), observe(0.5, intensity=LOUD)],
    "no signal": [observe(1.0, intensity=QUIET), observe(0.5, intensity=QUIET)],
    "silence": [observe(rate, intensity=QUIET, variation=torch.zeros(6, PATCHES)) for rate in (1.0, 0.5)],
    "almost all kept": [observe(0.999)],
}


@every_question
@pytest.mark.parametrize("observations", DEGENERATE.values(), ids=DEGENERATE)
@pytest.mark.filterwarnings("error")
def test_no_number_is_made_up(ask: Callable[[], Question], observations: list[Observation]) -> None:
    answer = asked(ask(), *observations)
    assert answer.found or answer.note


@pytest.mark.parametrize(
    ("question", "case", "words"),
    [
        ("signal", "nothing", "No tokens were pruned"),
        ("signal", "no signal", "there is no signal to retain"),
        ("signal", "no background", "there is nothing to compare"),
        ("attention", "no signal", "No clip has both retained signal tokens"),
        ("attention", "almost all kept", "No clip has both retained signal or background tokens and pruned tokens"),
        ("norms", "no unpruned", "Without keep rate 1.0"),
        ("correlation", "silence", "No clip has tokens that differ in intensity or variation"),
        ("heat", "unpruned", "No tokens were pruned"),
        ("heat", "silence", "No clip has patches of C1, C3, C4, C5"),
    ],
)
def test_notes(question: str, case: str, words: str) -> None:
    answer = asked(QUESTIONS[question](), *DEGENERATE[case])
    assert words in (answer.note or "")


def test_other_clips_are_no_comparison() -> None:
    other = replace(observe(0.5), clips=torch.arange(6) + 1)
    answer = asked(NormRatio(), observe(1.0), other)
    assert answer.values["rates"]["0.5"]["relative"] == [None] * DEPTH
    assert "other clips" in (answer.note or "")


# --- sentences follow the numbers ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("largest", "words"), [(True, "kept tokens follow intensity"), (False, "kept tokens avoid intensity")]
)
def test_signal_sentence(largest: bool, words: str) -> None:
    observation = observe(0.5)
    stage = observation.blocks[1]
    kept = observation.intensity.gather(1, stage.patch).topk(8, largest=largest).indices.sort(1).values
    blocks = (observation.blocks[0], replace(stage, kept=kept))
    (sentence,) = asked(RetainedSignal(0.0), replace(observation, blocks=blocks)).found
    assert f"{words} (" in sentence


@pytest.mark.parametrize(
    ("slope", "words"), [(1.0, "it rises"), (-1.0, "it falls"), (0.0, "neither clearly falls nor rises")]
)
def test_norm_sentence(slope: float, words: str) -> None:
    observation = observe(1.0)
    level = torch.tensor([1.0, 1.1, 1.2, 0.9, 1.0, 0.8])
    blocks = tuple(
        replace(block, residual=10 + slope * block.layer + level, attended=torch.ones(6))
        for block in observation.blocks
    )
    assert words in asked(NormRatio(), replace(observation, blocks=blocks)).found[0]


@pytest.mark.parametrize(("sign", "words"), [(1, "receive more attention"), (-1, "receive less attention")])
def test_correlation_sentence(sign: int, words: str) -> None:
    observation = observe(1.0)
    scores = [sign * observation.intensity.gather(1, block.patch) for block in observation.blocks]
    # A little noise, or the error would be 0.
    blocks = tuple(replace(block, score=score + 0.01 * block.score) for block, score in zip(observation.blocks, scores))
    sentences = asked(QUESTIONS["correlation"](), replace(observation, blocks=blocks)).found
    assert f"tokens of higher intensity {words}" in sentences[0]
    assert "no clear relation" in sentences[1] or "variation" in sentences[1]


def test_attention_sentence() -> None:
    observation = observe(0.5, intensity=torch.tensor([0.5, -0.5]).repeat(6, PATCHES // 2))
    blocks = []
    for block, stage in zip(observation.blocks[:4], (1, 1, 3, 3)):
        of_stage = observation.blocks[stage]
        assert of_stage.kept is not None
        survivors = of_stage.patch.gather(1, of_stage.kept)
        stays = (block.patch[:, :, None] == survivors[:, None]).any(2)
        blocks.append(replace(block, score=1 + stays * (1 + 0.1 * block.attention)))
    found = asked(AttentionRatio(0.0), replace(observation, blocks=tuple(blocks))).found
    assert "retained signal tokens receive" in found[0]
    assert "which is more" in found[0]
    assert "which is more" in found[1]


def test_a_few_clips_alone_do_not_make_a_statement() -> None:
    """In half of the clips the pruned tokens receive almost nothing; in the others they receive a little more."""
    observation = observe(0.5, clips=20, intensity=torch.full((20, PATCHES), 0.5))
    blocks = []
    for block, stage in zip(observation.blocks[:4], (1, 1, 3, 3)):
        of_stage = observation.blocks[stage]
        assert of_stage.kept is not None
        stays = (block.patch[:, :, None] == of_stage.patch.gather(1, of_stage.kept)[:, None]).any(2)
        extreme = (torch.arange(20) % 2 == 0)[:, None]
        kept, pruned = torch.where(extreme, 1e-3, 1.0), torch.where(extreme, 1e-6, 1.3)
        blocks.append(replace(block, score=torch.where(stays, kept, pruned) * (1 + 0.01 * block.attention)))
    answer = asked(AttentionRatio(0.0), replace(observation, blocks=tuple(blocks)))
    assert answer.values["rates"]["0.5"]["Gamma"]["mean"][0][1] > 400
    assert answer.values["rates"]["0.5"]["pooled"][0][1] < 0.9
    assert "pooled over clips: 0.7" in answer.found[0]
    assert "which is no clear difference" in answer.found[0]


@given(st.lists(st.lists(st.floats(-10, 10) | st.just(math.nan), min_size=2, max_size=2), min_size=1, max_size=12))
def test_moments(rows: list[list[float]]) -> None:
    moments, at_once = Moments(), Moments()
    at_once.add(np.array(rows))
    for row in rows:
        moments.add(np.array([row]))
    for i in range(2):
        values = [row[i] for row in rows if not math.isnan(row[i])]
        spread = moments.at(i)
        assert (spread.n, moments.seen) == (len(values), len(rows))
        assert spread.mean == (pytest.approx(statistics.mean(values), abs=1e-9) if values else None)
        assert spread.std == (pytest.approx(statistics.stdev(values), abs=1e-5) if len(values) > 1 else None)
        assert at_once.at(i).n == spread.n


def test_sides() -> None:
    assert Spread(1.0, 1.0, 100).side() == 1
    assert Spread(-1.0, 1.0, 100).side() == -1
    assert Spread(0.1, 1.0, 100).side() == 0
    assert Spread(1.0, None, 1).side() is None
    assert Spread(1e-16, 0.0, 3).side() == 0
    assert compare_means(Spread(1.0, 1.0, 100), Spread(0.5, 1.0, 100)) == 1
    assert compare_means(Spread(1.0, 1.0, 100), Spread(0.8, 1.0, 100)) == 0
    assert compare_means(Spread(1.0, 1.0, 100), Spread(None, None, 0)) is None


# --- the survey ------------------------------------------------------------------------------------------------------


def surveyed(*log_mels: Tensor) -> Survey:
    survey = Survey()
    for log_mel in log_mels:
        survey.update(log_mel, *patches_in(log_mel))
    return survey


def patches_in(log_mel: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each patch of 4 × 4."""
    cells = log_mel.unfold(1, 4, 4).unfold(2, 4, 4).flatten(1, 2).flatten(2)
    return cells.mean(2), cells.std(2, correction=0)


def noise(clips: int = 6, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    levels = torch.rand(clips, 8, 4, generator=generator).repeat_interleave(4, 1).repeat_interleave(4, 2)
    return 2 * levels**2 - 1.2 + 0.1 * torch.randn(clips, 32, 16, generator=generator)


@settings(max_examples=15)
@given(st.integers(0, 1000))
def test_survey(seed: int) -> None:
    log_mel = noise(seed=seed)
    survey = surveyed(log_mel)
    values = checked(survey.answer()).values
    low, high = log_mel.min().item(), log_mel.max().item()
    assert (values["minimum"], values["maximum"]) == (low, high)
    assert values["tau"] == pytest.approx(low + (high - low) / 10)
    counts, edges = np.histogram(log_mel.double().numpy(), 10)
    assert values["edges"] == pytest.approx(edges.tolist())
    # Each edge lies within one bin of the fine histogram.
    assert np.abs(np.array(values["counts"]) - counts).max() <= 2 * survey.log_mel.counts.max()
    assert sum(values["counts"]) == log_mel.numel()
    means = [
        log_mel[c, 4 * t : 4 * t + 4, 4 * f : 4 * f + 4].mean() for c in range(6) for t in range(8) for f in range(4)
    ]
    loud = [mean for mean in means if mean > values["tau"]]
    assert values["signal_share"] == pytest.approx(len(loud) / len(means), abs=2 / len(means))
    assert survey.intensity_range == pytest.approx((min(means).item(), max(means).item()))


def test_the_papers_thresholds() -> None:
    """A floor of a log-mel of SPC-2 and VoxCeleb-1, normalised, and the loudest value that their histograms show."""
    for mean, std, loudest, tau in ((-6.846, 5.565, 0.85, -0.65), (-6.370, 3.074, 1.5, -1.25)):
        log_mel = torch.tensor([(math.log(2**-23) - mean) / (2 * std), loudest]).repeat(1, 16, 8)
        assert surveyed(log_mel).tau == pytest.approx(tau, abs=0.005)


def test_clusters() -> None:
    levels = torch.tensor([-1.0, -0.5, 0.0, 0.4, 1.0])
    which = torch.arange(40) % 5
    jitter = 0.01 * torch.randn(2, 40, generator=torch.Generator().manual_seed(0))
    intensity = levels[which] + jitter
    survey = Survey()
    survey.update(intensity[..., None], intensity, intensity + 1.5)
    assert survey.by_variation.centers == pytest.approx((levels + 1.5).tolist(), abs=0.01)
    assert survey.by_intensity.centers == pytest.approx(levels.tolist(), abs=0.01)
    assert survey.by_intensity.boundaries == pytest.approx([-0.75, -0.25, 0.2, 0.7], abs=0.01)
    assert torch.equal(survey.by_intensity.of(intensity), which.expand(2, -1))
    answer = checked(survey.answer())
    assert answer.values["cluster_shares"] == [0.2] * 5
    assert answer.note is None
    assert [row[0] for row in answer.tables[1].rows] == ["C1", "C2", "C3", "C4", "C5"]


def test_survey_in_portions_and_interrupted() -> None:
    log_mel = noise()
    whole, first, second = surveyed(log_mel), surveyed(log_mel[:2]), Survey()
    assert first.tau != whole.tau
    assert len(first.by_intensity.centers) == 5
    second.load(json.loads(json.dumps(listed(first.state()))))
    assert second.answer() == first.answer()
    for survey in (first, second):
        survey.update(log_mel[2:], *patches_in(log_mel[2:]))
        assert survey.answer() == whole.answer()
    empty = Survey()
    empty.load(Survey().state())
    assert empty.answer().note == "No sounds were surveyed."


@pytest.mark.parametrize(("levels", "clusters"), [([0.0, 1.0], 2), ([0.0, 0.5, 1.0, -1.0], 4)])
def test_few_different_patches(levels: list[float], clusters: int) -> None:
    intensity = torch.tensor(levels).repeat(3, 4)
    survey = Survey()
    survey.update(intensity[..., None], intensity, torch.zeros_like(intensity))
    assert len(survey.by_intensity.centers) == clusters
    assert len(survey.by_variation.centers) == 1
    assert f"only {clusters} different means" in (checked(survey.answer()).note or "")


def test_silence() -> None:
    # 1/3 of silence: a mean of equal numbers may differ from them in the last bit.
    survey = surveyed(torch.full((2, 16, 8), -1 / 3))
    answer = checked(survey.answer())
    assert answer.values["signal_share"] == 0
    assert not (patches_in(torch.full((2, 16, 8), -1 / 3))[0] > survey.tau).any()
    assert sum(answer.values["counts"]) == 256
    assert "All values are the same" in (answer.note or "")
    assert survey.by_intensity.of(torch.tensor([[-1 / 3, 0.0]])).tolist() == [[0, 0]]
    assert survey.variation_range == (0.0, 0.0)
    clusters = survey.by_intensity
    heat = MeanVariation(clusters.of, survey.intensity_range, survey.variation_range, len(clusters.centers))
    silent = torch.full((6, PATCHES), -1 / 3)
    answer = asked(heat, observe(0.5, intensity=silent, variation=torch.zeros(6, PATCHES)))
    assert answer.values["clusters"] == ["C1"]


def test_survey_says_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="nothing was surveyed yet"):
        _ = Survey().tau
    with pytest.raises(ValueError, match="must be finite"):
        surveyed(torch.full((1, 16, 8), math.nan))
