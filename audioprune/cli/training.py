"""`audioprune recipes`, `train` and `pretrain`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options as o
from . import training_options as t
from .console import compact_table, err, out

if TYPE_CHECKING:
    from ..training.recipe import Recipe


def recipes(
    name: Annotated[str | None, typer.Argument(help="Recipe to print whole.", show_default=False)] = None,
    as_json: o.JsonOption = False,
) -> None:
    """List the recipes that come with audioprune, or print one: what it does, and every setting.

        audioprune recipes esc10-audiomae-topk

    A recipe is YAML: what is trained, how long, with which augmentation and pruning. `--set` changes a setting; a file
    of your own may say `extends: NAME` and give only what differs. Nothing is written.
    """
    import yaml

    from ..training.recipe import read_recipe
    from ..training.recipe_files import names

    found = [read_recipe(one) for one in ([name] if name else names())]
    if as_json:
        print(json.dumps([recipe.model_dump(mode="json") for recipe in found]))
        return
    if name:
        out.print(yaml.safe_dump(found[0].model_dump(mode="json"), sort_keys=False, width=100), end="", soft_wrap=True)
        return
    table = compact_table("Recipes (audioprune recipes NAME prints one)")
    # Where it is narrow, words wrap and no figure is cut.
    for column in ("recipe", "model", "starts from"):
        table.add_column(column, overflow="fold", no_wrap=column == "recipe")
    for column in ("frames", "epochs", "batch"):
        table.add_column(column, justify="right", no_wrap=True)
    for recipe in found:
        model = recipe.family + (", masked" if recipe.task == "pretrain" else "")
        start = recipe.init or ("--init" if recipe.needs_init else "random weights")
        table.add_row(recipe.name, model, start, str(recipe.frames), str(recipe.epochs), str(recipe.batch_size))
    out.print(table)


def train(
    recipe: t.RecipeOption,
    data: t.DataOption,
    out_folder: t.OutOption,
    data_name: t.DataNameOption = None,
    fold: t.FoldOption = None,
    hold_out: t.HoldOutOption = None,
    keep_rate: Annotated[
        float | None,
        typer.Option(help="Final keep rate, in (0, 1]; 1.0 trains without pruning. [default: the recipe's]"),
    ] = None,
    init: t.InitOption = None,
    settings: t.SetOption = None,
    seed: Annotated[int, typer.Option(help="Of weights, order, augmentation and drop path.")] = 0,
    cache: t.CacheOption = None,
    as_json: o.JsonOption = False,
) -> None:
    """Fine-tune a model with pruning, by a recipe.

        audioprune train --recipe audiomae-esc50 --data ESC-50 --fold 1 --keep-rate 0.5 --out runs/fold1

    The keep rate falls from 1 to its final value as the recipe says. Interrupt it as you like: the same command goes
    on where it stopped, to the same weights. On several GPUs or processes: `torchrun --nproc-per-node 2 -m audioprune
    train …`. What the folder holds then is a model that `audioprune tag --model FOLDER --method FOLDER/pruning.json`
    runs as it was trained.
    """
    from ..files import check_writable
    from ..locks import alone
    from ..training.finetune import fine_tune, leave
    from ..training.recipe import read_recipe
    from ..training.task import RESULT, Task

    chosen = read_recipe(recipe, settings or ())
    if chosen.task != "classify":
        raise ValueError(f"{recipe} pre-trains; use: audioprune pretrain --recipe {recipe}")
    init = _start(chosen, init)
    check_writable(out_folder / RESULT)
    table, store = t.open_data(data, data_name, chosen, cache)
    task = Task(chosen, table, out_folder, fold, t.words(hold_out), seed, keep_rate, init, store)
    with alone(out_folder), t.step_bar(chosen.name) as callback:
        result = fine_tune(task, callback())
    leave()
    _report(result, out_folder, as_json)


def pretrain(
    recipe: t.RecipeOption,
    data: t.DataOption,
    out_folder: t.OutOption,
    data_name: t.DataNameOption = None,
    fold: t.FoldOption = None,
    hold_out: t.HoldOutOption = None,
    init: t.InitOption = None,
    settings: t.SetOption = None,
    seed: Annotated[int, typer.Option(help="Of weights, order, augmentation and masks.")] = 0,
    cache: t.CacheOption = None,
    as_json: o.JsonOption = False,
) -> None:
    """Pre-train an AudioMAE: most patches are hidden, and it learns to draw them back. Needs no labels.

        audioprune pretrain --recipe esc10-pretrain --data ESC-50 --fold 5 --out runs/pretrained

    Test clips (the fold, or the test split) are not heard. Interrupt it as you like: the same command goes on. The
    folder then holds the model, its loss curve and pictures of what it draws; give it to `train` with --init.
    """
    from ..files import check_writable
    from ..locks import alone
    from ..training.finetune import leave
    from ..training.pretrain import pretrain as run
    from ..training.recipe import read_recipe
    from ..training.task import RESULT, Task

    chosen = read_recipe(recipe, settings or ())
    if chosen.task != "pretrain":
        raise ValueError(f"{recipe} trains a classifier; use: audioprune train --recipe {recipe}")
    check_writable(out_folder / RESULT)
    table, store = t.open_data(data, data_name, chosen, cache)
    task = Task(chosen, table, out_folder, fold, t.words(hold_out), seed, None, init, store)
    with alone(out_folder), t.step_bar(chosen.name) as callback:
        result = run(task, callback())
    leave()
    _report(result, out_folder, as_json)


def _start(recipe: Recipe, init: str | None) -> str | None:
    if init is None and recipe.starts_from:
        raise ValueError(
            f"{recipe.name} starts from what {recipe.init} trains: train that first and give its folder with --init "
            f"(or --set init=null to start from random weights), or use: audioprune sweep --recipe {recipe.name}"
        )
    return init


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
