"""Calibration: bounds by the book, the search on made-up settings, the guarantee by simulation, the command as a user
meets it; and models that are saved with their pruning."""

from __future__ import annotations

import itertools
import json
import math
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import scipy.stats
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st

import audioprune as ap
from audioprune.calibration import choose, search
from audioprune.calibration.bounds import at_most, clips_needed, even_chance, most_allowed, upper_bound
from audioprune.calibration.costs import Costs
from audioprune.calibration.disagreement import ClipSet, Disagreement, Hearing
from audioprune.calibration.ledger import Ledger
from audioprune.calibration.report import least_clips
from audioprune.calibration.run import confirming
from audioprune.calibration.space import families, kind, ladder, mean_share
from audioprune.compare.agreement import divergence
from audioprune.compare.benchmark import machine
from audioprune.core.recommend import padded_at, recommended_at
from audioprune.core.settings import describe, read_method
from audioprune.methods import DynamicViT
from audioprune.methods.chain import Chain
from audioprune.timing import ROUNDS

from .conftest import tone
from .families import FAMILIES, SPECTROGRAM, ast, audiomae, inputs_for, wav2vec2

# Bounds.


@given(st.integers(0, 400), st.integers(0, 400), st.floats(0.5, 0.999))
def test_bounds_by_the_book(count: int, more: int, confidence: float) -> None:
    clips = count + more
    found = upper_bound(count, clips, confidence) if clips else 1.0
    assert found == pytest.approx(scipy.stats.beta.ppf(confidence, count + 1, more) if more else 1.0, abs=1e-9)


@given(st.integers(0, 300), st.integers(1, 300), st.floats(0.001, 0.999))
def test_tails_by_the_book(count: int, clips: int, share: float) -> None:
    assert at_most(count, clips, share) == pytest.approx(scipy.stats.binom.cdf(count, clips, share), abs=1e-9)


@given(st.integers(1, 60), st.floats(0.02, 0.5))
def test_counts_that_are_allowed(clips: int, limit: float) -> None:
    allowed = most_allowed(limit, clips)
    assert [upper_bound(count, clips) <= limit for count in range(clips + 1)] == [
        count <= allowed for count in range(clips + 1)
    ]
    if allowed >= 0:
        assert at_most(allowed, clips, even_chance(limit, clips)) == pytest.approx(0.5, abs=1e-6)
    else:
        assert even_chance(limit, clips) == 0


@pytest.mark.parametrize("clips", [10, 40, 149])
def test_a_bound_holds_as_often_as_it_says(clips: int) -> None:
    """Exactly: summed over all counts that may come out."""
    bounds = [upper_bound(count, clips) for count in range(clips + 1)]
    for share in np.linspace(0.001, 0.6, 60):
        chances = scipy.stats.binom.pmf(range(clips + 1), clips, share)
        assert sum(chance for chance, bound in zip(chances, bounds) if bound >= share) >= 0.95 - 1e-9


def test_clips_that_a_limit_needs() -> None:
    assert [clips_needed(limit) for limit in (0.01, 0.02, 0.05, 0.1)] == [299, 149, 59, 29]
    assert all(
        upper_bound(0, clips_needed(limit)) <= limit < upper_bound(0, clips_needed(limit) - 1) for limit in (0.02, 0.3)
    )
    for limit, share in ((0.02, 0.01), (0.1, 0.05), (0.1, 0.001)):
        clips = clips_needed(limit, share)
        assert upper_bound(math.ceil(share * clips), clips) <= limit
        assert clips > clips_needed(limit) or share < 0.01
    for limit, share in ((0.0, 0.0), (1.0, 0.0), (0.02, 0.02), (0.02, 0.5)):
        with pytest.raises(ValueError, match="limit is"):
            clips_needed(limit, share)


def test_bounds_of_nonsense_are_refused() -> None:
    with pytest.raises(ValueError, match="5 of 4 clips"):
        upper_bound(5, 4)
    with pytest.raises(ValueError, match="confidence is 1"):
        upper_bound(1, 4, 1)


@pytest.mark.parametrize("limit", [0.02, 0.05, 0.1, 0.15])
def test_as_many_clips_are_kept_from_the_search_as_the_limit_needs(limit: float) -> None:
    least = least_clips(limit)
    assert confirming(least, limit) == clips_needed(limit)
    assert confirming(least - 1, limit) == math.ceil((least - 1) / 2)
    assert confirming(10 * least, limit) == 5 * least
    assert confirming(99, None) == 50


# The search, on settings that are made up.


class Setting(NamedTuple):
    family: int
    step: int


