"""One table of words ↔ methods."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import audioprune as ap
from audioprune.calibration.space import families
from audioprune.compare.settings import parse_methods
from audioprune.core.settings import parse_method
from audioprune.methods import METHODS, names
from audioprune.methods.fates import FATES
from audioprune.methods.names import FORMER, TABLE, canonical, compared, modifiers, named, untrained_as, word_of, words
from audioprune.methods.scores import SCORES

EVERY = [(entry, modifier) for entry in TABLE for modifier in modifiers(METHODS[entry.kind])]


def test_the_table_lists_every_method_file_once() -> None:
    files = {path.stem for path in Path(names.__file__).parent.glob("*.py")}
    parts = {"__init__", "base", "chain", "fates", "learned", "names", "scores", "selection", "spending"}
    assert {entry.module for entry in TABLE} == files - parts
    assert len({entry.word for entry in TABLE}) == len({entry.kind for entry in TABLE}) == len(TABLE)


def test_words_without_pytorch_are_those_with_it() -> None:
    assert tuple(SCORES) == names.SCORES
    assert tuple(FATES) == names.FATES
    needy = [entry.word for entry in TABLE if "weights" in {f.name for f in dataclasses.fields(METHODS[entry.kind])}]
    assert [entry.word for entry in TABLE if entry.needs_training] == needy


@pytest.mark.parametrize("word", [*words(), *compared()])
def test_a_word_and_its_method_are_one(word: str) -> None:
    method = named(word)
    assert method.word == word
    if word != "recommended":
        assert word_of(method.at(0.7)) == word


@pytest.mark.parametrize(
    ("entry", "modifier"), EVERY, ids=lambda value: value if isinstance(value, str) else value.word
)
def test_every_choice_is_a_modifier(entry: names.Entry, modifier: str) -> None:
    method = named(f"{entry.word}+{modifier}").at(0.7)
    ((name, value),) = modifiers(METHODS[entry.kind])[modifier].items()
    assert getattr(method, name) == value
    assert dataclasses.replace(method, **{name: getattr(METHODS[entry.kind](0.7), name)}) == METHODS[entry.kind](0.7)


@given(st.sampled_from(EVERY), st.booleans())
def test_words_are_read_in_any_case_and_by_the_name_of_the_class(pair: tuple[names.Entry, str], upper: bool) -> None:
    entry, modifier = pair
    word = f"{entry.kind}+{modifier}"
    assert named(word.upper() if upper else word) == named(f"{entry.word}+{modifier}")


@pytest.mark.parametrize("word", FORMER)
def test_words_of_earlier_versions_are_read(word: str) -> None:
    assert named(word).word == FORMER[word] == canonical(word)
    assert FORMER[word] in compared()


def test_calibration_reads_its_former_words() -> None:
    assert families(12, True, ["discard", "fuse", "merge"]) == families(12, True, ["topk", "topk+fuse", "topk+merge"])


@pytest.mark.parametrize(
    ("word", "method", "spelled"),
    [
        ("segmentwise+segments=10", ap.SegmentwiseTopK(0.5, segments=10), None),
        ("visionzip+contextual=0.18", ap.VisionZip(0.5, contextual=0.18), None),
        (
            "SegmentwiseTopK+segments=10+merge",
            ap.SegmentwiseTopK(0.5, segments=10, dropped="merge"),
            "segmentwise+merge+segments=10",
        ),
        ("ltbm+window=null", ap.LTBM(0.5, window=None), None),
        ("ltbm+window=None", ap.LTBM(0.5, window=None), "ltbm+window=none"),
        ("dpp+score=none", ap.DPP(0.5, score="none"), None),
        ("tome+passes=2+metric=hidden", ap.ToMe(0.5, passes=2, metric="hidden"), None),
        ("bottomk", ap.TopK(0.5, order="lowest"), None),
        ("tome+layers=all", ap.ToMe(0.5, layers="all"), None),
    ],
)
def test_any_setting_is_a_modifier_with_its_value(word: str, method: ap.Method, spelled: str | None) -> None:
    found = named(word)
    assert found.at(0.5) == method
    assert found.word == (spelled or word)
    assert named(found.word) == found
    assert parse_methods([word]) == {found.word: found}


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("topk+width=3", "TopK has no setting 'width'; it has layers, score"),
        ("topk+keep_rate=0.5", "has no setting 'keep_rate'"),
        ("topk+segments=0", "segments is 0"),
        ("topk+segments=many", "segments is 'many'"),
        ("topk+segments=3+segments=4", "two of its choices are for the same setting"),
        ("ltbm+window=-1", "window is -1; it is a number of time columns"),
        ("samap+threshold=2", "threshold is 2; it is a cosine"),
    ],
)
def test_settings_that_cannot_be(word: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        named(word)


def test_random_scores_have_seeds() -> None:
    assert [method.seed for method in named("random+merge").seeds(0.5)] == [0, 1, 2, 3, 4]
    assert named("topk").seeds(0.5) == [ap.TopK(0.5)]


def test_a_seed_of_ones_own_stays() -> None:
    own = names.NamedMethod.of(ap.TopK(0.5, score="random", seed=7))
    assert own.seeds(0.3) == [ap.TopK(0.3, score="random", seed=7)]


def test_one_method_has_one_word() -> None:
    spellings = ("topk+merge+random", "TopK+random+merge", "random+merge", "topk+attention+random+merge")
    assert {named(word).word for word in spellings[:3]} == {"random+merge"}
    assert named("topk+attention").word == "topk"
    with pytest.raises(ValueError, match="two of its choices are for the same setting"):
        named(spellings[3])


def test_files_keep_their_name_and_take_modifiers_everywhere(tmp_path: Path) -> None:
    path = tmp_path / "Mine.json"
    path.write_text('{"method": "TopK", "keep_rate": 0.9}')
    assert list(parse_methods([f"{path}+merge"])) == ["Mine+merge"]
    assert families(12, True, [f"{path}+merge"]) == [ap.TopK(1.0, dropped="merge")]


def test_a_file_is_a_word_too(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text('{"method": "TopK", "keep_rate": 0.9, "segments": 4}')
    method = parse_method(f"{path}+merge")
    assert (method.word, method.keep_rate) == ("mine+merge", 0.9)
    assert method.at(0.5) == ap.TopK(0.5, segments=4, dropped="merge")


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("topkk", "did you mean topk? There are recommended, topk, segmentwise"),
        ("topk+burn", r"topk\+burn: TopK has no modifier \+burn; it has \+attention, \+cls"),
        ("uniform+cls", r"uniform\+cls: UniformStride has no modifier"),
        ("spvit", "spvit chooses by what it has learnt: train a model with it first"),
        ("", "no method ''"),
    ],
)
def test_words_that_name_no_method(word: str, message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("? ", r"\? ")):
        parse_method(word)


def test_doubles_of_methods_before_training() -> None:
    assert {word: untrained_as(word) for word in ("metr", "fastast", "topk")} == {
        "metr": "evit",
        "fastast": "tome",
        "topk": None,
    }


def test_a_method_that_learns_must_say_so() -> None:
    with pytest.raises(TypeError, match="Forgetful has a loss of its own and does not say whether it learns"):

        class Forgetful(ap.Method):
            def loss(self, learning):
                return None
