"""Trainings that are killed, trainings in two processes, and the first steps of every recipe."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file

from audioprune.data import ClipRow, ClipTable, read
from audioprune.training.finetune import fine_tune
from audioprune.training.model import build_model
from audioprune.training.pretrain import pretrain
from audioprune.training.recipe import read_recipe
from audioprune.training.recipe_files import names
from audioprune.training.task import Task

from .conftest import class_folders
from .processes import begin, run

SHAPE = "config: {hidden_size: 32, num_hidden_layers: 4, num_attention_heads: 2, intermediate_size: 64, max_length: 64}"
RECIPE = f"""
about: For a test.
family: audiomae
preset: speech-commands
{SHAPE}
epochs: 4
batch_size: 4
optimizer: {{lr: 1.0e-3, weight_decay: 0.05, layer_decay: 0.9}}
learning_rate: {{warmup_epochs: 1}}
method: {{method: TopK, keep_rate: 0.5}}
shrink: {{start: 1, epochs: 2}}
precision: fp32
"""
NOISY = """
drop_path: 0.2
augment: {mixup: 0.5, roll: true, gain: true, noise: true, time_mask: 16, frequency_mask: 16, patch_mask: 0.3}
"""

SCRIPT = """
import os, signal, sys
from pathlib import Path

import torch
from transformers import TrainerCallback

from audioprune.data import read
from audioprune.training.finetune import fine_tune, leave
from audioprune.training.task import Task
from audioprune.training.recipe import read_recipe

torch.set_num_threads(1)


class Kill(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


recipe, data, out, kill = sys.argv[1:]
fine_tune(Task(read_recipe(recipe), read(data), Path(out), seed=3), (Kill(int(kill)),))
leave()
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Two classes, twelve training clips and four test clips."""
    return class_folders(tmp_path_factory.mktemp("data"), {"train": 6, "test": 2})


def train(recipe: Path, data: Path, out: Path, kill: int = -1) -> int | None:
    """Exit code of a training in a process of its own, which is killed at the beginning of a step."""
    said = out.with_suffix(".txt")
    code = run(SCRIPT, recipe, data, out, kill, said=said)
    assert code in (0, -signal.SIGKILL), said.read_text()
    return code


@pytest.fixture(scope="module")
def noisy(data: Path, tmp_path_factory) -> Path:
    """A folder with a recipe full of chance, and with what it learns when nobody kills it."""
    folder = tmp_path_factory.mktemp("noisy")
    (folder / "tiny.yaml").write_text(RECIPE + NOISY)
    assert train(folder / "tiny.yaml", data, folder / "whole") == 0
    return folder


@pytest.mark.parametrize("step", [4, 7, 9])
def test_kill_and_resume_give_the_same_weights(step: int, data: Path, noisy: Path, tmp_path: Path) -> None:
    """Three steps an epoch: killed at the second, third and first step of an epoch; each checkpoint is an epoch's."""
    recipe, whole, killed = noisy / "tiny.yaml", noisy / "whole", tmp_path / "killed"
    assert train(recipe, data, killed, step) == -signal.SIGKILL
    assert not (killed / "result.json").exists()
    assert train(recipe, data, killed) == 0
    expected, found = (load_file(folder / "model.safetensors") for folder in (whole, killed))
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[key], found[key]) for key in expected)
    losses = [json.loads((folder / "result.json").read_text())["losses"] for folder in (whole, killed)]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 4


def as_torchrun(recipe: Path, data: Path, out: Path) -> None:
    """Train in two processes that a launcher begins, as a user does."""
    script = out.with_suffix(".py")
    script.write_text(SCRIPT)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2]
    words = [sys.executable, *launch, script, recipe, data, out, -1]
    two = subprocess.run(list(map(str, words)), env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True)
    assert two.returncode == 0, two.stderr.decode()


