"""A complete analysis: one pass over the sounds alone, one pass with the models, and all findings."""

from __future__ import annotations

import json
import time
import warnings
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
from .question import Finding, Question
from .ranking import Ranking
from .survey import Survey
from .tradeoff import Tradeoff

if TYPE_CHECKING:
    from ..compare.settings import Clips

STATE = "state/progress.npz"
ANSWERS = "answers.json"
INTERVENTIONS = ("tradeoff", "ranking", "perturbation", "cluster_drop")
"""Questions that run their own forwards. They can be left out."""
EVERY = 4
"""Least number of batches between two writes of the state."""
COST = 20.0
"""Writing the state takes at most 1 / COST of the time."""

Advance = Callable[[int], Any]
Chapter = tuple[Any, Finding]


@dataclass(frozen=True)
class Settings:
    """Settings of an analysis.

    Args:
        tau: patches with a higher mean are signal; None takes the threshold from the survey.
        skip: the `INTERVENTIONS` to leave out.
        batch_size: clips per forward.
        bench_seconds: seconds to time each keep rate; 0 to time nothing.
    """

    tau: float | None = None
    skip: tuple[str, ...] = ()
    batch_size: int = 16
    bench_seconds: float = 0.0

    def __post_init__(self) -> None:
        for name in self.skip:
            if name not in INTERVENTIONS:
                raise ValueError(f"--skip is {name!r}; it must be one of {', '.join(INTERVENTIONS)}")
        if self.batch_size < 1:
            raise ValueError(f"--batch-size is {self.batch_size}; it must be at least 1")


def statistics(survey: Survey, tau: float) -> list[Question]:
    """Questions that need only one observed forward for each keep rate."""
    from .attention_ratio import AttentionRatio
    from .correlation import RankCorrelation
    from .heat import MeanVariation
    from .norms import NormRatio
    from .signal import RetainedSignal

    ranges = survey.intensity_range, survey.variation_range
    clusters = survey.by_intensity
    heat = MeanVariation(clusters.of, *ranges, clusters=len(clusters.centers))
    correlation = RankCorrelation(clusters.of, survey.by_variation.of)
    return [RetainedSignal(tau), AttentionRatio(tau), NormRatio(), correlation, heat]


