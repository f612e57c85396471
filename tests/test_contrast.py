"""The weights that the contrast of pre-training, pooling and score starts from (scripts/contrast_start.py)."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

SCRIPTS = Path(__file__).parents[1] / "scripts"


@pytest.fixture
def contrast(monkeypatch) -> Any:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import contrast_start

    yield contrast_start
    sys.modules.pop("contrast_start")


@torch.no_grad()
def test_an_ast_has_the_weights_of_the_audiomae(contrast) -> None:
    """Both embed each patch, with its position, as the same vector, and have the same blocks."""
    from audioprune.training.model import build_model
    from audioprune.training.recipe import read_recipe

    words = ["config.hidden_size=24", "config.intermediate_size=48", "config.num_hidden_layers=2"]
    source: Any = build_model(read_recipe(contrast.RECIPE, words), ()).eval()
    model = contrast.as_ast(source).eval()
    spectrogram = torch.randn(2, 512, 128, generator=torch.Generator().manual_seed(0))
    time, frequency = source.config.grid
    patches = (
        source.audiomae.embeddings(spectrogram)[:, 1:].unflatten(1, (time, frequency)).transpose(1, 2).flatten(1, 2)
    )
    embedded = model.audio_spectrogram_transformer.embeddings(spectrogram)
    assert torch.allclose(embedded[:, 2:], patches, atol=1e-5)
    assert torch.equal(embedded[:, 0], embedded[:, 1])
    hidden = torch.randn(2, 9, 24, generator=torch.Generator().manual_seed(1))
    for one, other in zip(source.audiomae.layers, model.audio_spectrogram_transformer.layers, strict=True):
        assert torch.allclose(one(hidden), other(hidden), atol=1e-5)


def test_sounds_are_cut_into_pieces_without_gaps(contrast, monkeypatch) -> None:
    lengths = {"a": 30_000, "b": 120_000, "c": 20_000}
    start = dict(zip(lengths, np.cumsum([0, *lengths.values()]), strict=False))
    sounds = {name: np.arange(start[name], start[name] + n, dtype=np.float32) for name, n in lengths.items()}
    monkeypatch.setattr(contrast, "load_audio", lambda path: type("Clip", (), {"waveform": sounds[path]}))
    found = list(contrast.pieces(["a", "b", "c"]))
    assert [len(piece) for piece in found] == [80_000, 80_000]
    assert np.array_equal(np.concatenate(found), np.arange(160_000))
