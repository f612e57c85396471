"""A whole analysis: a pass over the sounds alone, one over the sounds with the models, and all answers."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..adapters.blocks.adapter import find_blocks
from ..files import check_same, write_json
from . import state as files
from .batches import FULL, AnalysisBatch, Intervention, has_cls
from .cluster_drop import ClusterDrop
from .models import ModelSet
from .observe import Observation, Observer
from .perturbation import Perturbation
from .question import Answer, Question
from .ranking import Ranking
from .survey import Survey
from .tradeoff import Tradeoff

if TYPE_CHECKING:
    from ..compare.settings import Clips

STATE = "state/progress.npz"
ANSWERS = "answers.json"
INTERVENTIONS = ("tradeoff", "ranking", "perturbation", "cluster_drop")
"""Questions that run forwards of their own, and can be left out."""
EVERY = 4
"""Batches between two writings of the state, at least."""
COST = 20.0
"""At most one part in so many of the time goes into writing the state."""

Advance = Callable[[int], Any]
Chapter = tuple[Any, Answer]


@dataclass(frozen=True)
class Settings:
    """tau: mean above which a patch is signal, None for the survey's. skip: of `INTERVENTIONS`. batch_size: clips a
    forward. bench_seconds: of timing a keep rate, 0 for none."""

    tau: float | None = None
    skip: tuple[str, ...] = ()
    batch_size: int = 16
    bench_seconds: float = 0.0

    def __post_init__(self) -> None:
        for name in self.skip:
            if name not in INTERVENTIONS:
                raise ValueError(f"--skip is {name!r}; there are {', '.join(INTERVENTIONS)}")
        if self.batch_size < 1:
            raise ValueError(f"--batch-size is {self.batch_size}; it must be at least 1")


def statistics(survey: Survey, tau: float) -> list[Question]:
    """The questions that one observed forward a keep rate answers."""
    from .attention_ratio import AttentionRatio
    from .correlation import RankCorrelation
    from .heat import MeanVariation
    from .norms import NormRatio
    from .signal import RetainedSignal

    ranges = survey.intensity_range, survey.variation_range
    heat = MeanVariation(survey.cluster_of, *ranges, clusters=len(survey.centers))
    return [RetainedSignal(tau), AttentionRatio(tau), NormRatio(), RankCorrelation(), heat]


class Analysis:
    """Streams clips through models. What it gathers is written to OUT/state again and again, so that the same call goes
    on where a killed one stopped, to the same numbers.

    clips: spectrograms, each (frames, mels), as the models take them. labels: (clips,) class indices, or (clips,
    classes) of ones and zeros. data: what identifies them. Raises `StateError` where OUT holds another analysis.
    """

    def __init__(
        self, models: ModelSet, clips: Clips, labels: Tensor, out: Path, settings: Settings, data: dict[str, Any]
    ) -> None:
        if not len(clips):
            raise ValueError("there is no clip to analyse")
        classes = int(next(iter(models.by_rate.values())).config.num_labels)
        self.models, self.clips, self.settings = models, clips, settings
        self.labels = (F.one_hot(labels, classes) if labels.ndim == 1 else labels).float()
        self.survey = Survey()
        self.surveyed = self.heard = 0
        self.statistics: list[Question] = []
        self.interventions: list[Intervention] = []
        self._path = out / STATE
        self._belongs = self._identity(data)
        self._begun = False
        self._saved = self._took = 0.0
        self._since = 0
        self._resume()

    @property
    def questions(self) -> list[Any]:
        """The survey, what was observed, and what was tried, in the order of the chapters."""
        return [self.survey, *self.statistics, *self.interventions]

    @property
    def tau(self) -> float:
        """Mean of a patch above which it is signal."""
        return float(self.survey.tau if self.settings.tau is None else self.settings.tau)

    def run(self, surveyed: Advance = lambda _: None, heard: Advance = lambda _: None) -> list[Chapter]:
        """All that is left to do. Both are called with the clips of each batch, at first with those done before."""
        self._survey(surveyed)
        if not self._begun:
            self._begin()
        heard(self.heard)
        while self.heard < len(self.clips):
            heard(self._hear())
            self._save(done=self.heard == len(self.clips))
        self._time()
        return [(question, question.answer()) for question in self.questions]

    def _survey(self, advance: Advance) -> None:
        adapter = find_blocks(self.models.by_rate[FULL])
        advance(self.surveyed)
        while self.surveyed < len(self.clips):
            _, log_mel = self._batch(self.surveyed)
            intensity, _ = adapter.patch_statistics({adapter.encoder.main_input_name: log_mel})
            self.survey.update(log_mel, intensity)
            self.surveyed += len(log_mel)
            advance(len(log_mel))
            self._save(done=self.surveyed == len(self.clips))

    def _begin(self) -> None:
        """Ask the questions, which need to know the sounds."""
        models, skip, tau = self.models, self.settings.skip, self.tau
        rates, several = models.keep_rates, self.models.multi_label
        model = models.by_rate[FULL]
        self.statistics = statistics(self.survey, tau)
        depth = find_blocks(model).depth
        made: dict[str, Callable[[], Intervention]] = {
            "tradeoff": lambda: Tradeoff(rates, several),
            "ranking": lambda: Ranking(rates, models.score, has_cls(model), several),
            "perturbation": lambda: Perturbation(rates, tau, several),
            "cluster_drop": lambda: ClusterDrop(self.survey.boundaries.tolist(), depth, several),
        }
        self.interventions = [make() for name, make in made.items() if name not in skip]
        self._begun = True

    def _hear(self) -> int:
        """Take in the next batch, of so many clips."""
        numbers, log_mel = self._batch(self.heard)
        labels, logits = self.labels[numbers], {}
        intensity = torch.empty(0)
        for observation in self._observations(log_mel, numbers, labels):
            for question in self.statistics:
                question.update(observation)
            logits[observation.keep_rate] = observation.logits
            intensity = observation.intensity
        heard = AnalysisBatch(log_mel, labels, intensity, self.models.by_rate, self.models.methods, logits)
        for intervention in self.interventions:
            intervention.update(heard)
        self.heard += len(log_mel)
        return len(log_mel)

    def _observations(self, log_mel: Tensor, numbers: Tensor, labels: Tensor) -> Iterator[Observation]:
        for rate, model in self.models.by_rate.items():
            with Observer(model, self.models.methods[rate], self.models.score) as observer:
                yield observer(log_mel, numbers, labels)

    def _batch(self, first: int) -> tuple[Tensor, Tensor]:
        """Numbers (batch,) and spectrograms (batch, frames, mels) of the clips from `first` on."""
        numbers = range(first, min(first + self.settings.batch_size, len(self.clips)))
        return torch.tensor(list(numbers)), torch.stack([self.clips[i] for i in numbers])

    def _time(self) -> None:
        tradeoff = next((one for one in self.interventions if isinstance(one, Tradeoff)), None)
        if tradeoff is None or tradeoff.timed or not self.settings.bench_seconds:
            return
        _, clips = self._batch(0)
        tradeoff.time(self.models.by_rate, self.models.methods, clips, self.settings.bench_seconds)
        self._save(done=True)

    def _identity(self, data: dict[str, Any]) -> dict[str, Any]:
        settings = {"tau": self.settings.tau, "skip": list(self.settings.skip), "batch size": self.settings.batch_size}
        device = str(next(iter(self.models.by_rate.values())).device)
        return json.loads(json.dumps(self.models.identity | {"data": data} | settings | {"device": device}))

    def _resume(self) -> None:
        if not self._path.exists():
            return
        found = files.load(self._path)
        check_same(self._path, found["belongs"], self._belongs, files.StateError)
        self.survey.load(found["survey"])
        self.surveyed, self.heard = found["surveyed"], found["heard"]
        if found["begun"]:
            self._begin()
            for question, gathered in zip(self.questions[1:], found["questions"], strict=True):
                question.load(gathered)

    def _save(self, done: bool) -> None:
        """Write the state after some batches, not so often that writing would take the time, and when all is done."""
        self._since += 1
        now = time.monotonic()
        if not done and (self._since < EVERY or now - self._saved < COST * self._took):
            return
        questions = [question.state() for question in self.questions[1:]]
        counts = {"surveyed": self.surveyed, "heard": self.heard, "begun": self._begun}
        files.save(
            self._path,
            counts | {"belongs": self._belongs, "survey": self.survey.state(), "questions": questions},
        )
        self._saved, self._since = time.monotonic(), 0
        self._took = self._saved - now


def write_answers(out: Path, chapters: Sequence[Chapter], about: dict[str, Any]) -> Path:
    """OUT/answers.json, whole or not at all: {"about", "answers": {question: {"title", "how", "found", …}}}."""
    answers = {
        question.name: {"title": question.title, "how": question.how} | asdict(answer) for question, answer in chapters
    }
    path = out / ANSWERS
    write_json(path, files.plain({"about": about, "answers": answers}), allow_nan=False)
    return path
