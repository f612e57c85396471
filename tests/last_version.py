"""Runs that were cut short, as the last version left them, and how to make such files anew.

The files are in tests/fixtures/last-version. To make those of the next "last version", check out that version with
this file in its tests and run `python -m tests.last_version tests/fixtures/last-version` there.

Weights, clips and times are whole numbers over powers of two: every machine computes the same fingerprints.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch import Tensor

import audioprune as ap
from audioprune.analysis import models as analysed
from audioprune.analysis import run as analysis_run
from audioprune.audio.features import LogMel
from audioprune.bulk.run import run as tag_all
from audioprune.calibration import run as calibration_run
from audioprune.calibration.costs import Costs
from audioprune.core.settings import describe
from audioprune.data import ClipRow, read
from audioprune.lm.evaluate import Evaluation
from audioprune.lm.items import Benchmark, Item
from audioprune.lm.settings import Setting
from audioprune.tagging.bulk import open_log
from audioprune.training import sweep
from audioprune.training.recipe import read_recipe

from .conftest import class_folders
from .families import audiomae

CLIPS = 16
RATES = (0.7, 0.4)
RECIPE = """
about: For a test.
family: audiomae
preset: speech-commands
config: {hidden_size: 16, num_hidden_layers: 4, num_attention_heads: 2, intermediate_size: 32, max_length: 64}
epochs: 2
batch_size: 4
optimizer: {lr: 1.0e-3, weight_decay: 0.05}
method: {method: TopK, keep_rate: 0.5}
precision: fp32
"""
MACHINE = {"processor": "a processor", "threads": 1}


class Stop(Exception):  # noqa: N818
    """The computer is switched off."""


def model(change: float = 0.0) -> Any:
    """A tiny AudioMAE. change: is added to one weight."""
    shape = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32, "max_length": 64, "num_labels": 3}
    made = audiomae(**shape, id2label={0: "low", 1: "high", 2: "other"}).eval()
    with torch.no_grad():
        for i, tensor in enumerate(made.state_dict().values()):
            tensor.copy_(_numbers(tensor.shape, i) / 4)
        made.classifier.weight[0, 0] += change
    return made


def clips() -> Tensor:
    """(16, 64, 128): patches that differ in loudness."""
    loudness = _numbers((CLIPS, 4, 8), 5).repeat_interleave(16, 1).repeat_interleave(16, 2)
    return 2 * loudness + _numbers((CLIPS, 64, 128), 9)


def _numbers(shape: Sequence[int], seed: int) -> Tensor:
    """From −1 to 1, exact in every format that has eight bits."""
    count = torch.Size(shape).numel()
    return (((torch.arange(count) + 17 * seed) * 7919 % 1009 % 129 - 64) / 64).reshape(*shape)


# Each of these begins or resumes a run in a folder, and returns what the run returns.


@dataclass(frozen=True)
class Named:
    """A sound that is no file."""

    key: str

    def load(self, max_seconds: float) -> Any:
        raise NotImplementedError


SOUNDS = tuple(Named(f"sound {i}") for i in range(5))


def tag(out: Path, heard: Callable[[str], Any] = lambda key: None, keep_rate: float = 0.5) -> tuple[int, int]:
    """heard: called with the key of each sound that is tagged."""

    def tagger(sounds: Any) -> Iterator[dict[str, Any]]:
        for sound in sounds:
            heard(sound.key)
            yield {"path": sound.key, "labels": [{"label": "rain", "score": 0.5}], "seconds": 1.0, "heard_seconds": 1.0}

    setting = {"model": "esc10", **describe(ap.TopK(keep_rate, layers=(1, 2))), "top": 3, "dtype": "float32"}
    with open_log(out, setting) as log:
        return tag_all(tagger, SOUNDS, log)


def calibrate(state: Path, stage: Any = lambda name, steps: lambda done: None, change: float = 0.0) -> Any:
    """A setting is as fast as its work says, since tiny models are no faster pruned."""

    def measure(self: Costs, methods: list[Any], *_: Any, **__: Any) -> list[float]:
        return [self.unpruned / self.predicted_macs(method) for method in methods]

    with (
        mock.patch.object(Costs, "measure", measure),
        mock.patch.object(calibration_run, "machine", return_value=MACHINE),
    ):
        return ap.calibrate(
            model(change), clips(), max_disagreement=0.5, methods=("discard",), stage=stage, state=state
        )


def analysis(out: Path, sounds: Any, change: float = 0.0) -> Any:
    """The working folder must be one in which files may be written."""
    rows = []
    for i in range(4):
        path = Path(f"{i}.wav")
        path.write_bytes(b"RIFF" * (i + 1))
        os.utime(path, ns=(0, 1_700_000_000_000_000_000 + i))
        rows.append(ClipRow(path, ("low",)))
    rates, one = (1.0, *RATES), model(change)
    methods = {rate: ap.TopK(rate) for rate in rates}
    subject = analysed.ModelSet(dict.fromkeys(rates, "m"), dict.fromkeys(rates, one), methods, LogMel(64))
    data = {"name": "noise", "clips": len(rows), "files": analysed.clips_fingerprint(rows)}
    settings = analysis_run.Settings(batch_size=4, skip=("ranking", "cluster_drop"))
    return analysis_run.Analysis(subject, sounds, torch.arange(CLIPS) % 3, out, settings, data)


def answer(out: Path, asked: Callable[[str], Any] = lambda name: None, change: float = 0.0) -> dict[str, Any]:
    """asked: called with the id of each item."""

    class Asker(SimpleNamespace):
        def __call__(self, items: Any, watched: Any) -> Iterator[list[dict[str, Any]]]:
            for item in items:
                asked(item.id)
                row = {"id": item.id, "asked": item.question, "answer": item.references[0], "tokens": [25, 25]}
                yield [row | {"prefill_seconds": 0.25}]

    items = tuple(
        Item(f"{i}", Path(f"{i}.wav"), question="Is it raining?", references=("yes",) * 3, task="binary")
        for i in range(4)
    )
    asker = Asker(model=model(change), prompt="{question}", max_new_tokens=4, batch_size=1)
    return Evaluation(asker, Benchmark("clothoaqa", items), "m", out).run([Setting("unpruned", 1.0)])


def trainings(out: Path, work: Path, seeds: Sequence[int] = (0,), **changes: Any) -> list[sweep.Step]:
    """The steps of a sweep. work: a folder for the recipe and the sounds."""
    (work / "tiny.yaml").write_text(RECIPE)
    data = work / "parts"
    if not data.exists():
        class_folders(data, {"train": 2, "test": 1})
    recipe = read_recipe(work / "tiny.yaml").model_copy(update=changes)
    return sweep.plan([recipe], read(data), out, seeds=seeds, keep_rates=(0.5,))


# What the last version was made to leave.


class Failing:
    """Clips of which the computer is switched off after so many were read."""

    def __init__(self, after: int) -> None:
        self.clips, self.left = clips(), after

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> Tensor:
        self.left -= 1
        if self.left < 0:
            raise Stop
        return self.clips[index]


def after(calls: int) -> Callable[..., Any]:
    """A function that stops the run at its call after so many."""
    left = calls

    def count(*_: Any) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise Stop

    return count


def write(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as made, contextlib.chdir(made):
        work = Path(made)
        for name in ("tags.jsonl", "tags.parquet"):
            with contextlib.suppress(Stop):
                tag(folder / name, after(3))
        with open(folder / "tags.jsonl", "ab") as file:
            file.write(b'{"path": "sound 3", "lab')
        advance = after(8)
        with contextlib.suppress(Stop):
            calibrate(folder / "calibration.jsonl", lambda name, steps: advance)
        analysis_run.EVERY, analysis_run.COST = 1, 0.0
        with contextlib.suppress(Stop):
            analysis(folder / "analysis", Failing(CLIPS + 8)).run()
        _compress(folder / "analysis" / analysis_run.STATE)
        with contextlib.suppress(Stop):
            answer(folder / "evaluation", after(2))
        steps = trainings(work / "runs", work)
        sweep.run(steps, save_strategy="no", report_to=[])
        for step in steps:
            kept = folder / "sweep" / step.task.out.relative_to(work / "runs")
            kept.mkdir(parents=True)
            for name in ("task.json", "result.json"):
                shutil.copy(step.task.out / name, kept)


def _compress(path: Path) -> None:
    """An archive of arrays that are mostly zeros; its members stay as they are."""
    with zipfile.ZipFile(path) as file:
        members = {name: file.read(name) for name in file.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name, content)


if __name__ == "__main__":
    shutil.rmtree(sys.argv[1], ignore_errors=True)
    Path(sys.argv[1]).mkdir(parents=True)
    write(Path(sys.argv[1]).resolve())
