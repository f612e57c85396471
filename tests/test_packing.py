"""Packed weights: the same answers to rounding, and a model that is as it was afterwards."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations, prune

import audioprune as ap
from audioprune.attention.packing import PackedForward, available, pack

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


def is_packed(layer: nn.Module) -> bool:
    return isinstance(vars(layer).get("forward"), PackedForward)


class Feed(nn.Module):
    """As in transformers' blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.activation_fn, self.fc2 = nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.activation_fn(self.fc1(x)))


def test_with_gradients_a_layer_computes_as_ever() -> None:
    feed, x = Feed(), 3 * torch.randn(5, 8)
    with pack(feed):
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
    assert not any(map(is_packed, model.modules()))
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


def fused_step(layer: nn.Linear) -> None:
    with torch.enable_grad():
        layer(torch.randn(3, 6)).square().sum().backward()
        torch.optim.AdamW(layer.parameters(), 0.1, fused=True).step()


def written_by_numpy(layer: nn.Linear) -> None:
    layer.weight.detach().numpy()[1, 2] = 7.0


def swapped_average(layer: nn.Linear) -> None:
    average = torch.optim.swa_utils.AveragedModel(layer)
    with torch.no_grad():
        average.module.weight.mul_(2.0)
    layer.weight.data = average.module.weight.data


def normed(layer: nn.Linear) -> None:
    parametrizations.weight_norm(layer)
    layer.parametrizations.weight.original0.data.mul_(2.0)


def merged(layer: nn.Linear) -> None:
    layer.weight.data += torch.randn(4, 2) @ torch.randn(2, 6)


CHANGES: dict[str, Callable[[nn.Linear], object]] = {
    "a fused optimiser": fused_step,
    "an average of weights": swapped_average,
    "a merged adapter": merged,
    ".data of one number": lambda layer: layer.weight.data[3, 5].add_(1e-3),
    ".data of one row": lambda layer: layer.weight.data[1].zero_(),
    "NumPy": written_by_numpy,
    "copy_ under no_grad": lambda layer: torch.no_grad()(layer.weight.copy_)(torch.randn(4, 6)),
    "a new parameter": lambda layer: setattr(layer, "weight", nn.Parameter(torch.randn(4, 6))),
    "parametrizations.weight_norm": normed,
    "prune.l1_unstructured": lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
    "the bias": lambda layer: layer.bias.data.add_(1.0),
}


@pytest.mark.parametrize("how", CHANGES)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_layer_computes_with_the_weights_that_it_has(how: str, mode: Callable[[], object]) -> None:
    model, x = nn.Sequential(nn.Linear(6, 4)), torch.randn(3, 6)
    with pack(model) as packed:
        with mode():
            before = model(x)
        CHANGES[how](model[0])
        with mode():
            changed = model(x)
            packed.remove()
            expected = model(x)
    assert torch.allclose(changed, expected, atol=1e-5)
    assert not torch.allclose(before, expected, atol=1e-5)


@torch.no_grad()
def test_functional_call_and_weights_made_in_inference_mode() -> None:
    model, x = nn.Sequential(nn.Linear(6, 4)), torch.randn(3, 6)
    with pack(model):
        for _ in range(4):
            weights = {name: torch.randn_like(value) for name, value in model.named_parameters()}
            called = torch.func.functional_call(model, weights, (x,))
            assert torch.allclose(called, functional.linear(x, weights["0.weight"], weights["0.bias"]), atol=1e-5)
    with torch.inference_mode():
        model = nn.Sequential(nn.Linear(6, 4))
        with pack(model):
            model(x)
            model[0].weight.mul_(2)
            assert torch.allclose(model(x), functional.linear(x, model[0].weight, model[0].bias), atol=1e-5)


@given(st.integers(1, 12), st.integers(1, 40), st.sampled_from([torch.float32, torch.bfloat16]), st.data())
def test_any_change_of_a_weight_is_seen(rows: int, columns: int, dtype: torch.dtype, data) -> None:
    """One number, two that change places, signs, rows. Answers are exact, as the weights are small whole numbers."""
    layer = nn.Linear(columns, rows, bias=False).to(dtype)
    places = st.integers(0, rows * columns - 1)
    one, other = data.draw(places), data.draw(places)
    change = data.draw(st.sampled_from(["set", "swap", "negate", "flip"]))
    with torch.no_grad():
        layer.weight.copy_(torch.arange(rows * columns).view(rows, columns) % 7 - 3)
        x = torch.arange(columns, dtype=dtype)[None] % 5
        with pack(nn.Sequential(layer)):
            layer(x)
            flat = layer.weight.data.view(-1)
            if change == "set":
                flat[one] = 4.0
            elif change == "swap":
                flat[[one, other]] = flat[[other, one]]
            elif change == "negate":
                flat[[one, other]] *= -1
            else:
                layer.weight.data.copy_(layer.weight.data.flip(0))
            assert torch.equal(layer(x), functional.linear(x, layer.weight))


