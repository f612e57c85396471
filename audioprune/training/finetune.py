"""One training from a recipe: from the clips to the saved model and its score. It can resume at any time."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PrinterCallback, TrainerCallback, set_seed

from ..audio.extractor import AudioMAEFeatureExtractor
from ..audio.features import LogMel
from ..compare.benchmark import machine
from ..compare.evaluation import predict, score
from ..core.pruning import Pruned, prune
from ..core.settings import describe
from ..data import Split
from ..disk import named_if_full
from ..files import read_json, write_json
from ..methods.learned import Learned
from ..models.loading import load
from .encoder_outputs import EncoderOutputs
from .model import build_model, is_trained_for
from .precision import precision_of
from .recipe import Recipe
from .regularize import PatchMask, set_drop_path
from .schedule import ShrinkSchedule
from .task import RESULT, Task, masks_until, record_task
from .trainer import RecipeTrainer, arguments, frozen_copy, last_checkpoint


def fine_tune(task: Task, callbacks: tuple[TrainerCallback, ...] = (), **changes: Any) -> dict[str, Any]:
    """Train a classifier. A training that was interrupted continues; one that is done is skipped.

    The folder `task.out` then contains the model in transformers' format, its feature extractor, and, if the model was
    trained with pruning, `pruning.json` with the method. `changes`: arguments of transformers' `TrainingArguments`.
    Returns the content of `result.json`.
    """
    recipe, method = task.recipe, task.recipe.pruning(task.keep_rate)
    prunes = _prunes(method.keep_rate)
    if prunes and method.learns and recipe.trained == "head":
        raise ValueError(
            f"{recipe.name}: trains the head alone, and {type(method).__name__} learns in the blocks of the encoder; "
            "train some of them too (--set trained=2)"
        )
    record_task(task)
    if (task.out / RESULT).exists():
        return read_json(task.out / RESULT)
    split = task.split
    set_seed(task.seed)
    model = build_model(recipe, task.table.labels, task.init)
    teacher = _teacher(recipe, model, task.table.labels, task.init, prunes and method.needs_teacher)
    encoder, handle = None, None
    if recipe.trained == "head":  # the encoder is pruned where its outputs are made
        encoder = EncoderOutputs(task.front, model, method if prunes else None)
    elif prunes:
        handle = prune(model, method)
    trainer = make_trainer(task, model, split, handle, teacher, callbacks, encoder, **changes)
    with named_if_full(task.out):
        trainer.train(resume_from_checkpoint=_resume(task.out))
        result = describe_run(task, split, trainer) | {"method": describe(method) if prunes else None}
        if trainer.is_world_process_zero():
            result = _finish(task, split, trainer, handle, encoder, result)
    # If one process exits early, the others may fail.
    trainer.accelerator.wait_for_everyone()
    return result if trainer.is_world_process_zero() else {}


def _finish(
    task: Task,
    split: Split,
    trainer: RecipeTrainer,
    handle: Pruned | None,
    encoder: EncoderOutputs | None,
    result: dict[str, Any],
) -> dict[str, Any]:
    """Test the trained model; save it and its result."""
    # accelerate wraps the forward in autocast, but the reported score is that of float32.
    model: Any = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
    rows = split.test or split.validation
    if rows:
        dataset = task.dataset(rows, encoder=encoder)
        logits = predict(model.float(), dataset)
        result["tested_on"] = "test" if split.test else "validation"
        result |= score(logits.numpy(), dataset.targets.numpy(), task.table.multi_label)
    if encoder is not None and encoder.method is not None:
        handle = prune(model, encoder.method)
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
    encoder: EncoderOutputs | None = None,
    **changes: Any,
) -> RecipeTrainer:
    recipe = task.recipe
    if handle is not None and recipe.augment.patch_mask and masks_until(recipe) == float("inf"):
        raise ValueError(
            f"{recipe.name}: patches are masked and pruned in all epochs; pruning needs the numbers of all patches, so "
            "the masks must end first: set shrink.start to the epoch at which they end"
        )
    if recipe.drop_path:
        set_drop_path(model, recipe.drop_path)
    train = task.dataset(split.train, training=True, encoder=encoder)
    processes = int(os.environ.get("WORLD_SIZE", 1))
    if len(train) < recipe.batch_size:
        changes["dataloader_drop_last"] = False
    if recipe.best == "last":
        per_epoch = max(1, len(train) // recipe.batch_size)
        # Log by steps too, so that the checkpoint at the end of an epoch contains its loss.
        steps = {"logging_strategy": "steps", "logging_steps": per_epoch, "save_strategy": "steps"}
        changes = {**steps, "save_steps": recipe.save_epochs * per_epoch} | changes
    trainer = RecipeTrainer(
        recipe,
        model,
        arguments(recipe, task.out, task.seed, processes, **changes),
        teacher=teacher,
        train_dataset=train,
        eval_dataset=task.dataset(split.validation, encoder=encoder) if split.validation else None,
        compute_metrics=lambda output: score(output.predictions, output.label_ids, task.table.multi_label),
        callbacks=list(callbacks),
    )
    trainer.remove_callback(PrinterCallback)  # the caller shows the progress
    if recipe.augment.patch_mask:
        trainer.add_callback(PatchMask(model, recipe.augment.patch_mask, masks_until(recipe)))
    if handle is not None:
        trainer.add_callback(ShrinkSchedule(handle, recipe.shrink.start, recipe.shrink.epochs))
        if isinstance(handle.learned, Learned):
            # Epochs before the shrink are evaluated at the final keep rate too, with the initial predictors.
            handle.learned.trained.fill_(1)
    return trainer


def leave() -> None:
    """Close the process group at the end of a program that trained."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def save(task: Task, model: PreTrainedModel) -> None:
    """Save the model and its feature extractor in `task.out`."""
    model.config._attn_implementation = "sdpa"  # users do not need the implementation of the training
    model.save_pretrained(task.out)
    front: Any = task.front
    extractor = AudioMAEFeatureExtractor.of(front) if isinstance(front, LogMel) else front.extractor
    extractor.save_pretrained(task.out)


