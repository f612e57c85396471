"""Table 1 for your own models: accuracy or mAP, multiply-accumulates and throughput at each keep rate."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ..compare.benchmark import machine, mean_macs, measure
from ..compare.evaluation import NOTHING, predict, score, spread
from ..core.pruning import prune
from ..core.settings import SETTINGS, describe, read_method
from ..data import ClipTable, DataError, SoundCache
from ..files import read_json
from ..methods import Method, TopK
from ..models.loading import load, load_features
from .dataset import SpectrogramDataset
from .task import RESULT

COUNTED = 16
"""Number of clips on which multiply-accumulates are counted, for methods whose cost depends on the sound."""
TIMING = ("clips_per_second", "latency_ms", "batch_size", "speed_up")
"""What a row tells of its timing: the names begin so."""
FIELDS = ("fold", "seed", "rate")
"""Fields in braces that a model's path may contain."""


@dataclass(frozen=True)
class Cell:
    """One model on one test set at one keep rate."""

    model: str
    fold: str | None
    seed: int | None
    keep_rate: float


def cells(
    model: str, keep_rates: Sequence[float], folds: Sequence[str | None], seeds: Sequence[int | None]
) -> list[Cell]:
    """All models that a path pattern such as "runs/fold{fold}-rate{rate}" stands for.

    Args:
        model: the pattern; {fold}, {seed} and {rate} are filled in.
        keep_rates: values of {rate}.
        folds: values of {fold}; (None,) for none.
        seeds: values of {seed}; (None,) for none.

    Raises `ValueError` if there are several folds or seeds but the path has no such field, or if the path has an
    unknown field.
    """
    given = {"fold": list(folds) != [None], "seed": list(seeds) != [None], "rate": True}
    for field in FIELDS:
        if "{" + field + "}" in model and not given[field]:
            raise ValueError(f"{model}: contains {{{field}}}; give its values with --{field}s")
    several = {"fold": len(folds) > 1, "seed": len(seeds) > 1}
    for field, many in several.items():
        if many and "{" + field + "}" not in model:
            raise ValueError(f"{model}: one model for several {field}s; put {{{field}}} into the path")
    try:
        return [
            Cell(model.format(fold=fold, seed=seed, rate=f"{rate:g}"), fold, seed, rate)
            for rate, fold, seed in itertools.product(keep_rates, folds, seeds)
        ]
    except (KeyError, IndexError, ValueError):
        raise ValueError(f"{model}: has an unknown field; only {{fold}}, {{seed}} and {{rate}} are filled in") from None


def evaluate(
    model: str,
    table: ClipTable,
    method: Method | None,
    keep_rates: Sequence[float],
    *,
    folds: Sequence[str | None] = (None,),
    seeds: Sequence[int | None] = (None,),
    cache: SoundCache | None = None,
    device: str = "cpu",
    bench_seconds: float = 2.0,
    batch_size: int = 16,
    advance: Callable[[int], Any] = NOTHING,
) -> dict[str, Any]:
    """Table with a row for each keep rate: scores by fold and seed, their mean and spread, MACs and clips per second.

    Args:
        model: a model, or a path with {fold}, {seed} and {rate}. With {rate}, each keep rate has a model that was
            fine-tuned for it; otherwise one model is pruned without fine-tuning. The key "fine_tuned" says which.
        table: the data set.
        method: pruning method. None takes the one in the model's `pruning.json`, with what it learnt.
        keep_rates: the keep rates.
        folds: folds to test on.
        seeds: seeds of the models.
        cache: cache of decoded clips.
        device: device to run on.
        bench_seconds: seconds to time each rate, in turn on one of the models; 0 measures no throughput.
        batch_size: clips per forward when timing.
        advance: called after each batch with its number of clips.

    Raises `ValueError` if a model was fine-tuned for each rate with another method than `method`.
    """
    every = cells(model, keep_rates, list(folds), list(seeds))
    scores: dict[str, dict[Any, float]] = {f"{rate:g}": {} for rate in keep_rates}
    metric, tuned = "", "{rate}" in model
    used: dict[float, Method] = {}
    # Cells are sorted by model, so that a model for several keep rates is loaded once.
    for source, group in itertools.groupby(sorted(every, key=lambda cell: cell.model), lambda cell: cell.model):
        loaded: Any = load(source)
        _check_labels(source, loaded, table)
        front = load_features(source, loaded)
        loaded = loaded.to(device)
        for cell in group:
            own = used[cell.keep_rate] = _method_of(source, method, cell.keep_rate, tuned)
            clips = table.split(cell.fold).test
            if not clips:
                raise DataError(
                    f"{table.name}: has no test clips; with one folder per class, they are in the folder test/"
                )
            dataset = SpectrogramDataset(table, clips, front, cache or SoundCache(None, front.max_seconds))
            with prune(loaded, own):
                logits = predict(loaded, dataset, advance=advance)
            result = score(logits.numpy(), dataset.targets.numpy(), table.multi_label)
            metric = next(iter(result))
            scores[f"{cell.keep_rate:g}"][_name(cell)] = result["score"]
    methods = [used[rate] for rate in keep_rates]
    some = [dataset[i]["input_values"].to(device) for i in range(min(len(dataset), COUNTED))]
    rows = _rows(loaded, methods, scores, bench_seconds, batch_size, some)
    return {
        "model": model,
        "data": table.name,
        "method": describe(methods[-1]) | {"keep_rate": list(keep_rates)},
        "fine_tuned": tuned,
        "metric": metric,
        "machine": machine(),
        "rows": rows,
    }


