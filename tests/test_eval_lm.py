"""Audio-language models on the papers' benchmarks: readers, metrics, resuming, and the command line on a tiny model."""

from __future__ import annotations

import csv
import json
import math
import shutil
import unicodedata
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoConfig,
    PreTrainedTokenizerFast,
    Qwen2AudioConfig,
    Qwen2AudioForConditionalGeneration,
    Qwen2AudioProcessor,
    WhisperFeatureExtractor,
)

import audioprune as ap
from audioprune.audio.files import AudioError
from audioprune.data import DataError
from audioprune.fingerprints import of_weights
from audioprune.lm import batch_generate, loading, metrics
from audioprune.lm.answer_log import AnswerLog, AnswersError
from audioprune.lm.batch_generate import BatchGenerator, waveform
from audioprune.lm.benchmarks import Benchmark, Item, read
from audioprune.lm.evaluate import Evaluation
from audioprune.lm.items import SoundIndex, build_benchmark
from audioprune.lm.loading import ask_inputs, audio_tokens, load_lm
from audioprune.lm.metrics import cider, matches, normalised, score, tokenize
from audioprune.lm.prompts import PROMPTS, check_prompt, fill_prompt
from audioprune.lm.report import markdown, table
from audioprune.lm.settings import Setting, method, settings
from audioprune.methods.names import TABLE
from audioprune.models.state import CheckpointError

from .conftest import tone
from .families import ast

# Folders as the benchmarks' authors give them out.


def sound(path: Path, seconds: float = 0.5, hertz: float = 440.0, rate: int = 16_000) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, tone(seconds, rate, hertz), rate)
    return path


def write_csv(path: Path, columns: str, *rows: tuple[object, ...]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns.split(","), *rows])
    return path


CLOTHO = "file_name,caption_1,caption_2,caption_3,caption_4,caption_5"
AUDIOCAPS = "audiocap_id,youtube_id,start_time,caption"
CLOTHO_AQA = "file_name,QuestionText,answer,confidence"


def clotho(folder: Path, clips: int = 3) -> Path:
    rows = []
    for i in range(clips):
        sound(folder / "evaluation" / f"Rain, {i}.wav", 0.4 + 0.2 * i, 200.0 * (i + 1))
        rows.append((f"Rain, {i}.wav", *(f"A dog barks, {word} {i} times." for word in "abcde")))
    write_csv(folder / "clotho_captions_evaluation.csv", CLOTHO, *rows)
    return folder


def audiocaps(folder: Path) -> Path:
    for name in ("AbC-1_x", "Yself", "7"):
        sound(folder / "test" / f"{name}.wav")
    rows = [(i, "AbC-1_x", 30, f"rain, and wind {i}") for i in range(5)]
    rows += [(7 + i, "byid", 0, f"a cat {i}") for i in range(5)]
    rows += [(20 + i, "self", 10, f"a man {i}") for i in range(5)]
    rows += [(30 + i, "vanished", 10, f"a bell {i}") for i in range(5)]
    write_csv(folder / "test.csv", AUDIOCAPS, *rows)
    return folder


def clotho_aqa(folder: Path) -> Path:
    for name in ("a.wav", "b.wav"):
        sound(folder / "audio_files" / name)
    rows = [("a.wav", "Is it raining?", answer, "yes") for answer in ("yes", "yes", "no")]
    rows += [("a.wav", "What barks?", answer, "maybe") for answer in ("dog", "Dog", "cat")]
    rows += [("b.wav", "Is it raining?", answer, "no") for answer in ("no", "no", "No")]
    write_csv(folder / "clotho_aqa_test.csv", CLOTHO_AQA, *rows)
    return folder


def mmau_row(number: int, task: str, **changes: object) -> dict[str, Any]:
    return {
        "id": f"id-{number}",
        "audio_id": f"./test-mini-audios/id-{number}.wav",
        "question": f"Who speaks in {number}?",
        "choices": ["man", "woman", "dog", "cat"],
        "answer": "dog",
        "dataset": "AudioSet",
        "task": task,
        "split": "test-mini",
        "category": "Reasoning",
        "sub-category": "Source",
        "difficulty": "easy",
    } | changes


def mmau(folder: Path) -> Path:
    tasks = ("sound", "music", "speech", "sound")
    for number in range(len(tasks)):
        sound(folder / "test-mini-audios" / f"id-{number}.wav")
    rows = [mmau_row(number, task) for number, task in enumerate(tasks)]
    (folder / "mmau-test-mini.json").write_text(json.dumps(rows))
    return folder


FOLDERS: dict[str, Callable[[Path], Path]] = {
    "clotho": clotho,
    "audiocaps": audiocaps,
    "clothoaqa": clotho_aqa,
    "mmau": mmau,
}


# Readers.


@pytest.mark.parametrize("name", FOLDERS)
def test_benchmarks_are_recognised(tmp_path, name: str) -> None:
    folder = FOLDERS[name](tmp_path / name)
    found = read(folder)
    assert found == read(folder, name)
    assert (found.name, len(found)) == (name, {"clotho": 3, "audiocaps": 3, "clothoaqa": 3, "mmau": 4}[name])
    assert len({item.id for item in found.items}) == len(found)
    assert all(item.path.is_file() and item.references for item in found.items)
    lists = [path for path in folder.iterdir() if path.is_file()]
    assert read(lists[0]) == found


def test_clotho(tmp_path) -> None:
    item = read(clotho(tmp_path)).items[1]
    assert item.id == "Rain, 1.wav"
    assert item.references == tuple(f"A dog barks, {word} 1 times." for word in "abcde")
    assert item.path == tmp_path / "evaluation" / "Rain, 1.wav"


