"""One training by a recipe, from the clips to the saved model and its score; resumable at any time."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PrinterCallback, TrainerCallback, set_seed

from ..audio.extractor import AudioMAEFeatureExtractor
from ..compare.benchmark import machine
from ..compare.evaluation import predict, score
from ..core.pruning import Pruned, prune
from ..core.settings import describe
from ..data import Split
from ..files import write_json
from ..methods.learned import Learned
from ..models.loading import load
from .model import build_model, knows
from .recipe import Recipe
from .regularize import PatchMask, set_drop_path
from .schedule import ShrinkSchedule
from .task import RESULT, Task, masks_until, settle
from .trainer import RecipeTrainer, arguments, frozen_copy, last_checkpoint


def fine_tune(task: Task, callbacks: tuple[TrainerCallback, ...] = (), **changes: Any) -> dict[str, Any]:
    """Train a classifier, or finish or skip what was trained before. Returns what `result.json` in `task.out` holds.

    The folder then holds the model in transformers' format, its feature extractor, and `pruning.json` with the method
    where one was trained with. `changes`: arguments of transformers' `TrainingArguments`.
    """
    settle(task)
    if (task.out / RESULT).exists():
        return json.loads((task.out / RESULT).read_text())
    recipe, split = task.recipe, task.split
    set_seed(task.seed)
    model = build_model(recipe, task.table.labels, task.init)
    method = recipe.pruning(task.keep_rate)
    prunes = _prunes(method.keep_rate)
    teacher = _teacher(recipe, model, task.table.labels, task.init, prunes and method.needs_teacher)
    handle = prune(model, method) if prunes else None
    trainer = make_trainer(task, model, split, handle, teacher, callbacks, **changes)
    trainer.train(resume_from_checkpoint=_resume(task.out))
    result = describe_run(task, split, trainer) | {"method": describe(method) if handle else None}
    if trainer.is_world_process_zero():
        result = _finish(task, split, trainer, handle, result)
    # A process that left now could take the others down with it.
    trainer.accelerator.wait_for_everyone()
    return result if trainer.is_world_process_zero() else {}


def _finish(
    task: Task, split: Split, trainer: RecipeTrainer, handle: Pruned | None, result: dict[str, Any]
) -> dict[str, Any]:
    """Test the trained model and save it and its result."""
    # accelerate wraps the forward in autocast; what is reported is float32.
    model: Any = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
    rows = split.test or split.validation
    if rows:
        dataset = task.dataset(rows)
        logits = predict(model.float(), dataset)
        result["tested_on"] = "test" if split.test else "validation"
        result |= score(logits.numpy(), dataset.targets.numpy(), task.table.multi_label)
    if handle:
        handle.save(task.out)
        handle.remove()
    save(task, model)
    write_json(task.out / RESULT, result)
    return result


def make_trainer(
    task: Task,
    model: PreTrainedModel,
    split: Split,
    handle: Pruned | None = None,
    teacher: Any = None,
    callbacks: tuple[TrainerCallback, ...] = (),
    **changes: Any,
) -> RecipeTrainer:
    recipe = task.recipe
    if handle is not None and recipe.augment.patch_mask and masks_until(recipe) == float("inf"):
        raise ValueError(
            f"{recipe.name}: patches are masked in all epochs and pruned in all; pruning numbers the patches, so the "
            "masks must end first: set shrink.start to the epoch at which they do"
        )
    if recipe.drop_path:
        set_drop_path(model, recipe.drop_path)
    train = task.dataset(split.train, training=True)
    processes = int(os.environ.get("WORLD_SIZE", 1))
    if len(train) < recipe.batch_size:
        changes["dataloader_drop_last"] = False
    if recipe.best == "last":
        per_epoch = max(1, len(train) // recipe.batch_size)
        # Logged by steps too, so that an epoch's loss is in the checkpoint of its end.
        steps = {"logging_strategy": "steps", "logging_steps": per_epoch, "save_strategy": "steps"}
        changes = {**steps, "save_steps": recipe.save_epochs * per_epoch} | changes
    trainer = RecipeTrainer(
        recipe,
        model,
        arguments(recipe, task.out, task.seed, processes, **changes),
        teacher=teacher,
        train_dataset=train,
        eval_dataset=task.dataset(split.validation) if split.validation else None,
        compute_metrics=lambda found: score(found.predictions, found.label_ids, task.table.multi_label),
        callbacks=list(callbacks),
    )
    trainer.remove_callback(PrinterCallback)  # progress is the caller's to show
    if recipe.augment.patch_mask:
        trainer.add_callback(PatchMask(model, recipe.augment.patch_mask, masks_until(recipe)))
    if handle is not None:
        trainer.add_callback(ShrinkSchedule(handle, recipe.shrink.start, recipe.shrink.epochs))
        if isinstance(handle.learned, Learned):
            # Epochs before the shrink are judged at the final keep rate too, by predictors as they were drawn.
            handle.learned.trained.fill_(1)
    return trainer


def leave() -> None:
    """Close what several processes share: at the end of a program that trained."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def save(task: Task, model: PreTrainedModel) -> None:
    """The model and its feature extractor, in `task.out`."""
    model.config._attn_implementation = "sdpa"  # how it was trained is nobody's concern
    model.save_pretrained(task.out)
    AudioMAEFeatureExtractor.of(task.front).save_pretrained(task.out)