class Oracle:
    """Families whose settings are each a known speed and a known true share of clips that disagree.

    shares: (families, steps), rising along steps; setting (f, s) is 1.08**(s + 1) times as fast, families differ a
    little. alike: clips are hard or easy for all settings; otherwise each setting draws by itself.
    """

    def __init__(self, shares: np.ndarray, clips: int, confirming: int, seed: int = 0, alike: bool = False) -> None:
        self.shares, self.clips, self.confirming, self.alike = shares, clips, confirming, alike
        self.random = np.random.default_rng(seed)
        self.families = list(range(len(shares)))
        self._draws: dict[Setting, np.ndarray] = {}
        self._common = self.random.random(clips + confirming)
        self.heard: dict[Setting, int] = {}

    def speed(self, setting: Setting) -> float:
        return 1.08 ** (setting.step + 1) * (1 - 0.002 * setting.family)

    @property
    def top_speed(self) -> float:
        return max(self.speed(Setting(f, self.shares.shape[1] - 1)) for f in self.families)

    def at(self, family: int, speed: float) -> Setting | None:
        steps = (Setting(family, step) for step in range(self.shares.shape[1]))
        return next((setting for setting in steps if self.speed(setting) >= speed), None)

    def stage(self, name: str, clips: int) -> None: ...

    def share(self, setting: Setting) -> float:
        return float(self.shares[setting])

    def apart(self, setting: Setting) -> np.ndarray:
        if setting not in self._draws:
            draw = self._common if self.alike else self.random.random(self.clips + self.confirming)
            self._draws[setting] = draw < self.share(setting)
        return self._draws[setting]

    def hear(self, setting: Setting, clips: int) -> Disagreement:
        self.heard[setting] = max(clips, self.heard.get(setting, 0))
        return Disagreement(
            clips, int(self.apart(setting)[:clips].sum()), self.share(setting) * self.random.uniform(0.7, 1.4)
        )

    def confirm(self, setting: Setting) -> Disagreement:
        apart = self.apart(setting)[self.clips :]
        return Disagreement(len(apart), int(apart.sum()), self.share(setting))

    def measure(self, settings: list[Setting]) -> list[float]:
        return [self.speed(setting) for setting in settings]

    def correct(self, speeds: dict[Setting, float]) -> bool:
        return False


def rising(count: int, steps: int, best: int, random: np.random.Generator) -> np.ndarray:
    """Families of very different quality; `best` keeps its answers longest."""
    quality = random.uniform(2, 30, count)
    quality[best] = 1.0
    return np.minimum(0.9, 0.004 * quality[:, None] * (1.18 ** np.arange(steps) - 1))


@pytest.mark.parametrize("seed", range(6))
def test_the_search_finds_the_best_without_trying_everything(seed: int) -> None:
    shares = rising(80, 25, best=17, random=np.random.default_rng(seed))
    oracle = Oracle(shares, clips=300, confirming=300, seed=seed)
    found = choose.within(oracle, 0.05)
    everything = [Setting(f, s) for f in range(80) for s in range(25)]
    # What so many clips can show is a little below the limit.
    best = max(oracle.speed(one) for one in everything if oracle.share(one) <= even_chance(0.05, 300))
    assert found.shown
    assert found.chosen.method.family == 17
    assert oracle.speed(found.chosen.method) > 0.75 * best
    assert oracle.share(found.chosen.method) <= 0.05
    assert sum(oracle.heard.values()) < 0.05 * len(everything) * 300
    assert sum(oracle.heard.values()) <= choose.most_clips(oracle, None) < 0.2 * len(everything) * 300
    assert len(oracle.heard) < 0.2 * len(everything)


@pytest.mark.parametrize("seed", range(4))
def test_of_those_that_are_so_fast_the_search_finds_the_most_faithful(seed: int) -> None:
    oracle = Oracle(rising(80, 25, best=33, random=np.random.default_rng(seed)), 200, 200, seed)
    found = choose.at_speed(oracle, 2.5)
    assert found.shown
    assert found.chosen.method.family == 33
    assert 2.5 <= found.chosen.speed_up < 2.5 * 1.08**2
    assert found.chosen.confirmed.clips == 200
    assert sum(oracle.heard.values()) + 200 <= choose.most_clips(oracle, 2.5)
    assert sum(one.confirmed is not None for one in found.finalists) == 1, "one test alone, so that its bound is exact"
    assert not choose.at_speed(oracle, 50.0).shown


def test_predictions_that_err_are_mended() -> None:
    class Slow(Oracle):
        def measure(self, settings: list[Setting]) -> list[float]:
            return [1 + 0.6 * (self.speed(setting) - 1) for setting in settings]

    found = choose.at_speed(Slow(rising(20, 25, 3, np.random.default_rng(0)), 100, 100), 2.5)
    assert found.chosen.method.family == 3
    assert 2.5 <= found.chosen.speed_up < 2.75


def test_a_search_that_was_misled_is_done_again() -> None:
    class Misled(Oracle):
        wrong = 0.45

        def speed(self, setting: Setting) -> float:
            return 1 + self.wrong * (super().speed(setting) - 1)

        def measure(self, settings: list[Setting]) -> list[float]:
            return [Oracle.speed(self, setting) for setting in settings]

        def correct(self, speeds: dict[Setting, float]) -> bool:
            was, self.wrong = self.wrong, 1.0
            return was != self.wrong

    shares = rising(20, 25, 3, np.random.default_rng(0))
    expected = choose.within(Oracle(shares, 200, 200), 0.05)
    found = choose.within(Misled(shares, 200, 200), 0.05)
    assert found.chosen.speed_up == pytest.approx(expected.chosen.speed_up, rel=0.2)


