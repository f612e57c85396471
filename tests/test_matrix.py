"""Every method against every model family.

Every setting meets every family in the comparison with the slow reference. In the other tests every setting meets one
family, and one setting of each kind (see `kinds.py`) meets every family.
"""

from __future__ import annotations

import copy
import functools

import pytest
import torch

from audioprune import AViT, Method, prune, trace
from audioprune.adapters import find_adapter
from audioprune.adapters.audio_lm.adapter import PromptAdapter
from audioprune.adapters.base import _REGISTRY
from audioprune.adapters.blocks.attachment import LEARNED
from audioprune.adapters.blocks.token_pass import TokenPass
from audioprune.methods.chain import Chain

from .families import FAMILIES, inputs_for
from .kinds import one_of_each_kind
from .reference import pruned_forward
from .settings import METHODS, teach
from .training import labels_of, pruned_loss

HOME = "audiomae"
"""The family that every setting meets in every test."""

NO_CLS = {name for name, build in FAMILIES.items() if find_adapter(build()).special == 0}
REFUSED = [(family, name) for family in NO_CLS for name in METHODS if "cls" in METHODS[name].needs]
LEARNED_FOR_A_LABEL = [
    ("whisper-decoder", name) for name in METHODS if METHODS[name].learns and "cls" not in METHODS[name].needs
]
PAIRS = [
    (family, name) for family in FAMILIES for name in METHODS if (family, name) not in REFUSED + LEARNED_FOR_A_LABEL
]
OF_EACH_KIND = {
    (family, name)
    for family in FAMILIES
    for name in one_of_each_kind({name: METHODS[name] for other, name in PAIRS if other == family})
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Pairs that are not refused: all for the slow reference, of each kind of method one for the rest."""
    if not {"family", "name"} <= set(metafunc.fixturenames) or "refused" in metafunc.function.__name__:
        return
    crossed = metafunc.function is test_equals_the_slow_reference
    pairs = [(family, name) for family, name in PAIRS if crossed or family == HOME or (family, name) in OF_EACH_KIND]
    metafunc.parametrize(("family", "name"), pairs)


@pytest.fixture
def method(name: str) -> Method:
    return METHODS[name]


def cast(inputs: dict[str, torch.Tensor], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    return {name: x.to(dtype) if x.is_floating_point() else x for name, x in inputs.items()}


@pytest.mark.parametrize(("family", "name"), sorted(REFUSED))
def test_refused_where_there_is_no_cls_token(model, method) -> None:
    before = list(model.state_dict())
    with pytest.raises(ValueError, match=r"no CLS token.*score=\"attention\""):
        prune(model, method)
    assert list(model.state_dict()) == before
    assert prune(model, METHODS["topk"]).attached


@pytest.mark.parametrize(("family", "name"), LEARNED_FOR_A_LABEL)
def test_refused_where_there_are_words_to_learn_from(model, method) -> None:
    with pytest.raises(ValueError, match=r"learns .* from a classifier's labels; use a method that does not learn"):
        prune(model, method)


@torch.no_grad()
def test_equals_the_slow_reference(model, method, inputs) -> None:
    """Logits and kept patches, in double precision, against a forward pass written token by token."""
    clips = 1 if method.static else 2  # so that rows differ in length
    model, inputs = model.double(), {key: x[:clips] for key, x in cast(inputs, torch.float64).items()}
    with prune(model, method) as handle, trace(model) as record:
        teach(handle)
        found, learned = model(**inputs).logits, handle.learned
    logits, kept = pruned_forward(model, inputs, method, learned)
    assert [stage.tolist() for stage in record.kept] == kept
    assert torch.allclose(found, logits, rtol=0, atol=1e-9)


@torch.no_grad()
def test_keeps_exactly_what_was_asked(model, method, inputs, monkeypatch) -> None:
    with prune(model, method) as handle, trace(model) as record:
        teach(handle)
        special = handle.adapter.special
        apply = TokenPass._apply

        def special_go_on(self, layer, hidden, state, found):
            result, state = apply(self, layer, hidden, state, found)
            assert torch.equal(result[:, :special], hidden[:, :special])
            return result, state

        monkeypatch.setattr(TokenPass, "_apply", special_go_on)
        outputs = model(**inputs, output_hidden_states=True)
        hidden = outputs.encoder_hidden_states if "decoder_input_ids" in inputs else outputs.hidden_states
        lengths = [state.shape[1] - special for state in hidden]
        n = lengths[0]
        expected, counts = [n], list(handle.tokens_of(n))
        stages = counts[1:]
    for layer in range(len(lengths) - 1):
        if layer in handle.layers:
            counts.pop(0)
        expected.append(counts[0])
    if isinstance(method, AViT):  # what it leaves is the sum over all blocks, of every token
        assert lengths.pop() == n
    widths = [kept.shape[1] for kept in record.kept]
    if method.static:
        fused = getattr(method, "dropped", None) == "fuse"
        assert lengths == expected
        assert widths == [count - fused for count in stages]
    else:
        assert all(length <= bound for length, bound in zip(lengths, expected))
        assert all(0 < width <= bound for width, bound in zip(widths, stages, strict=True))
        assert min(lengths) < n
    for kept in record.kept:
        for row in kept.tolist():
            patches = [patch for patch in row if patch >= 0]
            assert patches == sorted(set(patches))
            assert max(patches, default=0) < n


@torch.no_grad()
def test_removal_restores_bit_for_bit(model, method, inputs) -> None:
    before, keys = model(**inputs).logits, list(model.state_dict())
    classes = [type(module) for module in model.modules()]
    attributes = [sorted(module.__dict__) for module in model.modules()]
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()]
    handle = prune(model, method)
    teach(handle)
    gained = [key for key in model.state_dict() if key not in keys]
    assert all(f"{LEARNED}." in key for key in gained)
    assert bool(gained) == (handle.learned is not None)
    assert not torch.equal(model(**inputs).logits, before)
    handle.remove()
    assert list(model.state_dict()) == keys
    assert torch.equal(model(**inputs).logits, before)
    assert [type(module) for module in model.modules()] == classes
    assert [sorted(module.__dict__) for module in model.modules()] == attributes
    assert [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()] == hooks


@torch.no_grad()
def test_attention_implementations_agree(model, method, inputs) -> None:
    answers = []
    for implementation in ("eager", "sdpa"):
        model.set_attn_implementation(implementation)
        before = model(**inputs).logits
        with prune(model, method) as handle, trace(model) as record:
            teach(handle)
            answers.append((model(**inputs).logits, record.kept))
        assert torch.equal(model(**inputs).logits, before)
    (eager, eager_kept), (sdpa, sdpa_kept) = answers
    assert torch.allclose(eager, sdpa, atol=1e-4)
    assert all(torch.equal(a, b) for a, b in zip(eager_kept, sdpa_kept, strict=True))


@functools.cache
def trained_alone(family: str) -> frozenset[str]:
    """Parameters that a model trains when it is not pruned."""
    model = FAMILIES[family]().train()
    inputs = inputs_for(family)
    model(**inputs, labels=labels_of(inputs)).loss.backward()
    return frozenset(name for name, parameter in model.named_parameters() if parameter.grad is not None)


def test_gradients_reach_every_parameter(model, family, method, inputs) -> None:
    with prune(model.train(), method) as handle:
        teach(handle)
        pruned_loss(model, handle, inputs).backward()
        gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        learned = {name for name, _ in model.named_parameters() if f"{LEARNED}." in name}
    assert set(gradients) == trained_alone(family) | learned
    assert all(torch.isfinite(gradient).all() for gradient in gradients.values())


def test_gradient_checkpointing_changes_nothing(model, method, inputs) -> None:
    model.train()
    gradients = []
    for checkpointed in (False, True):
        if checkpointed:
            model.activation_checkpointing_enable({"use_reentrant": False})
        with prune(model, method) as handle:
            teach(handle)
            pruned_loss(model, handle, inputs).backward()
            gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
            model.zero_grad(set_to_none=True)
    plain, again = gradients
    assert plain.keys() == again.keys()
    for name, gradient in plain.items():
        assert torch.allclose(gradient, again[name], atol=1e-6), name


@torch.no_grad()
def test_bfloat16(model, method, inputs) -> None:
    full, model = copy.deepcopy(model), model.bfloat16()
    with prune(model, method) as handle, trace(model) as record:
        teach(handle)
        logits = model(**cast(inputs, torch.bfloat16)).logits
    assert logits.dtype == torch.bfloat16
    assert torch.isfinite(logits).all()
    bound = handle.tokens_of(record.candidates[0].shape[1])[1]
    fused = getattr(method, "dropped", None) == "fuse"
    assert record.kept[0].shape[1] == bound - fused or not method.static
    with prune(full, method) as handle, torch.autocast("cpu", torch.bfloat16):
        teach(handle)
        assert torch.isfinite(full(**inputs).logits).all()


@torch.no_grad()
def test_clips_do_not_depend_on_their_batch(model, method, inputs) -> None:
    with prune(model, method) as handle:
        teach(handle)
        together = model(**inputs).logits
        alone = torch.cat([model(**{key: x[i : i + 1] for key, x in inputs.items()}).logits for i in range(3)])
    assert torch.allclose(together, alone, atol=1e-4)


@torch.no_grad()
def test_keep_rate_one_computes_what_the_model_computes(model, method, inputs) -> None:
    before = model(**inputs).logits
    layers = method.layers
    with prune(model, method.with_keep_rate([1.0] * len(layers) if layers else 1.0)), trace(model) as record:
        assert torch.equal(model(**inputs).logits, before)
    assert record.kept == ()


def test_every_adapter_has_a_tiny_model_here() -> None:
    models = [build() for build in FAMILIES.values()]
    for adapter in _REGISTRY:
        if issubclass(adapter, PromptAdapter):
            continue  # audio-language models: test_audio_lms.py and test_feature_lms.py
        assert any(adapter.find(model) for model in models), f"list a tiny model of {adapter.family} in families.py"


def test_every_method_is_listed_here() -> None:
    from audioprune.methods import METHODS as NAMED

    assert {type(method) for method in METHODS.values()} - {Chain} == set(NAMED.values())
