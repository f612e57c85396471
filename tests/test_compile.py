"""torch.compile without graph breaks, and torch.export with a free batch size."""

from __future__ import annotations

from functools import partial

import pytest
import torch

import audioprune as ap
from audioprune.models.ast import ASTMeanPooledForAudioClassification

from .families import STABLE, ast, audiomae, wav2vec2
from .settings import METHODS

SHALLOW = {
    "audiomae": partial(audiomae, num_hidden_layers=2),
    "ast": partial(ast, num_hidden_layers=2),
    "ast-mp": partial(ast, ASTMeanPooledForAudioClassification, num_hidden_layers=2),
}
"""Two blocks, since a compiler's time grows with their number. Both are pruned."""
COMPILED = [
    *(("audiomae", name) for name in ("topk", "segments-merged", "fused-random-segments", "intensity")),
    ("ast", "segments-merged"),
    ("ast", "intensity"),
    ("ast-mp", "segments-merged"),
]
STRICT = [("audiomae", "segments-merged"), ("ast", "intensity"), ("ast-mp", "fused-random-segments")]


@pytest.fixture(autouse=True)
def _forget_graphs() -> None:
    torch._dynamo.reset()


@torch.no_grad()
@pytest.mark.parametrize(("family", "name"), COMPILED)
def test_one_graph_with_the_same_answers(family: str, name: str, spectrogram) -> None:
    model = SHALLOW[family]().eval()
    with ap.prune(model, METHODS[name]):
        with ap.trace(model) as record:
            expected, kept = model(spectrogram).logits, record.kept
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        with ap.trace(model) as record:
            logits = compiled(spectrogram).logits
        assert torch.allclose(logits, expected, atol=1e-5)
        assert all(torch.equal(a, b) for a, b in zip(record.kept, kept, strict=True))


@torch.no_grad()
def test_a_new_keep_rate_is_a_new_graph(spectrogram) -> None:
    model = SHALLOW["audiomae"]().eval()
    with ap.prune(model, ap.SegmentwiseTopK(0.5, dropped="merge")) as handle:
        compiled = torch.compile(model, fullgraph=True, backend="eager")
        for keep_rate in (0.5, 1.0):
            handle.keep_rate = keep_rate
            assert torch.allclose(compiled(spectrogram).logits, model(spectrogram).logits, atol=1e-5)


@torch.no_grad()
def test_a_speech_encoder() -> None:
    model, clips = wav2vec2(**STABLE, num_hidden_layers=2).eval(), torch.randn(2, 5120)
    with ap.prune(model, ap.TopK(0.5)):
        assert torch.allclose(torch.compile(model, backend="eager")(clips).logits, model(clips).logits, atol=1e-5)


@torch.no_grad()
def test_inductor(spectrogram) -> None:
    model = audiomae(num_hidden_layers=1).eval()
    with ap.prune(model, ap.SegmentwiseTopK(0.5, layers=[0], dropped="merge")):
        with ap.trace(model) as record:
            expected, kept = model(spectrogram).logits, record.kept
        compiled = torch.compile(model, fullgraph=True)
        with ap.trace(model) as record:
            assert torch.allclose(compiled(spectrogram).logits, expected, atol=1e-5)
        assert torch.equal(record.kept[0], kept[0])


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
@pytest.mark.parametrize(
    ("family", "name", "strict"), [*((*pair, False) for pair in COMPILED), *((*pair, True) for pair in STRICT)]
)
def test_export(family: str, name: str, strict: bool, spectrogram) -> None:
    model = SHALLOW[family]().eval()
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
    model = SHALLOW[family]().eval()
    with ap.prune(model, ap.SegmentwiseTopK(0.5, dropped="merge")):
        program = torch.export.export(WithKept(model), (spectrogram,), strict=False).module()
        logits, kept = program(spectrogram)
        with ap.trace(model) as record:
            assert torch.allclose(model(spectrogram).logits, logits, atol=1e-5)
        assert all(torch.equal(a, b) for a, b in zip(record.kept, kept, strict=True))
