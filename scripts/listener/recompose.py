"""New timelines out of parts of those that the ear heard: as many as wanted, and nothing has to be heard again.

What an ear hears of a word depends a little on what is around it. So these are only for training, beside whole ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from .batches import TOKEN_SECONDS
from .heard import Heard
from .scenes import Event
from .timelines import SPOKEN, TALK, Truth, draw_order


@dataclass(frozen=True)
class Part:
    """A word or a block, with half of the rests around it. `tokens`: (tokens, width); `event`, `interruption`: where it
    is in them, in seconds."""

    tokens: Tensor
    event: Event
    interruption: Event | None = None

    @property
    def span(self) -> tuple[int, int]:
        """First and last (exclusive) token of the event."""
        start = min(int(self.event.start / TOKEN_SECONDS), len(self.tokens) - 1)
        return start, max(start + 1, int(self.event.end / TOKEN_SECONDS))

    @cached_property
    def middle(self) -> Tensor:
        """(width,), the mean of the event's tokens."""
        start, end = self.span
        return self.tokens[start:end].float().mean(0)


class Parts:
    """Parts of heard timelines: words, sounds, and talks by what interrupts them."""

    def __init__(self, heard: Sequence[Heard]) -> None:
        self.words: dict[str, list[Part]] = {}
        self.sounds: dict[str, list[Part]] = {}
        self.talks: dict[str, list[Part]] = {}
        for one in heard:
            for part in parts_of(one):
                name = part.event.word
                if part.interruption is not None:
                    self.talks.setdefault(part.interruption.word, []).append(part)
                else:
                    (self.words if name in SPOKEN else self.sounds).setdefault(name, []).append(part)

    def recompose(self, rng: np.random.Generator, shift: float = 0.0) -> Heard:
        """A timeline as `make_timeline` would order it: all words and all sounds are equally likely.

        shift: strength of a random change of each part's voice or source. It is the difference of two other recordings
        of the same word or sound, times up to so much.
        """
        talk = _drawn(self.talks, rng)
        assert talk.interruption is not None
        others = {name: parts for name, parts in self.sounds.items() if name != talk.interruption.word}
        one = _drawn(others, rng)
        other = _drawn({name: parts for name, parts in others.items() if name != one.event.word}, rng)
        blocks = (one, other, talk)
        parts = [_drawn(self.words, rng) if slot is None else blocks[slot] for slot in draw_order(rng)]
        return joined([self._shifted(part, shift, rng) for part in parts] if shift else parts)

    def _shifted(self, part: Part, shift: float, rng: np.random.Generator) -> Part:
        named = self.words if part.event.word in SPOKEN else self.sounds
        alike = named.get(part.event.word)
        if alike is None:  # a talk
            return part
        one, other = (alike[rng.integers(len(alike))].middle for _ in range(2))
        tokens = part.tokens.float()
        start, end = part.span
        tokens[start:end] += shift * rng.random() * (one - other)
        return replace(part, tokens=tokens)


def parts_of(heard: Heard) -> list[Part]:
    """The parts of a timeline, in order, cut in the middle of each rest."""
    truth = heard.truth
    events = sorted((*truth.blocks, *truth.words), key=lambda event: event.start)
    middles = [round((before.end + after.start) / 2 / TOKEN_SECONDS) for before, after in pairwise(events)]
    cuts = [0, *middles, len(heard.tokens)]
    return [
        Part(
            heard.tokens[start:end],
            _moved(event, -start),
            _moved(truth.interruption, -start) if event.word == TALK else None,
        )
        for event, (start, end) in zip(events, pairwise(cuts), strict=True)
    ]


def joined(parts: Sequence[Part]) -> Heard:
    """A timeline of parts in this order: three blocks, one of them a talk, and words."""
    blocks: list[Event] = []
    words: list[Event] = []
    interruption, at = None, 0
    for part in parts:
        (words if part.event.word in SPOKEN else blocks).append(_moved(part.event, at))
        if part.interruption is not None:
            interruption = _moved(part.interruption, at)
        at += len(part.tokens)
    assert interruption is not None
    one, other, last = blocks
    return Heard(
        torch.cat([part.tokens.half() for part in parts]), Truth((one, other, last), interruption, tuple(words))
    )


def _moved(event: Event, tokens: int) -> Event:
    seconds = tokens * TOKEN_SECONDS
    return replace(event, start=event.start + seconds, end=event.end + seconds)


def _drawn(named: dict[str, list[Part]], rng: np.random.Generator) -> Part:
    """A part of any name: all names equally likely."""
    parts = named[sorted(named)[rng.integers(len(named))]]
    return parts[rng.integers(len(parts))]
