"""Recipes: all settings of a training except the location of the data, as YAML."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ..audio.features import PRESETS
from ..core.settings import parse_settings
from ..methods import METHODS, Method
from .recipe_files import YAML, find, names, override, settings_of

WHISPER_FRAMES = 3000


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Optimizer(Part):
    """Settings of the optimizer.

    lr: peak learning rate; if `lr_per` is given, that of a batch of `lr_per` clips, and it scales linearly.
    layer_decay: the learning rate of block i of D is lr · layer_decay^(D − i), that of the embeddings
        lr · layer_decay^(D + 1).
    weight_decay: AdamW does not decay biases, norms, positions and tokens. Adam uses L2 on all parameters, as AST does.
    """

    name: Literal["adamw", "adam"] = "adamw"
    lr: float = Field(gt=0)
    lr_per: int | None = Field(None, gt=0)
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = Field(0.0, ge=0)
    layer_decay: float = Field(1.0, gt=0, le=1)
    max_grad_norm: float = Field(0.0, ge=0)


class LearningRate(Part):
    """Learning-rate schedule, after a linear warm-up in epochs or iterations.

    "cosine" ends at `min_lr` at the last iteration. "step" multiplies by `factor` at epoch `start`, and then every
    `every` epochs."""

    name: Literal["cosine", "step"] = "cosine"
    warmup_epochs: float = Field(0.0, ge=0)
    warmup_steps: int = Field(0, ge=0)
    min_lr: float = Field(0.0, ge=0)
    start: int = Field(0, ge=0)
    every: int = Field(1, gt=0)
    factor: float = Field(1.0, gt=0, le=1)


class Shrink(Part):
    """Epochs in which the keep rate falls from 1: start (0-based) and length."""

    start: int = Field(0, ge=0)
    epochs: int = Field(0, ge=0)


class Augment(Part):
    """Augmentation of training clips. SpecAugment's two masks and the patch mask stop when the shrink starts.

    mixup: probability of mixing a clip's waveform with another's, λ ~ Beta(mixup_alpha, mixup_alpha).
    roll, gain: roll the waveform by a random number of samples; multiply it by Beta(10, 10) + 0.5.
    noise: add uniform noise of a random level to the spectrogram and roll it by −10 … 9 frames.
    time_mask, frequency_mask: greatest width of the masked stretch, in frames and mel channels.
    SpecAugment's masks are 0 after normalisation, the data set's mean (0 before normalisation would be a loud patch).
    patch_mask: share of the patch columns, and also of the patch rows, that do not enter the model.
    """

    mixup: float = Field(0.0, ge=0, le=1)
    mixup_alpha: float = Field(10.0, gt=0)
    roll: bool = False
    gain: bool = False
    noise: bool = False
    time_mask: int = Field(0, ge=0)
    frequency_mask: int = Field(0, ge=0)
    patch_mask: float = Field(0.0, ge=0, lt=1)

    @property
    def on_waveform(self) -> bool:
        """Whether waveforms change. If so, spectrograms cannot come from a cache."""
        return bool(self.mixup or self.roll or self.gain)


class Distill(Part):
    """Distillation from a teacher.

    weight: weight of the teacher's part of the loss; the labels' part has the rest.
    loss: "kl" or "bce".
    temperature: temperature of "kl".
    teacher: a folder or hub id; None is the model at the start of the training, unpruned.
    """

    weight: float = Field(0.5, gt=0, le=1)
    loss: Literal["kl", "bce"] = "kl"
    temperature: float = Field(1.0, gt=0)
    teacher: str | None = None


class Recipe(Part):
    """Settings of one training.

    about: source of the numbers.
    task: "classify", or "pretrain" (masked pre-training of an AudioMAE).
    data: name of the data set in `audioprune.data.read`; None allows any.
    init: initial weights: None (random), a hub id, a folder or weight file, or a recipe (its name, or a .yaml file in
        the same folder). A sweep trains such a recipe first, on the same clips.
    config: settings of the model's config. preset: preset of the front end (`audioprune.PRESETS`); a Whisper has its
        own front end.
    needs_init: whether the training must start from trained weights.
    new_head: initialise the head again, even if the start has a head for the same labels.
    trained: "all" weights; the "head" alone, for which the outputs of a Whisper's encoder are computed once and kept
        with the decoded clips; or the head and so many of the last blocks.
    method: pruning method, as in a settings file; its keep rate is the default of `--keep-rate`.
    batch_size: clips of one optimizer step, over all processes.
    precision: "auto" is bf16 where the machine has instructions for it, and fp32 elsewhere: without them a CPU takes
        eight times as long.
    best: which weights are kept: those of the last epoch, or of the best epoch on the validation clips. Test clips
        are never used for this. validation_share: share of the training clips for validation, if the data set has no
        validation clips.
    """

    name: str
    about: str
    task: Literal["classify", "pretrain"] = "classify"
    data: str | None = None
    family: Literal["audiomae", "ast", "ast-mp", "whisper"]
    init: str | None = None
    needs_init: bool = False
    new_head: bool = False
    trained: Literal["all", "head"] | Annotated[int, Field(gt=0)] = "all"
    config: dict[str, Any] = {}
    preset: Literal["esc50", "speech-commands", "voxceleb1", "audioset", "fsdd"] | None = None
    method: dict[str, Any] = {"method": "TopK", "keep_rate": 1.0}
    epochs: int = Field(gt=0)
    batch_size: int = Field(gt=0)
    optimizer: Optimizer
    learning_rate: LearningRate = LearningRate()
    shrink: Shrink = Shrink()
    loss: Literal["ce", "bce"] = "ce"
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    drop_path: float = Field(0.0, ge=0, lt=1)
    head_init_std: float | None = Field(None, gt=0)
    augment: Augment = Augment()
    distill: Distill | None = None
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    attention: Literal["sdpa", "eager"] = "sdpa"
    best: Literal["last", "validation"] = "last"
    validation_share: float = Field(0.0, ge=0, lt=1)
    save_epochs: int = Field(1, gt=0)
    seeds: list[int] = [0]

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        if self.shrink.start + self.shrink.epochs > self.epochs:
            raise ValueError(
                f"shrink ends at epoch {self.shrink.start + self.shrink.epochs}, but training ends at {self.epochs}, "
                "before the final keep rate; set shrink.start or shrink.epochs lower"
            )
        if self.task == "pretrain" and self.family != "audiomae":
            raise ValueError(f"task is pretrain and family is {self.family}; only audiomae can be pre-trained")
        if self.task == "pretrain" and (self.augment.patch_mask or self.distill or self.best == "validation"):
            raise ValueError(
                "task is pretrain, which has no augment.patch_mask, distill or best=validation; remove them"
            )
        self._check_front_end()
        self.pruning()
        return self

    def _check_front_end(self) -> None:
        if self.family != "whisper":
            if self.preset is None:
                raise ValueError(f"preset is missing; {self.family} needs one: {', '.join(PRESETS)}")
            if self.trained == "head":
                raise ValueError(f"trained is head, and family is {self.family}; only a whisper's head trains alone")
            return
        masks = {"noise", "time_mask", "frequency_mask", "patch_mask"}
        if found := sorted(masks & {name for name, value in self.augment if value}):
            raise ValueError(f"family is whisper, whose features have no {', '.join(found)}; remove it from augment")
        if self.trained == "head" and self.augment.on_waveform:
            raise ValueError(
                "trained is head: the encoder hears each clip once, so that nothing of it can be augmented"
            )

    def pruning(self, keep_rate: float | Sequence[float] | None = None) -> Method:
        """Pruning method, at its own keep rate or at another."""
        if isinstance(self.method.get("method"), list):
            method = parse_settings(json.dumps(self.method), "method")
            return method if keep_rate is None else method.with_keep_rate(keep_rate)
        settings = dict(self.method)
        name = settings.pop("method", "TopK")
        if name not in METHODS:
            raise ValueError(f"method is {name!r}; it must be one of {', '.join(METHODS)}")
        try:
            method = METHODS[name](**settings)
        except TypeError as error:
            raise ValueError(f"method {name}: {error}") from None
        return method if keep_rate is None else method.with_keep_rate(keep_rate)

    @property
    def peak_lr(self) -> float:
        """Learning rate of the last layers after the warm-up."""
        per = self.optimizer.lr_per
        return self.optimizer.lr * (self.batch_size / per if per else 1.0)

    @property
    def frames(self) -> int:
        """Frames of 10 ms in a spectrogram."""
        if self.preset is None:
            return WHISPER_FRAMES
        return int(self.config.get("max_length", PRESETS[self.preset].max_length))

    @property
    def starts_from(self) -> str | None:
        """Recipe that is trained first, if `init` names one."""
        return self.init if self.init in names() or Path(self.init or "").suffix in YAML else None


def read_recipe(source: str | Path, overrides: Iterable[str] = ()) -> Recipe:
    """Read a recipe by its name or file, and change settings by words such as "optimizer.lr=1e-4" or "epochs=3".

    A file may contain `extends: NAME` and only the settings that differ.

    Raises `ValueError` that names the file, the setting, and the valid values.
    """
    path = find(source)
    settings = {**settings_of(path), "name": path.stem}
    for word in overrides:
        override(settings, word)
    try:
        return Recipe.model_validate(settings)
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, e['loc'])) or 'recipe'}: {e['msg']}{_hint(e)}" for e in error.errors()]
        raise ValueError(f"{source}: " + "; ".join(problems)) from None


def _hint(problem: Any) -> str:
    """Hint for an unknown setting: the most similar one, or the command that lists all settings."""
    if problem["type"] != "extra_forbidden":
        return ""
    *outer, last = map(str, problem["loc"])
    part: Any = Recipe
    for name in outer:
        part = part.model_fields[name].annotation if name in getattr(part, "model_fields", ()) else None
    close = difflib.get_close_matches(last, list(getattr(part, "model_fields", ())), n=1)
    return f"; did you mean {close[0]}?" if close else "; audioprune recipes NAME prints all settings"