def test_audiocaps_by_every_name(tmp_path) -> None:
    found = read(audiocaps(tmp_path))
    names = {item.id: item.path.name for item in found.items}
    assert names == {"AbC-1_x": "AbC-1_x.wav", "byid": "7.wav", "self": "Yself.wav"}
    assert found.items[0].references == tuple(f"rain, and wind {i}" for i in range(5))
    assert found.notes == ("1 of 4 sounds are not on disk: vanished",)
    # Two sounds of one video are told apart by when they begin.
    for start in ("10", "20000_30000"):
        sound(tmp_path / "test" / f"two_{start}.wav")
    sound(tmp_path / "test" / "two.wav")
    write_csv(tmp_path / "test.csv", AUDIOCAPS, (1, "two", 10, "a"), (2, "two", 20, "b"))
    sound(tmp_path / "test" / "two_20.wav")
    assert [(item.id, item.path.name) for item in read(tmp_path).items] == [
        ("two_10", "two_10.wav"),
        ("two_20", "two_20.wav"),
    ]
    shutil.rmtree(tmp_path / "test")
    with pytest.raises(DataError, match="none of the 2 sounds is on disk"):
        read(tmp_path)
    write_csv(tmp_path / "test.csv", AUDIOCAPS, (1, "two", 10, "a"), (1, "two", 10, "b"))
    sound(tmp_path / "two.wav")
    with pytest.raises(DataError, match=r"(?s)1 lines are repeated.*audiocap_id 1"):
        read(tmp_path)


def test_clotho_aqa_asks_once(tmp_path) -> None:
    items = read(clotho_aqa(tmp_path)).items
    assert [(item.path.name, item.question, item.task) for item in items] == [
        ("a.wav", "Is it raining?", "yes/no"),
        ("a.wav", "What barks?", "single word"),
        ("b.wav", "Is it raining?", "yes/no"),
    ]
    assert items[1].references == ("dog", "Dog", "cat")
    write_csv(tmp_path / "clotho_aqa_test.csv", CLOTHO_AQA, ("a.wav", "Why?", "rain", ""))
    assert read(tmp_path).notes == ("1 questions do not have 3 answers: a.wav: Why?",)


def test_mmau(tmp_path) -> None:
    item = read(mmau(tmp_path)).items[0]
    assert (item.id, item.task, item.question) == ("id-0", "sound", "Who speaks in 0?")
    assert (item.choices, item.references) == (("man", "woman", "dog", "cat"), ("dog",))
    # Unpacked elsewhere, the sounds are found by their names; choices may be numbers.
    (tmp_path / "test-mini-audios").rename(tmp_path / "sounds")
    rows = [mmau_row(0, "music", choices=[3, 4], answer=4), mmau_row(1, "sound", id=None, answer="elk")]
    (tmp_path / "mmau-test-mini.json").write_text(json.dumps(rows))
    found = read(tmp_path)
    assert [item.path for item in found.items] == [tmp_path / "sounds" / f"id-{i}.wav" for i in range(2)]
    assert (found.items[0].choices, found.items[1].id) == (("3", "4"), "./test-mini-audios/id-1.wav")
    assert "1 answers are not exactly one of the choices" in found.notes[0]


def test_one_report_of_all_that_is_wrong(tmp_path) -> None:
    clotho(tmp_path, clips=4)
    sounds = tmp_path / "evaluation"
    (sounds / "Rain, 0.wav").write_bytes(b"")
    (sounds / "Rain, 1.wav").unlink()
    path = tmp_path / "clotho_captions_evaluation.csv"
    path.write_text(path.read_text() + path.read_text().splitlines()[-1] + "\n")
    with pytest.raises(DataError) as error:
        read(tmp_path)
    report = str(error.value)
    assert "1 sounds are missing; complete the download" in report
    assert "Rain, 1.wav" in report
    assert "1 sounds are empty (0 bytes)" in report
    assert "1 lines are repeated" in report


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"question": ""}, r"(?s)1 questions are incomplete.*id-0: question"),
        ({"choices": ["man"], "task": None}, r"(?s)id-0: task, choices"),
        ({"id": "", "audio_id": None}, "number 1: id or audio_id"),
        ({"answer": ""}, r"(?s)1 questions have no answer: the authors do not publish those of the full test.*id-0"),
        ({"id": "id-1", "audio_id": "nowhere.wav"}, "1 lines are repeated"),
        ({"id": "x", "audio_id": "nowhere.wav"}, r"(?s)1 sounds are missing.*x"),
    ],
)
def test_bad_mmau(tmp_path, changes: dict, message: str) -> None:
    mmau(tmp_path)
    rows = [mmau_row(0, "sound") | changes, mmau_row(1, "music")]
    (tmp_path / "mmau-test-mini.json").write_text(json.dumps(rows))
    with pytest.raises(DataError, match=message):
        read(tmp_path)


def test_bad_folders(tmp_path) -> None:
    def refused(message: str, *words: Any) -> None:
        with pytest.raises(DataError, match=message):
            read(*words)

    refused("no such file or folder", tmp_path / "nowhere")
    refused("no benchmark 'imagenet'; there are clotho, audiocaps, clothoaqa, mmau", tmp_path, "imagenet")
    refused(r"(?s)no known benchmark; looked for.*clotho_captions_evaluation.csv", tmp_path)
    refused("no mmau here; looked for mmau-test-mini.json or mmau-test.json", tmp_path, "mmau")
    refused("is not the list of a known benchmark", sound(tmp_path / "a.wav"))
    write_csv(tmp_path / "test.csv", "id,caption", (1, "a"))
    refused("no known benchmark", tmp_path)  # somebody else's test.csv
    refused("the columns audiocap_id, youtube_id, start_time are missing", tmp_path / "test.csv", "audiocaps")
    write_csv(tmp_path / "clotho_captions_evaluation.csv", "file_name,caption_1", ("a.wav", "b"))
    refused("no clotho here; .* with the columns file_name, caption_1", tmp_path, "clotho")
    write_csv(tmp_path / "clotho_captions_evaluation.csv", CLOTHO)
    refused("there are no items", tmp_path)
    (tmp_path / "mmau-test.json").write_text("{}")
    refused("contains clotho and mmau; choose one", tmp_path)
    refused("expected a list of", tmp_path, "mmau")
    (tmp_path / "mmau-test.json").write_text("[")
    refused("cannot be read as JSON", tmp_path, "mmau")
    write_csv(tmp_path / "clotho_captions_evaluation.csv", CLOTHO, ("a.wav", "", "b", "c", "d", "e"))
    refused("line 2: caption_1 is blank", tmp_path, "clotho")


