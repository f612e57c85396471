"""The models of the page, and one sound at a time through them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import Lock

from transformers import PreTrainedModel

from ..methods import Method
from ..tagging.tagger import Tagger
from .answer import Answer, hear

MODELS = 2
"""How many models are kept in memory: those used last."""


@dataclass(frozen=True)
class Choice:
    """A method that the page offers.

    name: as `Build` takes it. keep_rate: where its slider starts. least: the least keep rate that it takes. scored:
    whether it takes a score.
    """

    name: str
    title: str
    keep_rate: float
    least: float
    scored: bool


Build = Callable[[str, float, str | None, PreTrainedModel], Method]
"""A method of a choice's name, keep rate and score, for a model."""


class Studio:
    """Answers sounds. Pruning changes a model in place, and the page is served by many threads: they take turns."""

    def __init__(self, open_model: Callable[[str], Tagger], build: Build) -> None:
        self._open = lru_cache(maxsize=MODELS)(open_model)
        self._build = build
        self._turn = Lock()

    def open(self, model: str) -> Tagger:
        """Load a model, or find it loaded. Raises what loading raises."""
        with self._turn:
            return self._open(model)

    def answer(self, path: Path, model: str, name: str, keep_rate: float, score: str | None) -> Answer:
        """As `hear`, by names. Raises what loading a model, building a method and `hear` raise."""
        with self._turn:
            tagger = self._open(model)
            return hear(tagger, path, self._build(name, keep_rate, score, tagger.model))
