"""From transcripts and seconds to figures: each clip's, and each method's over all clips."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, median, stdev
from typing import Any

import numpy as np

from ..files import Row
from .contenders import UNPRUNED, Contender
from .word_errors import Normalizer, WordErrors, is_runaway, total, word_errors

DRAWS = 2000
"""Draws of the bootstrap."""
PARTS = ("encoder", "whole")
"""What is timed: the encoder, and all from the waveform to the text."""


def clip_rows(rows: Sequence[Row], normalize: Normalizer) -> list[Row]:
    """Rows of the journal with the figures of each transcript.

    Each result gets "errors" and "words" (of the reference), the same of the unpruned model's transcript, "same",
    "runaway", and for the encoder and the whole the median seconds and how many times faster than unpruned it was.
    """
    return [row | {"results": _results(row, normalize)} for row in rows]


def _results(row: Row, normalize: Normalizer) -> dict[str, Row]:
    found: dict[str, Row] = row["results"]
    reference, own = normalize(row["reference"]), normalize(found[UNPRUNED]["text"])
    medians = {part: median(found[UNPRUNED][f"{part}_seconds"]) for part in PARTS}
    return {
        name: result
        | _words(reference, own, normalize(result["text"]))
        | {part: _times(result[f"{part}_seconds"], medians[part]) for part in PARTS}
        for name, result in found.items()
    }


def _words(reference: str, own: str, text: str) -> Row:
    """Figures of a transcript. own: the unpruned model's. All are normalized."""
    wrong, differing = word_errors(reference, text), word_errors(own, text)
    return {
        "errors": wrong.errors,
        "words": wrong.words,
        "errors_to_unpruned": differing.errors,
        "words_of_unpruned": differing.words,
        "same": text.split() == own.split(),
        "runaway": is_runaway(text, own),
    }


def _times(seconds: Sequence[float], unpruned: float) -> Row:
    return {"seconds": median(seconds), "faster": unpruned / median(seconds)}


def method_row(contender: Contender, clips: Sequence[Row]) -> Row:
    """Figures of one method over all clips; the reason as "refused" if the model refused it.

    "word_error_rate" and "error_to_unpruned" are shares of all words. "change" is the difference of the word error
    rate to the unpruned model's, with its 95 % interval (clips drawn anew, in pairs). "encoder" and "whole" have the
    median "seconds" of a clip, and mean and standard deviation over clips of "faster". "real_time_factor" is seconds
    of work by seconds of sound.
    """
    row: Row = {"method": contender.name, "setting": contender.settings}
    if contender.refused is not None:
        return row | {"refused": contender.refused}
    if not clips:
        return row | {"clips": 0}
    results = [clip["results"][contender.name] for clip in clips]
    work = sum(result["whole"]["seconds"] for result in results)
    return row | {
        "clips": len(clips),
        "word_error_rate": _rate(results, "errors", "words"),
        "change": _change(clips, contender.name),
        "error_to_unpruned": _rate(results, "errors_to_unpruned", "words_of_unpruned"),
        "same": sum(result["same"] for result in results),
        "runaways": sum(result["runaway"] for result in results),
        "tokens": fmean(result["tokens"] for result in results),
        **{part: _summary([result[part] for result in results]) for part in PARTS},
        "real_time_factor": work / sum(clip["seconds"] for clip in clips),
    }


def _rate(results: Sequence[Row], errors: str, words: str) -> float:
    return total([WordErrors(result[errors], result[words]) for result in results]).rate


def _summary(times: Sequence[Row]) -> Row:
    faster = [time["faster"] for time in times]
    spread = stdev(faster) if len(faster) > 1 else 0.0
    return {
        "seconds": median(time["seconds"] for time in times),
        "faster": {"mean": fmean(faster), "std": spread},
    }


def _change(clips: Sequence[Row], name: str) -> dict[str, Any]:
    words = np.array([clip["results"][UNPRUNED]["words"] for clip in clips])
    more = np.array([clip["results"][name]["errors"] - clip["results"][UNPRUNED]["errors"] for clip in clips])
    drawn = np.random.default_rng(0).integers(len(clips), size=(DRAWS, len(clips)))
    changes = more[drawn].sum(1) / np.maximum(1, words[drawn].sum(1))
    low, high = np.quantile(changes, (0.025, 0.975))
    return {"mean": float(more.sum() / max(1, words.sum())), "low": float(low), "high": float(high)}
