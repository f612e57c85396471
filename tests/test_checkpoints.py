"""The committed checkpoints: they load, prune, are small, and say where they come from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import audioprune as ap

ROOT = Path(__file__).parents[1]
SHIPPED = ROOT / "audioprune" / "assets" / "audiomae-esc10"
CHECKPOINTS = sorted((ROOT / "checkpoints").iterdir())


def test_the_four_are_there() -> None:
    assert [path.name for path in CHECKPOINTS] == [
        "ast-esc10",
        "ast-fsdd-digits",
        "audiomae-esc10",
        "audiomae-fsdd-digits",
    ]


@pytest.mark.parametrize("folder", CHECKPOINTS, ids=lambda path: path.name)
def test_a_checkpoint(folder: Path) -> None:
    weights = folder / "model.safetensors"
    assert weights.stat().st_size <= 12_000_000
    assert {tensor.dtype for tensor in load_file(weights).values()} == {torch.float16}
    card = (folder / "README.md").read_text()
    assert all(word in card for word in ("**Training.**", "**Measured**", "**Data and licence.**"))
    assert not (folder.name.endswith("esc10") and not (folder / "ATTRIBUTION.csv").exists())
    model = ap.load(folder)
    front = ap.load_features(folder, model)
    with torch.inference_mode(), ap.prune(model, ap.TopK(0.5)) as handle:
        logits = model(front(torch.randn(1, 16_000))).logits
    assert logits.shape == (1, 10)
    assert torch.isfinite(logits).all()
    assert handle.tokens[0] in (64, 256)


def test_the_package_ships_one_of_them() -> None:
    for path in (ROOT / "checkpoints" / "audiomae-esc10").iterdir():
        assert (SHIPPED / path.name).read_bytes() == path.read_bytes()
