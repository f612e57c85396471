"""Packed weights: the same answers to rounding, and a model that is as it was afterwards."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional
from transformers.activations import ACT2FN

import audioprune as ap
from audioprune.packing import Applied, PackedLinear, available, pack

from .families import FAMILIES, inputs_for

pytestmark = pytest.mark.skipif(not available(), reason="this PyTorch has no oneDNN")


@torch.inference_mode()
def test_a_layer_equals_its_formula() -> None:
    for width, out, bias in ((7, 5, True), (64, 48, False), (1, 1, True)):
        layer = nn.Sequential(nn.Linear(width, out, bias=bias))
        for shape in ((3, width), (2, 9, width), (2, 3, 4, width), (0, width), (width,)):
            x = torch.randn(shape)
            expected = functional.linear(x, layer[0].weight, layer[0].bias)
            with pack(layer):
                assert torch.allclose(layer(x), expected, atol=1e-5)
        strided = torch.randn(4, width, 6).transpose(1, 2)[:, 1:4]
        with pack(layer):
            assert torch.allclose(layer(strided), functional.linear(strided, layer[0].weight, layer[0].bias), atol=1e-5)


class Feed(nn.Module):
    """As in transformers' blocks."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.fc1, self.activation_fn, self.fc2 = nn.Linear(8, 16), activation, nn.Linear(16, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.activation_fn(self.fc1(x)))


@pytest.mark.parametrize("name", ["gelu", "gelu_new", "relu", "gelu_pytorch_tanh", "silu"])
def test_only_the_exact_gelu_is_applied_with_the_product(name: str) -> None:
    feed, x = Feed(ACT2FN[name]), 3 * torch.randn(5, 8)
    with torch.inference_mode():
        expected = feed(x)
        with pack(feed):
            assert isinstance(feed.activation_fn, Applied) == (name == "gelu")
            assert torch.allclose(feed(x), expected, atol=1e-6)
    with pack(feed):  # with gradients the layer is computed as ever, activation and all
        (packed,) = torch.autograd.grad(feed(x).sum(), [feed.fc1.weight])
    (plain,) = torch.autograd.grad(feed(x).sum(), [feed.fc1.weight])
    assert torch.equal(packed, plain)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_models_answer_the_same(family: str, dtype: torch.dtype) -> None:
    model = FAMILIES[family]().to(dtype).eval()
    inputs = {name: x.to(dtype) if x.is_floating_point() else x for name, x in inputs_for(family).items()}
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.inference_mode():
        expected = model(**inputs).logits
        handle = pack(model)
        atol = 1e-5 if dtype == torch.float32 else 0.1
        assert torch.allclose(model(**inputs).logits, expected, atol=atol)
        with ap.prune(model, ap.TopK(0.5)):
            pruned = model(**inputs).logits
        handle.remove()
        handle.remove()
        assert torch.equal(model(**inputs).logits, expected)
        with ap.prune(model, ap.TopK(0.5)):
            assert dtype == torch.bfloat16 or torch.allclose(model(**inputs).logits, pruned, atol=1e-5)
            with pack(model):  # in the other order
                assert torch.allclose(model(**inputs).logits, pruned, atol=atol)
    assert not any(type(module) in (PackedLinear, Applied) for module in model.modules())
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)


@torch.no_grad()
def test_a_changed_weight_is_packed_anew() -> None:
    layer, x = nn.Sequential(nn.Linear(6, 4)), torch.randn(3, 6)
    with pack(layer):
        layer(x)
        layer.load_state_dict({name: torch.randn_like(value) for name, value in layer.state_dict().items()})
        assert torch.allclose(layer(x), functional.linear(x, layer[0].weight, layer[0].bias), atol=1e-5)
        layer[0].weight = nn.Parameter(torch.randn(4, 6))
        assert torch.allclose(layer(x), functional.linear(x, layer[0].weight, layer[0].bias), atol=1e-5)
        layer.to(torch.bfloat16)
        assert layer(x.bfloat16()).dtype == torch.bfloat16
        layer.double()  # not served, computed all the same
        assert layer(x.double()).dtype == torch.float64


@torch.inference_mode()
def test_copies_and_pickles_are_packed_too() -> None:
    feed, x = Feed(ACT2FN["gelu"]), torch.randn(5, 8)
    expected = feed(x)
    with pack(feed):
        feed(x)
        for other in (copy.deepcopy(feed), pickle.loads(pickle.dumps(feed))):
            assert isinstance(other.fc1, PackedLinear)
            assert torch.allclose(other(x), expected, atol=1e-6)


def test_autocast_and_macs() -> None:
    model, inputs = FAMILIES["audiomae"]().eval(), inputs_for("audiomae")
    with torch.inference_mode():
        with torch.autocast("cpu", torch.bfloat16):
            expected = model(**inputs).logits
        counted = ap.macs(model)
        with pack(model):
            with torch.autocast("cpu", torch.bfloat16):
                assert torch.equal(model(**inputs).logits, expected)
            assert ap.macs(model) == counted
            assert ap.macs(model, inputs=inputs) == counted


def test_errors() -> None:
    feed = Feed(nn.GELU())
    with pack(feed), pytest.raises(ValueError, match="packed already"):
        pack(feed)
    with pytest.raises(ValueError, match="there are none"):
        pack(nn.GELU())
    with pytest.raises(ValueError, match="on meta"):
        pack(nn.Linear(2, 2, device="meta"))