def _prunes(keep_rate: Any) -> bool:
    return min(keep_rate) < 1 if isinstance(keep_rate, tuple) else keep_rate < 1


def _resume(out: Path) -> str | None:
    found = last_checkpoint(out)
    return None if found is None else str(found)


def _teacher(recipe: Recipe, model: PreTrainedModel, labels: Sequence[str], init: Any, asked: bool) -> Any:
    """The teacher that a recipe names, or the model itself as it is now; asked: whether the method wants one."""
    if recipe.distill is None and not asked:
        return None
    if recipe.distill is not None and recipe.distill.teacher is not None:
        teacher = load(recipe.distill.teacher)
        if teacher.config.num_labels != model.config.num_labels:
            raise ValueError(
                f"distill.teacher {recipe.distill.teacher} knows {teacher.config.num_labels} labels, the data set has "
                f"{model.config.num_labels}"
            )
        return teacher
    if init is None and recipe.init is None:
        raise ValueError(
            "distill (or the method) wants a teacher, and weights that are drawn at random teach nothing: start from "
            "trained ones, or name one as distill.teacher"
        )
    if recipe.new_head or not knows(init or str(recipe.init), labels):
        raise ValueError(
            "distill has no teacher, and the model that training starts from gets a new head, which teaches nothing: "
            "fine-tune it unpruned first and start from that, or name a teacher"
        )
    return frozen_copy(model)


def describe_run(task: Task, split: Split, trainer: RecipeTrainer) -> dict[str, Any]:
    return {
        "recipe": task.recipe.model_dump(),
        "data": task.table.name,
        "fold": task.fold,
        "hold_out": list(task.hold_out),
        "seed": task.seed,
        "keep_rate": task.recipe.pruning(task.keep_rate).keep_rate,
        "init": None if task.init is None else str(task.init),
        "clips": {"train": len(split.train), "validation": len(split.validation), "test": len(split.test)},
        "processes": trainer.args.world_size,
        "steps": trainer.state.global_step,
        "losses": [round(entry["loss"], 5) for entry in trainer.state.log_history if "loss" in entry],
        "machine": machine(),
    }


def ticker(advance: Callable[[int, int], Any]) -> TrainerCallback:
    """A callback that tells a progress bar after each step how many are done, and of how many."""

    class Ticker(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            advance(state.global_step, state.max_steps)

    return Ticker()
