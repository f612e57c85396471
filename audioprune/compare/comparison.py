"""Methods side by side on labelled clips: what each costs in accuracy, and what it saves."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from ..adapters import UnsupportedModelError
from ..audio.front_end import group_by
from ..core.pruning import prune
from ..core.settings import describe
from ..methods import Method, UntrainedError
from ..timing import Ratio
from .agreement import agreement, divergence, pooled
from .benchmark import in_turn, mean_macs
from .evaluation import NOTHING, score, spread
from .planned import Given, Plan, Planned
from .row_log import RowLog
from .settings import Clips, FineTuned, ReadClips

COUNTED = 16
"""Clips on which the multiply-accumulates of a method are counted that lets the sound decide."""


@dataclass(frozen=True)
class Correction:
    """Clips on which biases are found, and the unpruned model's logits of them, (clips, classes).

    As `Pruned.correct_bias`, but the unpruned model hears them once for all settings. Of clips that are heard in
    windows, it is the bias of their answers, and not of each window's.
    """

    features: Clips
    full: Tensor

    def bias(self, model: PreTrainedModel, advance: Callable[[int], Any]) -> Tensor:
        """Of the model as it is pruned now, (classes,)."""
        return (logits_of(model, self.features, advance) - self.full).mean(dim=0)


def pareto(rows: Sequence[Mapping[str, Any]]) -> list[bool]:
    """Which rows are on the front of multiply-accumulates against score: no other costs as little and scores as high,
    and is better in one of both. Rows that were refused are not."""
    points = [(row["macs"], row["score"]["mean"]) if "refused" not in row else None for row in rows]
    front: set[tuple[float, float]] = set()
    best = float("-inf")
    for cost, value in sorted(
        {point for point in points if point is not None}, key=lambda point: (point[0], -point[1])
    ):
        if value > best:
            front.add((cost, value))
            best = value
    return [point in front for point in points]


def compare(
    model: PreTrainedModel,
    features: Clips,
    labels: Tensor,
    methods: Mapping[str, Given],
    keep_rates: Sequence[float],
    *,
    fine_tuned: Mapping[str, FineTuned] | None = None,
    shares: Sequence[float] = (),
    correct: Clips | None = None,
    bench_seconds: float = 0.0,
    batch_sizes: Sequence[int] = (16,),
    advance: Callable[[int], Any] = NOTHING,
    timed: Callable[[], Any] = lambda: None,
    log: RowLog | None = None,
) -> dict[str, Any]:
    """Each method at each keep rate, or at each share of the work, on the same clips: {"metric", "clips", "unpruned",
    "rows"}.

    Args:
        features: the clips' spectrograms, or waveforms.
        labels: (clips,) class indices: "score" is the accuracy; (clips, classes) of ones and zeros: it is the mAP.
        methods: by name. Several of one name are its seeds; a random score by its word is run with five. Then mean and
            standard deviation are reported, and the cost of the first. A method with a keep rate for each layer, or
            that learnt its rate, is run as it is, not at `keep_rates`. "recommended", which merges in every block, is
            run at the cost of TopK at each rate.
        fine_tuned: models that were trained with a method; they too are compared with the unpruned `model`.
        shares: shares of the unpruned model's multiply-accumulates; each method is then run at the greatest keep rate
            that leaves at most so many on these clips, and `keep_rates` are not used. A method with a rate for each
            layer, or that learnt its rate, still runs as it is.
        correct: other clips, without labels, on which the bias of each setting is found (`Pruned.correct_bias`): what
            is left of its errors is then in the row as well.
        bench_seconds: of timing each setting, all in turn, for each of `batch_sizes`; 0 times nothing.
        advance: called with the clips of each batch that was heard; `passes` × clips in all, those to correct with
            included.
        timed: called for each setting and batch size that was timed.
        log: keeps each row when it is made; rows that it holds already are not made again. Speed is always measured.

    A row has "method", "keep_rate", "setting", "runs", "score", "agreement" (share of clips with the unpruned model's
    top label), "kl" (nats), "macs" of a clip, "macs_ratio" (unpruned by pruned), "front" and "timing"; with `correct`
    also "corrected", the "score", "agreement" and "kl" of the corrected logits, if the model was not fine-tuned. A
    setting that the method or the model refuses has "refused" instead, the reason.
    """
    plan = Plan(methods, keep_rates, fine_tuned or {}, shares)
    full = logits_of(model, features, advance)
    correction = None if correct is None else Correction(correct, logits_of(model, correct, advance))
    few = _clips(model, features, range(min(COUNTED, len(features))))
    cost = mean_macs(model, few)
    unpruned: dict[str, Any] = {"score": _score(full, labels), "macs": cost}
    log = RowLog() if log is None else log
    settings, rows = [], []
    for setting in plan.settings(model, few, log):
        row = setting.done
        if row is None:
            row = _row(setting, model, features, labels, full, cost, advance, correction)
            log.note(row)
        else:
            advance(setting.passes * (len(features) + len(correct or ())))
        settings.append(setting)
        rows.append(row)
    for row, on_front in zip(rows, pareto(rows), strict=True):
        row |= {} if "refused" in row else {"front": on_front}
    if bench_seconds:
        done = [(setting, row) for setting, row in zip(settings, rows, strict=True) if "refused" not in row]
        timed_settings, timed_rows = [setting for setting, _ in done], [unpruned, *(row for _, row in done)]
        for size in batch_sizes:
            _time(timed_rows, timed_settings, model, features, size, bench_seconds, timed)
    metric = "accuracy" if labels.ndim == 1 else "map"
    return {"metric": metric, "clips": len(labels), "unpruned": unpruned, "rows": rows}


def passes(
    methods: Mapping[str, Given],
    keep_rates: Sequence[float],
    fine_tuned: Mapping[str, FineTuned] | None = None,
    shares: Sequence[float] = (),
) -> int:
    """How often a comparison goes through all clips, the unpruned model's pass included."""
    return 1 + Plan(methods, keep_rates, fine_tuned or {}, shares).passes


