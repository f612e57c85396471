"""A whole analysis: swaps and removals against slow ones, what a kill leaves, and the command line on tones."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

import audioprune as ap
from audioprune.analysis import models as subjects
from audioprune.analysis import report
from audioprune.analysis import run as runs
from audioprune.analysis import state as files
from audioprune.analysis.batches import AnalysisBatch
from audioprune.analysis.cluster_drop import ClusterDrop, IntensityInterval, blocks_of, removals
from audioprune.analysis.paired_stats import Outcomes
from audioprune.analysis.perturbation import TESTS, Perturbation, Perturbed, perturb
from audioprune.analysis.ranking import SEEDS, Ranking
from audioprune.analysis.run import Analysis, Settings, write_answers
from audioprune.analysis.tradeoff import Tradeoff
from audioprune.audio.features import LogMel
from audioprune.compare.settings import spaced
from audioprune.core.tokens import Reduction
from audioprune.methods import Method
from audioprune.methods.fates import keep

from .conftest import class_folders
from .families import ast, audiomae

LABELS = {0: "low", 1: "high", 2: "other"}
RATES = (0.7, 0.4)


def small(**changes: Any) -> Any:
    return audiomae(num_labels=3, id2label=LABELS, **changes).eval()


@pytest.fixture(scope="module")
def model() -> Any:
    return small()


@pytest.fixture(scope="module")
def sounds() -> torch.Tensor:
    """(10, 128, 128), patches of differing loudness; clip 4 is of one value, clip 5 of two."""
    generator = torch.Generator().manual_seed(3)
    loudness = torch.randn(10, 8, 8, generator=generator).repeat_interleave(16, 1).repeat_interleave(16, 2)
    clips = loudness + 0.5 * torch.randn(10, 128, 128, generator=generator)
    clips[4] = -1.0
    clips[5] = torch.where(loudness[5] > 0, 1.0, -1.0)
    return clips


@pytest.fixture(scope="module")
def labels() -> torch.Tensor:
    return torch.arange(10) % 3


def intensity_of(clip: torch.Tensor) -> list[float]:
    """Mean of each patch of (128, 128), in AudioMAE's numbering, time first."""
    return [float(clip[16 * t : 16 * t + 16, 16 * f : 16 * f + 16].mean()) for t in range(8) for f in range(8)]


# Algorithm 1.


@pytest.mark.parametrize(
    ("x", "y", "found"),
    [
        ([1, 2], [7, 8, 9], [7, 8]),
        ([1, 2], [7, 8], [7, 8]),
        ([1, 2, 3, 4], [7], [1, 2, 3, 7]),
        ([1, 2, 3], [], [1, 2, 3]),
        ([], [7, 8], []),
        ([], [], []),
    ],
)
def test_algorithm_1_by_hand(x: list[int], y: list[int], found: list[int]) -> None:
    assert perturb(x, y) == found


def slow_swap(scores: list[float], k: int, signal: list[bool], test: str) -> list[int]:
    """Positions after a test, of one clip, straight from the paper's definitions."""
    ranked = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    retained, pruned = ranked[:k], ranked[k:]
    lists = {
        "R_s": [i for i in retained if signal[i]],
        "R_b": [i for i in retained if not signal[i]],
        "P_s": [i for i in pruned if signal[i]],
        "P_b": [i for i in pruned if not signal[i]],
    }
    x, y = {"I": ("R_s", "P_s"), "II": ("R_b", "P_b"), "III": ("R_b", "P_s")}[test]
    if len(lists[x]) <= len(lists[y]):
        swapped = lists[y][: len(lists[x])]
    else:
        swapped = lists[x][: len(lists[x]) - len(lists[y])] + lists[y]
    return sorted(swapped + lists["R_b" if x == "R_s" else "R_s"])


