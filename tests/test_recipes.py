"""Recipes against Table 6 and the authors' code, how they are read, and the shrink schedule."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

import audioprune as ap
from audioprune.audio.features import PRESETS
from audioprune.models.sources import EMBEDDED, SUFFIXES
from audioprune.training import ShrinkSchedule, shrink
from audioprune.training.recipe import Recipe, read_recipe
from audioprune.training.recipe_files import FOLDER, names

from .conftest import SHARED
from .families import FAMILIES

DATA = ("speech-commands", "esc50", "voxceleb1", "audioset20k")
"""Data sets as recipes are named by them, in Table 6's order."""

TABLE6 = {
    "columns": ["SPC-2", "ESC-50", "VoxCeleb-1", "AS-20K"],
    "optimizer": "AdamW (0.9, 0.95)",
    "layer_decay": 0.75,
    "weight_decay": 1e-4,
    "schedule": "cosine",
    "base_lr": 1e-3,
    "min_lr": [1e-5, 1e-5, 1e-6, 1e-5],
    "warmup_epochs": 4,
    "epochs": [90, 120, 60, 60],
    "epochs_ast": [30, 30, None, None],
    "shrink_start": [10, 20, 10, 30],
    "shrink_start_ast": [5, 5, None, None],
    "shrink_epochs": [30, 40, 20, 20],
    "shrink_epochs_ast": [15, 15, None, None],
    "batch": [256, 64, 32, 16],
    "gpus": 2,
    "drop_path": 0.1,
    "mixup": [0.5, 0.0, 0.0, 0.5],
    "loss": ["BCE", "CE", "CE", "BCE"],
    "mean": [-6.846, -6.627, -6.370, -4.268],
    "std": [5.565, 5.359, 3.074, 4.569],
}
"""Token Pruning in Audio Transformers (arXiv 2504.01690), Table 6."""

MASKS = {"speech-commands": (48, 48), "esc50": (96, 24), "voxceleb1": (192, 48), "audioset20k": (192, 48)}
"""SpecAugment's widths, frames and mel channels, in the scripts of both models."""


def test_table_6_is_the_papers() -> None:
    path = SHARED / "reference" / "tables.json"
    if not path.exists():
        pytest.skip("the paper's tables (../shared/reference/tables.json) are not here")
    assert json.loads(path.read_text())["table6_audiomae_topk"] == TABLE6


@pytest.mark.parametrize("data", DATA)
def test_audiomae_follows_table_6(data: str) -> None:
    recipe = read_recipe(f"audiomae-{data}")
    table = {key: row[DATA.index(data)] if isinstance(row, list) else row for key, row in TABLE6.items()}
    optimizer, rate, preset = recipe.optimizer, recipe.learning_rate, PRESETS[recipe.preset]
    assert table["optimizer"] == f"AdamW {optimizer.betas}"
    assert optimizer.name == "adamw"
    assert (optimizer.layer_decay, optimizer.weight_decay) == (table["layer_decay"], table["weight_decay"])
    assert (rate.name, rate.min_lr) == (table["schedule"], table["min_lr"])
    assert (rate.warmup_epochs, rate.warmup_steps) == (table["warmup_epochs"], 0)
    assert (optimizer.lr, optimizer.lr_per) == (table["base_lr"], 256)
    assert recipe.peak_lr == pytest.approx(1e-3 * table["batch"] / 256)
    assert (recipe.epochs, recipe.batch_size) == (table["epochs"], table["batch"])
    assert (recipe.shrink.start, recipe.shrink.epochs) == (table["shrink_start"], table["shrink_epochs"])
    assert (recipe.drop_path, recipe.augment.mixup) == (table["drop_path"], table["mixup"])
    assert recipe.loss == table["loss"].lower()
    assert (preset.mean, preset.std) == (table["mean"], table["std"])


@pytest.mark.parametrize("data", [name for name, epochs in zip(DATA, TABLE6["epochs_ast"]) if epochs])
def test_ast_follows_table_6(data: str) -> None:
    recipe, column = read_recipe(f"ast-{data}"), DATA.index(data)
    planned = recipe.epochs, recipe.shrink.start, recipe.shrink.epochs
    assert planned == tuple(TABLE6[f"{key}_ast"][column] for key in ("epochs", "shrink_start", "shrink_epochs"))
    assert recipe.loss == TABLE6["loss"][column].lower()
    assert PRESETS[recipe.preset].mean == TABLE6["mean"][column]
    assert PRESETS[recipe.preset].std == TABLE6["std"][column]


