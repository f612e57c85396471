"""Recipes: everything that a training needs to know but the data's place, as YAML."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ..audio.features import PRESETS
from ..core.pruning import METHODS
from ..methods import Method

FOLDER = Path(__file__).parent / "recipes"


class _Loader(yaml.SafeLoader):
    """Reads 1e-6 as a number, which YAML 1.1 takes for a word."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+"), list("-+0123456789")
)


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Optimizer(Part):
    """lr: peak learning rate, of a batch of `lr_per` clips where that is given (it scales linearly), else as it is.
    layer_decay: the learning rate of block i of D is lr · layer_decay^(D − i), of the embeddings lr · layer_decay^(D +
    1). AdamW's weight decay spares biases, norms, positions and tokens; Adam's is L2 and spares nothing, as AST's."""

    name: Literal["adamw", "adam"] = "adamw"
    lr: float = Field(gt=0)
    lr_per: int | None = Field(None, gt=0)
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = Field(0.0, ge=0)
    layer_decay: float = Field(1.0, gt=0, le=1)
    max_grad_norm: float = Field(0.0, ge=0)


class LearningRate(Part):
    """cosine: to `min_lr` at the last iteration. step: times `factor` at epoch `start` and every `every` epochs from
    there. Both after a linear warm-up, in epochs or iterations."""

    name: Literal["cosine", "step"] = "cosine"
    warmup_epochs: float = Field(0.0, ge=0)
    warmup_steps: int = Field(0, ge=0)
    min_lr: float = Field(0.0, ge=0)
    start: int = Field(0, ge=0)
    every: int = Field(1, gt=0)
    factor: float = Field(1.0, gt=0, le=1)


class Shrink(Part):
    """Epochs (0-based start, length) in which the keep rate falls from 1."""

    start: int = Field(0, ge=0)
    epochs: int = Field(0, ge=0)


class Augment(Part):
    """Of training clips. SpecAugment's two masks and the patch mask stop when the shrink starts.

    mixup: probability of mixing a clip's waveform with another's, λ ~ Beta(mixup_alpha, mixup_alpha).
    roll, gain: roll the waveform by a random number of samples; multiply it by Beta(10, 10) + 0.5.
    noise: add uniform noise of a random level to the spectrogram and roll it by −10 … 9 frames.
    time_mask, frequency_mask: greatest width of the masked stretch, in frames and mel channels.
    SpecAugment's masks are 0 after normalising, the data set's mean (a 0 before normalising would be a loud patch).
    patch_mask: share of the patch columns, and again of the patch rows, that do not enter the model.
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
        """Whether waveforms change, so that spectrograms cannot come from a cache."""
        return bool(self.mixup or self.roll or self.gain)


class Distill(Part):
    """weight: of the teacher's part of the loss, the labels' has the rest. teacher: a folder or hub id; None is the
    model that training starts from, unpruned. temperature: of "kl"."""

    weight: float = Field(0.5, gt=0, le=1)
    loss: Literal["kl", "bce"] = "kl"
    temperature: float = Field(1.0, gt=0)
    teacher: str | None = None


class Recipe(Part):
    """One training.

    about: where the figures come from.
    task: "classify", or "pretrain" (masked pre-training of an AudioMAE).
    data: name of the data set as `audioprune.data.read` has it; None takes any.
    init: what the weights start from: None (drawn at random), a hub id, a folder or weight file, or a recipe (its
        name, or a .yaml file beside this one), which a sweep then trains first, on the same clips.
    config: settings of the model's config. preset: of the front end (`audioprune.PRESETS`).
    needs_init: whether nothing can be learnt from random weights, so that a start must be named.
    new_head: draw the head anew even where the start's is for the same labels.
    method: of pruning, as in a settings file; its keep rate is the default of `--keep-rate`.
    batch_size: clips of one optimizer step, over all processes.
    best: which weights are kept: those of the last epoch, or of the best epoch on the validation clips. Test clips
        are never asked. validation_share: share of the training clips set aside where a data set has no validation.
    """

    name: str
    about: str
    task: Literal["classify", "pretrain"] = "classify"
    data: str | None = None
    family: Literal["audiomae", "ast", "ast-mp"]
    init: str | None = None
    needs_init: bool = False
    new_head: bool = False
    config: dict[str, Any] = {}
    preset: Literal["esc50", "speech-commands", "voxceleb1", "audioset", "fsdd"]
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
    precision: Literal["fp32", "bf16", "fp16"] = "bf16"
    attention: Literal["sdpa", "eager"] = "sdpa"
    best: Literal["last", "validation"] = "last"
    validation_share: float = Field(0.0, ge=0, lt=1)
    save_epochs: int = Field(1, gt=0)
    seeds: list[int] = [0]

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        if self.shrink.start + self.shrink.epochs > self.epochs:
            raise ValueError(
                f"shrink ends at epoch {self.shrink.start + self.shrink.epochs}, training at {self.epochs}: the final "
                "keep rate would never be reached"
            )
        if self.task == "pretrain" and self.family != "audiomae":
            raise ValueError(f"task is pretrain and family is {self.family}; only an AudioMAE is pre-trained here")
        if self.task == "pretrain" and (self.augment.patch_mask or self.distill or self.best == "validation"):
            raise ValueError("task is pretrain, where augment.patch_mask, distill and best=validation mean nothing")
        self.pruning()
        return self

    def pruning(self, keep_rate: float | Sequence[float] | None = None) -> Method:
        """The method, at its own keep rate or another."""
        settings = dict(self.method)
        name = settings.pop("method", "TopK")
        if name not in METHODS:
            raise ValueError(f"method is {name!r}; there are {', '.join(METHODS)}")
        try:
            method = METHODS[name](**settings)
        except TypeError as error:
            raise ValueError(f"method {name}: {error}") from None
        return method if keep_rate is None else method.with_keep_rate(keep_rate)

    @property
    def peak_lr(self) -> float:
        """Learning rate after the warm-up, of the last layers."""
        per = self.optimizer.lr_per
        return self.optimizer.lr * (self.batch_size / per if per else 1.0)

    @property
    def frames(self) -> int:
        """Frames of 10 ms in a spectrogram."""
        return int(self.config.get("max_length", PRESETS[self.preset].max_length))

    @property
    def starts_from(self) -> str | None:
        """The recipe that is trained first, if `init` is one."""
        return self.init if self.init in names() or Path(self.init or "").suffix in YAML else None


YAML = (".yaml", ".yml")


def names() -> list[str]:
    """The recipes that come with audioprune."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def read_recipe(source: str | Path, overrides: Iterable[str] = ()) -> Recipe:
    """A recipe by its name or its file, with settings changed by words such as "optimizer.lr=1e-4" or "epochs=3".

    A file may say `extends: NAME` and give only what differs.

    Raises `ValueError` that names the file, the setting, and what would be right.
    """
    path = find(source)
    settings = {**_settings(path), "name": path.stem}
    for word in overrides:
        _override(settings, word)
    try:
        return Recipe.model_validate(settings)
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, e['loc'])) or 'recipe'}: {e['msg']}{_hint(e)}" for e in error.errors()]
        raise ValueError(f"{source}: " + "; ".join(problems)) from None


