"""CIDEr of captions, and accuracy of answers, as the benchmarks' authors count them."""

from __future__ import annotations

import re
import shutil
import string
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path

from .items import Item

CIDER, ACCURACY = "CIDEr", "accuracy"
METRICS = {"clotho": CIDER, "audiocaps": CIDER, "clothoaqa": ACCURACY, "mmau": ACCURACY}
"""Benchmark to its published metric."""

YES_NO = ("yes", "no")
_WORD = re.compile(r"\w+(?:[-'’]\w+)*")
_PUNCTUATION = str.maketrans(dict.fromkeys(string.punctuation + "’‘“”…", " "))
_ARTICLES = {"a", "an", "the"}

Scores = dict[str, float]
"""The benchmark's own figure as "score", and beside it that of each task."""


def score(benchmark: str, items: Sequence[Item], answers: Mapping[str, str]) -> Scores:
    """The figures of one set of answers.

    Args:
        benchmark: a key of `METRICS`.
        items: those that were answered.
        answers: by the items' ids.

    Accuracies are shares, 0 to 1; CIDEr is as published, about 0.2 to 1, and 10 where every caption is its sound's only
    reference. Raises `ValueError` where there is no item, and `ModuleNotFoundError` as `require` does.
    """
    if not items:
        raise ValueError(f"{benchmark}: no sound was answered for, so there is nothing to score")
    return _SCORERS[benchmark](items, [answers[item.id] for item in items])


def require(benchmark: str) -> None:
    """Raises `ModuleNotFoundError` where what counts its score is not installed, before hours of answering."""
    if METRICS[benchmark] == CIDER:
        import pycocoevalcap.cider.cider  # noqa: F401


def cider(captions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """CIDEr-D of each caption (Vedantam et al., CVPR 2015), by the COCO captions' own code; the score is their mean.

    captions: one a sound. references: those of each sound. Words are weighted by how few of *these* sounds have them in
    their references: of part of a benchmark the figure is another, and of a single sound it is 0.
    """
    from pycocoevalcap.cider.cider import Cider

    texts = list(dict.fromkeys([*captions, *(text for own in references for text in own)]))
    words = dict(zip(texts, tokenized(texts), strict=True))
    hypotheses = {i: [words[caption]] for i, caption in enumerate(captions)}
    truths = {i: [words[text] for text in own] for i, own in enumerate(references)}
    _, each = Cider().compute_score(truths, hypotheses)
    return [float(value) for value in each]


def tokenizer() -> str:
    """How captions are cut into words: "PTB", the published way, where there is Java, "simple" elsewhere."""
    return "PTB" if shutil.which("java") is not None else "simple"


def tokenized(texts: Sequence[str]) -> list[str]:
    """Lower-case words with a space between, punctuation dropped.

    With Java these are the words of the Penn Treebank's tokenizer that the COCO captions' code ships with, as in all
    published figures. Without, a word is a run of letters and digits, hyphens and apostrophes within it included.
    """
    lines = [" ".join(text.split()) for text in texts]
    if tokenizer() == "simple":
        return [" ".join(_WORD.findall(line.lower())) for line in lines]
    return _penn_treebank(lines)


def normalised(answer: str) -> str:
    """Lower case, without punctuation and articles, a space between words: "The rain." → "rain"."""
    words = answer.lower().translate(_PUNCTUATION).split()
    return " ".join(word for word in words if word not in _ARTICLES)


def matches(answer: str, prediction: str, choices: Sequence[str]) -> bool:
    """MMAU's rule for a multiple-choice answer.

    Right is what holds every word of the answer and no word that only the other choices have. Words are runs of letters
    and digits in lower case, each counted once; an empty prediction is wrong.
    """
    said, right = _words(prediction), _words(answer)
    others = {word for choice in choices for word in _words(choice)} - right
    return bool(said) and right <= said and not said & others


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower()))


def _captions(items: Sequence[Item], answers: Sequence[str]) -> Scores:
    return {"score": _mean(cider(answers, [item.references for item in items]))}


def _clotho_aqa(items: Sequence[Item], answers: Sequence[str]) -> Scores:
    """Every annotator's answer counts, and beside them, as "agreed", the questions on which all are of one mind."""
    hits: dict[str, list[float]] = defaultdict(list)
    for item, answer in zip(items, answers, strict=True):
        truths = [normalised(reference) for reference in item.references]
        said = normalised(answer)
        if item.task == "yes/no" and said.split(" ")[0] in YES_NO:
            said = said.split(" ")[0]  # "Yes, it is raining."
        right = [float(said == truth) for truth in truths]
        for name in ("score", item.task):
            hits[name] += right
        if len(set(truths)) == 1:
            hits[f"{item.task} agreed"].append(right[0])
    return {name: _mean(values) for name, values in hits.items()}


def _mmau(items: Sequence[Item], answers: Sequence[str]) -> Scores:
    hits: dict[str, list[float]] = defaultdict(list)
    for item, answer in zip(items, answers, strict=True):
        right = float(matches(item.references[0], answer, item.choices))
        for name in ("score", item.task):
            hits[name].append(right)
    return {name: _mean(values) for name, values in hits.items()}


_SCORERS: dict[str, Callable[[Sequence[Item], Sequence[str]], Scores]] = {
    "clotho": _captions,
    "audiocaps": _captions,
    "clothoaqa": _clotho_aqa,
    "mmau": _mmau,
}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


@cache
def _jar() -> Path:
    from pycocoevalcap.tokenizer import ptbtokenizer

    return Path(ptbtokenizer.__file__).parent / ptbtokenizer.STANFORD_CORENLP_3_4_1_JAR


def _penn_treebank(lines: Sequence[str]) -> list[str]:
    """What pycocoevalcap's `PTBTokenizer` gives; that one writes into its own package, which may be read-only."""
    from pycocoevalcap.tokenizer.ptbtokenizer import PUNCTUATIONS

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "captions.txt")
        file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        java = ["java", "-Dfile.encoding=UTF-8", "-Dstdout.encoding=UTF-8", "-cp", str(_jar())]
        call = [*java, "edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase", str(file)]
        done = subprocess.run(call, capture_output=True, encoding="utf-8", check=False)
    found = done.stdout.split("\n")[:-1]
    if done.returncode or len(found) != len(lines):
        reason = (done.stderr.strip().splitlines() or ["it gave no reason"])[-1]
        raise RuntimeError(f"Java's tokenizer of captions failed ({reason}); repair Java, or take it off the PATH")
    return [" ".join(word for word in line.split() if word not in PUNCTUATIONS) for line in found]
