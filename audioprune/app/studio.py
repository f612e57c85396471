"""The models of the page, which process one sound at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from ..methods import Method
from ..tagging.tagger import Tagger
from .answer import Comparison, compare
from .turn import Turn

MODELS = 2
"""Number of models kept in memory, the last used ones."""
METHODS = 256
"""Number of settings kept. To fit the recommended method to a model takes longer than an answer."""


@dataclass(frozen=True)
class Choice:
    """A method that the page offers.

    Args:
        name: name for `Build`.
        title: title on the page.
        keep_rate: default keep rate.
        least: lowest keep rate that it accepts.
        scored: whether it accepts a score.
    """

    name: str
    title: str
    keep_rate: float
    least: float
    scored: bool


Build = Callable[[str, float, str | None, PreTrainedModel], Method]
"""Builds a method from a choice's name, a keep rate and a score, for a model."""


class Studio:
    """Compares predictions for sounds. The page has many threads but pruning changes a model, so they take turns."""

    def __init__(self, open_model: Callable[[str], Tagger], build: Build) -> None:
        self._open = lru_cache(maxsize=MODELS)(open_model)
        self._build = lru_cache(maxsize=METHODS)(self._build_for)
        self._build_method = build
        self._turn = Turn()
        self.end = self._turn.end

    def open(self, model: str) -> Tagger:
        """Load a model, or return it if it is loaded. Raises the errors of loading."""
        with self._turn:
            return self._open(model)

    def compare(
        self,
        path: Path,
        model: str,
        name: str,
        keep_rate: float,
        score: str | None,
        progress: Callable[[int, int], Any] = lambda done, total: None,
    ) -> Comparison:
        """Compare predictions, like `compare`, from names.

        Args:
            path: path of the sound.
            model: name of the model.
            name: name of the method.
            keep_rate: the keep rate.
            score: the score; None for the method's own.
            progress: see `compare`.

        Raises the errors of loading a model, building a method, and `compare`, and `InterruptedError` after `end`.
        """

        def heard(done: int, total: int) -> None:
            self._turn.check()
            progress(done, total)

        with self._turn:
            tagger = self._open(model)
            return compare(tagger, path, self._build(model, name, keep_rate, score), progress=heard)

    def _build_for(self, model: str, name: str, keep_rate: float, score: str | None) -> Method:
        return self._build_method(name, keep_rate, score, self._open(model).model)