def test_sounds_by_name(tmp_path) -> None:
    accent = unicodedata.normalize("NFD", "é.wav")
    for name in ("test/a.wav", "train/a.wav", "train/b.flac", f"train/{accent}"):
        sound(tmp_path / name)
    found = SoundIndex(tmp_path, ("test",))
    assert found.find("a.wav") == tmp_path / "test" / "a.wav"
    assert found.find("b.wav") == found.find("x", "b") == tmp_path / "train" / "b.flac"
    assert found.find(unicodedata.normalize("NFC", "é.wav")) == tmp_path / "train" / accent
    assert found.find("c.wav", "b.x") is None


def test_limited_is_spread_over_the_list(tmp_path) -> None:
    items = tuple(Item(str(i), tmp_path) for i in range(10))
    few = Benchmark("mmau", items).limited(3)
    assert [item.id for item in few.items] == ["0", "3", "6"]
    assert "3 of 10 items" in few.notes[0]
    assert Benchmark("mmau", items).limited(None) == Benchmark("mmau", items) == Benchmark("mmau", items).limited(10)
    with pytest.raises(ValueError, match="the limit is 0"):
        few.limited(0)


def test_slices_of_sounds(tmp_path) -> None:
    path = sound(tmp_path / "a.wav", seconds=1.0, rate=8000)
    whole = waveform(Item("a", path), 16_000)
    assert len(whole) == 16_000
    part = waveform(Item("a", path, start=0.25, end=0.75), 16_000)
    np.testing.assert_allclose(part[:7000], whole[4000:11_000], atol=1e-6)
    assert len(part) == 8000
    assert len(waveform(Item("a", path), 24_000)) == 24_000
    with pytest.raises(AudioError, match="starts at 2.0 s, but the file ends before"):
        waveform(Item("a", path, start=2.0), 16_000)
    with pytest.raises(DataError, match="impossible start or end"):
        build_benchmark("own", [Item("a", path, start=1.0, end=0.5)], {})


# Metrics.


@pytest.fixture
def simple(monkeypatch) -> None:
    monkeypatch.setattr(metrics, "tokenizer", lambda: "simple")


def slow_cider(captions: list[str], references: list[list[str]]) -> list[float]:
    """CIDEr-D by its definition: n-grams of 1 to 4 words, counts times log(N / df), clipped cosines, a Gaussian of
    the difference in length, ten times the mean over n and over the references."""

    def grams(text: str, n: int) -> Counter:
        words = text.split()
        return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))

    def vector(text: str, n: int) -> dict[tuple, float]:
        def documents(gram: tuple) -> int:
            return sum(any(gram in grams(own, n) for own in texts) for texts in references)

        return {g: count * math.log(len(references) / max(1, documents(g))) for g, count in grams(text, n).items()}

    def norm(values: dict[tuple, float]) -> float:
        return math.sqrt(sum(value**2 for value in values.values()))

    def similar(one: str, other: str, n: int) -> float:
        a, b = vector(one, n), vector(other, n)
        product = sum(min(a[g], b[g]) * b[g] for g in a if g in b)
        gap = max(0, len(one.split()) - 1) - max(0, len(other.split()) - 1)
        length = math.exp(-(gap**2) / (2 * 6.0**2))
        return length * (product / (norm(a) * norm(b)) if norm(a) and norm(b) else product)

    return [
        10 * sum(similar(caption, own, n) for own in texts for n in (1, 2, 3, 4)) / 4 / len(texts)
        for caption, texts in zip(captions, references)
    ]


LEXICON = ["rain", "dog", "barks", "cat", "loud", "wind", "a"]
words = st.lists(st.sampled_from(LEXICON), min_size=1, max_size=7).map(" ".join)


@given(st.lists(st.tuples(words, st.lists(words, min_size=1, max_size=3)), min_size=1, max_size=4))
@hypothesis_settings(max_examples=40)
def test_cider_by_the_book(pairs) -> None:
    captions, references = [own for own, _ in pairs], [list(texts) for _, texts in pairs]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "tokenizer", lambda: "simple")
        assert cider(captions, references) == pytest.approx(slow_cider(captions, references), rel=1e-9, abs=1e-9)


def test_cider_at_its_ends() -> None:
    texts = ["A dog barks at the moon.", "Heavy rain falls on a roof!"]
    assert cider(texts, [[text] for text in texts]) == pytest.approx([10.0, 10.0])
    assert cider(["a cat", "some wind"], [[text] for text in texts]) == pytest.approx([0.0, 0.0], abs=1e-12)
    # An empty answer is worth nothing, and makes nobody stumble.
    assert cider(["", texts[1]], [[text] for text in texts]) == pytest.approx([0.0, 10.0])


def test_words_without_java(simple) -> None:
    assert tokenize(["The dog's  high-pitched\nbark, 3 times!", ""]) == ["the dog's high-pitched bark 3 times", ""]
    assert cider(["A b c d.", "x y"], [["a b, c d"], ["u v"]]) == pytest.approx([10.0, 0.0])


@pytest.mark.skipif(shutil.which("java") is None, reason="no Java here")
def test_words_are_the_captions_code_s_own(monkeypatch) -> None:
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    texts = ["A dog's bark (loud), and it's naïve.", "", "Don't “stop”… high-pitched;\nthen 3.5 kHz", "a\u2028b", ""]
    lines = [" ".join(text.split()) for text in texts]
    theirs = PTBTokenizer().tokenize({i: [{"caption": line}] for i, line in enumerate(lines)})
    assert tokenize(texts) == [theirs[i][0] for i in range(len(texts))]
    monkeypatch.setattr(metrics, "_jar", lambda: Path("nowhere.jar"))
    with pytest.raises(RuntimeError, match="Java's tokenizer of captions failed"):
        tokenize(texts)


