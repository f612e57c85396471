"""Methods by keep rates on one benchmark: score, relative loss, audio tokens and seconds of prefill."""

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
from ..methods import Method, UntrainedError
from .answer_log import Answers, AnswersError, Row
from .batch_generate import Asker
from .items import Benchmark, Item
from .metrics import CIDER, METRICS, require, score, tokenizer
from .prompts import asked, check_prompt
from .report import write
from .settings import Setting

ANSWERS = "answers"
"""Folder beneath an evaluation's, a file a setting."""


def _nothing(*_: Any) -> None:
    pass


@dataclass(frozen=True)
class Evaluation:
    """A model on a benchmark, with all that its answers depend on but the pruning.

    name: the model's, a hub id or a folder's. out: the folder of answers and table.
    """

    asker: Asker
    benchmark: Benchmark
    name: str
    out: Path

    def run(
        self,
        settings: Sequence[Setting],
        advance: Callable[[int], Any] = _nothing,
        begin: Callable[[Setting], Any] = _nothing,
    ) -> Row:
        """Ask what was not answered yet, and write and return the table.

        Answers go to `answers/SETTING.jsonl` as they come; a run that was killed goes on where it stopped. The table,
        JSON and Markdown, is written after each setting. A setting that the method or the model refuses has "refused",
        the reason, in its row.

        settings: as `settings.settings` makes them: losses are of the first one's score, the unpruned model's.
        advance: called with the number of items of each setting that are done, those of earlier runs included.
        begin: called with each setting.

        Raises `AnswersError` where the answers are of another model, method or prompt, and `ValueError` for a prompt
        without the question.
        """
        check_prompt(self.benchmark.name, self.asker.prompt)
        require(self.benchmark.name)
        weights = fingerprints.of_weights(self.asker.model)
        rows: list[Row] = []
        for setting in settings:
            begin(setting)
            rows.append(self._row(setting, weights, advance))
            result = self._result(rows)
            write(self.out, result)
        return result

    def setting(self, method: Method | None, weights: str) -> Row:
        """All that a file of answers depends on."""
        model = self.asker.model
        return {
            "model": self.name,
            "weights": weights,
            "dtype": str(model.dtype).removeprefix("torch."),
            "device": model.device.type,
            "benchmark": self.benchmark.name,
            "prompt": self.asker.prompt,
            "max_new_tokens": self.asker.max_new_tokens,
            "pruning": describe(method),
        }

    def _row(self, setting: Setting, weights: str, advance: Callable[[int], Any]) -> Row:
        row: Row = {"method": setting.name, "keep_rate": setting.keep_rate}
        if setting.refused is not None:
            advance(len(self.benchmark))
            return row | {"refused": setting.refused}
        items, seen = self.benchmark.items, 0

        def count(done: int) -> None:
            nonlocal seen
            seen += done
            advance(done)

        path, asks = self.out / ANSWERS / f"{setting.file}.jsonl", self.setting(setting.method, weights)
        earlier = {"weights": lambda: fingerprints.of_beginnings(self.asker.model)}
        with Answers(path, asks, earlier) as answers:
            answers.check_asked({item.id: asked(item, self.asker.prompt) for item in items})
            try:
                self._answer(setting, answers, count)
            except (ValueError, UnsupportedModelError, UntrainedError) as error:
                # What the unpruned model refuses is no matter of pruning.
                if setting.method is None or isinstance(error, AnswersError):
                    raise
                advance(len(items) - seen)
                return row | {"refused": str(error)}
            return row | _summary(self.benchmark.name, items, answers) | {"setting": describe(setting.method)}

    def _answer(self, setting: Setting, answers: Answers, advance: Callable[[int], Any]) -> None:
        todo = [item for item in self.benchmark.items if item.id not in answers.rows]
        advance(len(self.benchmark) - len(todo))
        if not todo:
            return
        with _pruned(self.asker.model, setting.method) as watched:
            for rows in self.asker(todo, watched):
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
            "prompt": self.asker.prompt,
            "max_new_tokens": self.asker.max_new_tokens,
            "batch_size": self.asker.batch_size,
            "dtype": str(self.asker.model.dtype).removeprefix("torch."),
            "device": self.asker.model.device.type,
            "machine": machine(),
            "rows": compared,
        }


@contextmanager
def _pruned(model: Any, method: Method | None) -> Iterator[Trace | None]:
    """The model as a method prunes it, and the trace of it; as it is, and None, without a method."""
    if method is None:
        yield None
        return
    with prune(model, method), trace(model) as watched:
        yield watched


def _summary(benchmark: str, items: Sequence[Item], answers: Answers) -> Row:
    """What a setting's answers say together. Sounds that could not be decoded are counted, and left out of the rest."""
    rows = {item.id: answers.rows[item.id] for item in items}
    good = [item for item in items if "error" not in rows[item.id]]
    found: Row = {"answered": len(good), "failed": len(items) - len(good)}
    if not good:
        return found
    told = [rows[item.id] for item in good]
    scores = score(benchmark, good, {row["id"]: row["answer"] for row in told})
    return found | {
        "score": scores.pop("score"),
        "tasks": scores,
        "tokens": [mean(row["tokens"][when] for row in told) for when in (0, 1)],
        "prefill_seconds": median(row["prefill_seconds"] for row in told),
    }


def _loss(full: float | None, found: float | None) -> float | None:
    """Percent of the unpruned model's score that is lost; None where there is nothing to lose."""
    return None if not full or found is None else 100 * (full - found) / full
