"""Run the examples of README.md, CONTRIBUTING.md and of pages that test_docs.py cannot run."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import audioprune as ap

from . import test_matrix
from .families import audiomae

ROOT = Path(__file__).parents[1]


def blocks(name: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(), flags=re.DOTALL)


def example() -> ap.Method:
    """The method that CONTRIBUTING.md adds."""
    namespace: dict = {"__name__": "example"}
    exec(blocks("CONTRIBUTING.md")[0], namespace)
    return namespace["HiddenNorm"](0.5)


def test_the_new_method_of_contributing_is_short() -> None:
    assert len(blocks("CONTRIBUTING.md")[0].splitlines()) < 30


@pytest.mark.parametrize(
    "check",
    [
        test_matrix.test_keeps_exactly_what_was_asked,
        test_matrix.test_removal_restores_bit_for_bit,
        test_matrix.test_attention_implementations_agree,
        test_matrix.test_gradients_reach_every_parameter,
    ],
    ids=lambda check: check.__name__.removeprefix("test_"),
)
def test_the_new_method_of_contributing_passes_the_matrix(check, family, model, inputs, monkeypatch) -> None:
    given = {"family": family, "model": model, "method": example(), "inputs": inputs, "monkeypatch": monkeypatch}
    check(**{name: given[name] for name in inspect.signature(check).parameters})


@torch.no_grad()
def test_the_new_method_of_contributing_keeps_the_longest(spectrogram) -> None:
    model = audiomae().eval()
    with ap.prune(model, example()), ap.trace(model) as record:
        model(spectrogram)
    for kept, scores in zip(record.kept[0], record.scores[0], strict=True):
        assert kept.tolist() == sorted(scores.topk(32).indices.tolist())


@pytest.mark.usefixtures("counted_once")
@torch.no_grad()
def test_the_first_example_of_the_readme(monkeypatch, capsys) -> None:
    monkeypatch.chdir(ROOT)
    exec(blocks("README.md")[0], {"__name__": "example"})
    (said,) = re.findall(r"```text\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    assert capsys.readouterr().out == said


@torch.no_grad()
def test_the_example_of_an_audio_language_model(monkeypatch, capsys) -> None:
    monkeypatch.chdir(ROOT)
    block = next(block for block in blocks("docs/audio-language-models.md") if "load_lm" in block)
    exec(block, {"__name__": "example"})
    assert "four six two" in capsys.readouterr().out


def test_the_example_of_a_trainer(monkeypatch, tmp_path) -> None:
    monkeypatch.chdir(tmp_path)
    block = next(block for block in blocks("docs/training.md") if "ShrinkSchedule" in block)
    clips = [{"input_values": torch.randn(512, 128), "labels": i % 2} for i in range(8)]
    namespace: dict = {"clips": clips}
    exec(block, namespace)
    assert namespace["trainer"].state.epoch == 3
    assert namespace["handle"].keep_rate == 0.5
    assert ap.handle(namespace["model"]) is namespace["handle"]


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) < 150


def test_tables_say_what_their_json_says() -> None:
    command = [sys.executable, str(ROOT / "scripts" / "render_results.py"), "--check"]
    assert subprocess.run(command, capture_output=True, text=True).stdout == "stale: nothing\n"