@pytest.mark.parametrize("alike", [True, False])
def test_a_race_drops_none_that_could_have_come_through(alike: bool) -> None:
    """Stopping as soon as too many disagree decides as hearing everything would."""
    oracle = Oracle(np.random.default_rng(1).uniform(0, 0.1, (4, 1)), 200, 10, alike=alike)
    entries = [(f, Setting(f, 0)) for f in range(4)]
    for allowed in (0, 5, 10, 20):
        found, ranking = search.race(oracle, entries, allowed)
        expected = {f for f in range(4) if oracle.apart(Setting(f, 0))[:200].sum() <= allowed}
        assert {one.family for one in found} == expected
        assert sorted(ranking) == [0, 1, 2, 3]


@pytest.mark.parametrize("alike", [True, False])
@pytest.mark.parametrize("mild", [4, 0])
def test_settings_beyond_the_limit_pass_in_one_case_of_twenty_at_most(mild: int, alike: bool) -> None:
    """The worst case: everything is just beyond the limit, but for the mildest steps, and the search takes what was
    lucky."""
    limit, trials, wrong, naive, passed = 0.1, 400, 0, 0, 0
    for seed in range(trials):
        shares = np.full((12, 20), 0.105)
        shares[:, :mild] = np.random.default_rng(seed).uniform(0.0, 0.02, (12, mild))
        oracle = Oracle(shares, clips=40, confirming=29, seed=seed, alike=alike)
        found = choose.within(oracle, limit)
        passed += found.shown
        wrong += found.shown and oracle.share(found.chosen.method) > limit
        # What if the clips of the search were taken at their word?
        naive += any(
            upper_bound(one.heard.disagreements, 40) <= limit and oracle.share(one.method) > limit
            for one in found.finalists
        )
    assert wrong / trials <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / trials)
    assert passed > trials / 4 or not mild
    assert alike or naive / trials > 0.15, "the simulation can tell an honest test from none"


def test_where_no_number_of_agreeing_clips_shows_the_limit_it_is_an_estimate() -> None:
    oracle = Oracle(rising(20, 25, 3, np.random.default_rng(0)), 40, 40)
    found = choose.within(oracle, 0.02)
    assert not found.shown
    assert found.chosen is not None
    assert found.chosen.confirmed.share <= 0.02


def test_nothing_is_chosen_that_is_no_faster() -> None:
    class Slow(Oracle):
        def measure(self, settings: list[Setting]) -> list[float]:
            return [0.9 for _ in settings]

    found = choose.within(Slow(rising(20, 25, 3, np.random.default_rng(0)), 100, 100), 0.1)
    assert (found.chosen, found.shown, found.finalists) == (None, False, ())


# What there is to choose from, and what it costs.


def test_families_of_every_choice() -> None:
    found = families(12, has_cls=True)
    assert len(set(found)) == len(found)
    assert found[0] == recommended_at(1.0)
    assert {getattr(family, "score", None) for family in found} == {
        None, "attention", "cls", "random", "intensity", "variation",
    }  # fmt: skip
    assert {family.layers for family in found} == {None, "all", (1, 4, 7), (0, 2, 4)}
    assert not any(getattr(family, "score", "") == "cls" for family in families(12, has_cls=False))
    assert {type(family) for family in families(12, True, ["tome"])} == {ap.ToMe}
    assert {family.dropped for family in families(12, True, ["merge", "fuse"])} == {"merge", "fuse"}
    with pytest.raises(ValueError, match="no method 'magic'; there are recommended, topk"):
        families(12, True, ["magic"])


def test_padding_is_merged_first_where_a_model_pads() -> None:
    family = families(4, has_cls=False, pads=True)[0]
    assert family == padded_at(1.0)
    assert family in families(4, False, ["recommended"], pads=True)
    assert family not in families(4, False, ["topk"], pads=True)
    steps = ladder(family, 4)
    assert len(steps) > 10
    assert steps == [padded_at(method.keep_rate[0]) for method in steps]
    assert [method.keep_rate for method in steps] == sorted({method.keep_rate for method in steps}, reverse=True)


def test_shallow_models_have_no_settings_twice() -> None:
    for depth in (1, 2, 4):
        stages = [tuple(family.schedule(depth)) for family in families(depth, True, ["tome"])]
        assert all(stage[-1] < depth for stage in stages)
        assert len({(kind(f), f.metric) for f in families(depth, True, ["tome"])}) == len(stages)


@pytest.mark.parametrize("family", [ap.TopK(1.0), ap.TopK(1.0, (0, 2, 4), dropped="merge"), recommended_at(1.0)])
def test_a_ladder_descends_evenly(family: ap.Method) -> None:
    steps = ladder(family, 12)
    shares = [mean_share(method.keep_rate, tuple(method.schedule(12)), 12) for method in steps]
    assert all(0.85 < after / before < 1 for before, after in itertools.pairwise(shares))
    assert shares[0] <= 0.95
    assert min(method.keep_rate for method in steps) >= (0.5 if isinstance(family, ap.ToMe) else 0.05)


