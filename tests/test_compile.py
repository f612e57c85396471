"""torch.compile without graph breaks, and torch.export with a free batch size."""

from __future__ import annotations

import pytest
import torch

import audioprune as ap

from .families import FAMILIES, audiomae
from .settings import METHODS

COMPILED = ("topk", "segments-merged", "fused-random-segments", "intensity")


@pytest.fixture(autouse=True)
def _forget_graphs() -> None:
    torch._dynamo.reset()


@torch.no_grad()
@pytest.mark.parametrize("family", ["audiomae", "ast", "ast-mp"])
@pytest.mark.parametrize("name", COMPILED)
def test_one_graph_with_the_same_answers(family: str, name: str, spectrogram) -> None:
    model = FAMILIES[family]().eval()
    with ap.prune(model, METHODS[name]):
        with ap.trace(model) as record:
            expected, kept = model(spectrogram).logits, record.kept
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        with ap.trace(model) as record:
            logits = compiled(spectrogram).logits
        assert torch.allclose(logits, expected, atol=1e-5)
        assert all(torch.equal(a, b) for a, b in zip(record.kept, kept, strict=True))


@torch.no_grad()
def test_inductor(spectrogram) -> None:
    model = audiomae(num_hidden_layers=2).eval()
    with ap.prune(model, ap.SegmentwiseTopK(0.5, layers=[0], dropped="merge")) as handle:
        with ap.trace(model) as record:
            expected, kept = model(spectrogram).logits, record.kept
        compiled = torch.compile(model, fullgraph=True)
        with ap.trace(model) as record:
            assert torch.allclose(compiled(spectrogram).logits, expected, atol=1e-5)
        assert torch.equal(record.kept[0], kept[0])
        handle.keep_rate = 1.0
        assert torch.allclose(compiled(spectrogram).logits, model(spectrogram).logits, atol=1e-5)


class WithKept(torch.nn.Module):
    """Returns what was kept beside the logits, as an exported graph must."""

    def __init__(self, model) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_values):
        with ap.trace(self.model) as record:
            logits = self.model(input_values).logits
        return logits, record.kept


@torch.no_grad()
@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("family", ["audiomae", "ast", "ast-mp"])
@pytest.mark.parametrize("name", COMPILED)
def test_export(family: str, name: str, strict: bool, spectrogram) -> None:
    model = FAMILIES[family]().eval()
    batch = torch.export.Dim("batch", min=1, max=64)
    with ap.prune(model, METHODS[name]):
        program = torch.export.export(
            model, (spectrogram,), dynamic_shapes={"input_values": {0: batch}}, strict=strict
        ).module()
        for clips in (spectrogram, spectrogram[:1], torch.randn(5, 128, 128)):
            assert torch.allclose(program(clips).logits, model(clips).logits, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("family", ["audiomae", "ast"])
def test_export_keeps_the_same_patches(family: str, spectrogram) -> None:
    model = FAMILIES[family]().eval()
    with ap.prune(model, ap.SegmentwiseTopK(0.5, dropped="merge")):
        program = torch.export.export(WithKept(model), (spectrogram,), strict=False).module()
        logits, kept = program(spectrogram)
        with ap.trace(model) as record:
            assert torch.allclose(model(spectrogram).logits, logits, atol=1e-5)
        assert all(torch.equal(a, b) for a, b in zip(record.kept, kept, strict=True))
