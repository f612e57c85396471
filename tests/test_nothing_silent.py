"""What a keep rate of 1.0 and shared or repeated parts must not do: change an answer, or leave a model changed."""

from __future__ import annotations

import copy
import inspect
from typing import Any

import pytest
import torch
from torch import Tensor

import audioprune as ap

from . import audio_lms
from .families import FAMILIES, SPECTROGRAM, SPEECH, inputs_for, wav2vec2
from .settings import METHODS

WAVEFORMS = [name for name in SPEECH if not name.startswith("whisper")]


def masks(name: str, x: Tensor) -> dict[str, Tensor]:
    """Masks that the unpruned model takes."""
    if name == "whisper":
        return {"all": torch.ones(len(x), x.shape[-1], dtype=torch.long)}
    length = 66 if name in SPECTROGRAM else x.shape[1]  # an AST masks tokens
    every = torch.ones(len(x), length, dtype=torch.long)
    if name in SPECTROGRAM:
        return {"all": every, "bool": every.bool(), "some": every.index_fill(1, torch.arange(50, length), 0)}
    at_end, at_start, hole = every.clone(), every.clone(), every.clone()
    at_end[1, 4000:] = 0
    at_start[1, :1000] = 0
    hole[0, 700:900] = 0
    return {"all": every, "bool": every.bool(), "at the end": at_end, "at the start": at_start, "a hole": hole}


@torch.no_grad()
@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in ("audiomae", "ast-overlapping")])
@pytest.mark.parametrize("method", ["topk", "merged", "tome", "ats-attention"])
def test_a_keep_rate_of_one_takes_every_mask(name: str, method: str) -> None:
    model, inputs = FAMILIES[name]().eval(), inputs_for(name)
    for mask in masks(name, next(iter(inputs.values()))).values():
        expected = model(**inputs, attention_mask=mask).logits
        with ap.prune(model, METHODS[method].with_keep_rate(1.0)):
            assert torch.equal(model(**inputs, attention_mask=mask).logits, expected)


@pytest.mark.parametrize("name", [*WAVEFORMS, "whisper"])
def test_a_keep_rate_of_one_in_training_with_layer_drop(name: str) -> None:
    """Blocks are skipped and activations dropped as without pruning, and the gradients are the same."""

    def gradients(pruned: bool) -> dict[str, Tensor]:
        model = FAMILIES[name]()
        for config in {id(c): c for m in model.modules() if (c := getattr(m, "config", None))}.values():
            config.layerdrop = 0.3
            config.hidden_dropout = config.attention_dropout = config.dropout = 0.1
        if name == "whisper":
            model.encoder.layerdrop = 0.3
        if pruned:
            ap.prune(model, ap.TopK(1.0))
        model.train()
        for seed in range(4):
            torch.manual_seed(seed)
            model(**inputs_for(name)).logits.square().mean().backward()
        return {key: p.grad for key, p in model.named_parameters() if p.grad is not None}

    expected, found = gradients(False), gradients(True)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], gradient) for key, gradient in expected.items())


@torch.no_grad()
def test_an_all_ones_mask_below_one() -> None:
    for name in ("ast", "ast-mp"):
        model, inputs = FAMILIES[name]().eval(), inputs_for(name)
        with ap.prune(model, ap.TopK(0.5)):
            expected = model(**inputs).logits
            for dtype in (torch.long, torch.bool, torch.float32):
                mask = torch.ones(3, 66, dtype=dtype)
                assert torch.equal(model(**inputs, attention_mask=mask).logits, expected)


