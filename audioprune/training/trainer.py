"""transformers' Trainer with a recipe's optimizer, learning rate and loss, and with checkpoints that survive a kill."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..compare.evaluation import call
from ..core.pruning import Pruned, handle
from ..models.state import reason_of
from .forward_record import ForwardRecord, loss_inputs, record_forward
from .losses import distillation_loss, label_loss
from .optim import make_optimizer, make_scheduler
from .precision import check_precision, precision_of
from .recipe import Recipe


class RecipeTrainer(Trainer):
    """Trainer with the optimizer, learning rate and loss of a recipe, and the loss of the pruning method.

    teacher: model whose logits are learnt too (`recipe.distill`, and methods that need a teacher); it is not trained.
    """

    def __init__(self, recipe: Recipe, *args: Any, teacher: nn.Module | None = None, **kwargs: Any) -> None:
        self.recipe, self.teacher = recipe, teacher
        super().__init__(*args, **kwargs)
        # The loss here is a mean over clips, whatever the model's forward accepts.
        self.model_accepts_loss_kwargs = False
        if teacher is not None:
            teacher.eval().requires_grad_(False).to(self.args.device)
        if hasattr(self.train_dataset, "set_epoch"):
            self.add_callback(EpochSetter(self.train_dataset))

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        # transformers would write AST's tensors under their old names, and then not find them: a resumed run and the
        # best epoch would lose their weights.
        if self.args.should_save:
            folder = Path(output_dir or str(self.args.output_dir))
            model: Any = self.accelerator.unwrap_model(self.model)
            model.save_pretrained(folder, state_dict=state_dict, save_original_format=False)
            torch.save(self.args, folder / "training_args.bin")

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        with _readable(resume_from_checkpoint):
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with _readable(checkpoint):
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with _readable(checkpoint):
            super()._load_rng_state(checkpoint)

    def _load_scaler(self, checkpoint: str | None) -> None:
        with _readable(checkpoint):
            super()._load_scaler(checkpoint)

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        # transformers only warns, and continues with incomplete weights.
        wrong = [*load_result.missing_keys, *load_result.unexpected_keys]
        if wrong:
            raise ValueError(
                f"{self.args.output_dir}: its checkpoint is not of this model ({len(wrong)} tensors, {wrong[0]} …); "
                "remove the checkpoint-… folders to start again"
            )

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        # `drop_last` is for training; transformers would also drop the last clips of an evaluation.
        drops, self.args.dataloader_drop_last = self.args.dataloader_drop_last, False
        try:
            return super().get_eval_dataloader(eval_dataset)
        finally:
            self.args.dataloader_drop_last = drops

    def create_optimizer(self, model: nn.Module | None = None) -> Optimizer:
        if self.optimizer is None:
            self.optimizer = make_optimizer(cast(nn.Module, self.model), self.recipe)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Optimizer | None = None) -> LRScheduler:
        if self.lr_scheduler is None:
            # `max_steps` may end a run early; the schedule still covers all epochs.
            epochs, per_epoch = self.recipe.epochs, len(self.get_train_dataloader())
            self.lr_scheduler = make_scheduler(
                cast(Optimizer, optimizer or self.optimizer), self.recipe, epochs * per_epoch
            )
        return self.lr_scheduler

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        pruned = handle(model) if model.training else None
        with self._recording(model, pruned) as record:
            outputs = call(model, inputs)
        if self.recipe.task == "pretrain":
            loss = outputs.loss
        else:
            loss = label_loss(outputs.logits, inputs["labels"], self.recipe.loss, self.recipe.label_smoothing)
        if not model.training:
            return (loss, outputs) if return_outputs else loss
        teacher_logits, teacher_record = self._run_teacher(inputs)
        if teacher_logits is not None and self.recipe.distill is not None:
            weight = self.recipe.distill.weight
            loss = (1 - weight) * loss + weight * distillation_loss(outputs.logits, teacher_logits, self.recipe.distill)
        if pruned is not None and pruned.rates:
            step = loss_inputs(pruned, record, outputs.logits, inputs["labels"], teacher_record, teacher_logits)
            added = pruned.method.loss(step)
            loss = loss if added is None else loss + added
        return (loss, outputs) if return_outputs else loss

    def _recording(self, model: nn.Module, pruned: Pruned | None) -> AbstractContextManager[ForwardRecord]:
        return nullcontext(ForwardRecord()) if pruned is None else record_forward(model, pruned)

    def _run_teacher(self, inputs: dict[str, Any]) -> tuple[Tensor | None, ForwardRecord]:
        """Logits of the teacher, None without one, and the record of its forward."""
        if self.teacher is None:
            return None, ForwardRecord()
        # accelerate wraps the model's own forward in autocast, but not the teacher's.
        with torch.no_grad(), self.accelerator.autocast(), record_forward(self.teacher) as record:
            return call(self.teacher, inputs).logits, record


class EpochSetter(TrainerCallback):
    """Sets the epoch of a data set when an epoch begins.

    accelerate's loader does not do this if it shards or skips batches: in several processes, and in a run that
    continues within an epoch."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def on_epoch_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.dataset.set_epoch(int(state.epoch or 0))  # a fraction in a resumed run


