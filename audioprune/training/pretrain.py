"""Masked pre-training of an AudioMAE from a recipe, with its loss curve and pictures of its reconstructions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback, set_seed

from ..data import Split
from ..disk import named_if_full
from ..files import read_json, write_json
from ..models.pretraining import AudioMAEForPreTraining
from . import finetune
from .model import build_model
from .pictures import loss_curve, reconstructions
from .task import RESULT, Task, record_task
from .trainer import last_checkpoint

PICTURED = 4
"""Clips in the picture of reconstructions."""
NORMALISED = (
    "Hidden patches are predicted normalised, and drawn with the true patch's mean and deviation: only their texture "
    "is predicted."
)


def pretrain(task: Task, callbacks: tuple[TrainerCallback, ...] = (), **changes: Any) -> dict[str, Any]:
    """Pre-train on the training clips of a split. An interrupted run continues; one that is done is skipped.

    Test clips and labels are not used. The folder `task.out` then contains the model, `losses.png` and
    `reconstructions.png`. `changes`: arguments of transformers' `TrainingArguments`. Returns the content of
    `result.json`.
    """
    record_task(task)
    if (task.out / RESULT).exists():
        return read_json(task.out / RESULT)
    set_seed(task.seed)
    split = task.split
    model = build_model(task.recipe, task.table.labels, task.init)
    assert isinstance(model, AudioMAEForPreTraining)
    trainer = finetune.make_trainer(task, model, split, callbacks=callbacks, **changes)
    checkpoint = last_checkpoint(task.out)
    with named_if_full(task.out):
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        result = finetune.describe_run(task, split, trainer)
        if trainer.is_world_process_zero():
            _finish(task, split, model, result)
    trainer.accelerator.wait_for_everyone()
    return result if trainer.is_world_process_zero() else {}


def _finish(task: Task, split: Split, model: AudioMAEForPreTraining, result: dict[str, Any]) -> None:
    """Draw the pictures; save the model and the result."""
    candidates = split.validation or split.train
    rows = candidates[:: max(1, len(candidates) // PICTURED)][:PICTURED]
    features = torch.stack([task.dataset(rows)[i]["input_values"] for i in range(len(rows))])
    picture(model.cpu(), features, [f"{row.path.name}: {', '.join(row.labels)}" for row in rows], task.out)
    loss_curve(result["losses"], task.out / "losses.png", task.recipe.name)
    finetune.save(task, model)
    write_json(task.out / RESULT, result)


@torch.inference_mode()
def picture(model: AudioMAEForPreTraining, features: Tensor, titles: Sequence[str], out: Path) -> None:
    """Draw clips (clips, frames, mels), the part that the model sees, and its reconstructions.

    Args:
        model: the pre-trained model.
        features: (clips, frames, mels).
        titles: title of each clip.
        out: folder to write to.
    """
    model.eval()
    noise = torch.rand(len(features), model.config.grid[0] * model.config.grid[1], generator=_fixed())
    outputs = model(features, noise)
    hidden = model.unpatchify(outputs.mask[..., None].expand(-1, -1, model.config.patch_size**2))
    drawn = model.reconstruct(features, outputs)
    note = NORMALISED if model.config.norm_pix_loss else ""
    reconstructions(features, hidden > 0, drawn, titles, out / "reconstructions.png", note)


def _fixed() -> torch.Generator:
    """Generator with a fixed seed: every picture hides the same patches, so that models can be compared."""
    return torch.Generator().manual_seed(0)