def test_settings_files_are_families_too(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(describe(ap.EViT(0.7))))
    assert families(12, True, [str(path)]) == [ap.EViT(1.0)]
    path.write_text(json.dumps(describe(ap.TopK((0.7, 0.6, 0.5)))))
    (family,) = families(12, True, [str(path)])
    assert ladder(family, 12) == [ap.TopK((0.7, 0.6, 0.5))]
    path.write_text(json.dumps(describe(DynamicViT(0.7))))
    with pytest.raises(ValueError, match="chooses by what it has learnt"):
        families(12, True, [str(path)])


@pytest.mark.parametrize("name", ["audiomae", "ast", "wav2vec2", "whisper"])
def test_predicted_work_is_about_what_is_counted(name: str) -> None:
    model, inputs = FAMILIES[name]().eval(), inputs_for(name)
    costs = Costs(model, ClipSet(inputs, model.main_input_name), range(3), 2)
    methods = [ap.TopK(1.0), ap.TopK(0.5), ap.TopK(0.4, "all", dropped="fuse"), recommended_at(0.7)]
    if name == "whisper":
        methods += [padded_at(0.7), Chain.of([ap.PaddingMerge(), ap.TopK(0.5, layers=[1])])]
    for method in methods:
        assert costs.predicted_macs(method) == pytest.approx(costs.macs(method), rel=0.06)


@pytest.fixture
def by_work(monkeypatch) -> None:
    """Tiny models are no faster pruned, whatever they save: here a setting is as fast as its work says."""

    def times(self: Costs, methods: list, *_: object) -> list[list[float]]:
        return [ROUNDS * [seconds] for seconds in (self.unpruned, *map(self.predicted_macs, methods))]

    monkeypatch.setattr(Costs, "_times", times)


def spectrograms(count: int, seed: int = 5) -> torch.Tensor:
    return torch.randn(count, 128, 128, generator=torch.Generator().manual_seed(seed))


def test_measurements_correct_predictions(by_work) -> None:
    costs = Costs(audiomae().eval(), ClipSet(spectrograms(16), "input_values"), range(16), 4)
    here = families(4, True, ["merge"])
    costs.time_kinds(here, Ledger(), lambda: None)
    steps = ladder(here[0], 4)
    assert not costs.correct({method: 1.02 * costs.speed(method) for method in steps})
    true = {method: 1 / (0.25 + costs.predicted_macs(method) / costs.unpruned) for method in steps}
    assert costs.correct(true)
    assert all(costs.speed(method) == pytest.approx(speed, rel=1e-3) for method, speed in true.items())
    other = next(family for family in here if kind(family) != kind(here[0]))
    assert costs.extra[kind(other)] == pytest.approx(0.25, abs=1e-3)


# Hearing.


@torch.no_grad()
@pytest.mark.parametrize("multi_label", [False, True])
def test_what_is_heard_is_what_one_finds_by_hand(multi_label: bool, tmp_path: Path) -> None:
    model = audiomae(problem_type="multi_label_classification" if multi_label else None).eval()
    x = torch.randn(20, 128, 128, generator=torch.Generator().manual_seed(3))
    order = [*range(10, 20), *range(10)]
    counted: list[int] = []
    hearing = Hearing(model, ClipSet(x, "input_values"), order, 3, Ledger(), counted.append)
    method = ap.TopK(0.1)
    first, both = hearing.hear(method, 0, 8), hearing.hear(method, 0, 20)
    assert sum(counted) == 20 + 20, "nothing is computed twice"
    full = model(x).logits
    with ap.prune(model, method):
        pruned = model(x).logits
    apart = (full.argmax(1) != pruned.argmax(1))[order]
    assert 0 < int(apart.sum()) < 20
    assert (first.disagreements, both.disagreements) == (int(apart[:8].sum()), int(apart.sum()))
    assert both.kl == pytest.approx(divergence(pruned, full, multi_label), rel=1e-4)


def test_clips_of_several_lengths_are_heard_as_they_are() -> None:
    model = wav2vec2().eval()
    batches = [{"input_values": torch.randn(2, 5120)}, torch.randn(3, 4000), {"input_values": torch.randn(1, 5120)}]
    clips = ClipSet(batches, "input_values")
    assert len(clips) == 6
    found = [(indices, x["input_values"].shape) for indices, x in clips.batches(model, range(6), 2)]
    assert found == [([0, 1], (2, 5120)), ([5], (1, 5120)), ([2, 3], (2, 4000)), ([4], (1, 4000))]
    with pytest.raises(ValueError, match="one row a clip"):
        ClipSet({"input_values": torch.zeros(2, 3), "attention_mask": torch.zeros(3, 3)}, "input_values")


def test_answers_that_are_no_numbers() -> None:
    model = audiomae().eval()
    x = torch.randn(18, 128, 128)
    x[3] = math.nan
    with pytest.raises(ValueError, match="no finite answer on 1 of 18 clips"):
        ap.calibrate(model, x, max_disagreement=0.2)