@pytest.mark.parametrize(
    ("data", "lr", "batch", "epochs", "shrunk", "decay", "warmup", "mixup", "loss"),
    [
        ("esc50", 1e-5, 48, 30, (5, 20), (5, 1, 0.85), 0, 0.0, "ce"),
        ("speech-commands", 2.5e-4, 128, 30, (5, 20), (5, 1, 0.85), 0, 0.6, "bce"),
        ("audioset20k", 1e-4, 64, 30, (15, 25), (10, 5, 0.5), 1000, 0.5, "bce"),
        ("voxceleb1", 1e-4, 64, 30, (5, 20), (5, 1, 0.85), 1000, 0.0, "ce"),  # ours
    ],
)
def test_ast_follows_the_authors_scripts(
    data: str,
    lr: float,
    batch: int,
    epochs: int,
    shrunk: tuple[int, int],
    decay: tuple[int, int, float],
    warmup: int,
    mixup: float,
    loss: str,
) -> None:
    recipe = read_recipe(f"ast-{data}")
    optimizer, rate = recipe.optimizer, recipe.learning_rate
    assert (optimizer.name, optimizer.betas, optimizer.weight_decay) == ("adam", (0.95, 0.999), 5e-7)
    assert (optimizer.layer_decay, recipe.drop_path) == (1.0, 0.0)
    assert recipe.peak_lr == optimizer.lr == lr, "not scaled with the batch"
    assert (recipe.batch_size, recipe.epochs) == (batch, epochs)
    assert (recipe.shrink.start, recipe.shrink.start + recipe.shrink.epochs) == shrunk
    assert (rate.name, rate.start, rate.every, rate.factor) == ("step", *decay)
    assert (rate.warmup_steps, rate.warmup_epochs) == (warmup, 0)
    assert (recipe.augment.mixup, recipe.loss) == (mixup, loss)
    assert (recipe.augment.roll, recipe.augment.gain, recipe.augment.patch_mask) == (False, False, 0)
    assert recipe.config == {"frequency_stride": 16, "time_stride": 16}


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("model", ["audiomae", "ast"])
def test_what_table_6_leaves_to_the_code(model: str, data: str) -> None:
    recipe = read_recipe(f"{model}-{data}")
    assert (recipe.family, recipe.data) == (model, data.removesuffix("20k"))
    assert recipe.frames == {"speech-commands": 128, "esc50": 512}.get(data, 1024)
    assert (recipe.augment.time_mask, recipe.augment.frequency_mask) == MASKS[data]
    assert recipe.augment.noise == (data in ("speech-commands", "voxceleb1"))
    assert recipe.augment.mixup_alpha == 10
    assert recipe.label_smoothing == recipe.optimizer.max_grad_norm == 0
    assert recipe.pruning() == ap.TopK(0.5, score="cls" if model == "ast" else "attention")
    assert recipe.best == ("validation" if data in ("speech-commands", "voxceleb1") else "last")
    assert recipe.seeds == ([12, 34, 56, 78, 90] if data == "esc50" else [0])
    if model == "audiomae":
        assert recipe.augment.gain == recipe.augment.roll == (data != "voxceleb1")
        assert recipe.augment.patch_mask == (0.3 if data in ("esc50", "audioset20k") else 0)
        assert recipe.head_init_std == 2e-5


def test_pre_training() -> None:
    recipe = read_recipe("audiomae-pretrain-audioset")
    assert (recipe.task, recipe.init, recipe.epochs, recipe.batch_size) == ("pretrain", None, 32, 512)
    assert recipe.peak_lr == pytest.approx(4e-4)
    assert (recipe.optimizer.name, recipe.optimizer.betas, recipe.optimizer.weight_decay) == (
        "adamw",
        (0.9, 0.95),
        1e-4,
    )
    assert (recipe.learning_rate.name, recipe.learning_rate.warmup_epochs) == ("cosine", 3)
    assert recipe.config == {"mask_ratio": 0.8, "norm_pix_loss": True}
    assert recipe.pruning().keep_rate == 1.0


@pytest.mark.parametrize("name", names())
def test_every_recipe_reads(name: str) -> None:
    recipe = read_recipe(name)
    assert recipe == read_recipe(FOLDER / f"{name}.yaml")
    assert recipe.name == name
    assert recipe.about.strip()
    assert (
        recipe.init is None
        or "/" in recipe.init
        or Path(recipe.init).suffix in SUFFIXES
        or (recipe.init in {EMBEDDED, *names()} - {name})
    ), f"{recipe.init} is neither a recipe nor anything that load() reads"


def test_nothing_else_lies_in_the_folder() -> None:
    assert {path.suffix for path in FOLDER.iterdir() if path.is_file()} == {".yaml"}


def changed(*words: str) -> Recipe:
    return read_recipe("audiomae-esc50", words)