@pytest.mark.parametrize("name", FAMILIES)
def test_signatures_stay(name: str) -> None:
    """A Trainer reads from them which columns a model takes, and whether its loss is to be divided."""
    model = FAMILIES[name]()
    before = {
        key: inspect.signature(module.forward) for key, module in model.named_modules() if hasattr(module, "config")
    }
    with ap.prune(model, ap.TopK(0.5)):
        assert str(inspect.signature(model.forward)) == str(before[""])
        assert str(inspect.signature(type(model).forward)) == str(inspect.signature(type(FAMILIES[name]()).forward))
        inner = model.base_model if name != "whisper" else model.encoder
        key = next(key for key, module in model.named_modules() if module is inner)
        assert str(inspect.signature(inner.forward)) == str(before[key])


def state_of(model: Any) -> tuple[Any, ...]:
    modules = list(model.modules())
    return (
        [type(module) for module in modules],
        [set(vars(module)) for module in modules],
        [id(vars(module).get("config")) for module in modules],
        [len(module._forward_pre_hooks) + len(module._forward_hooks) for module in modules],
    )


def blocks_of(model: Any) -> Any:
    return next(m for m in model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == 4)


@torch.no_grad()
@pytest.mark.parametrize("name", ["ast", "audiomae", "wav2vec2", "wav2vec2-stable", "hubert", "whisper"])
def test_a_block_that_is_used_twice_is_refused_before_anything_is_touched(name: str) -> None:
    model, inputs = FAMILIES[name]().eval(), inputs_for(name)
    blocks = blocks_of(model)
    blocks[2] = blocks[1]
    expected, before = model(**inputs).logits, state_of(model)
    with pytest.raises(ap.UnsupportedModelError, match=r"used 2 times among the 4.*copy\.deepcopy"):
        ap.prune(model, ap.TopK(0.5))
    assert state_of(model) == before
    assert torch.equal(model(**inputs).logits, expected)
    blocks[2] = copy.deepcopy(blocks[1])  # the remedy
    with ap.prune(model, ap.TopK(0.5)):
        assert not torch.equal(model(**inputs).logits, expected)
    assert torch.equal(model(**inputs).logits, expected)


@torch.no_grad()
@pytest.mark.parametrize("name", ["ast", "wav2vec2", "whisper"])
def test_two_models_that_share_one_block(name: str) -> None:
    one, two, inputs = FAMILIES[name]().eval(), FAMILIES[name]().eval(), inputs_for(name)
    blocks_of(two)[1] = blocks_of(one)[1]
    expected = two(**inputs).logits
    handle = ap.prune(one, ap.TopK(0.5))
    assert torch.equal(two(**inputs).logits, expected), "the other one is not pruned"
    before = state_of(two)
    with pytest.raises(ap.UnsupportedModelError, match=r"pruned already, with another model.*remove\(\)"):
        ap.prune(two, ap.TopK(0.5))
    assert state_of(two) == before
    handle.remove()
    with ap.prune(two, ap.TopK(0.5)):
        assert not torch.equal(two(**inputs).logits, expected)
    assert torch.equal(two(**inputs).logits, expected)


@torch.no_grad()
def test_audio_language_models_that_share_an_encoder() -> None:
    one, two = audio_lms.build("qwen2_audio"), audio_lms.build("qwen2_audio")
    two.model.audio_tower = one.model.audio_tower
    inputs = audio_lms.ask("qwen2_audio", [[10, "80", 11]])
    expected, before = two(**inputs).logits, state_of(two)
    handle = ap.prune(one, ap.SegmentwiseTopK(0.5))
    assert torch.equal(two(**inputs).logits, expected)
    with pytest.raises(ap.UnsupportedModelError, match="belongs to another model, which is pruned"):
        ap.prune(two, ap.SegmentwiseTopK(0.5))
    handle.remove()
    assert state_of(two) == before
    one.model.audio_tower.layers[0] = one.model.audio_tower.layers[1]
    expected = one(**inputs).logits
    with pytest.raises(ap.UnsupportedModelError, match="one block several times"):
        ap.prune(one, ap.SegmentwiseTopK(0.5))
    assert torch.equal(one(**inputs).logits, expected)


class Ours(torch.nn.Module):
    """A head of somebody's own around an encoder."""

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, x: Tensor) -> Tensor:
        return self.encoder.forward(x).last_hidden_state.mean(1)


