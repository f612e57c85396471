"""Tiny models of every family, sounds made on the spot, and the folder of real data where it is there."""

from __future__ import annotations

import copy
import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import typer.main
from hypothesis import settings

import audioprune
from audioprune import cli
from audioprune.core import recommend

from .families import FAMILIES, SPEECH, inputs_for, padded

# Tests run in two processes: more threads than cores would only wait for each other.
torch.set_num_threads(1)
# Typer builds all commands from their signatures at each call, which takes longer than most calls themselves.
typer.main.get_command = functools.cache(typer.main.get_command)
settings.register_profile("default", deadline=None, max_examples=60)
settings.load_profile("default")

SHARED = Path(os.environ.get("AUDIOPRUNE_SHARED", Path(__file__).parents[2] / "shared"))


@pytest.fixture(scope="session")
def golden() -> Path:
    folder = SHARED / "golden"
    if not folder.exists():
        pytest.skip("the authors' reference outputs (../shared/golden) are not here")
    return folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A spectrogram is for the families that hear one; `inputs` are for all."""

    def deaf(item: pytest.Item) -> bool:
        family = item.callspec.params.get("family") if hasattr(item, "callspec") else None
        return family in SPEECH and "spectrogram" in getattr(item, "fixturenames", ())

    items[:] = [item for item in items if not deaf(item)]


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@functools.cache
def _model_of(family: str) -> torch.nn.Module:
    return FAMILIES[family]().eval()


@pytest.fixture
def model(family: str) -> torch.nn.Module:
    """A copy, which takes less time than drawing weights again."""
    return copy.deepcopy(_model_of(family))


@pytest.fixture
def inputs(family: str, request: pytest.FixtureRequest) -> dict[str, torch.Tensor]:
    """Three clips, as the family's forward takes them; with padding for a method that looks for it."""
    looks = "method" in request.fixturenames and "padding" in request.getfixturevalue("method").needs
    return padded(inputs_for(family)) if looks else inputs_for(family)


@pytest.fixture
def spectrogram() -> torch.Tensor:
    """(3, 128, 128): 64 patches a clip."""
    return torch.randn(3, 128, 128, generator=torch.Generator().manual_seed(7))


def tone(seconds: float = 1.0, rate: int = 16_000, hertz: float = 440.0, channels: int = 1) -> np.ndarray:
    t = np.arange(round(seconds * rate)) / rate
    wave = 0.3 * np.sin(2 * np.pi * hertz * t) * (1 + 0.5 * np.sin(2 * np.pi * 3 * t))
    return np.stack([wave] * channels, axis=1).squeeze().astype(np.float32)


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """A folder of six good clips."""
    folder = tmp_path / "clips"
    folder.mkdir()
    for i in range(6):
        soundfile.write(folder / f"tone{i}.wav", tone(0.5 + 0.2 * i, hertz=200.0 * (i + 1)), 16_000)
    return folder


def class_folders(folder: Path, parts: dict[str, int]) -> Path:
    """Two classes, high and low tones of half a second: so many clips of each beneath each part's folder."""
    for part, count in parts.items():
        for label, hertz in (("high", 2000.0), ("low", 200.0)):
            (folder / part / label).mkdir(parents=True)
            for i in range(count):
                path = folder / part / label / f"{i}.wav"
                soundfile.write(path, tone(0.5, hertz=hertz * (1 + 0.1 * i)), 16_000)
    return folder


_COUNTED: dict[tuple[str, ...], int] = {}


@pytest.fixture
def counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts for `recommended` are kept: many pages recommend a setting for the same model."""
    count = recommend.count

    def once(model: torch.nn.Module, inputs: Any = None) -> int:
        if inputs is not None:
            return count(model, inputs=inputs)
        pruned = audioprune.handle(model)
        key = (model.config.to_json_string(), str(pruned and pruned.method))
        if key not in _COUNTED:
            _COUNTED[key] = count(model)
        return _COUNTED[key]

    monkeypatch.setattr(recommend, "count", once)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, tmp_path: Path, counted_once: None) -> Callable:
    """Run the command line in a temporary folder; returns its exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    for console in (cli.console.err, cli.console.out):
        monkeypatch.setattr(console, "_width", 400)

    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["audioprune", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        captured = capsys.readouterr()
        return int(stop.value.code or 0), captured.out, captured.err

    return call
