"""Word errors of transcripts, after Whisper's own normalization."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

from transformers.models.whisper.english_normalizer import BasicTextNormalizer, EnglishTextNormalizer

Normalizer = Callable[[str], str]

ENGLISH = ("en", "english")


def require() -> None:
    """Raise `ModuleNotFoundError` if jiwer is not installed."""
    import jiwer  # noqa: F401


def normalizer(language: str | None, tokenizer: Any = None) -> Normalizer:
    """Whisper's normalizer of a language: lower case, no punctuation; in English also numbers and spelling.

    language: a code or a name. tokenizer: the model's; British spelling is made American if it has the list of words.
    """
    own: Normalizer = BasicTextNormalizer()
    if language is not None and language.lower() in ENGLISH:
        own = EnglishTextNormalizer(getattr(tokenizer, "english_spelling_normalizer", None) or {})
    return lambda text: " ".join(own(text).split())


@dataclass(frozen=True)
class WordErrors:
    """Number of wrong words (substituted, deleted and inserted), and of the reference's words."""

    errors: int
    words: int

    def __add__(self, other: WordErrors) -> WordErrors:
        return WordErrors(self.errors + other.errors, self.words + other.words)

    @property
    def rate(self) -> float:
        """Word error rate; more than 1 if many words were inserted. Errors alone if the reference has no word."""
        return self.errors / max(1, self.words)


def word_errors(reference: str, hypothesis: str) -> WordErrors:
    """Word errors of one transcript. Both texts are normalized already."""
    import jiwer

    found = jiwer.process_words(reference, hypothesis)
    wrong = found.substitutions + found.deletions
    return WordErrors(wrong + found.insertions, found.hits + found.substitutions + found.deletions)


def total(counts: Sequence[WordErrors]) -> WordErrors:
    """Word errors of a corpus: words of all clips weigh the same."""
    return reduce(WordErrors.__add__, counts, WordErrors(0, 0))


def is_runaway(text: str, unpruned: str) -> bool:
    """Whether a transcript has more than twice the unpruned model's words, and five more: the decoder repeats itself.

    Both texts are normalized already.
    """
    return len(text.split()) > 2 * len(unpruned.split()) + 5
