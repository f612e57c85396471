"""The search: a bisection over the speed-up, with a race of all families of settings at each.

Two things make it short. Disagreement grows with pruning, so that what holds at one speed-up is not tried at smaller
ones. And a race hears few clips of many settings and many clips of few: a setting is out as soon as it disagrees more
often than it may over all clips (which is exact: no further clip could bring it back), and of the others the better
half, by KL, goes on to twice as many clips (successive halving, Jamieson & Talwalkar, arXiv 1502.07943). Families that
come last in a race are not in the next.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from ..methods import Method
from .disagreement import Disagreement

FIRST = 8
"""Clips that every setting of a race is heard on."""
FINALISTS = 4
"""Settings of a race that are heard on all clips, where so many stay in it."""
FAMILIES = 16
"""Families that stay in the search at least."""
STEP = 1.1
"""From one speed-up that is tried to the next."""
WINNERS = 3
PARTS = (0.25, 0.4, 0.55, 0.7, 0.85)
"""Steps between no pruning and the speed-up that is reached, on a log scale, of the families that won a race."""


@dataclass(frozen=True)
class Candidate:
    """A setting, the family it is of, and what it made of the clips that it was heard on."""

    method: Method
    family: Method
    heard: Disagreement


class SearchProblem(Protocol):
    """What is searched: families of settings, how fast each is predicted to be, and what each makes of the clips.

    clips: of the search. `hear` listens to the first so many of them, and computes nothing twice. `stage` begins a
    part of the work: its name, and how many clips it may take.
    """

    clips: int

    @property
    def families(self) -> Sequence[Method]: ...

    def at(self, family: Method, speed: float) -> Method | None:
        """The mildest setting that is predicted to be so fast; None where none is."""

    def hear(self, method: Method, clips: int) -> Disagreement: ...

    def stage(self, name: str, clips: int) -> None: ...


def race(
    ground: SearchProblem, entries: Sequence[tuple[Method, Method]], allowed: int | None = None, name: str = "settings"
) -> tuple[list[Candidate], list[Method]]:
    """The best of some (family, setting), heard on all clips, best first; and all families, best first.

    allowed: clips that may disagree; None lets any number.
    """
    if entries:
        ground.stage(name, _work(len(entries), ground.clips))
    clips, alive, dropped = min(FIRST, ground.clips), list(entries), list[Method]()
    while True:
        heard = [Candidate(method, family, ground.hear(method, clips)) for family, method in alive]
        # Of few clips nearly all agree, and how far the outputs moved says more.
        is_last = clips == ground.clips
        heard.sort(key=lambda one: one.heard.risk if is_last else (one.heard.kl, one.heard.share))
        stay = [one for one in heard if allowed is None or one.heard.disagreements <= allowed]
        if not is_last:
            stay = stay[: max(FINALISTS, (len(stay) + 1) // 2)]
        kept = {one.family for one in stay}
        dropped = [one.family for one in heard if one.family not in kept] + dropped
        if is_last or not stay:
            return stay, [one.family for one in stay] + dropped
        alive, clips = [(one.family, one.method) for one in stay], min(ground.clips, 2 * clips)


def _work(entries: int, clips: int) -> int:
    """Clips that a race hears at most."""
    heard, total = min(FIRST, clips), entries * min(FIRST, clips)
    while heard < clips:
        entries = min(entries, max(FINALISTS, (entries + 1) // 2))
        total += entries * (min(clips, 2 * heard) - heard)
        heard = min(clips, 2 * heard)
    return total


def most_clips(families: int, clips: int, top_speed: float | None) -> int:
    """Clips that a search hears at most: `fastest` up to `top_speed`; None for `least_apart`."""
    if top_speed is None:
        return _work(families, clips)
    total = WINNERS * len(PARTS) * clips
    for _ in range(len(_speeds(top_speed)).bit_length()):  # of a bisection
        total += _work(families, clips)
        families = min(families, max(FAMILIES, (families + 1) // 2))
    return total


def _speeds(top_speed: float) -> list[float]:
    """Speed-ups that may be tried."""
    speeds = [STEP]
    while speeds[-1] * STEP <= top_speed:
        speeds.append(speeds[-1] * STEP)
    return speeds


def fastest(ground: SearchProblem, allowed: int, top_speed: float) -> list[Candidate]:
    """Settings that disagree on at most `allowed` of the search's clips: the fastest by prediction, and milder ones.

    top_speed: predicted, of the fastest setting there is.
    """
    speeds = _speeds(top_speed)
    families, held, winners = list(ground.families), list[Candidate](), list[Method]()
    low, high = -1, len(speeds)
    while high - low > 1:
        middle = (low + high) // 2
        entries = _entries(ground, families, speeds[middle])
        found, ranking = race(ground, entries, allowed, f"{len(entries)} settings at {speeds[middle]:.2f}×")
        if found:
            low = middle
            held += found
            winners.insert(0, found[0].family)
        else:  # a family that does not reach this speed may be good at a smaller one
            high = middle
            ranking += [family for family in families if family not in ranking]
        families = ranking[: max(FAMILIES, (len(families) + 1) // 2)]
    milder = _milder(ground, list(dict.fromkeys(winners))[:WINNERS], speeds[low], allowed) if held else []
    return list({one.method: one for one in (*held, *milder)}.values())


def _milder(ground: SearchProblem, families: Sequence[Method], speed: float, allowed: int) -> list[Candidate]:
    """Steps of the families that won, between no pruning and the speed that they reach: tests go from step to step."""
    steps = {ground.at(family, speed**part): family for family in families for part in PARTS}
    ground.stage("milder settings", len(steps) * ground.clips)
    found = []
    for method, family in steps.items():
        if method is None or ground.hear(method, min(FIRST, ground.clips)).disagreements > allowed:
            continue
        heard = ground.hear(method, ground.clips)
        if heard.disagreements <= allowed:
            found.append(Candidate(method, family, heard))
    return found


def least_apart(ground: SearchProblem, speed: float) -> list[Candidate]:
    """The settings that disagree least of those that are predicted to be so fast, best first."""
    entries = _entries(ground, ground.families, speed)
    found, _ = race(ground, entries, name=f"{len(entries)} settings at {speed:.2f}×")
    return found


def _entries(ground: SearchProblem, families: Sequence[Method], speed: float) -> list[tuple[Method, Method]]:
    return [(family, method) for family in families if (method := ground.at(family, speed)) is not None]
