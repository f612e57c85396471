"""A run over many sounds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from ..files import Row
from .log import Log
from .sounds import Sound


def run(
    engine: Callable[[list[Any]], Iterable[Row]],
    sounds: Sequence[Path | Sound],
    log: Log | None,
    report: Callable[[Row], None] = lambda row: None,
) -> tuple[int, int]:
    """Make the rows of the sounds that are not in the log yet.

    Args:
        engine: a `Tagger`, or another that gives one row per sound, in any order.
        sounds: all sounds.
        log: log of the results, or None.
        report: called with each row.

    Returns the number of rows written, and the number of all failures, with earlier ones.
    """
    todo = [sound for sound in sounds if log is None or not log.is_done(sound)]
    written = failures = 0
    for row in engine(todo):
        if log is not None:
            log.write(row)
        written += 1
        failures += "error" in row
        report(row)
    return written, failures if log is None else log.failures(sounds)
