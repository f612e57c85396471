"""What one training is: a recipe on a split of clips, and the folder that says so."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..audio.features import LogMel
from ..data import ClipTable, DataError, SoundCache, Split
from ..files import check_same, write_json
from .dataset import SpectrogramDataset
from .recipe import Augment, Recipe

TASK = "task.json"
"""Says what a folder's training is, from its first moment on."""
RESULT = "result.json"
"""Written when a training is done; a folder that holds it is not trained again."""


@dataclass(frozen=True)
class Task:
    """One training: a recipe on a split of a table of clips.

    fold: that is held out for testing, where the data set has folds; hold_out: further folds that are left alone.
    keep_rate: the final one, None for the recipe's. init: what to start from, None for the recipe's. out: folder.
    """

    recipe: Recipe
    table: ClipTable
    out: Path
    fold: str | None = None
    hold_out: tuple[str, ...] = ()
    seed: int = 0
    keep_rate: float | None = None
    init: str | Path | None = None
    cache: SoundCache | None = None

    @property
    def split(self) -> Split:
        split = self.table.split(self.fold, self.hold_out)
        if self.recipe.best == "validation" or self.recipe.validation_share:
            if not split.validation and not self.recipe.validation_share:
                raise DataError(
                    f"{self.recipe.name} keeps the best epoch on validation clips, and {self.table.name} has none; "
                    "set validation_share=0.1, or best=last"
                )
            split = split.with_validation(self.recipe.validation_share, self.seed)
        return split

    @property
    def front(self) -> LogMel:
        bins = self.recipe.config.get("num_mel_bins", 128)
        return LogMel.preset(self.recipe.preset, max_length=self.recipe.frames, num_mel_bins=bins)

    def dataset(self, rows: Any, training: bool = False) -> SpectrogramDataset:
        recipe = self.recipe
        cache = self.cache or SoundCache(None, self.front.max_seconds)
        if not training or recipe.augment.model_copy(update={"patch_mask": 0.0}) == Augment():
            return SpectrogramDataset(self.table, rows, self.front, cache)
        until = masks_until(recipe)
        return SpectrogramDataset(self.table, rows, self.front, cache, recipe.augment, seed=self.seed, mask_until=until)


def masks_until(recipe: Recipe) -> float:
    """Epoch from which no masks are used: the start of the shrink, or never where a recipe has no shrink."""
    return recipe.shrink.start if recipe.shrink.start or recipe.shrink.epochs else float("inf")


def settle(task: Task) -> None:
    """Note in `task.json` what the folder is for. Raises `ValueError` where it was begun for something else: half a
    training by other settings must not be taken for this one."""
    _ = task.split  # a fold that is not there is said before the folder is bound to it
    settings: dict[str, Any] = {
        "recipe": task.recipe.model_dump(mode="json"),
        "data": task.table.name,
        "clips": len(task.table),
        "fold": task.fold,
        "hold_out": list(task.hold_out),
        "seed": task.seed,
        "keep_rate": task.recipe.pruning(task.keep_rate).keep_rate,
        # By name, since a sweep's folder may be moved as a whole.
        "init": None if task.init is None else Path(task.init).name,
    }
    file = task.out / TASK
    if not file.exists():
        write_json(file, settings)
        return
    begun = json.loads(file.read_text())
    for one in (begun, settings):
        one["recipe"].pop("about", None)  # words, by which nothing is trained
    check_same(task.out, begun, settings, ValueError, "another folder", only_shared=True)