@torch.no_grad()
def test_an_encoder_called_by_its_forward_in_somebodys_own_model() -> None:
    """And a subclass of a model, which is pruned as the class that it comes from."""
    inner = wav2vec2().wav2vec2.eval()
    inner.__class__ = type("MyWav2Vec2", (type(inner),), {})
    model, (x,) = Ours(inner), inputs_for("wav2vec2").values()
    whole = model(x)
    with ap.prune(model, ap.TopK(0.5)), ap.trace(model) as record:
        pruned = model(x)
        assert len(record.kept) == 3
        assert not torch.equal(pruned, whole)
        assert inner(x, output_hidden_states=True).hidden_states[-1].shape[1] == 8
    assert type(inner).__name__ == "MyWav2Vec2"
    assert torch.equal(model(x), whole)


@torch.no_grad()
@pytest.mark.parametrize("name", WAVEFORMS)
def test_a_head_whose_forward_was_kept_does_not_take_a_plain_mean_of_merged_tokens(name: str) -> None:
    model, inputs = SPEECH[name]().eval(), inputs_for(name)
    kept, whole = model.forward, model(**inputs).logits
    with ap.prune(model, ap.TopK(0.5)):
        assert torch.allclose(kept(**inputs).logits, model(**inputs).logits, atol=1e-6)
    with ap.prune(model, ap.TopK(0.5, dropped="merge")):
        assert model.base_model(**inputs).last_hidden_state.shape[1] == 8  # who calls it without the head may
        with pytest.raises(ValueError, match=r"plain mean of tokens that are merged.*take model\.forward again"):
            kept(**inputs)
    assert torch.equal(kept(**inputs).logits, whole)
    assert not model.projector._forward_pre_hooks


def test_what_a_method_learns_is_trained_wherever_the_model_was_pruned() -> None:
    model, inputs = FAMILIES["ast"](), inputs_for("ast")
    with torch.inference_mode():
        handle = ap.prune(model, ap.DynamicViT(0.5))
    model.train()(**inputs).logits.square().mean().backward()
    assert all(p.grad is not None for p in handle.learned.parameters())


@torch.no_grad()
@pytest.mark.parametrize("name", WAVEFORMS)
def test_a_stack_of_blocks_called_by_itself(name: str) -> None:
    model, (x,) = SPEECH[name]().eval(), inputs_for(name).values()
    tower = model.base_model
    given: list[Tensor] = []
    hook = tower.encoder.register_forward_pre_hook(lambda module, args: given.append(args[0].clone()))
    with ap.prune(model, ap.TopK(0.5, dropped="merge")), ap.trace(model) as record:
        expected, kept = tower(x).last_hidden_state, record.kept
        hook.remove()
        found = tower.encoder(given[0].clone()).last_hidden_state
        assert torch.equal(found, expected)
        assert all(torch.equal(a, b) for a, b in zip(record.kept, kept, strict=True))
        mask = torch.arange(64) < torch.tensor([[64], [40], [64]])
        padded = tower.encoder(given[0].clone(), attention_mask=mask).last_hidden_state
        alone = tower.encoder(given[0][1:2, :40].clone()).last_hidden_state
        assert (record.kept[-1] < 40).all()
        assert padded.shape[1] == 8
        if name == "wav2vec2-stable":  # the others' convolutions hear where padding begins
            assert torch.allclose(padded[1:2, :5], alone, atol=1e-5)
        with pytest.raises(ValueError, match="padding before tokens"):
            tower.encoder(given[0].clone(), attention_mask=mask.flip(1))
    with (
        ap.prune(model, ap.TopK(0.5, score="intensity")),
        pytest.raises(ValueError, match="call the model with the waveform"),
    ):
        tower.encoder(given[0].clone())
    assert tower.encoder(given[0].clone()).last_hidden_state.shape[1] == 64