@pytest.mark.parametrize(
    ("answer", "prediction", "right"),
    [
        ("dog", "dog", True),
        ("dog", "The answer is: Dog.", True),
        ("dog", "dogs", False),
        ("dog", "dog or cat", False),
        ("dog", "", False),
        ("dog", "?!", False),
        ("a big dog", "big dog, a", True),
        ("a big dog", "dog", False),
        ("a big dog", "a big dog, not a cat", False),  # "cat" belongs to another choice only
        ("a small cat", "a small cat", True),  # "a" is shared, and does not count against it
    ],
)
def test_mmau_s_rule(answer: str, prediction: str, right: bool) -> None:
    choices = [answer, "cat", "a small cat", "Cat"] if answer != "a small cat" else [answer, "a big dog"]
    assert matches(answer, prediction, choices) is right


def test_scores_of_mmau() -> None:
    items = [Item(str(i), Path(), choices=("x", "y"), references=("x",), task=task) for i, task in enumerate("ssm")]
    found = score("mmau", items, {"0": "x", "1": "y", "2": "It is X"})
    assert found == {"score": 2 / 3, "s": 1 / 2, "m": 1.0}
    with pytest.raises(ValueError, match="nothing to score"):
        score("mmau", [], {})


def test_scores_of_clotho_aqa() -> None:
    def question(name: str, task: str, *answers: str) -> Item:
        return Item(name, Path(), question="?", references=answers, task=task)

    items = [
        question("a", "yes/no", "yes", "yes", "no"),
        question("b", "yes/no", "no", "No", "no."),
        question("c", "single word", "rain", "The rain", "water"),
    ]
    found = score("clothoaqa", items, {"a": "Yes, it does.", "b": "yes", "c": "a Rain!"})
    assert found == {
        "score": 4 / 9,  # two annotators of three, none, two
        "yes/no": 2 / 6,
        "yes/no agreed": 0.0,
        "single word": 2 / 3,
    }
    assert normalised(" The  dog-barks!") == "dog barks"
    # Exact match: a single word is not any word of a sentence.
    assert score("clothoaqa", items[2:], {"c": "it is rain"})["score"] == 0


# Settings and prompts.


def test_settings_by_name(tmp_path) -> None:
    found = settings(["segmentwise", "TopK+merge", "random"], [0.25, 1.0, 0.5])
    assert [(one.file, one.method) for one in found] == [
        ("unpruned", None),
        ("segmentwise-0.5", ap.SegmentwiseTopK(0.5)),
        ("segmentwise-0.25", ap.SegmentwiseTopK(0.25)),
        ("topk+merge-0.5", ap.TopK(0.5, dropped="merge")),
        ("topk+merge-0.25", ap.TopK(0.25, dropped="merge")),
        ("random-0.5", ap.TopK(0.5, score="random")),
        ("random-0.25", ap.TopK(0.25, score="random")),
    ]
    assert method("uniform", 0.3) == ap.UniformStride(0.3)
    assert method("pooling", 0.3) == ap.AveragePooling(0.3)
    for entry in TABLE:
        if not entry.needs_training:
            assert type(method(entry.kind.lower(), 0.7)).__name__ == entry.kind
    path = tmp_path / "mine.json"
    path.write_text('{"method": "TopK", "keep_rate": 0.9, "segments": 4}')
    assert method(str(path), 0.5) == ap.TopK(0.5, segments=4)
    assert method(f"{path}+merge", 0.5) == ap.TopK(0.5, segments=4, dropped="merge")
    assert [one.file for one in settings([f"{path}+merge"], [0.5])][1:] == ["mine+merge-0.5"]
    refused = settings(["tofu"], [0.4])[1]
    assert refused.method is None
    assert "at least 0.5" in str(refused.refused)