def test_what_a_method_refuses_is_apart_everywhere(by_work) -> None:
    model, x = audiomae().eval(), spectrograms(20)
    hearing = Hearing(model, ClipSet(x, "input_values"), range(20), 8, Ledger())
    refused = ap.AToMe(0.05, layers=(1, 2, 3))
    assert hearing.hear(refused, 0, 20) == Disagreement(20, 20, math.inf)
    assert ap.handle(model) is None
    with pytest.raises(TypeError, match='return_tensors="pt"'):
        ClipSet({"input_values": [[0.0]]}, "input_values")


def test_a_ledger_survives_a_kill(tmp_path: Path) -> None:
    path, method = tmp_path / "a.jsonl", ap.TopK(0.5, layers=(1, 2))
    ledger = Ledger(path, {"clips": "a"})
    ledger.note(method, [0, 1], [True, False], [0.5, math.inf])
    ledger.note_times({"a": 0.25})
    ledger.close()
    with open(path, "a") as file:
        file.write('{"setting": {"meth')  # torn
    again = Ledger(path, {"clips": "a"})
    assert (again.other, again.times) == ([], {"a": 0.25})
    assert again.outcomes(method) == {0: (True, 0.5), 1: (False, math.inf)}
    again.note(method, [2], [False], [0.0])
    again.close()
    assert Ledger(path, {"clips": "a"}).outcomes(method)[2] == (False, 0.0)
    other = Ledger(path, {"clips": "b"})
    assert (other.other, other.outcomes(method)) == (["clips='a' (not 'b')"], {})
    other.remove()
    assert not path.exists()
    path.write_bytes(b"\xff\xfe of something else")
    assert not Ledger(path, {"clips": "a"}).outcomes(method)


# The whole.


quick = partial(ap.calibrate, bench_seconds=0.01, batch_size=4, methods=("tome", "merge"))


@pytest.mark.parametrize("name", ["audiomae", "ast", "wav2vec2", "whisper"])
def test_every_kind_of_model(by_work, name: str) -> None:
    model = FAMILIES[name]().train()
    clips = [inputs_for(name) for _ in range(8)]
    for i, batch in enumerate(clips):
        for x in batch.values():
            x += 0.5 * torch.randn(x.shape, generator=torch.Generator().manual_seed(i))
    found = quick(model, clips, max_disagreement=0.3, methods=("recommended", "tome"))
    assert ap.handle(model) is None
    assert model.training
    assert found.about["clips"] == 24
    assert found.about["searching"] + found.about["confirming"] == 24
    assert found.rows
    assert found.chosen is None or found.chosen["setting"] == describe(found.method)


def test_a_limit_end_to_end(by_work, tmp_path: Path) -> None:
    model = audiomae().eval()
    found = quick(model, spectrograms(60), max_disagreement=0.4)
    path = found.save(tmp_path / "pruning.json", model="tiny")
    assert read_method(path) == found.method
    record = json.loads(path.read_text())["calibration"]
    assert record["asked"] == {"max_disagreement": 0.4}
    assert (record["model"], record["clips"], record["machine"]) == ("tiny", 60, machine())
    count = record["confirmed"]
    assert record["bound"] == upper_bound(count["disagreements"], count["clips"])
    assert found.shown == (record["bound"] <= 0.4)
    unpruned = ap.macs(model)
    with torch.no_grad():
        full = model(spectrograms(60)).logits.argmax(1)
        with ap.prune(model, path):
            assert record["macs_ratio"] == unpruned / ap.macs(model)
            apart = int((model(spectrograms(60)).logits.argmax(1) != full).sum())
    assert apart == count["disagreements"] + record["searched"]["disagreements"]


def test_a_speed_up_end_to_end(by_work) -> None:
    found = quick(audiomae(), spectrograms(32), speed_up=1.5)
    assert found.shown
    assert 1.5 <= found.chosen["speed_up"] < 1.8
    assert found.chosen["macs_ratio"] == pytest.approx(found.chosen["speed_up"], rel=0.06)
    assert "upper 95 % bound" in found.sentences[1]
    none = quick(audiomae(), spectrograms(32), speed_up=500.0)
    assert (none.method, none.shown) == (None, False)
    assert "No setting was measured to be 500× as fast" in none.sentences[-1]
    with pytest.raises(ValueError, match="no setting was found"):
        none.save("none.json")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "give either max_disagreement"),
        ({"max_disagreement": 0.1, "speed_up": 2.0}, "and not both"),
        ({"max_disagreement": 0.0}, "max_disagreement is 0.0"),
        ({"max_disagreement": 1.0}, "max_disagreement is 1.0"),
        ({"max_disagreement": math.nan}, "max_disagreement is nan"),
        ({"speed_up": 1.0}, "speed_up is 1.0"),
        ({"speed_up": math.inf}, "speed_up is inf"),
        ({"max_disagreement": 0.1, "methods": ["magic"]}, "no method 'magic'"),
        ({"max_disagreement": 0.1, "clips": 7}, "there are 7 clips, and a calibration needs 16"),
        ({"max_disagreement": 0.1, "labels": 1}, "a single label"),
        ({"max_disagreement": 0.1, "headless": True}, "gives a clip no labels"),
    ],
)
def test_what_cannot_be_calibrated(changes: dict, message: str) -> None:
    model = audiomae(num_labels=changes.pop("labels", 11))
    model = model.audiomae if changes.pop("headless", False) else model
    with pytest.raises(ValueError, match=message):
        ap.calibrate(model, spectrograms(changes.pop("clips", 20)), **changes)


