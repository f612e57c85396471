"""The examples of README.md and CONTRIBUTING.md run as they stand."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import audioprune as ap

from .families import audiomae

ROOT = Path(__file__).parents[1]


def blocks(name: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(), flags=re.DOTALL)


@torch.no_grad()
def test_the_new_method_of_contributing_works_on_every_family(model, spectrogram) -> None:
    code = blocks("CONTRIBUTING.md")[0]
    assert len(code.splitlines()) < 30
    namespace: dict = {"__name__": "example"}
    exec(code, namespace)
    before = model(spectrogram).logits
    with ap.prune(model, namespace["UniformStride"](0.5)) as handle, ap.trace(model) as record:
        assert torch.isfinite(model(spectrogram).logits).all()
    n = handle.tokens[0]
    assert record.kept[0].shape[1] == handle.tokens[1] == -(-n // 2)
    assert record.kept[0][0, :2].tolist() == [0, 2 if n % 2 == 0 else 1]
    assert torch.equal(model(spectrogram).logits, before)


@torch.no_grad()
def test_the_first_example_of_the_readme(monkeypatch, capsys) -> None:
    monkeypatch.chdir(ROOT)
    exec(blocks("README.md")[0], {"__name__": "example"})
    assert "(256, 128, 64, 32)" in capsys.readouterr().out


def test_the_trainer_example_of_the_readme(monkeypatch, tmp_path) -> None:
    monkeypatch.chdir(tmp_path)
    block = next(block for block in blocks("README.md") if "ShrinkSchedule" in block)
    clips = [{"input_values": torch.randn(128, 128), "labels": i % 2} for i in range(8)]
    model = audiomae()
    namespace: dict = {"ap": ap, "model": model, "clips": clips}
    exec(block, namespace)
    assert namespace["trainer"].state.epoch == 3
    assert namespace["handle"].keep_rate == 0.5
    assert ap.handle(model) is namespace["handle"]


def test_the_readme_names_what_needs_a_network() -> None:
    text = (ROOT / "README.md").read_text()
    for block in blocks("README.md"):
        if '"MIT/' in block:
            assert "needs a network" in text.split(block)[0][-200:]


def test_tables_say_what_their_json_says() -> None:
    command = [sys.executable, str(ROOT / "scripts" / "render_results.py"), "--check"]
    assert subprocess.run(command, capture_output=True, text=True).stdout == "stale: nothing\n"


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "docs/results.md", "docs/training.md"])
def test_local_links_lead_somewhere(name: str) -> None:
    path = ROOT / name
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
        if not target.startswith("http"):
            assert (path.parent / target).exists(), target