@pytest.mark.parametrize(
    ("names", "rates", "message"),
    [
        (["magic"], [0.5], "no method 'magic'; there are .*segmentwise"),
        (["pooling+merge"], [0.5], r"pooling\+merge: AveragePooling has no modifier \+merge; it has \+unweighted"),
        (["topk+burn"], [0.5], r"topk\+burn: TopK has no modifier \+burn"),
        (["topk", "TOPK"], [0.5], "topk-0.5 would be answered for twice"),
        (["topk"], [0.0], "the keep rate is 0.0"),
        (["topk"], [1.5], "the keep rate is 1.5"),
    ],
)
def test_bad_settings(names: list[str], rates: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        settings(names, rates)


def test_prompts() -> None:
    item = Item("a", Path(), question="Which {choices}?", choices=("one", "two"))
    assert fill_prompt(item, "{question} Of:\n{choices}") == "Which {choices}? Of:\n- one\n- two"
    assert fill_prompt(item, "Describe {it}") == "Describe {it}"
    for name, prompt in PROMPTS.items():
        check_prompt(name, prompt)
    with pytest.raises(ValueError, match=r"mmau needs \{choices\} in it"):
        check_prompt("mmau", "{question}")
    with pytest.raises(ValueError, match="clotho needs some text"):
        check_prompt("clotho", " ")


# Answers that outlive a kill.


def test_answers_are_kept_and_gone_on_with(tmp_path) -> None:
    path = tmp_path / "answers" / "topk-0.5.jsonl"
    with AnswerLog(path, {"model": "a", "rate": (1,)}) as answers:
        answers.write([{"id": "1", "asked": "?", "answer": "ja"}, {"id": "2", "error": "deaf"}])
        with pytest.raises(AnswersError, match="another run is writing"):
            AnswerLog(path, {"model": "a", "rate": (1,)})
    with path.open("ab") as file:
        file.write(b'{"id": "3", "answ')  # killed while it wrote
    with AnswerLog(path, {"rate": [1], "model": "a"}) as answers:
        assert list(answers.rows) == ["1", "2"]
        answers.write([{"id": "3", "answer": "x"}])
        answers.check_asked({"1": "?", "2": "?", "9": "?"})
        with pytest.raises(AnswersError, match="the question of 1 was '\\?', and is now '!'"):
            answers.check_asked({"1": "!"})
    assert [json.loads(line).get("id") for line in path.read_text().splitlines()] == [None, "1", "2", "3"]
    with pytest.raises(AnswersError, match=r"begun with model='a' \(not 'b'\), rate=\[1\] \(not None\)"):
        AnswerLog(path, {"model": "b"})


@pytest.mark.parametrize(
    "text", ["notes\n", "[]\n", '{"setting": {}}\n{}\n', '{"setting": {}}\nno', '{"setting": 1}\n']
)
def test_other_files_are_left_alone(tmp_path, text: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(text)
    with pytest.raises(AnswersError, match="is not an answer of this command"):
        AnswerLog(path, {})
    assert path.read_text() == text


def test_a_file_torn_in_its_first_line_is_begun_anew(tmp_path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"setting": {"mod')
    with AnswerLog(path, {"model": "a"}) as answers:
        assert answers.rows == {}
    assert json.loads(path.read_text()) == {"setting": {"model": "a"}}


# A tiny model.

SPECIAL = ["<|im_start|>", "<|im_end|>", "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>"]
PLAIN = ["yes", "no", "rain", "dog", "cat", "man", "woman", "a", "user", "assistant", "What", "barks", "Describe"]
WORDS = ["<pad>", "<unk>", *SPECIAL, *PLAIN]


def tiny_processor() -> Qwen2AudioProcessor:
    words_ = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    words_.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words_,
        pad_token="<pad>",
        unk_token="<unk>",
        eos_token="<|im_end|>",
        additional_special_tokens=SPECIAL,
    )
    return Qwen2AudioProcessor(WhisperFeatureExtractor(feature_size=8, chunk_length=2), tokenizer)


def tiny_model(seed: int = 0) -> Qwen2AudioForConditionalGeneration:
    torch.manual_seed(seed)
    ears = {
        "d_model": 16,
        "encoder_layers": 2,
        "encoder_attention_heads": 2,
        "encoder_ffn_dim": 32,
        "num_mel_bins": 8,
        "max_source_positions": 100,
        "initializer_range": 0.3,
    }
    text = {
        "model_type": "qwen2",
        "vocab_size": len(WORDS),
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "initializer_range": 0.3,
        "pad_token_id": 0,
        "bos_token_id": None,
        "eos_token_id": WORDS.index("<|im_end|>"),
    }
    config = Qwen2AudioConfig(audio_config=ears, text_config=text, audio_token_id=WORDS.index("<|AUDIO|>"))
    return Qwen2AudioForConditionalGeneration(config).eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("qwen")
    tiny_model().save_pretrained(place)
    tiny_processor().save_pretrained(place)
    return place


@pytest.fixture(scope="module")
def loaded(folder) -> tuple[Any, Any]:
    return load_lm(folder)


def test_loading(folder, loaded) -> None:
    model, processor = loaded
    assert type(model) is Qwen2AudioForConditionalGeneration
    assert type(processor) is Qwen2AudioProcessor
    assert not model.training
    assert of_weights(model) == of_weights(tiny_model()) != of_weights(tiny_model(1))
    assert load_lm(str(folder), dtype="bfloat16")[0].dtype == torch.bfloat16
    with pytest.raises(ValueError, match="the dtype is 'int8'; it must be one of auto, float32"):
        load_lm(folder, dtype="int8")


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("qwen2_audio", "Qwen2AudioForConditionalGeneration"),
        ("audioflamingo3", "AudioFlamingo3ForConditionalGeneration"),
        ("musicflamingo", "MusicFlamingoForConditionalGeneration"),
        ("voxtral", "VoxtralForConditionalGeneration"),
        ("glmasr", "GlmAsrForConditionalGeneration"),
        ("qwen2_5_omni", "Qwen2_5OmniThinkerForConditionalGeneration"),
        ("qwen3_omni_moe", "Qwen3OmniMoeThinkerForConditionalGeneration"),
        ("qwen3_asr", "Qwen3ASRForConditionalGeneration"),
        ("granite_speech", "GraniteSpeechForConditionalGeneration"),
        ("phi4_multimodal", "Phi4MultimodalForCausalLM"),
        ("gemma3n", "Gemma3nForConditionalGeneration"),
        ("gemma4", "Gemma4ForConditionalGeneration"),
        ("vibevoice_asr", "VibeVoiceAsrForConditionalGeneration"),
    ],
)
def test_the_class_that_answers_in_words(kind: str, expected: str) -> None:
    assert loading._class_of(kind, loading.main_config(AutoConfig.for_model(kind))).__name__ == expected


def test_what_cannot_be_loaded(folder, tmp_path) -> None:
    def refused(message: str, kind: type[Exception] = CheckpointError) -> None:
        with pytest.raises(kind, match=message):
            load_lm(tmp_path / "m")

    refused("no such file or folder", FileNotFoundError)
    shutil.copytree(folder, tmp_path / "m")
    weights = tmp_path / "m" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:1000])
    refused("its model cannot be loaded")
    weights.unlink()
    refused("its model cannot be loaded")
    weights.write_bytes(whole)
    (tmp_path / "m" / "tokenizer.json").write_text("{")
    refused("its processor cannot be loaded")
    (tmp_path / "m" / "config.json").write_text('{"model_type": "nobody-knows"}')
    refused("its config cannot be loaded")
    (tmp_path / "m" / "config.json").unlink()
    refused("no config.json; give the folder of a model", FileNotFoundError)
    ast().save_pretrained(tmp_path / "m")
    refused("audio-spectrogram-transformer is not an audio-language model")
    with pytest.raises(CheckpointError, match="audiomae is not an audio-language model"):
        load_lm("esc10")
    with pytest.raises(CheckpointError, match="takes no sound; that of an audio-language model takes both"):
        loading._check_processor("x", SimpleNamespace(tokenizer=object()))


