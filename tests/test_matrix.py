"""Every method against every model family."""

from __future__ import annotations

import copy

import pytest
import torch

from audioprune import TopK, prune, trace
from audioprune.adapters.base import _REGISTRY

from .families import FAMILIES
from .reference import pruned_forward
from .settings import METHODS


@pytest.fixture(params=METHODS)
def method(request: pytest.FixtureRequest) -> TopK:
    return METHODS[request.param]


@torch.no_grad()
def test_equals_the_slow_reference(model, method, spectrogram) -> None:
    """Logits and kept patches, in double precision, against a forward pass written token by token."""
    model, x = model.double(), spectrogram[:2].double()
    logits, kept = pruned_forward(model, x, method)
    with prune(model, method), trace(model) as record:
        assert torch.allclose(model(x).logits, logits, atol=1e-9)
    assert [stage.tolist() for stage in record.kept] == kept


@torch.no_grad()
def test_keeps_exactly_what_was_asked(model, method, spectrogram) -> None:
    with prune(model, method) as handle, trace(model) as record:
        hidden = model(spectrogram, output_hidden_states=True).hidden_states
        special = handle.attachment.adapter.special
        lengths = [state.shape[1] - special for state in hidden]
    expected, now = [handle.tokens[0]], list(handle.tokens)
    for layer in range(len(lengths) - 1):
        if layer in handle.layers:
            now.pop(0)
        expected.append(now[0])
    assert lengths == expected
    fused = method.dropped == "fuse"
    assert [k.shape[1] for k in record.kept] == [count - fused for count in handle.tokens[1:]]
    for kept in record.kept:
        for row in kept.tolist():
            patches = [patch for patch in row if patch >= 0]
            assert patches == sorted(set(patches))
            assert max(patches) < handle.tokens[0]


@torch.no_grad()
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_removal_restores_bit_for_bit(model, method, spectrogram, implementation) -> None:
    model.set_attn_implementation(implementation)
    before, keys = model(spectrogram).logits, list(model.state_dict())
    classes = [type(module) for module in model.modules()]
    attributes = [sorted(module.__dict__) for module in model.modules()]
    handle = prune(model, method)
    assert list(model.state_dict()) == keys
    assert not torch.equal(model(spectrogram).logits, before)
    handle.remove()
    assert torch.equal(model(spectrogram).logits, before)
    assert [type(module) for module in model.modules()] == classes
    assert [sorted(module.__dict__) for module in model.modules()] == attributes
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@torch.no_grad()
def test_attention_implementations_agree(model, method, spectrogram) -> None:
    answers = []
    for implementation in ("eager", "sdpa"):
        model.set_attn_implementation(implementation)
        with prune(model, method), trace(model) as record:
            answers.append((model(spectrogram).logits, record.kept))
    (eager, eager_kept), (sdpa, sdpa_kept) = answers
    assert torch.allclose(eager, sdpa, atol=1e-4)
    assert all(torch.equal(a, b) for a, b in zip(eager_kept, sdpa_kept, strict=True))


def test_gradients_reach_every_parameter(model, method, spectrogram) -> None:
    model.train()
    with prune(model, method):
        model(spectrogram, labels=torch.tensor([1, 2, 3])).loss.backward()
    without = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.requires_grad)


def test_gradient_checkpointing_changes_nothing(model, method, spectrogram) -> None:
    model.train()
    plain, checkpointed = copy.deepcopy(model), model
    checkpointed.activation_checkpointing_enable({"use_reentrant": False})
    for candidate in (plain, checkpointed):
        with prune(candidate, method):
            candidate(spectrogram, labels=torch.tensor([1, 2, 3])).loss.backward()
    pairs = zip(plain.named_parameters(), checkpointed.parameters(), strict=True)
    for (name, a), b in pairs:
        if a.grad is not None:
            assert torch.allclose(a.grad, b.grad, atol=1e-6), name


@torch.no_grad()
def test_bfloat16(model, method, spectrogram) -> None:
    full = copy.deepcopy(model)
    model, x = model.bfloat16(), spectrogram.bfloat16()
    with prune(model, method) as handle, trace(model) as record:
        logits = model(x).logits
    assert logits.dtype == torch.bfloat16
    assert torch.isfinite(logits).all()
    assert record.kept[0].shape[1] == handle.tokens[1] - (method.dropped == "fuse")
    with prune(full, method), torch.autocast("cpu", torch.bfloat16):
        assert torch.isfinite(full(spectrogram).logits).all()


@torch.no_grad()
def test_clips_do_not_depend_on_their_batch(model, method, spectrogram) -> None:
    with prune(model, method):
        together = model(spectrogram).logits
        alone = torch.cat([model(clip[None]).logits for clip in spectrogram])
    assert torch.allclose(together, alone, atol=1e-4)


@torch.no_grad()
def test_keep_rate_one_computes_what_the_model_computes(model, method, spectrogram) -> None:
    before = model(spectrogram).logits
    layers = method.layers
    with prune(model, method.with_keep_rate([1.0] * len(layers) if layers else 1.0)), trace(model) as record:
        assert torch.equal(model(spectrogram).logits, before)
    assert record.kept == ()


def test_every_adapter_has_a_tiny_model_here() -> None:
    models = [build() for build in FAMILIES.values()]
    for adapter in _REGISTRY:
        assert any(adapter.find(model) for model in models), f"list a tiny model of {adapter.family} in families.py"