def _hint(problem: Any) -> str:
    """Settings that a misspelt one may have meant, or how to see those that there are."""
    if problem["type"] != "extra_forbidden":
        return ""
    *outer, last = map(str, problem["loc"])
    part: Any = Recipe
    for name in outer:
        part = part.model_fields[name].annotation if name in getattr(part, "model_fields", ()) else None
    close = difflib.get_close_matches(last, list(getattr(part, "model_fields", ())), n=1)
    return f"; did you mean {close[0]}?" if close else "; audioprune recipes NAME prints all settings"


def find(source: str | Path) -> Path:
    """The file of a recipe: of that name among ours, or the path itself where it ends in .yaml."""
    path = Path(source)
    if path.suffix in YAML:
        return path.resolve()
    path = FOLDER / f"{source}.yaml"
    if not path.exists():
        close = difflib.get_close_matches(str(source), names(), n=1)
        hint = f"; did you mean {close[0]}?" if close else "."
        raise ValueError(f"no recipe {str(source)!r}{hint} There are {', '.join(names())}; or give a .yaml file")
    return path


def _settings(path: Path, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """A file's settings over those of the recipe that it extends."""
    try:
        settings = yaml.load(path.read_text(), Loader=_Loader)
    except FileNotFoundError:
        raise ValueError(f"{path}: no such recipe file") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: not a YAML recipe ({error})") from error
    if not isinstance(settings, dict):
        raise ValueError(f"{path}: expected settings such as 'epochs: 10'")
    if Path(str(settings.get("init"))).suffix in YAML:
        settings["init"] = str((path.parent / settings["init"]).resolve())
    extended = settings.pop("extends", None)
    settings.pop("name", None)  # a recipe is called as its file is
    if extended is None:
        return settings
    try:
        below = find(path.parent / str(extended) if Path(str(extended)).suffix in YAML else str(extended))
    except ValueError as error:
        raise ValueError(f"{path}: extends {extended}: {error}") from None
    if below in seen or below == path:
        raise ValueError(f"{path}: extends {extended}, which extends it in turn")
    return _merged(_settings(below, (*seen, path)), settings)


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Settings of `above` over those of `below`, groups of settings merged one by one."""
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        if both and value.get("method", merged[key].get("method")) != merged[key].get("method"):
            both = False  # another method has other settings
        merged[key] = _merged(merged[key], value) if both else value
    return merged


def _override(settings: dict[str, Any], word: str) -> None:
    """Apply "a.b=value", the value read as YAML. A lone "lr" is short for "optimizer.lr"."""
    key, equals, value = word.partition("=")
    if not equals or not key:
        raise ValueError(f"--set is {word!r}; write NAME=VALUE, such as epochs=10 or optimizer.lr=1e-4")
    *outer, last = {"lr": "optimizer.lr"}.get(key, key).split(".")
    for name in outer:
        inner = settings.setdefault(name, {})
        if not isinstance(inner, dict):
            raise ValueError(f"--set {word}: {name} holds no settings of its own")
        settings = inner
    try:
        settings[last] = yaml.load(value, Loader=_Loader)
    except yaml.YAMLError as error:
        raise ValueError(f"--set {word}: the value is not YAML ({str(error).splitlines()[0]})") from None
