"""Timelines as the frozen ear heard them: made once, written in parts, and read again in every epoch."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from audioprune.data.table import DataError
from audioprune.files import draft

from .batches import TOKEN_SECONDS
from .ear import hear
from .scenes import Event
from .timelines import BLOCKS, MOST_WORDS, SPOKEN, Truth, Voices, make_timeline

PART = 50
"""Timelines in a file."""
HEADS = (len(SPOKEN) + 1, len(BLOCKS) + 1, MOST_WORDS + 1, 4)
"""How many answers each column of `token_targets` has."""


@dataclass(frozen=True)
class Heard:
    """`tokens`: (tokens, width) float16 of a timeline; `truth`: what is heard in it."""

    tokens: Tensor
    truth: Truth


def write_heard(
    model: Any, extractor: Any, read: Callable[[], Voices], folder: Path, *, seed: int, count: int, vary: bool
) -> Iterable[int]:
    """Write the first `count` timelines of the series `seed`. Yields how many are written; files that are there stay.

    read: gives the recordings, if there is something left to do.
    """
    folder.mkdir(parents=True, exist_ok=True)
    voices = None
    for first in range(0, count, PART):
        indices = range(first, min(first + PART, count))
        path = folder / f"seed{seed}-{first:05}-{len(indices)}.safetensors"
        if not path.exists():
            voices = voices or read()
            timelines = [make_timeline(voices, seed, index, vary=vary) for index in indices]
            tokens = [hear(model, extractor, [timeline.waveform])[0].half() for timeline in timelines]
            about = {"tokens": [len(part) for part in tokens], "truths": [asdict(one.truth) for one in timelines]}
            with draft(path) as made:
                save_file({"tokens": torch.cat(tokens)}, made, {"timelines": json.dumps(about)})
        yield indices.stop


def read_heard(*folders: Path) -> list[Heard]:
    """All timelines of folders that `write_heard` wrote. Raises `DataError` if there are none."""
    heard = []
    for path in sorted(path for folder in folders for path in folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            about = json.loads(file.metadata()["timelines"])
            parts = file.get_tensor("tokens").split(about["tokens"])
        heard += [Heard(tokens, _truth(truth)) for tokens, truth in zip(parts, about["truths"], strict=True)]
    if not heard:
        raise DataError(f"{', '.join(map(str, folders))}: no timelines; make them with train_listener.py hear")
    return heard


def token_targets(truth: Truth, tokens: int) -> Tensor:
    """(tokens, 4) int64, of each audio token: the word (20: none), the block or what interrupts it (11: none), how many
    words have begun, and how many blocks."""
    times = (torch.arange(tokens) + 0.5) * TOKEN_SECONDS
    targets = torch.zeros(tokens, 4, dtype=torch.long)
    targets[:, 0], targets[:, 1] = len(SPOKEN), len(BLOCKS)
    for word in truth.words:
        targets[_during(times, word), 0] = SPOKEN.index(word.word)
        targets[times >= word.start, 2] += 1
    for block in (*truth.blocks, truth.interruption):
        targets[_during(times, block), 1] = BLOCKS.index(block.word)
    for block in truth.blocks:
        targets[times >= block.start, 3] += 1
    return targets


def _during(times: Tensor, event: Event) -> Tensor:
    return (times >= event.start) & (times < event.end)


def _truth(fields: dict[str, Any]) -> Truth:
    one, other, last = (Event(**block) for block in fields["blocks"])
    return Truth((one, other, last), Event(**fields["interruption"]), tuple(Event(**word) for word in fields["words"]))