@torch.no_grad()
@pytest.mark.parametrize("test", TESTS)
@pytest.mark.parametrize("rate", [0.8, 0.4])
def test_swaps_against_one_clip_at_a_time(model, sounds, test: Any, rate: float) -> None:
    method = Perturbed(rate, test=test, tau=0.1)
    with ap.prune(model, method), ap.trace(model) as trace:
        together = model(sounds).logits
        stages = list(zip(trace.kept, trace.scores, trace.candidates))
        seen = list(method.swapped)
        alone = torch.cat([model(clip[None]).logits for clip in sounds])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)
    swapped = [0] * len(stages)
    for clip, sound in enumerate(sounds):
        intensity = intensity_of(sound)
        for stage, (kept, scores, candidates) in enumerate(stages):
            n, k = scores.shape[1], math.ceil(round(rate * scores.shape[1], 9))
            signal = [intensity[patch] > 0.1 for patch in candidates[clip].tolist()]
            found = slow_swap(scores[clip].tolist(), k, signal, test)
            assert kept[clip].tolist() == [int(candidates[clip][i]) for i in found]
            assert len(found) == k < n
            ranked = sorted(range(n), key=lambda i: (-float(scores[clip][i]), i))[:k]
            swapped[stage] += len(set(found) - set(ranked))
    assert [pair[0] for pair in seen] == swapped
    assert sum(swapped) > 0
    assert [pair[1] for pair in seen] == [kept.numel() for kept, _, _ in stages]


def test_a_swap_without_a_partner_is_plain_top_k(model, sounds) -> None:
    with torch.no_grad():
        with ap.prune(model, ap.TopK(0.5)):
            plain = model(sounds).logits
        for test, tau in (("I", 99.0), ("III", 99.0), ("II", -99.0)):
            with ap.prune(model, Perturbed(0.5, test=test, tau=tau)):
                assert torch.equal(model(sounds).logits, plain)


@pytest.mark.parametrize("wrong", [{"test": "IV"}, {"segments": 2}, {"dropped": "merge"}])
def test_what_cannot_be_swapped(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"must be one of I, II, III|TopK over the whole clip"):
        Perturbed(0.5, **wrong)


# Clusters.


def test_the_clusters_that_are_removed() -> None:
    found = removals([-1.0, 0.0, 1.0, 2.0])
    assert [one.name for one in found] == ["C1", "C1–C2", "C1–C3", "C1–C4", "C5", "C4–C5", "C3–C5", "C2–C5"]
    assert [(one.low, one.high) for one in found][:2] == [(-1.0, math.inf), (0.0, math.inf)]
    assert [(one.low, one.high) for one in found][4:6] == [(-math.inf, 2.0), (-math.inf, 1.0)]
    assert removals([]) == ()
    assert blocks_of(12) == (0, 3, 6, 9)
    assert blocks_of(1) == (0,)


@torch.no_grad()
@pytest.mark.parametrize("block", [0, 2, 3])
@pytest.mark.parametrize(("low", "high"), [(-0.5, math.inf), (-math.inf, 0.3), (0.9, math.inf), (-math.inf, -1.2)])
def test_clusters_against_one_clip_at_a_time(model, sounds, block: int, low: float, high: float) -> None:
    with ap.prune(model, IntensityInterval(layers=(block,), low=low, high=high)), ap.trace(model) as trace:
        together = model(sounds).logits
        kept = trace.kept[0]
    for clip, sound in enumerate(sounds):
        intensity = intensity_of(sound)
        stay = [i for i, value in enumerate(intensity) if low < value <= high]
        far = [max(low - value, value - high) for value in intensity]
        stay = stay or [far.index(min(far))]
        assert [i for i in kept[clip].tolist() if i >= 0] == stay
        with ap.prune(model, Chosen(0.5, (block,), tuple(stay))):
            torch.testing.assert_close(model(sound[None]).logits[0], together[clip], atol=1e-4, rtol=1e-4)


@dataclass(frozen=True)
class Chosen(Method):
    """These positions stay, of a batch of one clip."""

    stay: tuple[int, ...] = ()

    @property
    def needs(self) -> frozenset[str]:
        return frozenset()

    def reduce(self, tokens, evidence, keep_rate) -> Reduction:
        kept = torch.tensor([self.stay])
        return Reduction(keep(tokens, kept), kept, torch.zeros(tokens.patch.shape))