def clips_of(cells_: Sequence[Cell], table: ClipTable) -> int:
    """Number of clips in an evaluation of these cells, for a progress bar."""
    return sum(len(table.split(cell.fold).test) for cell in cells_)


def _rows(
    model: Any,
    methods: Sequence[Method],
    scores_by_rate: dict[str, dict[Any, float]],
    seconds: float,
    batch_size: int,
    clips: Sequence[Tensor],
) -> list[dict[str, Any]]:
    rows = []
    for method in methods:
        scores = scores_by_rate[f"{method.keep_rate:g}"]
        with prune(model, method):
            counted = mean_macs(model, clips)
        rows.append({"keep_rate": method.keep_rate, "scores": scores, **spread(list(scores.values())), "macs": counted})
    if seconds:
        timings = measure(model, methods, batch_size, seconds, samples=max(clip.shape[-1] for clip in clips))
        for row, timing in zip(rows, timings, strict=True):
            row |= {name: value for name, value in timing.items() if name.startswith(TIMING)}
    return rows


def _name(cell: Cell) -> str:
    parts = [] if cell.fold is None else [f"fold{cell.fold}"]
    parts += [] if cell.seed is None else [f"seed{cell.seed}"]
    return "-".join(parts) or Path(cell.model).name


def _method_of(source: str, method: Method | None, keep_rate: float, tuned: bool) -> Method:
    """Pruning method of a model.

    Args:
        source: the model's folder.
        method: the requested method; None takes the model's own.
        keep_rate: the keep rate.
        tuned: whether the model was fine-tuned for this keep rate.

    Raises `ValueError` if the model was trained with another method.
    """
    wanted = None if method is None else method.with_keep_rate(keep_rate)
    path = Path(source) / SETTINGS
    if not tuned or not path.exists():
        if wanted is None and keep_rate < 1:
            raise ValueError(f"{path}: no such file, so the model's pruning method is unknown; give --method")
        return wanted or TopK(keep_rate)
    own = read_method(path)
    if wanted is not None and own != wanted:
        raise ValueError(
            f"{source}: its pruning.json says that it was fine-tuned with {own}, not with {wanted}; give the same "
            "--method, --score, --segments, --dropped and --layers (or --method trained), and put {rate} into the path "
            "for its keep rate"
        )
    if own.keep_rate != keep_rate:
        raise ValueError(
            f"{source}: was fine-tuned at keep rate {own.keep_rate}, not {keep_rate}; put {{rate}} in the path"
        )
    return own


def _check_labels(source: str, model: Any, table: ClipTable) -> None:
    known = [model.config.id2label.get(i) for i in range(model.config.num_labels)]
    if known != list(table.labels):
        raise DataError(
            f"{source}: has the labels {', '.join(map(str, known[:5]))} …, but {table.name} has "
            f"{', '.join(table.labels[:5])} …; evaluate on the data set that the model was trained for"
        )


def finished(out: Path) -> list[dict[str, Any]]:
    """Results of all finished trainings in a folder, of this sweep and of others."""
    return [read_json(path) for path in sorted(out.glob(f"*/*/{RESULT}"))]


def summarize(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows for each recipe and keep rate, highest rate first: scores by fold and seed, mean and spread."""
    rows: dict[tuple[str, float | tuple[float, ...]], dict[str, Any]] = {}
    for result in results:
        if "score" not in result:
            continue
        recipe, rate = result["recipe"]["name"], result["keep_rate"]
        rate = tuple(rate) if isinstance(rate, list) else rate
        row = rows.setdefault((recipe, rate), {"recipe": recipe, "keep_rate": rate, "scores": {}})
        row["scores"][_name(Cell("", result["fold"], result["seed"], 0.0))] = result["score"]
    ordered = sorted(rows.items(), key=lambda item: (item[0][0], -np.mean(item[0][1])))
    return [row | spread(list(row["scores"].values())) for _, row in ordered]