def _prunes(keep_rate: Any) -> bool:
    """Whether a keep rate, or one of several, is less than 1."""
    return any(map(_prunes, keep_rate)) if isinstance(keep_rate, tuple) else keep_rate < 1


def _resume(out: Path) -> str | None:
    checkpoint = last_checkpoint(out)
    return None if checkpoint is None else str(checkpoint)


def _teacher(recipe: Recipe, model: PreTrainedModel, labels: Sequence[str], init: Any, required: bool) -> Any:
    """Teacher that the recipe names, or a copy of the model before training; None if there is none.

    Args:
        recipe: the recipe.
        model: the model to train.
        labels: the data set's labels.
        init: start of the training, in place of the recipe's.
        required: whether the method needs a teacher.
    """
    if recipe.distill is None and not required:
        return None
    if recipe.distill is not None and recipe.distill.teacher is not None:
        teacher = load(recipe.distill.teacher)
        if teacher.config.num_labels != model.config.num_labels:
            raise ValueError(
                f"distill.teacher {recipe.distill.teacher} has {teacher.config.num_labels} labels, but the data set "
                f"has {model.config.num_labels}; name a teacher for this data set"
            )
        return teacher
    if init is None and recipe.init is None:
        raise ValueError(
            "distill (or the method) needs a teacher, and random weights cannot teach: start from trained weights, or "
            "name a teacher as distill.teacher"
        )
    if recipe.new_head or not is_trained_for(init or str(recipe.init), labels):
        raise ValueError(
            "distill has no teacher, and the model at the start gets a new head, which cannot teach: fine-tune it "
            "unpruned first and start from the result, or name a teacher as distill.teacher"
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
        "precision": precision_of(task.recipe),
        "processes": trainer.args.world_size,
        "steps": trainer.state.global_step,
        "losses": [round(entry["loss"], 5) for entry in trainer.state.log_history if "loss" in entry],
        "machine": machine(),
    }


def ticker(advance: Callable[[int, int], Any]) -> TrainerCallback:
    """Callback for a progress bar: after each step it passes the number of done steps and of all steps."""

    class Ticker(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            advance(state.global_step, state.max_steps)

    return Ticker()