def test_missing_weights_are_no_model(folder, tmp_path) -> None:
    from safetensors.torch import load_file, save_file

    shutil.copytree(folder, tmp_path / "m")
    weights = load_file(tmp_path / "m" / "model.safetensors")
    weights.pop(next(name for name in weights if "audio_tower" in name))
    save_file(weights, tmp_path / "m" / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match="lacks 1 keys"):
        load_lm(tmp_path / "m")


def waves() -> list[np.ndarray]:
    return [tone(0.5), tone(1.5, hertz=300.0)]


def test_a_question_is_a_turn_of_the_chat(loaded) -> None:
    model, processor = loaded
    inputs = ask_inputs(processor, model, waves(), ["What barks", "Describe a dog"])
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    assert audio_tokens(processor, model, ids) == [12, 37]
    said = [processor.tokenizer.decode(row[row != 0]) for row in ids]
    assert said[0].count("<|AUDIO|>") == 12
    assert "What barks" in said[0]
    assert said[1].split("Describe a dog")[1].split() == ["<|im_end|>", "<|im_start|>", "assistant"]
    # Left padding, so that answers begin at one place.
    padding = 37 - 12 + 1
    assert mask[0, :padding].sum() == 0
    assert mask[0, padding:].all()
    assert mask[1].all()
    alone = ask_inputs(processor, model, waves()[:1], ["What barks"])
    assert torch.equal(alone["input_ids"][0], ids[0][mask[0] > 0])


def test_other_ways_to_ask(loaded) -> None:
    model, processor = loaded
    whole = "<|audio_bos|><|AUDIO|><|audio_eos|>Describe"
    inputs = ask_inputs(processor, model, waves(), [whole, "What barks" + whole])
    assert "assistant" not in processor.tokenizer.decode(inputs["input_ids"][0])
    assert inputs["input_ids"][0, -3:].tolist() == [WORDS.index(w) for w in ("<|AUDIO|>", "<|audio_eos|>", "Describe")]
    # A template that knows text only: the sound's token goes before the question.
    text_only = tiny_processor()
    text_only.chat_template = "{% for m in messages %}user {{ m.content + '' }} {% endfor %}assistant"
    inputs = ask_inputs(text_only, model, waves()[:1], ["What barks"])
    said = processor.tokenizer.decode(inputs["input_ids"][0])
    assert said.startswith("user <|audio_bos|><|AUDIO|>") or said.startswith("user <|audio_bos|> <|AUDIO|>")
    assert said.endswith("What barks assistant")
    no_template = tiny_processor()
    no_template.chat_template = None
    inputs = ask_inputs(no_template, model, waves()[:1], ["What barks"])
    assert processor.tokenizer.decode(inputs["input_ids"][0, -2:]) == "What barks"
    assert audio_tokens(processor, model, inputs["input_ids"]) == [12]
    with pytest.raises(ValueError, match="has neither a place for sounds"):
        ask_inputs(SimpleNamespace(), model, waves()[:1], ["What barks"])


def test_another_sampling_rate() -> None:
    assert loading.sampling_rate(tiny_processor()) == 16_000
    assert loading.sampling_rate(SimpleNamespace(audio_processor=SimpleNamespace(sampling_rate=24_000))) == 24_000


# Evaluations.


def evaluation(loaded, benchmark: Benchmark, out: Path, **changes: Any) -> Evaluation:
    model, processor = loaded
    asker = {"prompt": PROMPTS[benchmark.name], "max_new_tokens": 4, **changes}
    return Evaluation(BatchGenerator(model, processor, **asker), benchmark, "tiny", out)


TWO = (Setting("unpruned", 1.0), Setting("segmentwise", 0.25, ap.SegmentwiseTopK(0.25)))


@pytest.fixture
def heard(loaded, monkeypatch) -> list[int]:
    """How many sounds each `generate` was given."""
    model, counts = loaded[0], []
    own = Qwen2AudioForConditionalGeneration.generate

    def counting(self: Any, *args: Any, **kwargs: Any) -> Any:
        counts.append(len(kwargs["input_ids"]))
        return own(self, *args, **kwargs)

    monkeypatch.setattr(type(model), "generate", counting)
    return counts


@pytest.mark.parametrize("name", FOLDERS)
def test_every_benchmark_end_to_end(loaded, tmp_path, simple, name: str) -> None:
    benchmark = read(FOLDERS[name](tmp_path / "data"))
    result = evaluation(loaded, benchmark, tmp_path / "out", batch_size=2).run(TWO)
    full, pruned = result["rows"]
    assert result == json.loads((tmp_path / "out" / "table.json").read_text())
    assert (result["benchmark"], result["metric"]) == (name, metrics.METRICS[name])
    assert [row["answered"] for row in result["rows"]] == [len(benchmark)] * 2
    assert full["tokens"][0] == full["tokens"][1] == pruned["tokens"][0]
    lengths = [12 if name != "clotho" else n for n in (10, 15, 20)]
    assert full["tokens"][0] == pytest.approx(sum(lengths) / 3)
    assert pruned["tokens"][1] == pytest.approx(sum(math.ceil(n / 4) for n in lengths) / 3)
    assert full["prefill_seconds"] > 0
    assert full["relative_loss"] in (0.0, None)
    if full["score"]:
        assert pruned["relative_loss"] == pytest.approx(100 * (1 - pruned["score"] / full["score"]))
    rows = [json.loads(line) for line in (tmp_path / "out/answers/segmentwise-0.25.jsonl").read_text().splitlines()]
    assert rows[0]["setting"]["pruning"]["method"] == "SegmentwiseTopK"
    assert [row["id"] for row in rows[1:]] == [item.id for item in benchmark.items]
    assert rows[1]["asked"] == fill_prompt(benchmark.items[0], PROMPTS[name])
    assert ap.handle(loaded[0]) is None
    text = (tmp_path / "out" / "table.md").read_text()
    assert "| segmentwise | 0.25 |" in text
    assert text == markdown(result) + "\n"


