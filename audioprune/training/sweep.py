"""Many trainings in one resumable run: recipes × folds × seeds × keep rates, and the trainings that they start from.

Each training has its own folder, OUT/RECIPE/fold1-seed0-rate0.5. A training that is done is not repeated. One that was
interrupted continues from its last checkpoint. Several processes may work on one sweep: each takes the next training
that no other process works on.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data import ClipTable, SoundCache
from ..locks import claim
from .finetune import fine_tune
from .pretrain import pretrain
from .recipe import Recipe, read_recipe
from .task import RESULT, Task

WAIT_SECONDS = 5.0
"""Time between checks of the other processes' progress."""


@dataclass(frozen=True)
class Step:
    """A training, and the training whose model it starts from."""

    task: Task
    after: Step | None = None

    @property
    def done(self) -> bool:
        return (self.task.out / RESULT).exists()

    @property
    def name(self) -> str:
        return f"{self.task.recipe.name}/{self.task.out.name}"


def plan(
    recipes: Sequence[Recipe],
    table: ClipTable,
    out: Path,
    *,
    folds: Sequence[str | None] = (None,),
    seeds: Sequence[int] = (0,),
    keep_rates: Sequence[float] = (1.0,),
    hold_out: Sequence[str] = (),
    cache: SoundCache | None = None,
    read: Callable[[str], Recipe] = read_recipe,
) -> list[Step]:
    """Trainings of a sweep, in order: each comes after the training that it starts from.

    They are ordered by fold and seed, so that an interrupted sweep has complete rows.

    Args:
        recipes: the recipes.
        table: the data set.
        out: folder of the sweep.
        folds: folds to test on; (None,) for a data set without folds.
        seeds: seeds.
        keep_rates: keep rates of the recipes that prune.
        hold_out: further folds that are not used.
        cache: cache of decoded clips.
        read: reads a recipe by its name.
    """
    chain(recipes, read)
    steps: dict[Path, Step] = {}
    planner = _Planner(table, out, tuple(hold_out), cache, read, steps)
    for seed, fold, recipe in itertools.product(seeds, folds, recipes):
        for rate in keep_rates if recipe.task == "classify" and _shrinks(recipe) else (None,):
            planner.step(recipe, fold, seed, rate)
    return list(steps.values())


def chain(recipes: Sequence[Recipe], read: Callable[[str], Recipe] = read_recipe) -> list[Recipe]:
    """The recipes and all recipes that they start from. Raises `ValueError` if one starts from itself."""
    chained: list[Recipe] = []
    for recipe in recipes:
        line = [recipe]
        while line[-1].starts_from:
            before = read(str(line[-1].starts_from))
            if before.name in {one.name for one in line}:
                raise ValueError(f"{recipe.name}: starts from itself, through {before.name}; change its init")
            line.append(before)
        chained += line
    return chained


@dataclass(frozen=True)
class _Planner:
    table: ClipTable
    out: Path
    hold_out: tuple[str, ...]
    cache: SoundCache | None
    read: Callable[[str], Recipe]
    steps: dict[Path, Step]

    def step(self, recipe: Recipe, fold: str | None, seed: int, rate: float | None) -> Step:
        """Step of one training. It is added to the plan after the steps that it needs."""
        folder = self.out / recipe.name / folder_name(fold, self.hold_out, seed, rate)
        if folder in self.steps and self.steps[folder].task.recipe != recipe:
            raise ValueError(f"two recipes have the name {recipe.name}; rename one, because folders have their names")
        if folder not in self.steps:
            # Check the fold and the rate now, not after a night of training.
            recipe.pruning(rate)
            self.table.split(fold, self.hold_out)
            after = None
            if recipe.starts_from:
                # Pre-training uses no labels and its seed matters little, so one serves all seeds. (It may use clips
                # that a seed sets aside for validation, but never test clips.)
                before = self.read(recipe.starts_from)
                after = self.step(before, fold, min(before.seeds) if before.task == "pretrain" else seed, None)
            init = None if after is None else after.task.out
            task = Task(recipe, self.table, folder, fold, self.hold_out, seed, rate, init, self.cache)
            self.steps[folder] = Step(task, after)
        return self.steps[folder]


def folder_name(fold: str | None, hold_out: Sequence[str], seed: int, rate: float | None) -> str:
    """Folder name such as "fold1-seed0-rate0.5"; parts that do not apply are left out."""
    parts = [] if fold is None else [f"fold{fold}"]
    parts += [f"without{'+'.join(hold_out)}"] if hold_out else []
    parts += [f"seed{seed}"]
    parts += [] if rate is None else [f"rate{rate:g}"]
    return "-".join(parts)


def run(
    steps: Sequence[Step],
    begin: Callable[[Step], Any] = lambda _: None,
    finished: Callable[[Step, dict[str, Any]], Any] = lambda *_: None,
    callbacks: Callable[[], tuple[Any, ...]] = tuple,
    waits: Callable[[], Any] = lambda: None,
    wait_seconds: float | None = WAIT_SECONDS,
    **changes: Any,
) -> list[dict[str, Any]]:
    """Run the steps that are not done, and return the result of every step that is done.

    Args:
        steps: the plan.
        begin: called before each training of this process.
        finished: called after each training of this process.
        callbacks: makes the Trainer's callbacks for each training.
        waits: called while all remaining steps belong to other processes.
        wait_seconds: time between checks of other processes; None does not wait for them.
        changes: arguments of transformers' `TrainingArguments`.
    """
    left = [step for step in steps if not step.done]
    while left:
        progressed = False
        for step in left:
            if step.done or (step.after and not step.after.done):
                continue
            with claim(step.task.out) as mine:
                if mine and not step.done:
                    begin(step)
                    train = pretrain if step.task.recipe.task == "pretrain" else fine_tune
                    finished(step, train(step.task, callbacks(), **changes))
                    progressed = True
                    break  # start again from the top: the order is that of the plan
        left = [step for step in left if not step.done]
        if left and not progressed:
            if wait_seconds is None:
                break
            waits()
            time.sleep(wait_seconds)
    done = [step for step in steps if step.done]
    return [fine_tune(s.task) if s.task.recipe.task == "classify" else pretrain(s.task) for s in done]


def _shrinks(recipe: Recipe) -> bool:
    """Whether a recipe prunes. It is then trained at each keep rate, otherwise once."""
    return "keep_rate" in recipe.method and recipe.method["keep_rate"] != 1.0