def test_a_pruned_model_is_not_calibrated() -> None:
    model = audiomae()
    ap.prune(model, ap.TopK(0.5))
    with pytest.raises(ap.AlreadyPrunedError, match="compared with the unpruned one"):
        ap.calibrate(model, spectrograms(20), max_disagreement=0.1)


def test_too_few_clips_are_said_to_be_too_few(by_work) -> None:
    found = quick(audiomae(), spectrograms(24), max_disagreement=0.02, methods=("tome",))
    assert not found.shown
    assert "149 clips that all agree are needed to show 2 %, 199 with those of the search; there are 24" in str(
        found.sentences
    )


# The command.


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("model")
    audiomae().save_pretrained(folder)
    return str(folder)


def sounds(folder: Path, count: int) -> Path:
    """Tones in noise, each by itself."""
    folder.mkdir(parents=True)
    for i in range(count):
        noise = 0.05 * np.random.default_rng(i).standard_normal(8000).astype(np.float32)
        soundfile.write(folder / f"{i:02}.wav", tone(0.5, hertz=150.0 * (i + 1)) + noise, 16_000)
    return folder


QUICK = ("--bench-seconds", 0.01, "--batch-size", 4, "--methods", "tome")


def test_the_command_writes_what_every_command_reads(run, by_work, tiny, tmp_path) -> None:
    folder = sounds(tmp_path / "sounds", 24)
    (folder / "corrupt.wav").write_bytes(b"RIFF")
    (folder / "notes.txt").write_text("text")
    soundfile.write(folder / "silent.wav", np.zeros(8000), 16_000)
    (folder / "copy.wav").write_bytes((folder / "00.wav").read_bytes())
    words = ("calibrate", "--model", tiny, "--clips", folder, "--max-disagreement", 0.5, *QUICK)
    code, out, err = run(*words, "--report", "report.json", "--json", "--accept-estimate")
    result = json.loads(out)
    assert code == 0, err
    assert result == json.loads(Path("report.json").read_text())
    assert result["command"].startswith("audioprune calibrate --model")
    assert (result["clips"], result["searching"] + result["confirming"]) == (24, 24)
    assert "corrupt.wav: cannot be decoded" in err
    assert "1 clip left out: silent" in err
    assert "1 clip left out: copies" in err
    assert "Passing over 1 files" in err
    assert not list(Path().glob("*.partial.jsonl"))
    written = json.loads(Path("pruning.json").read_text())
    assert written["calibration"]["confirmed"] == result["confirmed"]
    clip = folder / "00.wav"
    for command in (
        ("tag", clip, "--model", tiny, "--out", "a.jsonl"),
        ("explain", clip, "--model", tiny, "--out", "a.png"),
        ("bench", "--model", tiny, "--seconds", 0.05, "--batch-sizes", 1, "--keep-rates", "0.8"),
    ):
        code, _, err = run(*command, "--method", "pruning.json")
        assert code == 0, err
    setting = json.loads(Path("a.jsonl").read_text())["setting"]
    assert setting["keep_rate"] == written["keep_rate"]
    assert "calibration" not in setting
    code, _, err = run(*words)
    assert code == 2
    assert "pruning.json: exists" in err


def test_what_is_not_shown_is_not_written(run, by_work, tiny, tmp_path) -> None:
    folder = sounds(tmp_path / "sounds", 20)
    words = ("calibrate", "--model", tiny, "--clips", folder, "--max-disagreement", 0.02, *QUICK)
    code, out, err = run(*words)
    assert code == 1
    assert "note: 199 clips are needed to show 2 %" in err
    assert "149 clips that all agree are needed" in out
    assert "pruning.json was not written" in err
    assert not Path("pruning.json").exists()
    code, out, err = run("calibrate", "--model", tiny, "--clips", folder, "--speed-up", 300, *QUICK)
    assert code == 1
    assert "No setting was measured to be 300× as fast" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "give either --max-disagreement"),
        (("--max-disagreement", "0.1", "--speed-up", "2"), "and not both"),
        (("--max-disagreement", "0"), "--max-disagreement is 0.0"),
        (("--max-disagreement", "1.5"), "less than 1"),
        (("--speed-up", "0.5"), "--speed-up is 0.5"),
        (("--speed-up", "2", "--clips", "nowhere"), "nowhere: no such file"),
        (("--speed-up", "2", "--clips", "EMPTY"), "no sound files in"),
        (("--speed-up", "2", "--clips", "BROKEN"), "none of 3 clips can be used: 2 cannot be decoded, 1 are silent"),
        (("--speed-up", "2", "--clips", "FEW"), "there are 5 clips, and a calibration needs 16"),
        (("--speed-up", "2", "--clips", "FEW", "--methods", "magic"), "there are 5 clips"),
        (("--speed-up", "2", "--out", "a.txt"), "end in .json"),
        (("--speed-up", "2", "--model", "none.pth", "--clips", "FEW"), "none.pth: no such file"),
    ],
)
def test_mistakes_are_one_line_and_exit_two(run, tiny, tmp_path, words, message: str) -> None:
    (tmp_path / "nothing").mkdir()
    broken, few = tmp_path / "broken", sounds(tmp_path / "few", 5)
    broken.mkdir()
    for name in ("a.wav", "b.wav"):
        (broken / name).write_bytes(b"RIFF")
    soundfile.write(broken / "c.wav", np.full(8000, 0.1), 16_000)
    names = {"EMPTY": tmp_path / "nothing", "BROKEN": broken, "FEW": few}
    words = [names.get(word, word) for word in words]
    words += [] if "--model" in words else ["--model", tiny]
    words += [] if "--clips" in words else ["--clips", few]
    code, out, err = run("calibrate", *words)
    assert (code, out) == (2, "")
    (line,) = [line for line in err.splitlines() if line.startswith("error:")]
    assert message in line
    assert "Traceback" not in err
    assert not Path("pruning.json").exists()


