"""calibrate(model, clips): the fastest setting that keeps the model's answers, or the most faithful that is fast."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, WhisperForConditionalGeneration

from .. import fingerprints
from ..adapters import find_adapter
from ..adapters.audio_lm.adapter import PromptAdapter
from ..adapters.blocks.adapter import find_blocks
from ..compare.benchmark import machine
from ..core.pruning import AlreadyPrunedError, handle
from ..core.settings import describe
from ..methods.names import SEARCHED
from ..transcribing.speech_model import SpeechModel
from . import choose
from .bounds import clips_needed
from .calibrator import ModelCalibrator, Stage
from .disagreement import Batches, ClipSet
from .ledger import Ledger
from .report import Calibration, least_clips, rows_of
from .words import LADDER, WordCalibration, calibrate_words

FEWEST = 16
"""Clips that a calibration hears at least."""


def calibrate(
    model: PreTrainedModel,
    clips: Batches,
    *,
    max_disagreement: float | None = None,
    speed_up: float | None = None,
    recordings: Sequence[int] | None = None,
    pool: str = "mean",
    methods: Sequence[str] = SEARCHED,
    batch_size: int = 8,
    bench_seconds: float = 1.0,
    seed: int = 0,
    stage: Stage = lambda name, steps: lambda done: None,
    state: str | Path | None = None,
) -> Calibration | WordCalibration:
    """Find the fastest setting that gives the unpruned model's top label on all but a share of clips, or of those that
    are so fast the one that does so most often. No labels are needed.

        found = ap.calibrate(model, spectrograms, max_disagreement=0.05)
        ap.prune(model, found.method)

    The search (`audioprune.calibration.search`) tries a small part of score × spending × fate × layers × keep rate on
    part of the clips. What is stated of the chosen setting comes from the other clips, and a limit is shown by tests
    whose chance to let a worse setting pass is 5 % (`audioprune.calibration.choose`). Speed is measured, in turn.

    Of a Whisper with its decoder, `max_disagreement` is the share of words that may change, and `clips` are waveforms:
    see `calibrate_words`.

    Args:
        model: a classifier, unpruned; it is left as it was.
        clips: the sounds, as the model's forward takes them: (clips, …), a dict of its arguments, or several of such.
            They should be of the kind that the model will hear, and not those that it was trained on.
        recordings: of each row of `clips` the recording that it is a window of, such as 0, 0, 0, 1, 1. A recording is
            then what counts as a clip, since its windows are no independent sounds. None: each row is a clip.
        pool: "mean" or "max" of the windows' probabilities, for a recording's answer.
        max_disagreement: the greatest share of clips that may get another top label, in (0, 1).
        speed_up: how many times as fast as unpruned, more than 1.
        methods: what to choose from: words of methods that need no training ("topk+merge", "tome", "evit", …), whose
            score, metric, segments and layers are searched, or settings files, whose keep rate is searched.
        batch_size: clips per forward, in the measurement of speed too.
        bench_seconds: of timing each of the settings that are measured.
        seed: of the choice of the clips that are kept from the search.
        stage: told of progress.
        state: file that holds what was heard so far, so that a run that is stopped goes on; removed at the end.

    Raises:
        ValueError: not exactly one of both aims, too few clips, or a model without labels.
        AlreadyPrunedError, UnsupportedModelError: as `prune`.
    """
    check_aim(max_disagreement, speed_up)
    _check_model(model)
    if isinstance(model, WhisperForConditionalGeneration):
        return _calibrate_whisper(model, clips, max_disagreement, batch_size, stage, state)
    was_training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        found = ClipSet(clips, model.main_input_name, recordings, pool)
        if len(found) < FEWEST:
            raise ValueError(
                f"there are {len(found)} clips, and a calibration needs {FEWEST} at least; {least_clips(0.05)} can "
                "show 5 % of disagreement, if none of those that are tested disagrees"
            )
        order = random.Random(seed).sample(range(len(found)), len(found))
        searching = len(found) - confirming(len(found), max_disagreement)
        run = {"seed": seed, "searching": searching, "batch_size": batch_size}
        ledger = _ledger(state, model, found, run)
        try:
            trial = ModelCalibrator(model, found, order, searching, batch_size, ledger, stage)
            trial.enter(methods, find_blocks(model), bench_seconds)
            trial.expect(choose.most_clips(trial, speed_up))
            if speed_up is not None:
                choice = choose.at_speed(trial, speed_up)
            else:
                choice = choose.within(trial, max_disagreement or 0.0)
            ratios = trial.ratios([one.method for one in choice.finalists])
        except BaseException:
            ledger.close()
            raise
        ledger.remove()
        rows = rows_of(choice, trial.heard, ratios)
        method = None if choice.chosen is None else choice.chosen.method
        return Calibration(
            method,
            choice.shown,
            max_disagreement,
            speed_up,
            next((row for row in rows if method is not None and row["setting"] == describe(method)), None),
            rows,
            {
                "clips": len(found),
                "searching": searching,
                "confirming": trial.confirming,
                "settings": trial.settings,
                "batch_size": trial.batch_size,
                "seed": seed,
                "dtype": str(model.dtype).removeprefix("torch."),
                "machine": machine(),
            },
        )
    finally:
        for module in was_training:
            module.training = True


def _calibrate_whisper(
    model: WhisperForConditionalGeneration,
    waveforms: Any,
    max_disagreement: float | None,
    batch_size: int,
    stage: Stage,
    state: str | Path | None,
) -> WordCalibration:
    if max_disagreement is None:
        raise ValueError("a Whisper is calibrated by the words that may change: give max_disagreement, such as 0.05")
    return calibrate_words(
        SpeechModel.of(model),
        waveforms,
        max_word_error=max_disagreement,
        batch_size=batch_size,
        advance=stage("Transcribing", (1 + len(LADDER)) * len(waveforms)),
        state=state,
    )


def _ledger(state: str | Path | None, model: PreTrainedModel, clips: ClipSet, run: dict[str, Any]) -> Ledger:
    """The ledger of what was heard so far, begun anew if it is of other settings. run: settings of this run."""
    whole = {
        "model": fingerprints.of_weights(model),
        "clips": clips.fingerprint,
        **run,
        "dtype": str(model.dtype),
        "machine": machine(),
    }
    earlier = {
        "model": lambda: fingerprints.of_numbers(model.state_dict().values()),
        "clips": lambda: fingerprints.of_numbers(clips.tensors()),
    }
    return Ledger(None if state is None else Path(state), whole, earlier)


def check_aim(
    max_disagreement: float | None,
    speed_up: float | None,
    names: tuple[str, str] = ("max_disagreement", "speed_up"),
) -> None:
    """Raise `ValueError`, with the aims called so, unless one of them is there and can be met."""
    if (max_disagreement is None) == (speed_up is None):
        raise ValueError(f"give either {names[0]}, such as 0.02, or {names[1]}, such as 2, and not both")
    if max_disagreement is not None and not 0 < max_disagreement < 1:
        raise ValueError(
            f"{names[0]} is {max_disagreement}; it is the share of clips that may get another top label, more than 0 "
            "(which no number of clips could show) and less than 1: 0.02 is one in fifty"
        )
    if speed_up is not None and not 1 < speed_up < math.inf:
        raise ValueError(f"{names[1]} is {speed_up}; it is how many times as fast, more than 1: 2 is twice as fast")


def _check_model(model: Any) -> None:
    pruned = handle(model)
    if pruned is not None:
        raise AlreadyPrunedError(
            f"this model is pruned with {pruned.method}, and what is calibrated is compared with the unpruned one; "
            "call remove() on its handle first (audioprune.handle(model) finds it)"
        )
    if isinstance(find_adapter(model), PromptAdapter):
        raise ValueError(f"{type(model).__name__} is an audio-language model, which has no labels to compare")


def confirming(clips: int, limit: float | None) -> int:
    """How many of the clips are kept from the search: half of them, and more where that shows the limit."""
    half = clips - clips // 2
    if limit is None or least_clips(limit) > clips:
        return half
    return max(half, clips_needed(limit))
