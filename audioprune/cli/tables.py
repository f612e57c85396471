"""`audioprune sweep` and `eval`: many models, one table."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from ..timing import Ratio, unsure_note
from . import options as o
from . import training_options as t
from .console import compact_table, err, out, progress


def sweep(
    recipe: Annotated[list[str], typer.Option("--recipe", "-r", help="Name of a recipe or a .yaml file. Repeatable.")],
    data: t.DataOption,
    out_folder: Annotated[Path, typer.Option("--out", "-o", help="Folder in which each training gets its own.")],
    data_name: t.DataNameOption = None,
    folds: Annotated[
        str | None, typer.Option(help="Folds to test on, with commas. [default: all]", show_default=False)
    ] = None,
    hold_out: t.HoldOutOption = None,
    seeds: Annotated[
        str | None, typer.Option(help="Seeds, with commas. [default: the first recipe's]", show_default=False)
    ] = None,
    keep_rates: Annotated[str, typer.Option(help="Final keep rates of the recipes that prune.")] = "1.0,0.9,0.7,0.5",
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="Change a setting of the named recipes, and config.…, which is the model's shape, of those they start "
            "from as well. Repeatable.",
        ),
    ] = None,
    wait: Annotated[
        bool, typer.Option(help="Whether to wait, when nothing is left to take, for what other processes are at.")
    ] = True,
    cache: t.CacheOption = None,
    as_json: o.JsonOption = False,
) -> None:
    """Train recipes × folds × seeds × keep rates, and first what they start from.

        audioprune sweep -r esc10-audiomae-topk -r esc10-ast-topk --data ESC-50 --data-name esc10 --out runs/esc10

    Interrupt it as you like: what is done is kept, and the same command goes on. Start it in several shells to share
    the work among processes or machines with one file system: each takes the next training that nobody is at.
    `summary.json` then holds mean and spread over folds and seeds of all that is finished in the folder.
    """
    from ..files import check_writable, write_json
    from ..training.evaluation_table import finished, summarize
    from ..training.recipe import read_recipe
    from ..training.sweep import WAIT_SECONDS, chain, plan, run

    chosen = [read_recipe(name, settings or ()) for name in recipe]
    shape = [word for word in settings or () if word.startswith("config.")]
    read = partial(read_recipe, overrides=shape)
    check_writable(out_folder / "summary.json")
    table, store = t.open_data(data, data_name, max(chain(chosen, read), key=lambda one: one.frames), cache)
    rates: list[float] = o.parse_numbers(keep_rates, float, "--keep-rates")
    apart = t.words(hold_out)
    steps = plan(
        chosen,
        table,
        out_folder,
        folds=t.words(folds) or [name for name in table.folds if name not in apart] or (None,),
        seeds=o.parse_numbers(seeds, int, "--seeds") if seeds else chosen[0].seeds,
        keep_rates=rates,
        hold_out=apart,
        cache=store,
        read=read,
    )
    err.print(f"{len(steps)} trainings, {sum(step.done for step in steps)} of them done")
    with progress("trainings") as bar:
        total = bar.add_task("Sweep", total=len(steps), completed=sum(step.done for step in steps))
        current = bar.add_task("", total=None, visible=False)

        def begin(step: Any) -> None:
            bar.reset(current, total=None, description=step.name, visible=True)

        results = run(
            steps,
            begin,
            lambda *_: bar.update(total, completed=sum(step.done for step in steps)),
            lambda: t.ticking(lambda done, of: bar.update(current, completed=done, total=of)),
            lambda: bar.reset(current, total=None, description="waiting for other processes", visible=True),
            WAIT_SECONDS if wait else None,
        )
    summary: dict[str, Any] = {"command": t.command(), "data": table.name, "rows": summarize(results)}
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
    data: t.DataOption,
    data_name: t.DataNameOption = None,
    keep_rates: Annotated[str, typer.Option(help="Keep rates, with commas.")] = "1.0,0.9,0.7,0.5",
    folds: Annotated[
        str | None, typer.Option(help="Folds to test on, with commas. [default: all, or the one of {fold}-less paths]")
    ] = None,
    seeds: Annotated[str | None, typer.Option(help="What {seed} stands for, with commas.")] = None,
    method: Annotated[
        str,
        typer.Option(
            help='As of the other commands; or "trained": with {rate} in the path, how each model was trained to be '
            "pruned, and what the method learnt."
        ),
    ] = "topk",
    score: o.ScoreOption = None,
    segments: o.SegmentsOption = None,
    dropped: o.DroppedOption = None,
    layers: o.LayersOption = None,
    bench_seconds: Annotated[float, typer.Option(min=0, help="Seconds of timing a keep rate; 0 times nothing.")] = 2.0,
    batch_size: Annotated[int, typer.Option(min=1, help="Clips per forward in the timing.")] = 16,
    device: o.DeviceOption = "auto",
    cache: t.CacheOption = None,
    out_file: Annotated[Path | None, typer.Option("--out", "-o", help="JSON file to write.")] = None,
    as_json: o.JsonOption = False,
) -> None:
    """Test models at several keep rates: accuracy or mAP, MACs, throughput.

        audioprune eval --model esc10 --data ESC-50 --data-name esc10 --folds 5

    Test clips are those of the fold, or of the test split. With several folds or seeds the mean and the sample
    standard deviation are reported. Nothing is written without --out.
    """
    from ..files import check_writable, write_json
    from ..methods import TopK
    from ..training.evaluation_table import cells, clips_of
    from ..training.evaluation_table import evaluate as run

    rates: list[float] = o.parse_numbers(keep_rates, float, "--keep-rates")
    for rate in rates:
        TopK(rate)  # said before the data set is read
    check_writable(out_file)
    table, store = t.open_data(data, data_name, None, cache)
    if method == "trained" and "{rate}" not in model:
        raise ValueError("--method trained is for models that were trained for each keep rate: put {rate} in --model")
    chosen = None if method == "trained" else o.build_method(method, None, score, segments, dropped, layers)
    every_fold: list[Any] = list(t.words(folds)) or (list(table.folds) if "{fold}" in model else [None])
    every_seed: list[Any] = o.parse_numbers(seeds, int, "--seeds") if seeds else [None]
    total = clips_of(cells(model, rates, every_fold, every_seed), table)
    with progress("clips") as bar:
        task = bar.add_task("Testing", total=total)
        result = {"command": t.command()} | run(
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


def _percent(row: dict[str, Any]) -> str:
    return f"{100 * row['mean']:.2f}" + (f" ± {100 * row['std']:.2f}" if "std" in row else "")


def _sweep_table(rows: list[dict[str, Any]], name: str) -> Table:
    table = compact_table(f"{name}: mean ± standard deviation")
    for column in ("recipe", "keep", "n", "accuracy or mAP, %"):
        table.add_column(column, justify="left" if column == "recipe" else "right")
    for row in rows:
        rate = "–" if row["keep_rate"] is None else f"{row['keep_rate']:g}"
        table.add_row(row["recipe"], rate, str(len(row["scores"])), _percent(row))
    return table


def _eval_table(result: dict[str, Any]) -> Table:
    how = "fine-tuned at each rate" if result["fine_tuned"] else "pruned without fine-tuning"
    timed = [Ratio.of(row) for row in result["rows"] if "speed_up" in row]
    table = compact_table(f"{result['model']} on {result['data']}, {how}", unsure_note(timed))
    name = "mAP, %" if result["metric"] == "map" else "accuracy, %"
    first = result["rows"][0]
    unit, size = ("GMACs", 1e9) if first["macs"] > 1e9 else ("MMACs", 1e6)
    for column in ("keep", name, unit, "fewer", "clips/s", "faster"):
        table.add_column(column, justify="right")
    for row in result["rows"]:
        speed = ("–", "–")
        if "clips_per_second" in row:
            speed = (f"{row['clips_per_second']:.1f}", str(Ratio.of(row)))
        table.add_row(
            f"{row['keep_rate']:g}",
            _percent(row),
            f"{row['macs'] / size:.3g}",
            f"{first['macs'] / row['macs']:.2f}×",
            *speed,
        )
    return table
