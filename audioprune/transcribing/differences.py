"""The words in which two transcripts differ."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import SequenceMatcher

from transformers.models.whisper.english_normalizer import BasicTextNormalizer

_normalize = BasicTextNormalizer()


@dataclass(frozen=True)
class Differences:
    """Where two texts differ, without regard to capitals and punctuation.

    places: (words of the one, words of the other) of each place. count: words that were replaced, left out or added.
    words: in the first text.
    """

    places: tuple[tuple[str, str], ...]
    count: int
    words: int


def words_of(text: str) -> list[str]:
    """Words in small letters, without punctuation."""
    return _normalize(text).split()


def differences(text: str, other: str) -> Differences:
    """What differs from one text to the other, by Ratcliff and Obershelp's matching, which may count a few words more
    than the smallest edit would."""
    left, right = words_of(text), words_of(other)
    places, count = [], 0
    for kind, a, b, c, d in SequenceMatcher(None, left, right, autojunk=False).get_opcodes():
        if kind != "equal":
            places.append((" ".join(left[a:b]), " ".join(right[c:d])))
            count += max(b - a, d - c)
    return Differences(tuple(places), count, len(left))
