"""Definition of one training: a recipe, a split of clips, and a folder that records both."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import WhisperFeatureExtractor

from ..audio.features import LogMel
from ..audio.front_end import FrontEnd
from ..audio.whisper_features import WhisperFeatures
from ..data import ClipTable, DataError, SoundCache, Split
from ..files import check_same, read_json, write_json
from ..models.loading import load_whisper_features
from .dataset import SpectrogramDataset
from .encoder_outputs import EncoderOutputs
from .precision import precision_of
from .recipe import Augment, Recipe

TASK = "task.json"
"""File with the settings of a folder's training, written at its start."""
RESULT = "result.json"
"""File with the result of a training, written at its end. A folder that contains it is not trained again."""


@dataclass(frozen=True)
class Task:
    """One training: a recipe on a split of a table of clips.

    Args:
        recipe: the recipe.
        table: the data set.
        out: folder of the training.
        fold: fold for testing, if the data set has folds.
        hold_out: further folds that are not used.
        seed: seed.
        keep_rate: the final keep rate; None for the recipe's.
        init: weights to start from; None for the recipe's.
        cache: cache of decoded clips.
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
                    f"{self.recipe.name} keeps the best epoch on validation clips, but {self.table.name} has none; "
                    "set validation_share=0.1, or best=last"
                )
            split = split.with_validation(self.recipe.validation_share, self.seed)
        return split

    @property
    def front(self) -> FrontEnd:
        if self.recipe.preset is None:
            source = self.init or self.recipe.init
            return WhisperFeatures(WhisperFeatureExtractor()) if source is None else load_whisper_features(source)
        bins = self.recipe.config.get("num_mel_bins", 128)
        return LogMel.preset(self.recipe.preset, max_length=self.recipe.frames, num_mel_bins=bins)

    def dataset(self, rows: Any, training: bool = False, encoder: EncoderOutputs | None = None) -> SpectrogramDataset:
        """Clips of these rows. encoder: a frozen encoder whose outputs take the place of the features."""
        recipe, front = self.recipe, encoder or self.front
        cache = self.cache or SoundCache(None, front.max_seconds)
        if not training or recipe.augment.model_copy(update={"patch_mask": 0.0}) == Augment():
            return SpectrogramDataset(self.table, rows, front, cache)
        until = masks_until(recipe)
        return SpectrogramDataset(self.table, rows, front, cache, recipe.augment, seed=self.seed, mask_until=until)


def masks_until(recipe: Recipe) -> float:
    """Epoch from which no masks are used: the start of the shrink, or infinity if the recipe has no shrink."""
    return recipe.shrink.start if recipe.shrink.start or recipe.shrink.epochs else float("inf")


def record_task(task: Task) -> None:
    """Write the settings of the training to `task.json`.

    Raises `ValueError` if the folder was begun with other settings: a training with other settings must not be
    continued as this one."""
    _ = task.split  # a missing fold raises before the folder gets these settings
    settings: dict[str, Any] = {
        "recipe": task.recipe.model_dump(mode="json"),
        "data": task.table.name,
        "clips": len(task.table),
        "fold": task.fold,
        "hold_out": list(task.hold_out),
        "seed": task.seed,
        "keep_rate": task.recipe.pruning(task.keep_rate).keep_rate,
        # Only the name, because the folder of a sweep may be moved.
        "init": None if task.init is None else Path(task.init).name,
        "precision": precision_of(task.recipe),
    }
    file = task.out / TASK
    if not file.exists():
        write_json(file, settings)
        return
    begun = read_json(file)
    if not isinstance(begun.get("recipe"), dict):
        raise ValueError(f"{file}: contains no recipe; delete it, or choose another folder")
    for one in (begun, settings):
        one["recipe"].pop("about", None)  # a description, which changes no training
        one.setdefault("precision", one["recipe"].pop("precision", None))
    check_same(task.out, begun, settings, ValueError, "another folder", only_shared=True)
