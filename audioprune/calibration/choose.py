"""From the search to a choice: measured speed, and a test on clips that the search did not hear.

The best of many settings looks better than it is on the clips by which it was chosen, so that what is stated comes from
other clips. There the settings within a limit are tested in an order that is fixed before, the mildest first and each
faster than the one before: each test is whether the upper 95 % bound of its disagreement is within the limit, and the
first that fails ends it. The fastest that passed is chosen. Whatever the settings and however alike their answers, the
chance that any one passes whose true disagreement is above the limit is 5 % at most (fixed-sequence testing, as in
Learn then Test, Angelopoulos et al., arXiv 2110.01052), since the first such setting in the order has to pass its own
test.

That holds for clips drawn as these were, each by itself: cuts of one recording count for less than they are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from ..methods import Method
from ..timing import Ratio
from . import search
from .bounds import even_chance, most_allowed
from .disagreement import Disagreement
from .search import STEP, Candidate, SearchProblem, fastest, least_apart

MEASURED = 6
"""Settings that are measured for a speed-up that was asked for."""
BAND, PER_BAND = 1.2, 2
"""How many settings are measured for a limit, of each range of predicted speed-ups."""
SEARCHES = 3
"""How often is searched where measurements show that the prediction was wrong; what was heard is not heard again."""
ADJUSTED = 3
"""How often the settings are moved to where the speed-up that was asked for is measured, the prediction corrected."""
SLACK = 1.02
"""How much more than the speed-up that was asked for is aimed at, since measurements scatter."""


class Calibrator(SearchProblem, Protocol):
    """A ground whose settings can be measured, and heard on the clips that are kept from the search.

    confirming: number of these clips. top_speed: of the harshest setting, predicted.
    """

    confirming: int

    @property
    def top_speed(self) -> float: ...

    def speed(self, method: Method) -> float:
        """Predicted."""

    def measure(self, methods: Sequence[Method]) -> Sequence[float]:
        """How many times as fast as unpruned each is; a `Ratio` where it was measured."""

    def correct(self, speeds: Mapping[Method, float]) -> bool:
        """Learn from measurements for later predictions; whether they were far from what was predicted."""

    def confirm(self, method: Method) -> Disagreement: ...


@dataclass(frozen=True)
class Finalist:
    """A setting that was heard on all clips of the search, and measured. speed_up: with its interval. confirmed: what
    it made of the other clips, where it was tested; passed: whether these show that it is within the limit."""

    method: Method
    family: Method
    heard: Disagreement
    speed_up: Ratio
    confirmed: Disagreement | None = None
    passed: bool = False


@dataclass(frozen=True)
class Choice:
    """finalists: the settings that were up for the choice; for a limit, in the order of the tests. chosen: None where
    none is as it was asked for. shown: whether it is so by a test (for a speed-up, by its measurement); if not, by its
    estimate alone."""

    finalists: tuple[Finalist, ...]
    chosen: Finalist | None
    shown: bool


def most_clips(trial: Calibrator, speed_up: float | None) -> int:
    """Clips that `at_speed` hears at most; None for `within`, which may hear more if its predictions were wrong."""
    families = len(trial.families)
    if speed_up is not None:
        return search.most_clips(families, trial.clips, None) + ADJUSTED * MEASURED * trial.clips + trial.confirming
    bands = 1 + math.ceil(math.log(max(trial.top_speed, 1.0)) / math.log(BAND))
    return search.most_clips(families, trial.clips, trial.top_speed) + bands * PER_BAND * trial.confirming


def within(trial: Calibrator, limit: float) -> Choice:
    """The fastest setting whose disagreement is shown to be within the limit; where none is, by estimate."""
    # Settings are worth a test that have an even chance to pass; where none can pass, estimates have to do.
    can_pass = most_allowed(limit, trial.confirming) >= 0
    aim = even_chance(limit, trial.confirming) if can_pass else limit
    allowed, measured = int(aim * trial.clips + 1e-9), list[Finalist]()
    for _ in range(SEARCHES):
        found = fastest(trial, allowed, trial.top_speed)
        known = {one.method for one in measured}
        measured += _measured(trial, [one for one in _worth_measuring(trial, found) if one.method not in known])
        if not trial.correct({one.method: one.speed_up for one in measured}):
            break
    finalists = front(trial, measured)
    tested = confirm_in_order(trial, finalists, limit)
    shown = [one for one in tested if one.passed]
    if not shown:
        tested = _estimated(trial, finalists, limit)
    everyone = {one.method: one for one in (*finalists, *tested)}
    held = shown or [one for one in tested if one.confirmed is not None and one.confirmed.share <= limit]
    chosen = max(held, key=lambda one: one.speed_up, default=None)
    return Choice(tuple(everyone.values()), chosen, bool(shown))


def front(trial: Calibrator, finalists: Sequence[Finalist]) -> list[Finalist]:
    """Those that are faster than unpruned, and than all that are safer, the slowest first.

    Of one family the milder setting is the safer one, whatever the clips of the search made of both by chance.
    """

    def is_safer(one: Finalist, other: Finalist) -> bool:
        if one.family == other.family:
            return trial.speed(one.method) < trial.speed(other.method)
        return one.heard.risk < other.heard.risk

    found = [
        other
        for other in finalists
        if other.speed_up > max([1.0, *(one.speed_up for one in finalists if is_safer(one, other))])
    ]
    return sorted(found, key=lambda one: one.speed_up)


def confirm_in_order(trial: Calibrator, finalists: Sequence[Finalist], limit: float) -> list[Finalist]:
    """Test one after the other until one fails. The order must not depend on the clips of the tests."""
    allowed, tested = most_allowed(limit, trial.confirming), list[Finalist]()
    for one in finalists:
        heard = trial.confirm(one.method)
        tested.append(replace(one, confirmed=heard, passed=heard.disagreements <= allowed))
        if not tested[-1].passed:
            break
    return tested


def _estimated(trial: Calibrator, finalists: Sequence[Finalist], limit: float) -> list[Finalist]:
    """Hear one after the other on the clips of the tests, until one disagrees on more than the limit."""
    heard: list[Finalist] = []
    for one in finalists:
        confirmed = trial.confirm(one.method)
        heard.append(replace(one, confirmed=confirmed))
        if confirmed.share > limit:
            break
    return heard


def at_speed(trial: Calibrator, speed_up: float) -> Choice:
    """The setting that disagrees least of those that are measured to be so fast. The search chooses it, and the other
    clips are heard by it alone, so that their bound is that of a single test."""
    # Where nothing is predicted to be so fast, the fastest there are may still be.
    finalists = _measured(trial, least_apart(trial, min(speed_up, trial.top_speed / STEP))[:MEASURED])
    known = {one.method: one for one in finalists}
    for _ in range(ADJUSTED):
        moved = {_moved(trial, one, speed_up): one.family for one in finalists}
        new = [(method, family) for method, family in moved.items() if method is not None and method not in known]
        heard = [Candidate(method, family, trial.hear(method, trial.clips)) for method, family in new]
        if not heard:
            break
        finalists = _measured(trial, heard)
        known |= {one.method: one for one in finalists}
    everyone = sorted(known.values(), key=lambda one: one.heard.risk)
    reached = [one for one in everyone if one.speed_up >= speed_up]
    fast = next((one for one in reached if one.speed_up.is_sure), next(iter(reached), None))
    if fast is None:
        return Choice(tuple(everyone), None, shown=False)
    known[fast.method] = chosen = replace(fast, confirmed=trial.confirm(fast.method), passed=fast.speed_up.is_sure)
    return Choice(tuple(known[one.method] for one in everyone), chosen, shown=fast.speed_up.is_sure)


def _moved(trial: Calibrator, one: Finalist, speed_up: float) -> Method | None:
    """The setting of the same family that should be just so fast, going by how wrong the prediction was for this."""
    return trial.at(one.family, SLACK * speed_up * trial.speed(one.method) / one.speed_up)


def _worth_measuring(trial: Calibrator, found: Sequence[Candidate]) -> list[Candidate]:
    """Of settings that are predicted to be about as fast, those that disagreed least in the search."""
    bands: dict[int, list[Candidate]] = {}
    for one in sorted(found, key=lambda one: one.heard.risk):
        bands.setdefault(round(math.log(trial.speed(one.method)) / math.log(BAND)), []).append(one)
    return [one for _, band in sorted(bands.items()) for one in band[:PER_BAND]]


def _measured(trial: Calibrator, found: Sequence[Candidate]) -> list[Finalist]:
    found = [one for one in found if math.isfinite(one.heard.kl)]  # others were refused, or gave no numbers
    speeds = trial.measure([one.method for one in found]) if found else []
    ratios = [speed if isinstance(speed, Ratio) else Ratio(speed) for speed in speeds]
    return [Finalist(one.method, one.family, one.heard, ratio) for one, ratio in zip(found, ratios, strict=True)]
