"""Methods by keep rate on one benchmark: score, relative loss, audio tokens and prefill seconds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any

from .. import fingerprints
from ..adapters import UnsupportedModelError
from ..compare.benchmark import machine
from ..core.pruning import prune
from ..core.settings import describe
from ..core.trace import Trace, trace
from ..files import Row
from ..methods import Method, UntrainedError
from .answer_log import AnswerLog, AnswersError
from .batch_generate import BatchGenerator
from .items import Benchmark, Item
from .metrics import CIDER, METRICS, require, score, tokenizer
from .prompts import check_prompt, fill_prompt
from .report import write
from .settings import Setting

ANSWERS = "answers"
"""Folder of the answers in the folder of an evaluation; one file for each setting."""


def _nothing(*_: Any) -> None:
    pass


@dataclass(frozen=True)
class Evaluation:
    """A model on a benchmark, with everything that its answers depend on except the pruning.

    Args:
        generator: the model with its generation settings.
        benchmark: the benchmark.
        name: name of the model, a hub id or a folder.
        out: folder of the answers and the table.
    """

    generator: BatchGenerator
    benchmark: Benchmark
    name: str
    out: Path

    def run(
        self,
        settings: Sequence[Setting],
        advance: Callable[[int], Any] = _nothing,
        begin: Callable[[Setting], Any] = _nothing,
    ) -> Row:
        """Answer all open items, and write and return the table.

        Answers go to `answers/SETTING.jsonl` one by one; a run that was killed continues where it stopped. The table,
        as JSON and Markdown, is written after each setting. If the method or the model refuses a setting, its row has
        the reason as "refused".

        settings: settings from `settings.settings`; losses are relative to the score of the first, the unpruned model.
        advance: called with the number of finished items of each setting, including those of earlier runs.
        begin: called with each setting.

        Raises `AnswersError` if the answers are of another model, method or prompt, and `ValueError` if the prompt does
        not contain the question.
        """
        check_prompt(self.benchmark.name, self.generator.prompt)
        require(self.benchmark.name)
        weights = fingerprints.of_weights(self.generator.model)
        rows: list[Row] = []
        for setting in settings:
            begin(setting)
            rows.append(self._row(setting, weights, advance))
            result = self._result(rows)
            write(self.out, result)
        return result

    def setting(self, method: Method | None, weights: str) -> Row:
        """Everything that a file of answers depends on."""
        model = self.generator.model
        return {
            "model": self.name,
            "weights": weights,
            "dtype": str(model.dtype).removeprefix("torch."),
            "device": model.device.type,
            "benchmark": self.benchmark.name,
            "prompt": self.generator.prompt,
            "max_new_tokens": self.generator.max_new_tokens,
            "pruning": describe(method),
        }

    def _row(self, setting: Setting, weights: str, advance: Callable[[int], Any]) -> Row:
        row: Row = {"method": setting.name, "keep_rate": setting.keep_rate}
        if setting.refused is not None:
            advance(len(self.benchmark))
            return row | {"refused": setting.refused}
        items, finished = self.benchmark.items, 0

        def count(done: int) -> None:
            nonlocal finished
            finished += done
            advance(done)

        path, identity = self.out / ANSWERS / f"{setting.file}.jsonl", self.setting(setting.method, weights)
        earlier = {"weights": lambda: fingerprints.of_beginnings(self.generator.model)}
        with AnswerLog(path, identity, earlier) as answers:
            answers.check_asked({item.id: fill_prompt(item, self.generator.prompt) for item in items})
            try:
                self._answer(setting, answers, count)
            except (ValueError, UnsupportedModelError, UntrainedError) as error:
                # If the unpruned model refuses, pruning is not the reason.
                if setting.method is None or isinstance(error, AnswersError):
                    raise
                advance(len(items) - finished)
                return row | {"refused": str(error)}
            return row | _summary(self.benchmark.name, items, answers) | {"setting": describe(setting.method)}

    def _answer(self, setting: Setting, answers: AnswerLog, advance: Callable[[int], Any]) -> None:
        todo = [item for item in self.benchmark.items if item.id not in answers.rows]
        advance(len(self.benchmark) - len(todo))
        if not todo:
            return
        with _pruned(self.generator.model, setting.method) as run_trace:
            for rows in self.generator(todo, run_trace):
                answers.write(rows)
                advance(len(rows))

    def _result(self, rows: Sequence[Row]) -> Row:
        full = rows[0].get("score")
        compared = [row | {"relative_loss": _loss(full, row.get("score"))} for row in rows]
        words = {"tokenizer": tokenizer()} if METRICS[self.benchmark.name] == CIDER else {}
        return {
            "model": self.name,
            "benchmark": self.benchmark.name,
            "metric": METRICS[self.benchmark.name],
            **words,
            "items": len(self.benchmark),
            "notes": list(self.benchmark.notes),
            "prompt": self.generator.prompt,
            "max_new_tokens": self.generator.max_new_tokens,
            "batch_size": self.generator.batch_size,
            "dtype": str(self.generator.model.dtype).removeprefix("torch."),
            "device": self.generator.model.device.type,
            "machine": machine(),
            "rows": compared,
        }


@contextmanager
def _pruned(model: Any, method: Method | None) -> Iterator[Trace | None]:
    """Context in which the method prunes the model; yields the trace, or None without a method."""
    if method is None:
        yield None
        return
    with prune(model, method), trace(model) as run_trace:
        yield run_trace


def _summary(benchmark: str, items: Sequence[Item], answers: AnswerLog) -> Row:
    """Summary of a setting's answers. Sounds that could not be decoded are counted, but otherwise left out."""
    rows = {item.id: answers.rows[item.id] for item in items}
    good = [item for item in items if "error" not in rows[item.id]]
    counts: Row = {"answered": len(good), "failed": len(items) - len(good)}
    if not good:
        return counts
    good_rows = [rows[item.id] for item in good]
    scores = score(benchmark, good, {row["id"]: row["answer"] for row in good_rows})
    return counts | {
        "score": scores.pop("score"),
        "tasks": scores,
        "tokens": [mean(row["tokens"][when] for row in good_rows) for when in (0, 1)],
        "prefill_seconds": median(row["prefill_seconds"] for row in good_rows),
    }


def _loss(full: float | None, pruned: float | None) -> float | None:
    """Loss in percent of the unpruned model's score; None if that score is 0 or missing."""
    return None if not full or pruned is None else 100 * (full - pruned) / full