def arguments(recipe: Recipe, out: Path, seed: int, processes: int = 1, **changes: Any) -> TrainingArguments:
    """Trainer arguments from a recipe.

    Args:
        recipe: the recipe.
        out: folder of the training.
        seed: seed.
        processes: number of processes.
        changes: arguments of transformers' `TrainingArguments` to set or replace.
    """
    if recipe.batch_size % processes:
        raise ValueError(f"batch_size is {recipe.batch_size}; it must be a multiple of the {processes} processes")
    check_precision(recipe)
    precision = precision_of(recipe)
    settings: dict[str, Any] = {
        "output_dir": str(out),
        "num_train_epochs": recipe.epochs,
        "per_device_train_batch_size": recipe.batch_size // processes,
        "per_device_eval_batch_size": min(64, recipe.batch_size),
        "max_grad_norm": recipe.optimizer.max_grad_norm,
        "bf16": precision == "bf16",
        "fp16": precision == "fp16",
        "seed": seed,
        "data_seed": seed,
        "save_strategy": "epoch",
        "eval_strategy": "epoch" if recipe.best == "validation" else "no",
        "save_total_limit": 2,
        "logging_strategy": "epoch",
        "report_to": ["tensorboard"],
        "label_names": ["labels"],
        "remove_unused_columns": False,
        "dataloader_drop_last": True,
        "disable_tqdm": True,
    }
    if recipe.best == "validation":
        settings |= {"load_best_model_at_end": True, "metric_for_best_model": "score", "greater_is_better": True}
    return TrainingArguments(**{**settings, "use_cpu": not torch.cuda.is_available(), **changes})


@contextmanager
def _readable(checkpoint: str | None) -> Iterator[None]:
    """Raise `ValueError` that names the checkpoint if a file in it is damaged."""
    try:
        yield
    except Exception as error:  # a damaged file may raise any
        raise ValueError(
            f"{checkpoint}: a file in it cannot be read ({reason_of(error)}); remove this folder to continue from the "
            "checkpoint before it, or from the start"
        ) from error


def last_checkpoint(out: Path) -> Path | None:
    """Newest complete checkpoint. Incomplete ones, of a run that was killed while saving, are removed."""
    folders = [path for path in out.glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdigit()]
    for path in sorted(folders, key=lambda p: int(p.name.removeprefix("checkpoint-")), reverse=True):
        if _complete(path):
            return path
        shutil.rmtree(path, ignore_errors=True)  # another process may remove it too
    return None


def _complete(checkpoint: Path) -> bool:
    """Whether a checkpoint is complete. The Trainer writes `trainer_state.json` last."""
    try:
        step = TrainerState.load_from_json(str(checkpoint / "trainer_state.json")).global_step
    except Exception:  # it may contain anything
        return False
    if checkpoint.name != f"checkpoint-{step}":
        return False
    return (checkpoint / "optimizer.pt").exists() and (checkpoint / "scheduler.pt").exists()


def frozen_copy(model: nn.Module) -> nn.Module:
    """Copy of a model in its current state, as a teacher."""
    return copy.deepcopy(model).eval().requires_grad_(False)