@torch.no_grad()
def test_frozen_weights_are_checked_by_identity_and_version_alone() -> None:
    model, x = nn.Sequential(nn.Linear(6, 4)), torch.randn(3, 6)
    with pack(model, frozen=True):
        before = model(x)
        model[0].weight.data.mul_(2)
        assert torch.equal(model(x), before), "that is the promise that was made"
        model[0].weight.mul_(2)
        assert torch.allclose(model(x), functional.linear(x, model[0].weight, model[0].bias), atol=1e-5)
        fused_step(model[0])
        assert torch.allclose(model(x), functional.linear(x, model[0].weight, model[0].bias), atol=1e-5)


class Adapted(nn.Module):
    """LoRA around a layer."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base, self.down = base, nn.Linear(base.in_features, 2, bias=False)
        self.up = nn.Linear(2, base.out_features, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base(x) + self.up(self.down(x))


def replace(feed: Feed) -> None:
    new = nn.Linear(8, 16)
    new.load_state_dict(feed.fc1.state_dict())
    feed.fc1 = new


def adapt(feed: Feed) -> None:
    torch.manual_seed(0)
    feed.fc1 = Adapted(feed.fc1)


WRAPPED: dict[str, Callable[[Feed], object]] = {
    "replaced": replace,
    "adapted": adapt,
    "another activation": lambda feed: setattr(feed, "activation_fn", nn.ReLU()),
    "an output hook": lambda feed: feed.fc1.register_forward_hook(lambda module, args, output: output - 1.0),
}


@torch.no_grad()
@pytest.mark.parametrize("how", WRAPPED)
def test_who_wraps_or_replaces_a_layer_gets_the_same_answers(how: str) -> None:
    feed, x = Feed(), torch.randn(5, 8)
    other = copy.deepcopy(feed)
    with pack(other):
        WRAPPED[how](feed)
        WRAPPED[how](other)
        assert torch.allclose(other(x), feed(x), atol=1e-5)
    assert torch.allclose(other(x), feed(x), atol=1e-5)


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated")
def test_dynamic_quantisation_of_a_packed_model() -> None:
    feed, x = Feed().eval(), torch.randn(5, 8)
    expected = torch.ao.quantization.quantize_dynamic(copy.deepcopy(feed), {nn.Linear})(x)
    with pack(feed):
        quantised = torch.ao.quantization.quantize_dynamic(feed, {nn.Linear})
        assert not any(map(is_packed, quantised.modules()))
        assert torch.equal(quantised(x), expected)


@torch.no_grad()
def test_who_wrapped_a_packed_forward_outlives_it() -> None:
    """accelerate's hooks do so."""
    layer, x = nn.Sequential(nn.Linear(6, 4)), torch.randn(3, 6)
    handle = pack(layer)
    inner = layer[0].forward
    layer[0].forward = lambda x: inner(x) + 1.0
    handle.remove()
    assert torch.allclose(layer(x), functional.linear(x, layer[0].weight, layer[0].bias) + 1.0, atol=1e-5)


@torch.inference_mode()
def test_copies_and_pickles_are_packed_too() -> None:
    feed, x = Feed(), torch.randn(5, 8)
    expected = feed(x)
    with pack(feed):
        feed(x)
        for other in (copy.deepcopy(feed), pickle.loads(pickle.dumps(feed))):
            assert is_packed(other.fc1)
            assert other.fc1.forward.layer is other.fc1
            assert torch.allclose(other(x), expected, atol=1e-6)
            other.fc1.weight.zero_()
            assert torch.allclose(other(x), other.fc2(functional.gelu(other.fc1.bias)), atol=1e-6)
        assert torch.allclose(feed(x), expected, atol=1e-6)


def test_threads() -> None:
    feed, inputs = Feed(), [torch.randn(5, 8) for _ in range(8)]

    @torch.inference_mode()
    def answer(x: torch.Tensor) -> torch.Tensor:
        return feed(x)

    with pack(feed):
        expected = [answer(x) for x in inputs]
        for weight in (feed.fc1.weight, feed.fc2.weight):
            weight.data.mul_(1.0)  # each thread finds the weights written to, or not
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(answer, inputs * 50))
    assert all(torch.equal(answer, expected[i % 8]) for i, answer in enumerate(answers))


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
    feed = Feed()
    with pack(feed), pytest.raises(ValueError, match="packed already"):
        pack(feed)
    with pytest.raises(ValueError, match="there are none"):
        pack(nn.GELU())
    with pytest.raises(ValueError, match="on meta"):
        pack(nn.Linear(2, 2, device="meta"))