# Counts.


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans()), min_size=1, max_size=12))
def test_paired_differences_against_every_clip(clips) -> None:
    outcomes = Outcomes(("a", "b", "c"))
    for half in (clips[: len(clips) // 2], clips[len(clips) // 2 :]):
        if half:
            logits = {n: torch.tensor([[0.0, 1.0 if clip[i] else -1.0] for clip in half]) for i, n in enumerate("abc")}
            labels = torch.tensor([[0.0, 1.0]] * len(half))
            outcomes.update(logits, labels, logits["a"])
    copy = Outcomes(("a", "b", "c"))
    copy.load(outcomes.state())
    for weights in ({"a": 1.0}, {"a": 1.0, "b": -1.0}, {"a": 0.5, "b": 0.5, "c": -1.0}):
        values = [sum(weights.get(name, 0.0) * clip[i] for i, name in enumerate("abc")) for clip in clips]
        found = copy.score(weights)
        assert found.mean == pytest.approx(np.mean(values))
        assert (found.error is None) == (len(clips) == 1)
        if len(clips) > 1:
            assert found.error == pytest.approx(np.std(values) / math.sqrt(len(clips)), abs=1e-9)
    assert copy.agreement("b").mean == np.mean([clip[0] == clip[1] for clip in clips])


def test_the_error_of_a_share_and_nothing_of_nothing() -> None:
    outcomes = Outcomes(("a",))
    assert outcomes.score("a")[:2] == (None, None)
    logits = torch.tensor([[1.0, 0.0]] * 3 + [[0.0, 1.0]])
    outcomes.update({"a": logits}, torch.tensor([[1.0, 0.0]] * 4), logits)
    assert outcomes.score("a")[:2] == (0.75, math.sqrt(0.75 * 0.25 / 4))
    assert not outcomes.score("a").clear  # three clips
    assert Outcomes(("a",), multi_label=True).score("a")[:2] == (None, None)
    outcomes.update({"a": logits}, torch.tensor([[1.0, 0.0]] * 4), logits)
    assert outcomes.score("a").clear  # six


def test_several_labels_a_clip_by_scikit_learn() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = (torch.rand(30, 4, generator=generator) < 0.3).float()
    labels[:, 3] = 0
    one, other = (torch.randn(30, 4, generator=generator) for _ in range(2))
    outcomes = Outcomes(("a", "b"), multi_label=True)
    for part in (slice(0, 11), slice(11, 30)):
        outcomes.update({"a": one[part], "b": other[part]}, labels[part], one[part])
    copy = Outcomes(("a", "b"), multi_label=True)
    copy.load(outcomes.state())
    gaps = [
        average_precision_score(labels[:, c], one[:, c]) - average_precision_score(labels[:, c], other[:, c])
        for c in range(3)
    ]
    found = copy.score({"a": 1.0, "b": -1.0})
    assert found.mean == pytest.approx(np.mean(gaps))
    assert found.error == pytest.approx(np.std(gaps) / math.sqrt(3))


def test_state_comes_back_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "s.npz"
    tree = {0.5: [1, 2.5, None, True, "é"], ("a", 1): {"x": np.arange(4)}, "nan": math.nan, "n": np.float64(0.1)}
    files.save_state(path, tree)
    found = files.load_state(path)
    assert found[0.5] == tree[0.5]
    assert found["a", 1]["x"].tolist() == [0, 1, 2, 3]
    assert math.isnan(found["nan"])
    assert found["n"] == 0.1
    assert list(path.parent.iterdir()) == [path]
    with pytest.raises(TypeError, match="object"):
        files.save_state(path, np.array([{}], dtype=object))
    with pytest.raises(TypeError, match="set cannot be saved"):
        files.save_state(path, {1})
    assert files.load_state(path)["n"] == 0.1
    path.write_bytes(b"torn")
    with pytest.raises(files.StateError, match="not the state of an analysis"):
        files.load_state(path)
    assert files.plain({0.5: (np.float32(1), math.inf, np.arange(2))}) == {"0.5": [1.0, None, [0, 1]]}


# The interventions.


def heard(model: Any, sounds: torch.Tensor, labels: torch.Tensor, score: Any = "attention") -> AnalysisBatch:
    methods = {rate: ap.TopK(rate, score=score) for rate in (1.0, *RATES)}
    intensity = torch.tensor([intensity_of(clip) for clip in sounds])
    one_hot = torch.nn.functional.one_hot(labels, model.config.num_labels).float()
    bare = AnalysisBatch(sounds, one_hot, intensity, dict.fromkeys(methods, model), methods, {})
    logits = {rate: bare.forward(rate, method) for rate, method in methods.items()}
    return AnalysisBatch(sounds, one_hot, intensity, bare.models, methods, logits)


@torch.no_grad()
def accuracy(model: Any, method: Any, sounds: torch.Tensor, labels: torch.Tensor) -> float:
    with ap.prune(model, method):
        return sum(int(model(clip[None]).logits.argmax() == label) for clip, label in zip(sounds, labels)) / len(labels)


def halves(model: Any, question: Any, sounds: torch.Tensor, labels: torch.Tensor) -> Any:
    """The answer after two batches, and after a state was loaded between them."""
    question.update(heard(model, sounds[:6], labels[:6]))
    question.load(question.state())
    question.update(heard(model, sounds[6:], labels[6:]))
    answer = question.answer()
    assert json.dumps(answer.values, allow_nan=False)
    assert not [line for line in answer.found if "nan" in line.lower().split()]
    return answer


def test_perturbation_says_what_one_finds_by_hand(model, sounds, labels) -> None:
    answer = halves(model, Perturbation(RATES, 0.1), sounds, labels)
    for row in answer.values["rates"]:
        rate, tests = row["keep_rate"], row["tests"]
        assert tests["baseline"]["score"]["mean"] == accuracy(model, ap.TopK(rate), sounds, labels)
        for test in TESTS:
            slow = accuracy(model, Perturbed(rate, test=test, tau=0.1), sounds, labels)
            assert tests[test]["score"]["mean"] == slow
            assert tests[test]["change"]["mean"] == pytest.approx(slow - tests["baseline"]["score"]["mean"])
            assert 0 < tests[test]["swapped"] < 1
    assert len(answer.found) == 2
    assert len(answer.tables[0].rows[0]) == len(answer.tables[0].columns) == 3


def test_nothing_to_swap_is_said(model, sounds, labels) -> None:
    answer = halves(model, Perturbation(RATES, 99.0), sounds, labels)
    assert [line.split(":")[0] for line in answer.found if "swapped nothing" in line] == [
        "Test I swapped nothing",
        "Test III swapped nothing",
    ]
    assert Perturbation(RATES, 0.0).answer().note


def test_cluster_drop_says_what_one_finds_by_hand(model, sounds, labels) -> None:
    answer = halves(model, ClusterDrop([-0.5, 0.0, 0.5], 4), sounds, labels)
    assert answer.values["blocks"] == [0, 1, 2, 3]
    assert [row["clusters"] for row in answer.values["removed"]] == ["C1", "C1–C2", "C1–C3", "C4", "C3–C4", "C2–C4"]
    for row, one in zip(answer.values["removed"], removals([-0.5, 0.0, 0.5])):
        gone = [sum(not one.low < v <= one.high for v in intensity_of(clip)) for clip in sounds]
        assert row["share"] == pytest.approx(sum(min(g, 63) for g in gone) / 640)
        for cell in row["blocks"]:
            assert cell["score"]["mean"] == accuracy(model, one.at(cell["block"]), sounds, labels)
    assert answer.values["unpruned"]["score"]["mean"] == accuracy(model, ap.TopK(1.0), sounds, labels)
    silent = halves(model, ClusterDrop([], 4), sounds, labels)
    assert "equally loud" in silent.note


def test_ranking_says_what_one_finds_by_hand(model, sounds, labels) -> None:
    answer = halves(model, Ranking(RATES, "attention", cls=True), sounds, labels)
    for row in answer.values["rates"]:
        rate, scores = row["keep_rate"], row["scores"]
        assert list(scores) == ["attention", "cls", "intensity", "variation", "random"]
        for name in ("attention", "cls", "intensity", "variation"):
            assert scores[name]["score"]["mean"] == accuracy(model, ap.TopK(rate, score=name), sounds, labels)
        each = [accuracy(model, ap.TopK(rate, score="random", seed=seed), sounds, labels) for seed in SEEDS]
        assert scores["random"]["each"] == each
        assert scores["random"]["score"]["mean"] == pytest.approx(np.mean(each))
    assert "cls" not in Ranking(RATES, "attention", cls=False).scores


def test_tradeoff_counts_and_times(model, sounds, labels) -> None:
    question = Tradeoff(RATES)
    answer = halves(model, question, sounds, labels)
    for row in answer.values["rates"]:
        with ap.prune(model, ap.TopK(row["keep_rate"])):
            assert row["macs"] == ap.macs(model)
        assert row["score"]["mean"] == accuracy(model, ap.TopK(row["keep_rate"]), sounds, labels)
        assert row["speed_up"] is None
    given = heard(model, sounds, labels)
    question.time(given.models, given.methods, sounds[:2], 0.001)
    timed = question.answer()
    assert timed.values["rates"][0]["speed_up"] == 1.0
    assert timed.values["batch_size"] == 2
    assert all(len(row) == len(timed.tables[0].columns) for row in timed.tables[0].rows)


# The whole, and what a kill leaves.


def subject_of(model: Any, multi_label: bool = False, score: Any = "attention") -> subjects.ModelSet:
    rates = (1.0, *RATES)
    methods = {rate: ap.TopK(rate, score=score) for rate in rates}
    front = LogMel(128)
    return subjects.ModelSet(dict.fromkeys(rates, "m"), dict.fromkeys(rates, model), methods, front, False, multi_label)


def analysis_of(model: Any, sounds: Any, labels: torch.Tensor, out: Path, **settings: Any) -> Analysis:
    settings = {"batch_size": 3} | settings
    several = labels.ndim == 2
    return Analysis(subject_of(model, several), sounds, labels, out, Settings(**settings), {"name": "noise"})


def answers_of(analysis: Analysis, out: Path) -> dict[str, Any]:
    return json.loads(write_answers(out, analysis.run(), {}).read_text())["answers"]


def always_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write the state after every batch."""
    monkeypatch.setattr(runs, "EVERY", 1)
    monkeypatch.setattr(runs, "COST", 0.0)


class Failing:
    """Clips of which the computer is switched off after so many were read."""

    def __init__(self, sounds: torch.Tensor, after: int) -> None:
        self.sounds, self.left = sounds, after

    def __len__(self) -> int:
        return len(self.sounds)

    def __getitem__(self, index: int) -> torch.Tensor:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return self.sounds[index]


@pytest.mark.parametrize("several", [False, True])
def test_what_was_killed_goes_on_to_the_same_numbers(
    model, sounds, labels, monkeypatch, tmp_path: Path, several: bool
) -> None:
    always_saved(monkeypatch)
    settings = {"skip": ("cluster_drop",)}
    targets = torch.nn.functional.one_hot(labels, 3).float() if several else labels
    whole = answers_of(analysis_of(model, sounds, targets, tmp_path / "whole", **settings), tmp_path / "whole")
    reads, tries = [], 0
    while True:
        clips = Failing(sounds, 7)
        analysis = analysis_of(model, clips, targets, tmp_path / "killed", **settings)
        try:
            found = answers_of(analysis, tmp_path / "killed")
        except KeyboardInterrupt:
            tries += 1
            reads.append((analysis.surveyed, analysis.analysed))
            assert ap.handle(model) is None
            continue
        break
    assert reads == [(6, 0), (10, 3)]
    assert found == whole
    assert not list((tmp_path / "killed").rglob("*.part"))
    again = analysis_of(model, Failing(sounds, 0), targets, tmp_path / "killed", **settings)
    assert answers_of(again, tmp_path / "killed") == whole  # nothing is heard again


def test_batches_do_not_matter(model, sounds, labels, tmp_path: Path) -> None:
    by = {
        size: answers_of(analysis_of(model, sounds[2:7], labels[2:7], tmp_path / str(size), batch_size=size), tmp_path)
        for size in (1, 5)
    }
    for name in ("tradeoff", "ranking", "perturbation", "cluster_drop"):
        assert by[1][name] == by[5][name]


def test_another_setting_is_refused(model, sounds, labels, tmp_path: Path) -> None:
    answers_of(analysis_of(model, sounds[:3], labels[:3], tmp_path), tmp_path)
    for changes, message in (
        ({"tau": 0.3}, r"begun with tau=None \(not 0.3\)"),
        ({"batch_size": 5}, "batch size=3"),
        ({"skip": ("ranking",)}, "skip"),
    ):
        with pytest.raises(files.StateError, match=message):
            analysis_of(model, sounds[:3], labels[:3], tmp_path, **changes)
    other = small()
    with torch.no_grad():
        other.classifier.weight[0, 0] += 1e-3
    with pytest.raises(files.StateError, match=r"begun with weights\.0\.4="):
        analysis_of(other, sounds[:3], labels[:3], tmp_path)


def test_an_ast_by_its_cls_token(sounds, labels, tmp_path: Path) -> None:
    model = ast(num_labels=3, id2label=LABELS).eval()
    analysis = Analysis(
        subject_of(model, score="cls"), sounds[:4], labels[:4], tmp_path, Settings(skip=("cluster_drop",)), {}
    )
    chapters = {question.name: answer for question, answer in analysis.run()}
    rows = chapters["ranking"].values["rates"]
    for row in rows:
        slow = accuracy(model, ap.TopK(row["keep_rate"], score="cls"), sounds[:4], labels[:4])
        assert row["scores"]["cls"]["score"]["mean"] == slow
        assert "change" not in row["scores"]["cls"]


@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize("kind", ["silence", "noise"])
def test_little_to_hear(sounds, tmp_path: Path, count: int, kind: str) -> None:
    """One clip, one class, nothing but silence: sentences, and no number that is none."""
    model = audiomae(num_labels=1, id2label={0: "it"}).eval()
    clips = torch.full((count, 128, 128), -1.1) if kind == "silence" else sounds[:count]
    analysis = Analysis(
        subject_of(model), clips, torch.zeros(count, dtype=torch.long), tmp_path, Settings(batch_size=3), {}
    )
    chapters = analysis.run()
    text = write_answers(tmp_path, chapters, {}).read_text()
    assert "NaN" not in text
    for _, answer in chapters:
        assert answer.found or answer.note
        assert not any("nan" in line.lower().split() for line in answer.found)
        json.dumps(answer.values, allow_nan=False)
    found = {question.name: answer for question, answer in chapters}
    if kind == "silence":
        assert "equally loud" in found["cluster_drop"].note
        assert all("swapped nothing" in line for line in found["perturbation"].found[:1])


def test_nothing_to_hear(model, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no clip"):
        analysis_of(model, torch.zeros(0, 128, 128), torch.zeros(0, dtype=torch.long), tmp_path)


# Models of their own.


def test_models_for_keep_rates() -> None:
    parse = subjects.parse_models
    assert parse(["M"]) == ({1.0: "M", 0.9: "M", 0.7: "M", 0.5: "M"}, False)
    assert parse(["M"], [0.3, 1.0, 0.6, 0.3]) == ({1.0: "M", 0.6: "M", 0.3: "M"}, False)
    assert parse(["0.5=C", "0.9=A"]) == ({1.0: "A", 0.9: "A", 0.5: "C"}, True)
    assert list(parse(["0.5=C", "1.0=U", "0.9=A=b"], [0.9, 0.5])[0].items()) == [(1.0, "U"), (0.9, "A=b"), (0.5, "C")]
    for given_models, rates, message in (
        (["A", "B"], None, "names 2 models"),
        (["0.5=A", "B"], None, "has no keep rate"),
        (["0.5=A", "0.50=B"], None, "two models for keep rate 0.5"),
        (["1.5=A"], None, "at most 1"),
        (["1.0=A"], None, "no keep rate below"),
        (["--=A"], None, "write RATE=MODEL"),
        (["M"], [1.0], "no keep rate below"),
        (["0.5=A"], [0.7], "has models for 0.5"),
    ):
        with pytest.raises(ValueError, match=message):
            parse(given_models, rates)


def opener(**models: Any) -> Callable[[str], Any]:
    return lambda source: (models[source], LogMel(128, **({"mean": -1.0} if source == "bright" else {})))


def test_models_must_fit_together(model) -> None:
    every = opener(
        a=model, b=small(hidden_size=32), bright=model, c=audiomae(num_labels=3), ast=ast(num_labels=3, id2label=LABELS)
    )
    found = subjects.open_models({1.0: "a", 0.5: "b"}, None, every, True)
    assert found.score == "attention"
    assert found.keep_rates == (0.5,)
    assert "b at 0.5" in found.how
    assert found.identity["weights"]["1"] != found.identity["weights"]["0.5"]
    alone = subjects.open_models({1.0: "ast", 0.5: "ast"}, None, every, False)
    assert alone.score == "cls"
    assert "without fine-tuning" in alone.how
    assert subjects.open_models({1.0: "ast", 0.5: "ast"}, "attention", every, False).score == "attention"
    for other, score, message in (
        ("bright", None, "takes a log-mel with mean -1.0"),
        ("c", None, "other labels"),
        ("ast", None, "another patch grid"),
        ("b", "intensity", "--score is 'intensity'"),
    ):
        with pytest.raises(ValueError, match=message):
            subjects.open_models({1.0: "a", 0.5: other}, score, every, True)


def test_models_are_pruned_as_they_were_trained(model, tmp_path: Path) -> None:
    def trained(name: str, method: Any) -> str:
        with ap.prune(model, method) as handle:
            handle.save(tmp_path / name)
        return str(tmp_path / name)

    def opened(source: str) -> Any:
        return model, LogMel(128)

    good = trained("good", ap.TopK(0.5, score="cls", layers=(1, 2)))
    found = subjects.open_models({1.0: "u", 0.5: good}, None, opened, True)
    assert found.methods == {1.0: ap.TopK(1.0, (1, 2), "cls"), 0.5: ap.TopK(0.5, (1, 2), "cls")}
    for source, score, message in (
        (good, "attention", "give models that share one method, and --score cls"),
        (trained("merged", ap.TopK(0.5, dropped="merge")), None, "an analysis needs TopK"),
        (trained("other", ap.ToMe(0.5)), None, "an analysis needs TopK"),
        (trained("rate", ap.TopK(0.6)), None, "was fine-tuned at keep rate 0.6"),
    ):
        with pytest.raises(ValueError, match=message):
            subjects.open_models({1.0: "u", 0.5: source}, score, opened, True)


def test_clips_at_even_distances() -> None:
    rows = list(range(10))
    assert spaced(rows, None) == tuple(rows)  # type: ignore[arg-type]
    assert spaced(rows, 3) == (0, 3, 6)  # type: ignore[arg-type]
    assert len(spaced(rows, 99)) == 10  # type: ignore[arg-type]


# The command line.


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("model")
    small().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def tones(tmp_path_factory) -> Path:
    return class_folders(tmp_path_factory.mktemp("sounds"), {"test": 3})


@pytest.fixture
def run(run, monkeypatch, tmp_path) -> Any:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return run


@pytest.fixture
def reported(monkeypatch) -> list[Any]:
    """What is given to the report, which draws nothing here."""
    seen: list[Any] = []
    monkeypatch.setattr(report, "write", lambda *given: seen.append(given))
    return seen


BASICS = ("--keep-rates", "0.7,0.4", "--bench-seconds", 0, "--pictures", 0, "--batch-size", 4)


def test_analyze_on_the_command_line(run, reported, tiny, tones) -> None:
    words = ("analyze", "--model", tiny, "--data", tones, "--out", "a", *BASICS, "--clips", "0.wav,3", "--pictures", 1)
    code, out, err = run(*words)
    assert code == 0, err
    assert "→ a/answers.json" in err
    result = json.loads(Path("a/answers.json").read_text())
    assert list(result["answers"])[-4:] == ["tradeoff", "ranking", "perturbation", "cluster_drop"]
    assert "survey" in result["answers"]
    about = result["about"]
    assert about["command"].startswith("audioprune analyze --model")
    assert about["clips"] == 6
    assert about["keep_rates"] == [1.0, 0.7, 0.4]
    assert about["tuned"] is False
    assert all(line in out for line in result["answers"]["tradeoff"]["found"])
    ((folder, chapters, given_about, pictures),) = reported
    assert [name for name, _ in pictures] == ["keep rate 0.7", "keep rate 0.4"]
    assert len(pictures[0][1].axes) == 3 * 4  # clips, and the input with three stages
    assert folder == Path("a")
    assert [question.name for question, _ in chapters] == list(result["answers"])
    assert files.plain(given_about) == about
    code, out, err = run(*words, "--json")
    assert code == 0, err
    assert json.loads(out)["answers"] == result["answers"]


def test_ctrl_c_and_on(run, reported, monkeypatch, tiny, tones) -> None:
    words = ("analyze", "--model", tiny, "--data", tones, *BASICS[:-1], 2, "--skip", "cluster_drop")
    assert run(*words, "--out", "whole")[0] == 0
    hear, times = Analysis._analyse, []

    def once(self: Analysis) -> int:
        times.append(1)
        if len(times) == 2:
            raise KeyboardInterrupt
        return hear(self)

    monkeypatch.setattr(Analysis, "_analyse", once)
    always_saved(monkeypatch)
    code, _, err = run(*words, "--out", "killed")
    assert code == 130
    assert "Stopped" in err
    assert not Path("killed/answers.json").exists()
    assert run(*words, "--out", "killed")[0] == 0
    assert len(times) == 4
    found = [json.loads(Path(name, "answers.json").read_text())["answers"] for name in ("whole", "killed")]
    assert found[0] == found[1]
    code, _, err = run(*words, "--out", "killed", "--limit", 2)
    assert code == 2
    assert "begun with data.clips=" in err
    assert "another --out" in err


def test_the_answers_outlive_a_report_that_fails(run, monkeypatch, tiny, tones) -> None:
    def broken(*_: object) -> None:
        raise ValueError("no ink")

    monkeypatch.setattr(report, "write", broken)
    skipped = ("--skip", "cluster_drop,ranking,perturbation", "--limit", 2)
    code, _, err = run("analyze", "--model", tiny, "--data", tones, "--out", "a", *BASICS, *skipped)
    assert code == 2
    assert "no ink" in err
    assert json.loads(Path("a/answers.json").read_text())["about"]["clips"] == 2


def test_models_of_their_own_on_the_command_line(run, reported, tiny, tones, tmp_path: Path) -> None:
    tuned = small(hidden_size=32)
    tuned.save_pretrained(tmp_path / "tuned")
    words = ("analyze", "--model", f"1.0={tiny}", "--model", f"0.5={tmp_path / 'tuned'}", "--data", tones)
    code, _, err = run(*words, "--out", "a", "--limit", 1, "--bench-seconds", 0.001, "--tau", "-0.4")
    assert code == 0, err
    result = json.loads(Path("a/answers.json").read_text())
    assert result["about"]["tuned"] is True
    assert (result["about"]["tau"], result["about"]["tau_given"]) == (-0.4, True)
    rows = result["answers"]["tradeoff"]["values"]["rates"]
    assert rows[1]["macs"] < rows[0]["macs"] / 2
    assert rows[1]["speed_up"] is None or rows[1]["speed_up"] > 0  # None where it was not sure


def test_silence_on_the_command_line(run, tiny, tmp_path: Path) -> None:
    for label in ("high", "low"):
        (tmp_path / "quiet" / label).mkdir(parents=True)
        soundfile.write(tmp_path / "quiet" / label / "0.wav", np.zeros(8000, dtype=np.float32), 16_000)
    words = ("--keep-rates", "0.5", "--bench-seconds", 0, "--pictures", 0, "--skip", "tradeoff,ranking")
    code, _, err = run("analyze", "--model", tiny, "--data", tmp_path / "quiet", "--out", "a", *words)
    assert code == 0, err
    assert "NaN" not in Path("a/answers.json").read_text()
    assert "there is no signal" in Path("a/report.html").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--keep-rates", "half"), "--keep-rates is 'half'"),
        (("--keep-rates", "2"), "at most 1"),
        (("--keep-rates", "1.0"), "no keep rate below 1.0"),
        (("--score", "magic"), "--score is 'magic'"),
        (("--split", "best"), "--split is 'best'"),
        (("--skip", "lunch"), "--skip is 'lunch'"),
        (("--clips", "none.wav"), "--clips names 'none.wav'"),
        (("--clips", "6"), "a number from 0 to 5"),
        (("--model", "0.5=nowhere.pth"), "no such file"),
        (("--data", "nowhere"), "nowhere: no such folder"),
        (("--folds", "1"), "has no folds"),
    ],
)
def test_mistakes_are_one_line_and_exit_two(run, reported, tiny, tones, words, message: str) -> None:
    basics = {"--model": tiny, "--data": tones, "--keep-rates": "0.5"}
    if words[0] == "--model":
        del basics["--keep-rates"]
    given_words = [word for option, value in basics.items() if option not in words for word in (option, value)]
    code, out, err = run("analyze", *given_words, *words, "--out", "a")
    assert (code, out) == (2, "")
    (line,) = [line for line in err.splitlines() if line.startswith("error:")]
    assert message in line
    assert not Path("a").exists()


def test_help_teaches(run) -> None:
    code, out, _ = run("analyze", "--help")
    assert code == 0
    for word in ("RATE=MODEL", "--tau", "audioprune analyze --model esc10", "Interrupt it as you like"):
        assert word in out
    assert "audioprune analyze" in run("--help")[1]


def test_of_an_audio_language_model_there_are_pictures(run, tmp_path) -> None:
    for label in ("high", "low"):
        (tmp_path / "sounds" / label).mkdir(parents=True)
        noise = np.random.default_rng(len(label)).normal(0, 0.1, 16_000).astype(np.float32)
        soundfile.write(tmp_path / "sounds" / label / "one.wav", noise, 16_000)
    words = ("--data", "sounds", "--keep-rates", "0.5,0.25", "--pictures", "1", "--out", "report")
    code, _, err = run("analyze", "--model", "listener", *words)
    assert code == 0, err
    page = Path("report/report.html").read_text()
    assert page.count("<figure>") == 2
    assert "SegmentwiseTopK(0.25)" in page
    assert "2504.01690" not in page