def test_answers_do_not_hang_on_the_batch(loaded, tmp_path) -> None:
    benchmark = read(clotho_aqa(tmp_path / "data"))
    said = []
    for size in (1, 3):
        evaluation(loaded, benchmark, tmp_path / str(size), batch_size=size).run(TWO)
        files = [tmp_path / str(size) / "answers" / f"{setting.file}.jsonl" for setting in TWO]
        rows = [json.loads(line) for file in files for line in file.read_text().splitlines()[1:]]
        said.append([(row["answer"], row["tokens"]) for row in rows])
    assert said[0] == said[1]
    assert len({answer for answer, _ in said[0]}) > 1
    # By hand, without batches and without this package's prompts.
    model, processor = loaded
    item = benchmark.items[0]
    turn = [
        {"type": "audio", "audio": waveform(item, 16_000)},
        {"type": "text", "text": fill_prompt(item, PROMPTS["clothoaqa"])},
    ]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": turn}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    output = model.generate(**inputs, max_new_tokens=4, do_sample=False)
    answer = processor.tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert said[0][0] == (answer.strip(), [12, 12])


@pytest.mark.parametrize("stop", [KeyboardInterrupt, RuntimeError])
def test_a_stopped_run_asks_nothing_twice(loaded, heard, tmp_path, monkeypatch, simple, stop: type) -> None:
    benchmark = read(clotho(tmp_path / "data", clips=4))
    out = tmp_path / "out"
    counting = type(loaded[0]).generate

    def stopping(self: Any, *args: Any, **kwargs: Any) -> Any:
        if len(heard) == 6:
            raise stop("stopped")
        return counting(self, *args, **kwargs)

    monkeypatch.setattr(type(loaded[0]), "generate", stopping)
    with pytest.raises(stop):
        evaluation(loaded, benchmark, out).run(TWO)
    assert ap.handle(loaded[0]) is None
    assert len(json.loads((out / "table.json").read_text())["rows"]) == 1  # the unpruned model's, which was done
    monkeypatch.setattr(type(loaded[0]), "generate", counting)
    done: list[int] = []
    resumed = evaluation(loaded, benchmark, out, batch_size=2).run(TWO, advance=done.append)
    assert sum(heard) == 2 * len(benchmark)
    assert sum(done) == 2 * len(benchmark)
    fresh = evaluation(loaded, benchmark, tmp_path / "fresh").run(TWO)
    for one, other in zip(resumed["rows"], fresh["rows"], strict=True):
        assert (one["score"], one["tokens"]) == (other["score"], other["tokens"])
    asked_before = len(heard)
    evaluation(loaded, benchmark, out).run(TWO)
    assert len(heard) == asked_before


def test_more_items_reuse_the_answers(loaded, heard, tmp_path, simple) -> None:
    benchmark = read(clotho(tmp_path / "data", clips=4))
    assert evaluation(loaded, benchmark.limited(2), tmp_path / "out").run(TWO[:1])["items"] == 2
    assert evaluation(loaded, benchmark, tmp_path / "out").run(TWO[:1])["items"] == 4
    assert sum(heard) == 4


def test_a_changed_question_is_refused(loaded, folder, tmp_path, simple) -> None:
    benchmark = read(clotho(tmp_path / "data"))
    out = tmp_path / "out"
    evaluation(loaded, benchmark, out).run(TWO[:1])
    with pytest.raises(AnswersError, match="begun with prompt='Describe this audio in one short sentence.' "):
        evaluation(loaded, benchmark, out, prompt="Describe").run(TWO[:1])
    with pytest.raises(AnswersError, match=r"max_new_tokens=4 \(not 5\)"):
        evaluation(loaded, benchmark, out, max_new_tokens=5).run(TWO[:1])
    with pytest.raises(AnswersError, match="begun with weights="):
        evaluation((tiny_model(1), loaded[1]), benchmark, out).run(TWO[:1])
    other = read(clotho_aqa(tmp_path / "other"))
    with pytest.raises(AnswersError, match=r"benchmark='clotho' \(not 'clothoaqa'\)"):
        evaluation(loaded, other, out).run(TWO[:1])
    changed = Setting("segmentwise", 0.25, ap.SegmentwiseTopK(0.25, segments=2))
    evaluation(loaded, benchmark, out).run(TWO)
    with pytest.raises(AnswersError, match=r"begun with pruning\.segments=None \(not 2\)"):
        evaluation(loaded, benchmark, out).run([TWO[0], changed])


def test_a_sound_that_cannot_be_decoded_stops_nobody(loaded, tmp_path, simple) -> None:
    clotho(tmp_path / "data", clips=5)
    for i in (1, 2):
        (tmp_path / "data" / "evaluation" / f"Rain, {i}.wav").write_bytes(b"RIFF")
    benchmark = read(tmp_path / "data")
    result = evaluation(loaded, benchmark, tmp_path / "out", batch_size=2).run(TWO)
    assert [(row["answered"], row["failed"]) for row in result["rows"]] == [(3, 2)] * 2
    lines = (tmp_path / "out" / "answers" / "unpruned.jsonl").read_text().splitlines()[1:]
    rows = [json.loads(line) for line in lines]
    assert {row["id"] for row in rows} == {item.id for item in benchmark.items}
    assert sum("cannot be decoded as audio" in row.get("error", "") for row in rows) == 2
    assert "2 sounds could not be decoded" in markdown(result)
    for path in (tmp_path / "data" / "evaluation").iterdir():
        path.write_bytes(b"RIFF")
    empty = evaluation(loaded, benchmark, tmp_path / "empty").run(TWO)
    assert [row["failed"] for row in empty["rows"]] == [5, 5]
    assert table(empty)[1][1] == ["segmentwise", "0.25", "–", "–", "–", "–"]


