"""Many trainings in one resumable run: recipes × folds × seeds × keep rates, and what each starts from.

Each training has a folder of its own, OUT/RECIPE/fold1-seed0-rate0.5. A training that is done is not repeated, one
that was interrupted goes on from its last checkpoint, and several processes may work on one sweep: each takes the next
training that nobody works on.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data import ClipTable, SoundCache
from ..files import lock
from .finetune import fine_tune
from .pretrain import pretrain
from .recipe import Recipe, read_recipe
from .task import RESULT, Task

LOCK = ".lock"
WAIT_SECONDS = 5.0
"""Between looks at what other processes have done."""


@dataclass(frozen=True)
class Step:
    """A training, and the one whose model it starts from."""

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
    """The trainings of a sweep in an order in which each follows what it starts from; fold by fold and seed by seed,
    so that a sweep that is cut short has whole rows."""
    chain(recipes, read)
    steps: dict[Path, Step] = {}
    maker = _Planner(table, out, tuple(hold_out), cache, read, steps)
    for seed, fold, recipe in itertools.product(seeds, folds, recipes):
        for rate in keep_rates if recipe.task == "classify" and _shrinks(recipe) else (None,):
            maker.step(recipe, fold, seed, rate)
    return list(steps.values())


def chain(recipes: Sequence[Recipe], read: Callable[[str], Recipe] = read_recipe) -> list[Recipe]:
    """The recipes and all that they start from. Raises `ValueError` where one starts from itself."""
    found: list[Recipe] = []
    for recipe in recipes:
        line = [recipe]
        while line[-1].starts_from:
            before = read(str(line[-1].starts_from))
            if before.name in {one.name for one in line}:
                raise ValueError(f"{recipe.name}: starts from itself, by way of {before.name}")
            line.append(before)
        found += line
    return found


@dataclass(frozen=True)
class _Planner:
    table: ClipTable
    out: Path
    hold_out: tuple[str, ...]
    cache: SoundCache | None
    read: Callable[[str], Recipe]
    steps: dict[Path, Step]

    def step(self, recipe: Recipe, fold: str | None, seed: int, rate: float | None) -> Step:
        """The step of one training, made and listed after those it needs."""
        folder = self.out / recipe.name / folder_name(fold, self.hold_out, seed, rate)
        if folder in self.steps and self.steps[folder].task.recipe != recipe:
            raise ValueError(f"two recipes are called {recipe.name}; rename one, since folders are called after them")
        if folder not in self.steps:
            # A fold or rate that cannot be is found now, not after a night of training.
            recipe.pruning(rate)
            self.table.split(fold, self.hold_out)
            after = None
            if recipe.starts_from:
                # Pre-training hears no labels and its seed matters little: one serves all seeds. (Clips that a seed
                # sets aside for validation may be among those it heard; test clips never are.)
                before = self.read(recipe.starts_from)
                after = self.step(before, fold, min(before.seeds) if before.task == "pretrain" else seed, None)
            init = None if after is None else after.task.out
            task = Task(recipe, self.table, folder, fold, self.hold_out, seed, rate, init, self.cache)
            self.steps[folder] = Step(task, after)
        return self.steps[folder]


def folder_name(fold: str | None, hold_out: Sequence[str], seed: int, rate: float | None) -> str:
    """Such as "fold1-seed0-rate0.5"; what does not apply is left out."""
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
    """Train what is not trained yet, and return the result of every step that is done.

    Waits for what other processes are at, looking every `wait_seconds`; None leaves that to them.

    begin, finished: called around each training of this process; waits: while there is none to take.
    """
    left = [step for step in steps if not step.done]
    while left:
        progressed = False
        for step in left:
            if step.done or (step.after and not step.after.done):
                continue
            with claimed(step.task.out) as mine:
                if mine and not step.done:
                    begin(step)
                    train = pretrain if step.task.recipe.task == "pretrain" else fine_tune
                    finished(step, train(step.task, callbacks(), **changes))
                    progressed = True
                    break  # from the start again: the order is the plan's, whoever did what meanwhile
        left = [step for step in left if not step.done]
        if left and not progressed:
            if wait_seconds is None:
                break
            waits()
            time.sleep(wait_seconds)
    done = [step for step in steps if step.done]
    return [fine_tune(s.task) if s.task.recipe.task == "classify" else pretrain(s.task) for s in done]


@contextmanager
def claimed(folder: Path) -> Iterator[bool]:
    """Whether this process has the folder to itself. The claim ends with the process, however that ends."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / LOCK, "w") as file:
        yield lock(file)


def _shrinks(recipe: Recipe) -> bool:
    """Whether a recipe is one for pruning: it is trained at each keep rate, others once."""
    return "keep_rate" in recipe.method and recipe.method["keep_rate"] != 1.0
