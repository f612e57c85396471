"""What transformers asks of every model, asked of AudioMAE's three: files, outputs, gradients, weights from nothing."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import initialization

from audioprune.models.audiomae import AudioMAEConfig, AudioMAEForAudioClassification, AudioMAEModel
from audioprune.models.pretraining import AudioMAEForPreTraining

SHAPE = {
    "hidden_size": 48,
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
    "intermediate_size": 96,
    "max_length": 64,
    "num_mel_bins": 32,
    "num_labels": 5,
    "decoder_hidden_size": 32,
    "decoder_num_hidden_layers": 2,
    "decoder_num_attention_heads": 4,
    "decoder_intermediate_size": 48,
}
CLASSES = (AudioMAEModel, AudioMAEForAudioClassification, AudioMAEForPreTraining)
SEEN = torch.rand(2, 8, generator=torch.Generator().manual_seed(1))
"""Which patches a pre-training model sees: it draws them otherwise."""


def config(**changes: Any) -> AudioMAEConfig:
    return AudioMAEConfig(**{**SHAPE, **changes})


def clips(dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(2, 64, 32, generator=torch.Generator().manual_seed(0)).to(dtype)


def answer(model: Any, **more: Any) -> Tensor:
    """What tells two models apart."""
    if isinstance(model, AudioMAEForPreTraining):
        more["noise"] = SEEN
    output = model(clips(model.dtype), **more)
    return output.last_hidden_state if isinstance(model, AudioMAEModel) else output.logits


@pytest.fixture(params=CLASSES, ids=lambda cls: cls.__name__)
def cls(request: pytest.FixtureRequest) -> type[Any]:
    return request.param


@pytest.fixture
def model(cls: type[Any]) -> Any:
    torch.manual_seed(0)
    return cls(config()).eval()


@torch.no_grad()
def test_what_is_saved_comes_back(model, cls, tmp_path) -> None:
    for parameter in model.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.1)
    for buffer in model.buffers():
        buffer.mul_(0.5)  # as from a file whose positions are others
    model.save_pretrained(tmp_path)
    again, report = cls.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert torch.equal(answer(again.eval()), answer(model))
    half = cls.from_pretrained(tmp_path, dtype=torch.bfloat16).eval()
    assert {tensor.dtype for tensor in half.state_dict().values()} == {torch.bfloat16}
    assert torch.allclose(answer(half).float(), answer(model), atol=0.3)


def test_weights_from_nothing(model, cls) -> None:
    """A model is made on the meta device, its memory filled with anything, and then initialised."""
    with torch.device("meta"):
        empty = cls(config())
    empty.to_empty(device="cpu")
    with torch.no_grad():
        for tensor in empty.state_dict().values():
            tensor.fill_(float("nan"))
    empty.init_weights()
    for (name, made), expected in zip(empty.state_dict().items(), model.state_dict().values(), strict=True):
        assert torch.isfinite(made).all(), f"{name} was left as it was"
        if "position" in name or expected.unique().numel() <= 1:
            assert torch.equal(made, expected), name
        else:
            assert float(made.mean() - expected.mean()) == pytest.approx(0, abs=0.02), name
            assert float(made.std()) == pytest.approx(float(expected.std()), rel=0.5), name


def test_positions_are_there_without_an_initialisation(cls) -> None:
    with initialization.no_init_weights():
        bare = cls(config())
    positions = {name: tensor for name, tensor in bare.named_buffers() if "position" in name}
    assert positions
    for name, tensor in positions.items():
        assert torch.equal(tensor, cls(config()).get_buffer(name))
        assert float(tensor.abs().sum()) > 0


def test_a_default_dtype_is_every_tensors(cls) -> None:
    torch.set_default_dtype(torch.bfloat16)
    try:
        made = cls(config())
    finally:
        torch.set_default_dtype(torch.float32)
    assert {tensor.dtype for tensor in made.state_dict().values()} == {torch.bfloat16}


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_changes_nothing(model, reentrant: bool) -> None:
    def gradients(of: Any) -> dict[str, Tensor]:
        of.train()
        answer(of).square().mean().backward()
        return {name: p.grad for name, p in of.named_parameters() if p.grad is not None}

    expected = gradients(copy.deepcopy(model))
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    model.enable_input_require_grads()
    assert any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
    found = gradients(model)
    assert found.keys() == expected.keys()
    assert all(torch.allclose(found[name], gradient, atol=1e-6) for name, gradient in expected.items())


@torch.no_grad()
def test_hidden_states_and_attentions(model) -> None:
    if isinstance(model, AudioMAEForPreTraining):
        model = model.audiomae
    model.set_attn_implementation("eager")
    tokens = 1 + 4 * 2
    for asked in ({"output_hidden_states": True, "output_attentions": True}, {}):
        output = model(clips(), **asked)
        assert (output.hidden_states is None) == (output.attentions is None) == (not asked)
    for name in ("output_hidden_states", "output_attentions"):
        setattr(model.config, name, True)
    output = model(clips())
    assert [state.shape for state in output.hidden_states] == [(2, tokens, 48)] * 4
    assert [weights.shape for weights in output.attentions] == [(2, 4, tokens, tokens)] * 3
    assert all(torch.allclose(weights.sum(-1), torch.ones(2, 4, tokens)) for weights in output.attentions)
    as_tuple = model(clips(), return_dict=False)
    assert torch.equal(as_tuple[0], output.to_tuple()[0])


@torch.no_grad()
def test_the_same_clip_is_answered_the_same(model, cls) -> None:
    assert torch.equal(answer(model), answer(model))
    assert torch.equal(answer(copy.deepcopy(model)), answer(model))
    wet = cls(config(hidden_dropout_prob=0.5, attention_probs_dropout_prob=0.5))
    wet.load_state_dict(model.state_dict())
    assert torch.equal(answer(wet.eval()), answer(model)), "dropout is for training"
    wet.train()
    assert not torch.equal(answer(wet), answer(wet))


@torch.no_grad()
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_attention_implementations_agree(model, implementation: str) -> None:
    expected = answer(model)
    model.set_attn_implementation(implementation)
    assert torch.allclose(answer(model), expected, atol=1e-5)


@torch.no_grad()
def test_one_graph(model) -> None:
    torch._dynamo.reset()
    fast: Callable[..., Any] = torch.compile(model, backend="aot_eager", fullgraph=True)
    if isinstance(model, AudioMAEForPreTraining):
        found = fast(clips(), noise=SEEN).logits
    else:
        output = fast(clips())
        found = output.last_hidden_state if isinstance(model, AudioMAEModel) else output.logits
    assert torch.allclose(found, answer(model), atol=1e-5)


def test_every_weight_is_trained(model) -> None:
    output = model(clips(), noise=SEEN) if isinstance(model, AudioMAEForPreTraining) else model(clips())
    loss = output.loss if getattr(output, "loss", None) is not None else output.to_tuple()[0].square().mean()
    loss.backward()
    left_out = {name for name, p in model.named_parameters() if p.grad is None}
    assert not left_out
    assert not any(buffer.requires_grad for buffer in model.buffers())


def test_losses_are_means(cls) -> None:
    """A Trainer that accumulates gradients divides by the number of its steps, which it does for such losses."""
    assert cls.accepts_loss_kwargs is False