def test_what_is_refused_is_listed(loaded, tmp_path, simple) -> None:
    benchmark = read(clotho(tmp_path / "data"))
    chosen = [*settings(["evit", "tofu", "topk"], [0.4])]
    done: list[int] = []
    result = evaluation(loaded, benchmark, tmp_path / "out").run(chosen, advance=done.append)
    rows = {row["method"]: row for row in result["rows"]}
    assert sum(done) == len(chosen) * len(benchmark)
    assert "at least 0.5" in rows["tofu"]["refused"]
    assert "refused" in rows["evit"]
    assert rows["topk"]["answered"] == 3
    assert [cells[0] for cells in table(result)[1]] == ["unpruned", "topk"]
    assert "- left out tofu at 0.4: " in markdown(result)


def test_captions_need_their_extra_before_anything_is_asked(loaded, heard, tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pycocoevalcap.cider.cider", None)
    with pytest.raises(ModuleNotFoundError):
        evaluation(loaded, read(clotho(tmp_path / "data")), tmp_path / "out").run(TWO)
    assert heard == []
    evaluation(loaded, read(mmau(tmp_path / "mmau")), tmp_path / "out").run(TWO[:1])


# The command line.


def test_the_command_line(run, folder, tmp_path) -> None:
    data = clotho_aqa(tmp_path / "data")
    words_ = (
        "eval-lm",
        "--model",
        folder,
        "--data",
        data,
        "--out",
        "out",
        "--max-new-tokens",
        3,
        "--keep-rates",
        "0.5",
    )
    code, out, err = run(*words_, "--methods", "segmentwise, topk+merge")
    assert code == 0, err
    assert "segmentwise" in out
    assert "clothoaqa: 3 items, 3 settings" in err
    assert "12→6" in out
    code, out, err = run(*words_, "--methods", "segmentwise", "--json", "--limit", 2, "--batch-size", 2)
    result = json.loads(out)
    assert code == 0, err
    assert [(row["method"], row["keep_rate"]) for row in result["rows"]] == [("unpruned", 1.0), ("segmentwise", 0.5)]
    assert (result["items"], result["model"]) == (2, folder.name)
    assert result == json.loads(Path("out/table.json").read_text())
    assert Path("out/table.md").exists()
    assert len(Path("out/answers/topk+merge-0.5.jsonl").read_text().splitlines()) == 4


def test_the_command_line_s_exit_codes(run, folder, tmp_path, monkeypatch) -> None:
    data = clotho_aqa(tmp_path / "data")
    words_ = ("eval-lm", "--model", folder, "--data", data, "--out", "out", "--keep-rates", "1.0")
    for more, message in [
        (("--keep-rates", "half"), "--keep-rates is 'half'"),
        (("--methods", "magic"), "no method 'magic'"),
        (("--benchmark", "clotho"), "no clotho here"),
        (("--prompt", "Describe"), "needs {question} in it"),
        (("--dtype", "int8"), "the dtype is 'int8'"),
        (("--device", "tpu"), "--device is 'tpu'"),
        (("--data", "nowhere"), "nowhere: no such file or folder"),
        (("--model", "./nowhere"), "nowhere: no such file or folder"),
    ]:
        code, _, err = run(*words_, *more)
        assert code == 2, more
        assert message in err
    (data / "audio_files" / "b.wav").write_bytes(b"RIFF")
    code, _, err = run(*words_)
    assert code == 1
    assert "some sounds could not be decoded" in err
    code, _, err = run(*words_, "--prompt", "What {question}")
    assert code == 2
    assert "begun with prompt=" in err


def test_ctrl_c_loses_nothing(run, folder, tmp_path, monkeypatch) -> None:
    data = clotho_aqa(tmp_path / "data")
    words_ = ("eval-lm", "--model", folder, "--data", data, "--out", "out", "--keep-rates", "1.0")
    own, calls = Qwen2AudioForConditionalGeneration.generate, []

    def stopping(self: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return own(self, *args, **kwargs)

    monkeypatch.setattr(Qwen2AudioForConditionalGeneration, "generate", stopping)
    code, _, err = run(*words_)
    assert code == 130
    assert "What was written stays" in err
    assert len(Path("out/answers/unpruned.jsonl").read_text().splitlines()) == 3
    assert run(*words_)[0] == 0
    assert len(calls) == 4


def test_a_missing_extra_is_named(run, folder, tmp_path, monkeypatch) -> None:
    def absent(name: str) -> None:
        raise ModuleNotFoundError("No module named 'pycocoevalcap'", name="pycocoevalcap")

    monkeypatch.setattr(metrics, "require", absent)
    code, _, err = run("eval-lm", "--model", folder, "--data", clotho(tmp_path / "data"), "--out", "out")
    assert code == 2
    assert "this needs pycocoevalcap: pip install 'audioprune[eval-lm]'" in err


def test_help(run) -> None:
    code, out, _ = run("eval-lm", "--help")
    assert code == 0
    assert "segmentwise" in out
    assert "eval-lm" in run("--help")[1]


def test_batches_are_of_about_one_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the sounds decoded ahead the shortest go first, and every sound goes once."""
    lengths = [int(n) for n in np.random.default_rng(3).permutation(60)]
    items = [Item(str(n), tmp_path) for n in lengths]
    monkeypatch.setattr(batch_generate, "waveform", lambda item, rate: np.zeros(int(item.id) + 1, np.float32))
    monkeypatch.setattr(batch_generate, "sampling_rate", lambda processor: 16_000)
    monkeypatch.setattr(BatchGenerator, "_rows", lambda self, batch, trace: [item.id for item, _ in batch])
    for size in (1, 2, 8):
        batches = list(BatchGenerator(None, None, "", 1, batch_size=size)(items))
        assert sorted(int(name) for batch in batches for name in batch) == list(range(60))
        assert all(len(batch) == size for batch in batches[:-1])
        window = size * batch_generate.AHEAD
        for start in range(0, 60, window):
            expected = lengths[start : start + window] if size == 1 else sorted(lengths[start : start + window])
            assert [int(n) for batch in batches[start // size : (start + window) // size] for n in batch] == expected