def rows_of(state: Path) -> list[dict]:
    """What a ledger says of settings."""
    return [row for row in map(json.loads, state.read_text().splitlines()) if "setting" in row]


def test_a_run_that_is_stopped_goes_on(run, by_work, tiny, tmp_path, monkeypatch) -> None:
    folder = sounds(tmp_path / "sounds", 20)
    words = ("calibrate", "--model", tiny, "--clips", folder, "--max-disagreement", 0.5, *QUICK, "--accept-estimate")
    hear, calls = Hearing.hear, []

    def interrupted(*arguments: object) -> Disagreement:
        calls.append(1)
        if len(calls) > 12:
            raise KeyboardInterrupt
        return hear(*arguments)

    monkeypatch.setattr(Hearing, "hear", interrupted)
    code, _, err = run(*words)
    assert code == 130
    assert "the same command goes on with it" in err
    state = Path("pruning.json.partial.jsonl")
    assert len(rows_of(state)) >= 10
    monkeypatch.setattr(Hearing, "hear", hear)
    done = {(json.dumps(row["setting"]), place) for row in rows_of(state) for place in row["clips"]}
    logits, again = Hearing._logits, []

    def counted(self: Hearing, places: list[int]) -> torch.Tensor:
        if (pruned := ap.handle(self.model)) is not None:
            again.extend((json.dumps(describe(pruned.method)), place) for place in places)
        return logits(self, places)

    monkeypatch.setattr(Hearing, "_logits", counted)
    code, out, err = run(*words)
    assert code == 0, err
    assert "upper 95 % bound" in out
    assert "→ pruning.json" in err
    assert again
    assert not done & set(again), "what was heard is not heard again"
    assert not state.exists()
    state.write_text('{"run": "of another day"}\n')
    code, _, err = run(*words, "--force")
    assert "begun with something else, and now begun anew" in err


def test_help_teaches(run) -> None:
    code, out, _ = run("calibrate", "--help")
    assert code == 0
    for word in ("--max-disagreement", "--speed-up", "199 clips", "--method pruning.json", "Exit code 1"):
        assert word in out
    assert "audioprune calibrate" in run("--help")[1]


def test_the_shipped_model_on_sounds(run, tmp_path) -> None:
    """Its example clips, and cuts of them in noise."""
    folder = tmp_path / "sounds"
    folder.mkdir()
    clips = sorted((Path(ap.__file__).parent / "assets" / "clips").glob("*.ogg"))
    for i in range(16):
        sound = ap.load_audio(clips[i % len(clips)]).waveform
        noise = np.random.default_rng(i).standard_normal(len(sound)).astype(np.float32)
        soundfile.write(folder / f"{i}.wav", 0.9 * np.roll(sound, 4000 * i) + 0.001 * (i + 1) * noise, 16_000)
    words = ("calibrate", "--clips", folder, "--max-disagreement", 0.35, "--methods", "tome", "--bench-seconds", 0.05)
    words = (*words, "--batch-size", 2)
    code, out, err = run(*words, "--json", "--accept-estimate")
    result = json.loads(out)
    assert code == 0, err
    assert result["speed_up"] > 1
    assert result["macs_ratio"] > 1.2
    assert len(result["rows"]) < 0.6 * result["settings"], "though there are few"
    model = ap.load("esc10")
    with ap.prune(model, "pruning.json") as handle:
        assert isinstance(handle.method, ap.ToMe)


# Saved with its pruning.


