"""CIDEr of captions and accuracy of answers, computed as the benchmarks' authors do."""

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
"""Benchmark → its published metric."""

YES_NO = ("yes", "no")
_WORD = re.compile(r"\w+(?:[-'’]\w+)*")
_PUNCTUATION = str.maketrans(dict.fromkeys(string.punctuation + "’‘“”…", " "))
_ARTICLES = {"a", "an", "the"}

Scores = dict[str, float]
"""The benchmark's score as "score", and the score of each task."""


def score(benchmark: str, items: Sequence[Item], answers: Mapping[str, str]) -> Scores:
    """Scores of a set of answers.

    Args:
        benchmark: a key of `METRICS`.
        items: the answered items.
        answers: answers by the items' ids.

    Accuracies are shares, 0 to 1. CIDEr is on the published scale, about 0.2 to 1; it is 10 if every caption equals the
    only reference of its sound. Raises `ValueError` if there is no item, and `ModuleNotFoundError` as `require` does.
    """
    if not items:
        raise ValueError(f"{benchmark}: there is no answer, so there is nothing to score")
    return _SCORERS[benchmark](items, [answers[item.id] for item in items])


def require(benchmark: str) -> None:
    """Raise `ModuleNotFoundError` if the package of the metric is not installed, before hours of generation."""
    if METRICS[benchmark] == CIDER:
        import pycocoevalcap.cider.cider  # noqa: F401


def cider(captions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """CIDEr-D of each caption (Vedantam et al., CVPR 2015), by the code of COCO captions. The score is their mean.

    captions: one for each sound. references: those of each sound. Words that occur in the references of few of *these*
    sounds have more weight. So a part of a benchmark gives another score, and a single sound gives 0.
    """
    from pycocoevalcap.cider.cider import Cider

    texts = list(dict.fromkeys([*captions, *(text for own in references for text in own)]))
    words = dict(zip(texts, tokenize(texts), strict=True))
    hypotheses = {i: [words[caption]] for i, caption in enumerate(captions)}
    truths = {i: [words[text] for text in own] for i, own in enumerate(references)}
    _, each = Cider().compute_score(truths, hypotheses)
    return [float(value) for value in each]


def tokenizer() -> str:
    """Tokenizer of captions: "PTB", as published, if Java is installed; otherwise "simple"."""
    return "PTB" if shutil.which("java") is not None else "simple"


def tokenize(texts: Sequence[str]) -> list[str]:
    """Words of each text in lower case, separated by spaces, without punctuation.

    With Java, the words come from the Penn Treebank tokenizer of COCO captions, as in all published scores. Without
    Java, a word is a run of letters and digits, with hyphens and apostrophes inside it.
    """
    lines = [" ".join(text.split()) for text in texts]
    if tokenizer() == "simple":
        return [" ".join(_WORD.findall(line.lower())) for line in lines]
    return _penn_treebank(lines)


def normalised(answer: str) -> str:
    """Answer in lower case without punctuation and articles, words separated by spaces: "The rain." → "rain"."""
    words = answer.lower().translate(_PUNCTUATION).split()
    return " ".join(word for word in words if word not in _ARTICLES)


def matches(answer: str, prediction: str, choices: Sequence[str]) -> bool:
    """Whether a multiple-choice prediction is right, by MMAU's rule.

    It is right if it contains every word of the answer, and no word that occurs only in other choices. Words are runs
    of letters and digits in lower case, and each counts once. An empty prediction is wrong.
    """
    predicted, right = _words(prediction), _words(answer)
    others = {word for choice in choices for word in _words(choice)} - right
    return bool(predicted) and right <= predicted and not predicted & others


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower()))


def _captions(items: Sequence[Item], answers: Sequence[str]) -> Scores:
    return {"score": _mean(cider(answers, [item.references for item in items]))}


def _clotho_aqa(items: Sequence[Item], answers: Sequence[str]) -> Scores:
    """Scores over the answers of all annotators, and, as "agreed", over the questions on which all agree."""
    hits: dict[str, list[float]] = defaultdict(list)
    for item, answer in zip(items, answers, strict=True):
        truths = [normalised(reference) for reference in item.references]
        predicted = normalised(answer)
        if item.task == "yes/no" and predicted.split(" ")[0] in YES_NO:
            predicted = predicted.split(" ")[0]  # "Yes, it is raining."
        right = [float(predicted == truth) for truth in truths]
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
    """Output of pycocoevalcap's `PTBTokenizer`. That class writes into its package folder, which may be read-only."""
    from pycocoevalcap.tokenizer.ptbtokenizer import PUNCTUATIONS

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "captions.txt")
        file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        java = ["java", "-Dfile.encoding=UTF-8", "-Dstdout.encoding=UTF-8", "-cp", str(_jar())]
        call = [*java, "edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase", str(file)]
        done = subprocess.run(call, capture_output=True, encoding="utf-8", check=False)
    tokenized_lines = done.stdout.split("\n")[:-1]
    if done.returncode or len(tokenized_lines) != len(lines):
        reason = (done.stderr.strip().splitlines() or ["it gave no reason"])[-1]
        raise RuntimeError(f"Java's tokenizer of captions failed ({reason}); repair Java, or remove it from the PATH")
    return [" ".join(word for word in line.split() if word not in PUNCTUATIONS) for line in tokenized_lines]