class Analysis:
    """Runs all clips through the models and collects the statistics.

    Its state is saved to OUT/state from time to time. If a run is stopped, the same call continues from there and gives
    the same numbers.

    Args:
        models: the models to analyse.
        clips: spectrograms, each (frames, mels), the models' inputs.
        labels: (clips,) class indices, or (clips, classes) ones and zeros.
        out: folder to write to.
        settings: settings of the analysis.
        data: identity of the clips.

    Raises `StateError` if OUT contains another analysis.
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
        self.surveyed = self.analysed = 0
        self.statistics: list[Question] = []
        self.interventions: list[Intervention] = []
        self._path = out / STATE
        self._run_identity = self._identity(data)
        self._begun = False
        self._save_time = self._save_seconds = 0.0
        self._batches_since_save = 0
        self._resume()

    @property
    def questions(self) -> list[Any]:
        """The survey, the statistics and the interventions, in the order of the chapters."""
        return [self.survey, *self.statistics, *self.interventions]

    @property
    def tau(self) -> float:
        """Threshold: patches with a higher mean are signal."""
        return float(self.survey.tau if self.settings.tau is None else self.settings.tau)

    def run(self, surveyed: Advance = lambda _: None, analysed: Advance = lambda _: None) -> list[Chapter]:
        """Do all remaining work and return the findings.

        surveyed, analysed: called after each batch of a pass with its number of clips, and at the start with the number
        of clips done before.
        """
        self._survey(surveyed)
        if not self._begun:
            self._begin()
        analysed(self.analysed)
        while self.analysed < len(self.clips):
            analysed(self._analyse())
            self._save(done=self.analysed == len(self.clips))
        self._time()
        return [(question, question.answer()) for question in self.questions]

    def _survey(self, advance: Advance) -> None:
        adapter = find_blocks(self.models.by_rate[FULL])
        advance(self.surveyed)
        while self.surveyed < len(self.clips):
            _, log_mel = self._batch(self.surveyed)
            self.survey.update(log_mel, *adapter.patch_statistics({adapter.encoder.main_input_name: log_mel}))
            self.surveyed += len(log_mel)
            advance(len(log_mel))
            self._save(done=self.surveyed == len(self.clips))

    def _begin(self) -> None:
        """Create the questions, which need the results of the survey."""
        models, skip, tau = self.models, self.settings.skip, self.tau
        rates, several = models.keep_rates, self.models.multi_label
        model = models.by_rate[FULL]
        self.statistics = statistics(self.survey, tau)
        depth = find_blocks(model).depth
        factories: dict[str, Callable[[], Intervention]] = {
            "tradeoff": lambda: Tradeoff(rates, several),
            "ranking": lambda: Ranking(rates, models.score, has_cls(model), several),
            "perturbation": lambda: Perturbation(rates, tau, several),
            "cluster_drop": lambda: ClusterDrop(self.survey.by_intensity.boundaries.tolist(), depth, several),
        }
        self.interventions = [make() for name, make in factories.items() if name not in skip]
        self._begun = True

    def _analyse(self) -> int:
        """Run the next batch through the models; returns its number of clips."""
        numbers, log_mel = self._batch(self.analysed)
        labels, logits = self.labels[numbers], {}
        intensity = torch.empty(0)
        for observation in self._observations(log_mel, numbers, labels):
            for question in self.statistics:
                question.update(observation)
            logits[observation.keep_rate] = observation.logits
            intensity = observation.intensity
        batch = AnalysisBatch(log_mel, labels, intensity, self.models.by_rate, self.models.methods, logits)
        for intervention in self.interventions:
            intervention.update(batch)
        self.analysed += len(log_mel)
        return len(log_mel)

    def _observations(self, log_mel: Tensor, numbers: Tensor, labels: Tensor) -> Iterator[Observation]:
        for rate, model in self.models.by_rate.items():
            with Observer(model, self.models.methods[rate], self.models.score) as observer:
                yield observer(log_mel, numbers, labels)

    def _batch(self, first: int) -> tuple[Tensor, Tensor]:
        """Numbers (batch,) and spectrograms (batch, frames, mels) of the clips that start at `first`."""
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
        state = files.load_state(self._path)
        check_same(self._path, state["belongs"], self._run_identity, files.StateError)
        if "patch_variations" not in state["survey"]:
            warnings.warn(
                f"{self._path}: begun by an earlier version, which counted less, and now begun anew", stacklevel=3
            )
            return
        self.survey.load(state["survey"])
        self.surveyed, self.analysed = state["surveyed"], state["heard"]
        if state["begun"]:
            self._begin()
            for question, question_state in zip(self.questions[1:], state["questions"], strict=True):
                question.load(question_state)

    def _save(self, done: bool) -> None:
        """Write the state at the end, and before that only as often as `EVERY` and `COST` allow."""
        self._batches_since_save += 1
        now = time.monotonic()
        if not done and (self._batches_since_save < EVERY or now - self._save_time < COST * self._save_seconds):
            return
        questions = [question.state() for question in self.questions[1:]]
        counts = {"surveyed": self.surveyed, "heard": self.analysed, "begun": self._begun}
        files.save_state(
            self._path,
            counts | {"belongs": self._run_identity, "survey": self.survey.state(), "questions": questions},
        )
        self._save_time, self._batches_since_save = time.monotonic(), 0
        self._save_seconds = self._save_time - now


def write_answers(out: Path, chapters: Sequence[Chapter], about: dict[str, Any]) -> Path:
    """Write OUT/answers.json atomically: {"about", "answers": {question: {"title", "how", "found", …}}}."""
    answers = {
        question.name: {"title": question.title, "how": question.how} | asdict(answer) for question, answer in chapters
    }
    path = out / ANSWERS
    write_json(path, files.plain({"about": about, "answers": answers}), allow_nan=False)
    return path