@torch.no_grad()
@pytest.mark.parametrize("name", SPECTROGRAM)
def test_a_model_comes_back_pruned(name: str, tmp_path: Path, spectrogram) -> None:
    model = FAMILIES[name]().eval()
    unpruned = model(spectrogram).logits
    handle = ap.prune(model, ap.TopK(0.5, segments=4, dropped="merge"))
    assert handle.save_pretrained(tmp_path) == tmp_path / "pruning.json"
    expected = model(spectrogram).logits
    again = ap.load(tmp_path)
    assert type(again) is type(model)
    assert again.config.architectures == [type(model).__name__]
    assert ap.handle(again).method == handle.method
    assert torch.equal(again(spectrogram).logits, expected)
    ap.handle(again).remove()
    assert torch.equal(again(spectrogram).logits, unpruned)
    plain = ap.load(tmp_path, pruned=False)
    assert ap.handle(plain) is None
    assert torch.equal(plain(spectrogram).logits, unpruned)
    assert ap.handle(ap.load(tmp_path, num_labels=3)).method == handle.method


@torch.no_grad()
@pytest.mark.parametrize("name", ["wav2vec2", "hubert", "whisper"])
def test_a_speech_model_comes_back_pruned(name: str, tmp_path: Path) -> None:
    model, inputs = FAMILIES[name]().eval(), inputs_for(name)
    handle = ap.prune(model, ap.TopK(0.5))
    handle.save_pretrained(tmp_path)
    expected = model(**inputs).logits
    again = ap.load(tmp_path)
    assert type(again).__name__ == type(model).__name__
    assert ap.handle(again).method == handle.method
    assert torch.equal(again(**inputs).logits, expected)


@torch.no_grad()
@pytest.mark.parametrize("build", [audiomae, ast])
def test_what_was_learnt_comes_back_too(build, tmp_path: Path, spectrogram) -> None:
    model = build().eval()
    handle = ap.prune(model, ap.DynamicViT(0.5))
    handle.learned.trained.fill_(1)
    handle.save_pretrained(tmp_path)
    expected = model(spectrogram).logits
    again = ap.load(tmp_path)
    assert torch.equal(again(spectrogram).logits, expected)
    assert not any("audioprune" in key for key in ap.load(tmp_path, pruned=False).state_dict())
    type(model).from_pretrained(tmp_path)  # without audioprune's pruning it is a model as any other


def test_the_front_end_goes_with_the_model(tmp_path: Path) -> None:
    model = ap.load("esc10")
    ap.prune(model, ap.TopK(0.5)).save_pretrained(tmp_path)
    own, again = ap.load_features("esc10", model), ap.load_features(tmp_path, ap.load(tmp_path))
    assert (again.mean, again.std, again.max_length) == (own.mean, own.std, own.max_length) != (-4.268, 4.569, 512)
    given = ap.AudioMAEFeatureExtractor(128, mean=-1.0, std=2.0)
    ap.prune(drawn := audiomae(), ap.TopK(0.5)).save_pretrained(tmp_path / "drawn", given)
    assert ap.load_features(tmp_path / "drawn", drawn).mean == -1.0


def test_what_cannot_be_saved(tmp_path: Path) -> None:
    inner = audiomae()
    handle = ap.prune(torch.nn.ModuleDict({"inner": inner}), ap.TopK(0.5))
    with pytest.raises(TypeError, match="ModuleDict is no model of transformers'"):
        handle.save_pretrained(tmp_path)
    handle.remove()
    with pytest.raises(RuntimeError, match="was removed"):
        handle.save_pretrained(tmp_path)


def test_commands_take_the_saved_pruning_unless_told_otherwise(run, tmp_path) -> None:
    clip = sounds(tmp_path / "sounds", 1) / "00.wav"
    ap.prune(audiomae(), recommended_at()).save_pretrained(tmp_path / "m")
    words = ("tag", clip, "--model", tmp_path / "m", "--out", "a.jsonl")

    def setting(*more: object) -> dict:
        Path("a.jsonl").unlink(missing_ok=True)
        code, _, err = run(*words, *more)
        assert code == 0, err
        return json.loads(Path("a.jsonl").read_text())["setting"]

    # A rate that happens to be the recommended one's default is taken at its word.
    assert (setting()["method"], setting()["keep_rate"]) == ("ToMe", recommended_at().keep_rate)
    assert setting("--keep-rate", 0.5)["method"] == "TopK"
    assert setting("--method", "evit")["method"] == "EViT"
    code, out, err = run("tag", clip, "--model", tmp_path / "m")
    assert f"Pruned by {recommended_at()}" in err
    code, out, err = run("explain", clip, "--model", tmp_path / "m", "--json")
    assert code == 0, err
    assert len(json.loads(out)["stages"]) == 4
    code, out, err = run("bench", "--model", tmp_path / "m", "--seconds", 0.05, "--batch-sizes", 1, "--json")
    assert code == 0, err
    result = json.loads(out)
    assert [row["keep_rate"] for row in result["rows"]] == [1.0, recommended_at().keep_rate]
    assert result["setting"]["method"] == "ToMe"
    ap.prune(audiomae(), ap.TopK((0.9, 0.8, 0.7))).save_pretrained(tmp_path / "m")
    code, out, err = run("bench", "--model", tmp_path / "m", "--seconds", 0.05, "--batch-sizes", 1)
    assert code == 0, err
    assert "0.9,0.8,0.7" in out
    code, out, err = run("bench", "--model", tmp_path / "m", "--seconds", 0.05, "--keep-rates", "0.5", "--json")
    assert json.loads(out)["setting"]["method"] == "TopK"
