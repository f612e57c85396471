"""`audioprune train`, `pretrain`, `sweep` and `eval`."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from . import options as o
from .console import err, out, progress

if TYPE_CHECKING:
    from ..data import ClipTable, SoundCache
    from ..training.recipe import Recipe

RecipeOption = Annotated[
    str, typer.Option("--recipe", "-r", help="Name of a recipe (`audioprune recipes` lists them), or a .yaml file.")
]
DataOption = Annotated[
    Path,
    typer.Option(
        "--data",
        "-d",
        help="Folder of the data set: ESC-10/50, Speech Commands, VoxCeleb-1, AudioSet, FSDD, or one folder a class.",
    ),
]
DataNameOption = Annotated[
    str | None,
    typer.Option(
        "--data-name",
        help="Which data set it is, where its layout does not tell: esc10, esc50, speech-commands, voxceleb1, "
        "audioset, fsdd-digits, fsdd-speakers or folders. [default: the recipe's, or by layout]",
        show_default=False,
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="Change a setting of the recipe: lr=1e-4, epochs=10, augment.mixup=0.5. Repeatable."),
]
FoldOption = Annotated[
    str | None, typer.Option(help="Fold to hold out for testing, where the data set has folds.", show_default=False)
]
HoldOutOption = Annotated[
    str | None, typer.Option(help="Further folds to leave alone, with commas.", show_default=False)
]
InitOption = Annotated[
    str | None,
    typer.Option(help="Weights to start from: folder, weight file or hub id. [default: the recipe's]"),
]
CacheOption = Annotated[
    Path | None,
    typer.Option(
        help="Folder for decoded sounds. [default: $XDG_CACHE_HOME/audioprune or ~/.cache/audioprune]",
        show_default=False,
    ),
]
OutOption = Annotated[Path, typer.Option("--out", "-o", help="Folder for the model, its checkpoints and result.json.")]


def recipes(
    name: Annotated[str | None, typer.Argument(help="Recipe to print whole.", show_default=False)] = None,
    as_json: o.JsonOption = False,
) -> None:
    """List the recipes that come with audioprune, or print one: what it does, and every setting.

    A recipe is YAML: what is trained, how long, with which augmentation and pruning. `--set` changes a setting; a file
    of your own may say `extends: NAME` and give only what differs.
    """
    import yaml

    from ..training.recipe import names, read_recipe

    found = [read_recipe(one) for one in ([name] if name else names())]
    if as_json:
        print(json.dumps([recipe.model_dump(mode="json") for recipe in found]))
        return
    if name:
        out.print(yaml.safe_dump(found[0].model_dump(mode="json"), sort_keys=False, width=100), end="", soft_wrap=True)
        return
    table = Table(title="Recipes (audioprune recipes NAME prints one)", title_justify="left")
    for column in ("recipe", "model", "starts from", "frames", "epochs", "batch"):
        table.add_column(column, justify="right" if column in ("frames", "epochs", "batch") else "left", no_wrap=True)
    for recipe in found:
        model = recipe.family + (", masked" if recipe.task == "pretrain" else "")
        start = recipe.init or ("--init" if recipe.needs_init else "random weights")
        table.add_row(recipe.name, model, start, str(recipe.frames), str(recipe.epochs), str(recipe.batch_size))
    out.print(table)


def train(
    recipe: RecipeOption,
    data: DataOption,
    out_folder: OutOption,
    data_name: DataNameOption = None,
    fold: FoldOption = None,
    hold_out: HoldOutOption = None,
    keep_rate: Annotated[
        float | None,
        typer.Option(help="Final keep rate, in (0, 1]; 1.0 trains without pruning. [default: the recipe's]"),
    ] = None,
    init: InitOption = None,
    settings: SetOption = None,
    seed: Annotated[int, typer.Option(help="Of weights, order, augmentation and drop path.")] = 0,
    cache: CacheOption = None,
    as_json: o.JsonOption = False,
) -> None:
    """Fine-tune a model with pruning, by a recipe.

        audioprune train --recipe audiomae-esc50 --data ESC-50 --fold 1 --keep-rate 0.5 --out runs/fold1

    The keep rate falls from 1 to its final value as the recipe says. Interrupt it as you like: the same command goes
    on where it stopped, to the same weights. On several GPUs or processes: `torchrun --nproc-per-node 2 -m audioprune
    train …`. What the folder holds then is a model that `audioprune tag --model FOLDER --method FOLDER/pruning.json`
    runs as it was trained.
    """
    from ..training.finetune import fine_tune, leave
    from ..training.recipe import read_recipe
    from ..training.task import Task

    chosen = read_recipe(recipe, settings or ())
    if chosen.task != "classify":
        raise ValueError(f"{recipe} pre-trains; use: audioprune pretrain --recipe {recipe}")
    init = _start(chosen, init)
    table, store = _open(data, data_name, chosen, cache)
    task = Task(chosen, table, out_folder, fold, _words(hold_out), seed, keep_rate, init, store)
    with _bar(chosen.name) as callback:
        result = fine_tune(task, callback())
    leave()
    _report(result, out_folder, as_json)


def pretrain(
    recipe: RecipeOption,
    data: DataOption,
    out_folder: OutOption,
    data_name: DataNameOption = None,
    fold: FoldOption = None,
    hold_out: HoldOutOption = None,
    init: InitOption = None,
    settings: SetOption = None,
    seed: Annotated[int, typer.Option(help="Of weights, order, augmentation and masks.")] = 0,
    cache: CacheOption = None,
    as_json: o.JsonOption = False,
) -> None:
    """Pre-train an AudioMAE: most patches are hidden, and it learns to draw them back. Needs no labels.

        audioprune pretrain --recipe esc10-pretrain --data ESC-50 --fold 5 --out runs/pretrained

    Test clips (the fold, or the test split) are not heard. Interrupt it as you like: the same command goes on. The
    folder then holds the model, its loss curve and pictures of what it draws; give it to `train` with --init.
    """
    from ..training.finetune import leave
    from ..training.pretrain import pretrain as run
    from ..training.recipe import read_recipe
    from ..training.task import Task

    chosen = read_recipe(recipe, settings or ())
    if chosen.task != "pretrain":
        raise ValueError(f"{recipe} trains a classifier; use: audioprune train --recipe {recipe}")
    table, store = _open(data, data_name, chosen, cache)
    task = Task(chosen, table, out_folder, fold, _words(hold_out), seed, None, init, store)
    with _bar(chosen.name) as callback:
        result = run(task, callback())
    leave()
    _report(result, out_folder, as_json)


def sweep(
    recipe: Annotated[list[str], typer.Option("--recipe", "-r", help="Name of a recipe or a .yaml file. Repeatable.")],
    data: DataOption,
    out_folder: Annotated[Path, typer.Option("--out", "-o", help="Folder in which each training gets its own.")],
    data_name: DataNameOption = None,
    folds: Annotated[
        str | None, typer.Option(help="Folds to test on, with commas. [default: all]", show_default=False)
    ] = None,
    hold_out: HoldOutOption = None,
    seeds: Annotated[
        str | None, typer.Option(help="Seeds, with commas. [default: the first recipe's]", show_default=False)
    ] = None,
    keep_rates: Annotated[str, typer.Option(help="Final keep rates of the recipes that prune.")] = "1.0,0.9,0.7,0.5",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change a setting of the named recipes (not of those they start from). Repeatable."),
    ] = None,
    wait: Annotated[
        bool, typer.Option(help="Whether to wait, when nothing is left to take, for what other processes are at.")
    ] = True,
    cache: CacheOption = None,
    as_json: o.JsonOption = False,
) -> None:
    """Train recipes × folds × seeds × keep rates, and first what they start from.

        audioprune sweep -r esc10-audiomae-topk -r esc10-ast-topk --data ESC-50 --data-name esc10 --out runs/esc10

    Interrupt it as you like: what is done is kept, and the same command goes on. Start it in several shells to share
    the work among processes or machines with one file system: each takes the next training that nobody is at.
    `summary.json` then holds mean and spread over folds and seeds of all that is finished in the folder.
    """
    from ..training.recipe import read_recipe
    from ..training.sweep import WAIT_SECONDS, chain, plan, run
    from ..training.table import finished, summarize
    from ..training.task import write_json

    chosen = [read_recipe(name, settings or ()) for name in recipe]
    table, store = _open(data, data_name, max(chain(chosen), key=lambda one: one.frames), cache)
    rates: list[float] = o.parse_numbers(keep_rates, float, "--keep-rates")
    apart = _words(hold_out)
    steps = plan(
        chosen,
        table,
        out_folder,
        folds=_words(folds) or [name for name in table.folds if name not in apart] or (None,),
        seeds=o.parse_numbers(seeds, int, "--seeds") if seeds else chosen[0].seeds,
        keep_rates=rates,
        hold_out=apart,
        cache=store,
    )
    err.print(f"{len(steps)} trainings, {sum(step.done for step in steps)} of them done")
    with progress("trainings") as bar:
        total = bar.add_task("Sweep", total=len(steps), completed=sum(step.done for step in steps))
        current = bar.add_task("", total=None, start=False)

        def begin(step: Any) -> None:
            bar.reset(current, total=None, description=step.name)

        results = run(
            steps,
            begin,
            lambda *_: bar.update(total, completed=sum(step.done for step in steps)),
            lambda: _ticking(lambda done, of: bar.update(current, completed=done, total=of)),
            lambda: bar.reset(current, total=None, description="waiting for other processes"),
            WAIT_SECONDS if wait else None,
        )
    summary: dict[str, Any] = {"command": _command(), "data": table.name, "rows": summarize(results)}
    # Of all that was ever trained in this folder: another sweep may share it.
    everything = summary | {"rows": summarize(finished(out_folder))}
    write_json(out_folder / "summary.json", everything)
    if as_json:
        print(json.dumps(summary))
        return
    out.print(_sweep_table(summary["rows"], table.name))
    err.print(f"→ {out_folder / 'summary.json'}")


def evaluate(
    model: Annotated[
        str,
        typer.Option(
            "--model",
            "-m",
            help="A model, or a path with {fold}, {seed} and {rate} where models differ: runs/fold{fold}-rate{rate}. "
            "With {rate} each keep rate has a model of its own; without, one model is pruned as it is.",
        ),
    ],
    data: DataOption,
    data_name: DataNameOption = None,
    keep_rates: Annotated[str, typer.Option(help="Keep rates, with commas.")] = "1.0,0.9,0.7,0.5",
    folds: Annotated[
        str | None, typer.Option(help="Folds to test on, with commas. [default: all, or the one of {fold}-less paths]")
    ] = None,
    seeds: Annotated[str | None, typer.Option(help="What {seed} stands for, with commas.")] = None,
    method: o.MethodOption = "topk",
    score: o.ScoreOption = None,
    segments: o.SegmentsOption = None,
    dropped: o.DroppedOption = None,
    layers: o.LayersOption = None,
    bench_seconds: Annotated[float, typer.Option(min=0, help="Seconds of timing a keep rate; 0 times nothing.")] = 2.0,
    batch_size: Annotated[int, typer.Option(min=1, help="Clips per forward in the timing.")] = 16,
    device: o.DeviceOption = "auto",
    cache: CacheOption = None,
    out_file: Annotated[Path | None, typer.Option("--out", "-o", help="JSON file to write.")] = None,
    as_json: o.JsonOption = False,
) -> None:
    """Test models at several keep rates: accuracy or mAP, MACs, throughput.

        audioprune eval --model esc10 --data ESC-50 --data-name esc10 --folds 5

    Test clips are those of the fold, or of the test split. With several folds or seeds the mean and the sample
    standard deviation are reported.
    """
    from ..training.table import cells, clips_of
    from ..training.table import evaluate as run
    from ..training.task import write_json

    table, store = _open(data, data_name, None, cache)
    rates: list[float] = o.parse_numbers(keep_rates, float, "--keep-rates")
    chosen = o.build_method(method, None, score, segments, dropped, layers)
    every_fold: list[Any] = list(_words(folds)) or (list(table.folds) if "{fold}" in model else [None])
    every_seed: list[Any] = o.parse_numbers(seeds, int, "--seeds") if seeds else [None]
    total = clips_of(cells(model, rates, every_fold, every_seed), table)
    with progress("clips") as bar:
        task = bar.add_task("Testing", total=total)
        result = {"command": _command()} | run(
            model,
            table,
            chosen,
            rates,
            folds=every_fold,
            seeds=every_seed,
            cache=store,
            device=o.pick_device(device),
            bench_seconds=bench_seconds,
            batch_size=batch_size,
            advance=lambda clips: bar.advance(task, clips),
        )
    if out_file is not None:
        write_json(out_file, result)
    if as_json:
        print(json.dumps(result))
        return
    out.print(_eval_table(result))
    if out_file is not None:
        err.print(f"→ {out_file}")


def _open(data: Path, name: str | None, recipe: Recipe | None, cache: Path | None) -> tuple[ClipTable, SoundCache]:
    """The clip table, and its sounds decoded."""
    from ..data import SoundCache, read
    from ..features import LogMel

    o.quiet()
    table = read(data, name or (recipe.data if recipe else None))
    for line in (*table.warnings, *table.skipped):
        err.print(f"note: {line}")
    frames = recipe.frames if recipe else 1024
    store = SoundCache(cache or _cache_folder(), LogMel(frames).max_seconds)
    with progress("clips") as bar:
        task = bar.add_task(f"Reading {table.name}", total=len(table))
        store.prepare(table.rows, lambda: bar.advance(task))
    return table, store


def _cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "audioprune"


def _start(recipe: Recipe, init: str | None) -> str | None:
    if init is None and recipe.starts_from:
        raise ValueError(
            f"{recipe.name} starts from what {recipe.init} trains: train that first and give its folder with --init "
            f"(or --set init=null to start from random weights), or use: audioprune sweep --recipe {recipe.name}"
        )
    return init


def _words(text: str | None) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip()) if text else ()


def _command() -> str:
    return shlex.join(["audioprune", *sys.argv[1:]])


def _ticking(update: Any) -> tuple[Any, ...]:
    from ..training.finetune import ticker

    return (ticker(update),)


@contextmanager
def _bar(name: str) -> Iterator[Callable[[], tuple[Any, ...]]]:
    with progress("steps") as bar:
        task = bar.add_task(name, total=None)
        yield lambda: _ticking(lambda done, total: bar.update(task, completed=done, total=total))


def _report(result: dict[str, Any], folder: Path, as_json: bool) -> None:
    if not result:  # another process of torchrun reports
        return
    if as_json:
        print(json.dumps(result))
        return
    for metric in ("accuracy", "map"):
        if metric in result:
            part = result["tested_on"]
            out.print(f"{metric} {100 * result[metric]:.2f} % on {result['clips'][part]} {part} clips")
    if "tested_on" not in result and result["recipe"]["task"] == "classify":
        err.print(
            "note: there are no test clips, so nothing was measured; --set validation_share=0.2 sets a share aside"
        )
    if result["losses"]:
        out.print(f"loss {result['losses'][0]:.4f} → {result['losses'][-1]:.4f} in {result['steps']} steps")
    err.print(f"→ {folder}")


def _percent(row: dict[str, Any]) -> str:
    return f"{100 * row['mean']:.2f}" + (f" ± {100 * row['std']:.2f}" if "std" in row else "")


def _sweep_table(rows: list[dict[str, Any]], name: str) -> Table:
    table = Table(title=f"{name}: mean ± standard deviation", title_justify="left")
    for column in ("recipe", "keep", "n", "accuracy or mAP, %"):
        table.add_column(column, justify="left" if column == "recipe" else "right")
    for row in rows:
        rate = "–" if row["keep_rate"] is None else f"{row['keep_rate']:g}"
        table.add_row(row["recipe"], rate, str(len(row["scores"])), _percent(row))
    return table


def _eval_table(result: dict[str, Any]) -> Table:
    how = "fine-tuned at each rate" if result["fine_tuned"] else "pruned without fine-tuning"
    table = Table(title=f"{result['model']} on {result['data']}, {how}", title_justify="left")
    name = "mAP, %" if result["metric"] == "map" else "accuracy, %"
    first = result["rows"][0]
    unit, size = ("GMACs", 1e9) if first["macs"] > 1e9 else ("MMACs", 1e6)
    for column in ("keep", name, unit, "fewer", "clips/s", "faster"):
        table.add_column(column, justify="right")
    for row in result["rows"]:
        speed = ("–", "–")
        if "clips_per_second" in row:
            speed = (f"{row['clips_per_second']:.1f}", f"{row['clips_per_second'] / first['clips_per_second']:.2f}×")
        table.add_row(
            f"{row['keep_rate']:g}",
            _percent(row),
            f"{row['macs'] / size:.3g}",
            f"{first['macs'] / row['macs']:.2f}×",
            *speed,
        )
    return table