def by_hand(recipe: Path, data: Path, out: Path) -> None:
    """Train in two processes that are told of each other by what a launcher would tell them."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    told = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
    files = [out.with_suffix(f".{rank}") for rank in range(2)]
    both = [
        begin(SCRIPT, recipe, data, out, -1, said=file, environment={**told, "RANK": rank, "LOCAL_RANK": rank})
        for rank, file in enumerate(files)
    ]
    for process, file in zip(both, files, strict=True):
        process.join(300)
        assert process.exitcode == 0, file.read_text()


@pytest.mark.parametrize(
    ("augment", "launch"),
    [("", by_hand), ("augment: {mixup: 0.5, roll: true, noise: true, time_mask: 16}\n", as_torchrun)],
)
def test_two_processes_learn_as_one(augment: str, launch: Callable[..., None], data: Path, tmp_path: Path) -> None:
    """The same total batch, without what is random by process: drop path and patch masks. Augmentation goes by clip."""
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(RECIPE + augment)
    assert train(recipe, data, tmp_path / "one") == 0
    launch(recipe, data, tmp_path / "two")
    expected, found = (json.loads((tmp_path / name / "result.json").read_text()) for name in ("one", "two"))
    assert found["steps"] == expected["steps"] == 12
    assert found["processes"] == 2
    assert found["losses"] == pytest.approx(expected["losses"], rel=1e-4)
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("one", "two")]
    for key, value in weights[0].items():
        torch.testing.assert_close(weights[1][key], value, rtol=1e-3, atol=1e-5)


CLASSES = {"esc50": 50, "speech-commands": 35, "voxceleb1": 1251, "audioset": 527}


def synthetic(folder: Path, data: str | None, frames: int) -> ClipTable:
    """Eight clips of noise with as many labels as the data set has, a little shorter than the model's length."""
    labels = tuple(f"label {i}" for i in range(CLASSES.get(data or "", 10)))
    rows, random = [], np.random.default_rng(0)
    for i in range(8):
        path = folder / f"{i}.wav"
        soundfile.write(path, random.normal(0, 0.1, 160 * frames - 800).astype(np.float32), 16_000)
        several = labels[i : i + 2] if data == "audioset" else labels[i : i + 1]
        rows.append(ClipRow(path, several, part="test" if i > 5 else "train"))
    return ClipTable(data or "synthetic", tuple(rows), labels, multi_label=data == "audioset")


@pytest.mark.parametrize("name", names())
def test_two_steps_of_every_recipe(name: str, tmp_path: Path) -> None:
    """At the recipe's length, labels, loss and augmentation; narrow, so that it takes a second."""
    small = ["batch_size=2", "init=null", "needs_init=false", "best=last"]
    small += [f"config.{key}={value}" for key, value in (("hidden_size", 32), ("num_attention_heads", 2))]
    small += ["config.intermediate_size=64", "config.num_hidden_layers=4"]
    recipe = read_recipe(name, small)
    if recipe.task == "pretrain":
        recipe = read_recipe(name, [*small, "config.decoder_hidden_size=16", "config.decoder_num_hidden_layers=1"])
    table = synthetic(tmp_path, recipe.data, recipe.frames)
    if recipe.distill:  # the teacher is what these start from
        build_model(recipe, table.labels).save_pretrained(tmp_path / "teacher")
        recipe = read_recipe(name, [*small, f"distill.teacher={tmp_path / 'teacher'}"])
    task = Task(recipe, table, tmp_path / "out")
    result = (pretrain if recipe.task == "pretrain" else fine_tune)(
        task, max_steps=2, logging_steps=1, logging_strategy="steps"
    )
    assert result["steps"] == 2
    assert all(np.isfinite(result["losses"]))
    assert result["losses"]
    if recipe.task == "classify":
        assert 0 <= result["map" if table.multi_label else "accuracy"] <= 1


def test_data_is_read_as_it_lies(data: Path) -> None:
    table = read(data)
    assert len(table.split().train) == 12
    assert len(table.split().test) == 4