def test_overrides() -> None:
    recipe = changed("lr=1e-4", "optimizer.betas=[0.9,0.99]", "epochs=70", "augment.mixup=0.5", "distill.weight=0.25")
    assert recipe.optimizer.lr == 1e-4
    assert recipe.optimizer.betas == (0.9, 0.99)
    assert (recipe.epochs, recipe.augment.mixup) == (70, 0.5)
    assert recipe.distill is not None
    assert recipe.distill.weight == 0.25
    assert recipe.optimizer.weight_decay == 1e-4, "what was not named stays"
    assert changed("init=null").init is None
    assert changed("config.max_length=256").frames == 256
    assert changed("epochs=70", "epochs=80").epochs == 80, "the last word counts"
    assert changed("method.keep_rate=[0.9,0.6,0.3]").pruning().keep_rate == (0.9, 0.6, 0.3)


def test_another_keep_rate() -> None:
    recipe = read_recipe("ast-esc50")
    assert recipe.pruning(0.3) == ap.TopK(0.3, score="cls")
    assert recipe.pruning((0.9, 0.6, 0.3)).keep_rate == (0.9, 0.6, 0.3)
    assert changed("method={method: SegmentwiseTopK, keep_rate: 0.7}").pruning() == ap.SegmentwiseTopK(0.7)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("epochs", "NAME=VALUE"),
        ("=3", "NAME=VALUE"),
        ("epochs.x=3", "epochs has no settings"),
        ("optimizer.betas.x=3", "betas has no settings"),
        ("epoch=3", "epoch: Extra inputs"),
        ("optimizer.momentum=0.9", "optimizer.momentum: Extra inputs"),
        ("epochs=many", "epochs: Input should be a valid integer"),
        ("epochs=0", "epochs: Input should be greater than 0"),
        ("lr=-1", "optimizer.lr: Input should be greater than 0"),
        ("optimizer.betas=[0.9]", "optimizer.betas"),
        ("loss=mse", "loss: Input should be 'ce' or 'bce'"),
        ("preset=esc10", "preset: Input should be"),
        ("augment.mixup=2", "augment.mixup: Input should be less than or equal to 1"),
        ("shrink.epochs=101", "shrink ends at epoch 121, but training ends at 120"),
        ("epochs=50", "shrink ends at epoch 60, but training ends at 50"),
        ("method.method=Top", "method is 'Top'; it must be one of .*TopK"),
        ("method.share=0.5", "method TopK: .*share"),
        ("method.keep_rate=2", "keep_rate is 2"),
        ("method.score=loudness", "score is 'loudness'"),
    ],
)
def test_a_wrong_setting_is_named(word: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        changed(word)


def test_only_an_audiomae_is_pre_trained() -> None:
    with pytest.raises(ValueError, match="task is pretrain and family is ast"):
        read_recipe("ast-esc50", ["task=pretrain"])


def test_an_unknown_name() -> None:
    with pytest.raises(ValueError, match=r"'audiomae-esc5'.*did you mean audiomae-esc50\?"):
        read_recipe("audiomae-esc5")
    with pytest.raises(ValueError, match=r"'zzz'.*ast-esc50"):
        read_recipe("zzz")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"epochs: [1, 2", "not a YAML recipe"),
        (b"\xff\xfe\xfd", "not a YAML recipe"),
        (b"", "contains no settings"),
        (b"- epochs: 10", "contains no settings"),
        (b"epochs: 10", "family: Field required"),
    ],
)
def test_a_file_that_is_no_recipe(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        read_recipe(path)
    assert str(path) in str(error.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such recipe file"):
        read_recipe(tmp_path / "mine.yaml")


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    """It says what differs from the recipe that it extends, is named after its file, and can be given as text."""
    path = tmp_path / "mine.yaml"
    path.write_text("extends: ast-esc50\nepochs: 40\noptimizer: {lr: 3.0e-5}\nseeds: [1]")
    mine, below = read_recipe(str(path)), read_recipe("ast-esc50")
    assert mine.name == "mine"
    assert (mine.epochs, mine.optimizer.lr, mine.seeds) == (40, 3e-5, [1])
    assert mine.optimizer.betas == below.optimizer.betas, "groups of settings are merged"
    assert mine.shrink == below.shrink
    beside = tmp_path / "beside.yml"
    beside.write_text("extends: mine.yaml\nbatch_size: 2")
    assert read_recipe(beside) == mine.model_copy(update={"name": "beside", "batch_size": 2})
    assert read_recipe(beside, ["epochs=60"]).epochs == 60, "words come last"


@pytest.mark.parametrize(
    ("extended", "message"),
    [
        ("mine.yaml", "extends mine.yaml, which extends this file again"),
        ("other.yaml", "extends mine.yaml, which extends this file again"),
        ("nothing.yaml", "nothing.yaml: no such recipe file"),
        ("ast-esc51", r"no recipe 'ast-esc51'; did you mean ast-esc50\?"),
    ],
)
def test_a_recipe_that_cannot_be_extended(extended: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "other.yaml").write_text("extends: mine.yaml")
    (tmp_path / "mine.yaml").write_text(f"extends: {extended}\nepochs: 40")
    with pytest.raises(ValueError, match=message):
        read_recipe(tmp_path / "mine.yaml")


rates = st.floats(0.01, 1.0)


@given(st.integers(0, 200), st.integers(0, 200), st.integers(0, 400), rates)
def test_shrink(start: int, steps: int, step: int, rate: float) -> None:
    now, later = shrink(step, start, steps, rate), shrink(step + 1, start, steps, rate)
    assert rate - 1e-12 <= later <= now + 1e-12 <= 1 + 2e-12
    if step < start:
        assert now == 1.0
    elif step >= start + steps:
        assert now == rate
    else:
        assert now == pytest.approx(rate + (1 - rate) * math.cos(math.pi / 2 * (step - start) / steps) ** 2)


def test_shrink_passes_the_middle_halfway() -> None:
    assert [shrink(step, 10, 20, 0.5) for step in (0, 10, 20, 30)] == pytest.approx([1.0, 1.0, 0.75, 0.5])


@pytest.mark.parametrize("rate", [0.5, (0.9, 0.6, 0.3)])
def test_shrink_schedule_advances_with_every_iteration(rate: float | tuple[float, ...]) -> None:
    """Seven batches, two to a step: four steps an epoch. It shrinks from epoch 1 on, for two epochs."""
    handle = ap.prune(FAMILIES["audiomae"](), ap.TopK(keep_rate=rate))
    schedule, args = ShrinkSchedule(handle, start=1, epochs=2), SimpleNamespace(gradient_accumulation_steps=2)

    def run(step: int) -> float | tuple[float, ...]:
        state = SimpleNamespace(global_step=step)
        schedule.on_step_begin(args, state, None, train_dataloader=range(7))
        during = handle.keep_rate
        schedule.on_step_end(args, state, None)
        assert handle.keep_rate == rate, "between steps the final rate is set"
        return during

    seen = [run(step) for step in range(16)]
    final = rate if isinstance(rate, tuple) else (rate,)
    expected = [tuple(shrink(step, 4, 8, each) for each in final) for step in range(16)]
    assert seen == [each if isinstance(rate, tuple) else each[0] for each in expected]
    assert len(set(seen)) == 9, "another rate at each of the eight steps, after a first of 1"
    assert run(6) == seen[6], "a resumed run goes on at the rate of its step"


def test_a_shrink_of_no_epochs_jumps() -> None:
    handle = ap.prune(FAMILIES["audiomae"](), ap.TopK(keep_rate=0.5))
    schedule = ShrinkSchedule(handle, start=0.5, epochs=0)
    assert [schedule.rate(step, 4) for step in range(4)] == [1.0, 1.0, 0.5, 0.5]


def test_a_shrink_in_steps_needs_no_length() -> None:
    handle = ap.prune(FAMILIES["audiomae"](), ap.TopK(keep_rate=0.5))
    schedule, args = ShrinkSchedule(handle, start=1, steps=2), SimpleNamespace(gradient_accumulation_steps=1)
    stream, rates = iter(()), []
    schedule.on_train_begin(args, SimpleNamespace(max_steps=4), None, train_dataloader=stream)
    for step in range(4):
        schedule.on_step_begin(args, SimpleNamespace(global_step=step), None, train_dataloader=stream)
        rates.append(handle.keep_rate)
    assert rates == pytest.approx([1.0, 1.0, 0.75, 0.5])
    with pytest.warns(UserWarning, match="reaches its final value at step 3, but the training ends at step 2"):
        schedule.on_train_begin(args, SimpleNamespace(max_steps=2), None, train_dataloader=stream)
    by_epochs = ShrinkSchedule(handle, start=0, epochs=1)
    with pytest.raises(ValueError, match=r"is a stream.*steps=1000"):
        by_epochs.on_train_begin(args, SimpleNamespace(max_steps=2), None, train_dataloader=stream)
    for wrong in ({}, {"epochs": 1, "steps": 1}):
        with pytest.raises(ValueError, match="either epochs=…, or steps=…"):
            ShrinkSchedule(handle, start=0, **wrong)


@pytest.mark.parametrize("wrong", [{"start": -1, "epochs": 2}, {"start": 0, "epochs": -2}, {"start": 0, "steps": -2}])
def test_a_shrink_schedule_counts_forward(wrong: dict[str, float]) -> None:
    handle = ap.prune(FAMILIES["audiomae"](), ap.TopK(keep_rate=0.5))
    with pytest.raises(ValueError, match="must not be negative"):
        ShrinkSchedule(handle, **wrong)