@torch.inference_mode()
def logits_of(
    model: PreTrainedModel, features: Clips, advance: Callable[[int], Any] = NOTHING, batch_size: int = 32
) -> Tensor:
    """(clips, classes) in float32 on the CPU; of a clip in windows, the logits of their pooled probabilities, without
    the silent ones.

    Clips of one length run together.
    """
    found: dict[int, Tensor] = {}
    call: Any = model
    for first in range(0, len(features), batch_size):
        places = range(first, min(first + batch_size, len(features)))
        clips = _clips(model, features, places)
        for group in group_by([clip.shape for clip in clips]):
            logits = call(torch.stack([clips[i] for i in group])).logits.float().cpu()
            found |= zip((places[i] for i in group), logits, strict=True)
        advance(len(clips))
    logits = torch.stack([found[place] for place in range(len(features))])
    if not isinstance(features, ReadClips) or not features.recordings:
        return logits
    multi_label = model.config.problem_type == "multi_label_classification"
    answering, owners = features.answering, torch.tensor(features.recordings)
    return pooled(logits[answering], owners[answering], features.pool, multi_label)


def _clips(model: PreTrainedModel, features: Clips, indices: Sequence[int]) -> list[Tensor]:
    """Features of some clips, on the model's device and in its dtype."""
    return [features[i].to(model.device, model.dtype) for i in indices]


def _timed_batch(model: PreTrainedModel, features: Clips, size: int) -> Tensor:
    """The first clips as one batch; if their lengths differ, the longest of them again and again."""
    clips = _clips(model, features, [i % len(features) for i in range(size)])
    is_even = len({clip.shape for clip in clips}) == 1
    return torch.stack(clips if is_even else size * [max(clips, key=Tensor.numel)])


def _row(
    setting: Planned,
    model: PreTrainedModel,
    features: Clips,
    labels: Tensor,
    full: Tensor,
    full_macs: int,
    advance: Callable[[int], Any],
    correction: Correction | None = None,
) -> dict[str, Any]:
    rate = list(setting.keep_rate) if isinstance(setting.keep_rate, Sequence) else setting.keep_rate
    row: dict[str, Any] = {"method": setting.name, "keep_rate": rate, "fine_tuned": setting.tuned is not None}
    row |= {} if setting.share is None else {"macs_share": setting.share}
    further = 0 if correction is None else len(correction.features)
    each = len(features) + further
    if setting.refused is not None:
        advance(setting.passes * each)
        return row | {"refused": setting.refused}
    if setting.tuned is not None:  # it hears by a front end of its own, and needs no correction
        model, features, correction = setting.tuned.model, setting.tuned.features, None
        advance(further)
    heard, counts, logits, corrected = 0, 0, list[Tensor](), list[Tensor]()

    def count(clips: int) -> None:
        nonlocal heard
        heard += clips
        advance(clips)

    try:
        for method in setting.runs:
            with prune(model, method):
                logits.append(logits_of(model, features, count))
                if correction is not None:
                    corrected.append(logits[-1] - correction.bias(model, count))
                counts = counts or mean_macs(model, _clips(model, features, range(min(COUNTED, len(features)))))
    except (ValueError, UnsupportedModelError, UntrainedError) as error:
        advance(len(setting.runs) * each - heard)
        return row | {"refused": str(error)}
    row |= {"setting": describe(setting.runs[0]), "runs": len(logits), **_figures(logits, labels, full)}
    row |= {"corrected": _figures(corrected, labels, full)} if corrected else {}
    return row | {"macs": counts, "macs_ratio": full_macs / counts}


def _figures(logits: Sequence[Tensor], labels: Tensor, full: Tensor) -> dict[str, Any]:
    """Over the runs of a setting."""
    return {
        "score": spread([_score(one, labels) for one in logits]),
        "agreement": spread([agreement(one, full) for one in logits]),
        "kl": spread([divergence(one, full, labels.ndim == 2) for one in logits]),
    }


def _time(
    rows: Sequence[dict[str, Any]],
    settings: Sequence[Planned],
    model: PreTrainedModel,
    features: Clips,
    size: int,
    seconds: float,
    timed: Callable[[], Any],
) -> None:
    """Add "timing" to rows: the unpruned model's and those of the settings."""
    own = _timed_batch(model, features, size)
    runs: list[tuple[PreTrainedModel, Method | None, Tensor]] = [(model, None, own)]
    for setting in settings:
        tuned = setting.tuned
        place = (model, own) if tuned is None else (tuned.model, _timed_batch(tuned.model, tuned.features, size))
        runs.append((place[0], setting.runs[0], place[1]))
    taken = in_turn(runs, seconds, timed)
    for row, times in zip(rows, taken, strict=True):
        median = statistics.median(times)
        found = {"batch_size": size, "latency_ms": 1000 * median, "clips_per_second": size / median}
        row.setdefault("timing", []).append(found | Ratio.between(taken[0], times).as_dict())


def _score(logits: Tensor, labels: Tensor) -> float:
    targets = F.one_hot(labels, logits.shape[1]) if labels.ndim == 1 else labels
    return score(logits.numpy(), np.asarray(targets), labels.ndim == 2)["score"]
