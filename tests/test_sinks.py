"""Attention sinks: found in silence, and kept apart from the padding that is merged."""

from __future__ import annotations

import pytest
import torch

import audioprune as ap
from audioprune.adapters import find_adapter
from audioprune.core import sinks
from audioprune.core.sinks import find_sinks

from .families import FAMILIES, inputs_for, padded
from .reference import pruned_forward

LOUD = (5, 47, 51, 52, 58, 63)
"""Tokens of the tiny model's 64 that are made sinks: in the sound, in the padding (two are neighbours), at its end."""
FAMILY = ("whisper", "whisper-decoder")


def with_sinks(family: str) -> torch.nn.Module:
    """A model whose positions are so far away at some places that every block leaves their tokens long."""
    model = FAMILIES[family]().eval()
    encoder = find_adapter(model).tower
    with torch.no_grad():
        encoder.embed_positions.weight[list(LOUD)] *= 500
    return model


def places(found: torch.Tensor) -> tuple[int, ...]:
    return tuple(found.nonzero().flatten().tolist())


@pytest.mark.parametrize("family", FAMILY)
def test_silence_shows_them(family) -> None:
    assert places(find_sinks(find_adapter(with_sinks(family)))) == LOUD
    assert places(find_sinks(find_adapter(FAMILIES[family]().eval()))) == ()


@torch.no_grad()
@pytest.mark.parametrize(
    "method", [ap.PaddingMerge(0.2, margin=0), ap.PaddingMerge(0.3, margin=2, layers=(1,))], ids=str
)
@pytest.mark.parametrize("family", FAMILY)
def test_they_stay_apart_as_in_the_slow_reference(family, method) -> None:
    model = with_sinks(family).double()
    inputs = {name: x.double() if x.is_floating_point() else x for name, x in padded(inputs_for(family)).items()}
    with ap.prune(model, method), ap.trace(model) as record:
        found = model(**inputs).logits
    logits, kept = pruned_forward(model, inputs, method)
    assert [stage.tolist() for stage in record.kept] == kept
    assert torch.allclose(found, logits, rtol=0, atol=1e-9)
    shortest = record.kept[0][0].tolist()
    assert {47, 58, 63} < set(shortest)
    assert len({51, 52} & set(shortest)) == 1  # neighbours become one


def test_a_model_listens_again_only_if_its_weights_change(monkeypatch) -> None:
    model, heard = with_sinks("whisper-decoder"), []
    find = sinks._sinks_in
    monkeypatch.setattr(sinks, "_sinks_in", lambda *args: heard.append(1) or find(*args))
    for _ in range(3):
        ap.prune(model, ap.PaddingMerge()).remove()
    assert len(heard) == 1
    with torch.no_grad():
        model.model.encoder.embed_positions.weight[7] *= 500
    with ap.prune(model, ap.PaddingMerge()) as handle:
        assert places(handle.adapter.sinks) == (5, 7, *LOUD[1:])
    assert len(heard) == 2
    ap.prune(model, ap.TopK(0.5))  # needs none
    assert len(heard) == 2


def test_listening_leaves_no_trace_in_the_model() -> None:
    model = with_sinks("whisper-decoder").train()
    torch.manual_seed(0)
    before = torch.get_rng_state()
    with ap.prune(model, ap.PaddingMerge()):
        assert all(module.training for module in model.modules())
    assert torch.equal(torch.get_rng_state(), before)
    assert not any(module._forward_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_models_without_weights_or_silence_have_none() -> None:
    model = FAMILIES["whisper-decoder"]().to("meta")
    with ap.prune(model, ap.PaddingMerge()) as handle:
        assert handle.adapter.sinks is None
    for family in ("ast", "wav2vec2"):
        with ap.prune(FAMILIES[family](), ap.PaddingMerge()) as handle:
            assert handle.adapter.sinks is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_finds_the_same(dtype) -> None:
    assert places(find_sinks(find_adapter(with_sinks("whisper-decoder").to(dtype)))) == LOUD


@torch.inference_mode()
def test_weights_made_in_inference_mode() -> None:
    model = with_sinks("whisper-decoder")
    assert places(find_sinks(find_adapter(model))) == LOUD


def test_a_model_pruned_in_inference_mode_can_be_trained() -> None:
    model = with_sinks("whisper-decoder")
    with torch.inference_mode():
        handle = ap.prune(model, ap.PaddingMerge(0.2, margin=0))
    assert not handle.adapter.sinks.is_inference()
    inputs = padded(inputs_for("whisper-decoder"))
    model(**inputs).logits.sum().backward()
    assert model.model.encoder.layers[0].fc1.weight.grad is not None
