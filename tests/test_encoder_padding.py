"""Padding in the encoder of audio-language models: left out where it is masked, merged where a method asks for it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

import audioprune as ap
from audioprune.adapters.audio_lm.adapter import PromptAdapter

from .audio_lms import Prompt, build, exact
from .slow_audio_lms import TOWERS, exactly, listen, listen_merged, logits, shortened

PADDED = ("qwen2_audio", "audio_flamingo3", "music_flamingo", "voxtral", "glm_asr")
"""Their encoder has padding; the last two do not mask it."""
STAND_INS = ap.PaddingMerge(0.25, margin=2)
SHORT: list[Prompt] = [[10, 8, "47", 9, 11], [13, 8, "33", 9, "12", 14], [15, 16]]


def frames_computed(model: Any) -> tuple[list[int], Any]:
    """Frames that come into the encoder's last block, call by call, and the hook that counts them."""
    counted: list[int] = []

    def count(block: nn.Module, args: tuple, kwargs: dict) -> None:
        counted.append((args[0] if args else kwargs["hidden_states"]).shape[1])

    block = model.model.audio_tower.layers[-1].self_attn
    return counted, block.register_forward_pre_hook(count, with_kwargs=True)


@torch.no_grad()
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", PADDED[:3])
def test_padding_that_is_masked_is_not_computed(name: str, attention: str) -> None:
    model = exact(name)
    model.model.audio_tower.set_attn_implementation(attention)
    inputs = exactly(name, SHORT)
    whole, words = model(**inputs).logits, model.generate(**inputs, max_new_tokens=4, num_beams=2)
    hidden = model.model(**inputs).last_hidden_state
    counted, hook = frames_computed(model)
    with ap.prune(model, ap.PaddingMerge()), hook:
        assert torch.allclose(model(**inputs).logits, whole, rtol=0, atol=1e-12)
        assert torch.equal(model.generate(**inputs, max_new_tokens=4, num_beams=2), words)
        assert torch.allclose(model.model(**inputs).last_hidden_state, hidden, rtol=0, atol=1e-12)
    assert counted == [24] * 3  # of 40


@torch.no_grad()
@pytest.mark.parametrize("name", PADDED[:3])
@pytest.mark.parametrize("method", [ap.SegmentwiseTopK(0.25), ap.TopK(0.25, dropped="merge")], ids=str)
def test_a_pruned_prompt_does_not_compute_masked_padding(name: str, method: ap.Method) -> None:
    model, inputs = exact(name), exactly(name, SHORT)
    counted, hook = frames_computed(model)
    with hook:
        with ap.prune(model, method):
            found = model(**inputs).logits
        with ap.prune(model, [ap.PaddingMerge(), method]):
            again = model(**inputs).logits
    assert counted == [24] * 2
    assert torch.equal(found, again)
    slow = [shortened(*listen(model, name, prompt), method, "renumber")[0] for prompt in SHORT]
    for row, reading in zip(found, slow, strict=True):
        assert torch.allclose(row[-len(reading.embeds) :], logits(model, reading), rtol=0, atol=1e-8)


@torch.no_grad()
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", PADDED[3:])
def test_stand_ins_for_padding_that_is_not_masked(name: str, attention: str) -> None:
    model = exact(name)
    model.model.audio_tower.set_attn_implementation(attention)
    inputs = exactly(name, SHORT)
    with ap.prune(model, STAND_INS):
        found = model(**inputs).logits
        counted, hook = frames_computed(model)
        with hook:
            model.generate(**inputs, max_new_tokens=2)
    assert len(counted) == 1
    assert counted[0] < 40
    for row, prompt in zip(found, SHORT, strict=True):
        reading, _ = listen_merged(model, name, prompt, STAND_INS)
        assert torch.allclose(row[-len(reading.embeds) :], logits(model, reading), rtol=0, atol=1e-8)


@torch.no_grad()
@pytest.mark.parametrize("name", PADDED[3:])
def test_attention_received_beside_stand_ins(name: str) -> None:
    """Padding counts as often as it did, and does not vote."""
    model = exact(name)
    with ap.prune(model, [STAND_INS, ap.SegmentwiseTopK(0.5)]), ap.trace(model) as record:
        model(**exactly(name, SHORT))
    rooms = [scores for prompt in SHORT for scores in listen_merged(model, name, prompt, STAND_INS)[1]]
    voters = [frames for n in (47, 33, 12) for frames in TOWERS[name].rooms(n)]
    for found, scores, count in zip(record.scores[0], rooms, voters, strict=True):
        expected = torch.tensor(scores, dtype=torch.float64) / count
        assert torch.allclose(found[: len(scores)], expected, rtol=0, atol=1e-9)


@torch.no_grad()
@pytest.mark.parametrize("name", PADDED[3:])
def test_sinks_in_silence_stay_apart(name: str) -> None:
    """A frame that all others attend to in silence is no part of a run."""
    model, inputs = exact(name), exactly(name, SHORT)
    with ap.prune(model, STAND_INS) as handle:
        adapter = handle.adapter
        assert isinstance(adapter, PromptAdapter)
        counted, hook = frames_computed(model)
        with hook:
            model(**inputs)
            adapter.sinks = torch.arange(40) == 30
            model(**inputs)
    assert counted[1] > counted[0]


@torch.no_grad()
@pytest.mark.parametrize("name", PADDED)
def test_padding_under_an_attention_that_takes_no_bias(name: str) -> None:
    AttentionInterface.register("someone's", ALL_ATTENTION_FUNCTIONS["sdpa"])
    AttentionMaskInterface.register("someone's", ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
    model, inputs = exact(name), exactly(name, SHORT)
    whole = model(**inputs).logits
    model.model.audio_tower.set_attn_implementation("someone's")
    with ap.prune(model, STAND_INS):
        if name in PADDED[3:]:
            with pytest.raises(ValueError, match="cannot count merged padding .* use one of sdpa, eager"):
                model(**inputs)
        else:
            assert torch.allclose(model(**inputs).logits, whole, rtol=0, atol=1e-12)


@torch.no_grad()
def test_padding_that_only_the_prompt_tells() -> None:
    """Voxtral's inputs do not mark its padding, which is found clip by clip."""
    model, inputs = exact("voxtral"), exactly("voxtral", SHORT)
    embeds = model.get_input_embeddings()(inputs.pop("input_ids"))
    with ap.prune(model, STAND_INS), pytest.raises(ValueError, match="input_ids are missing; give them"):
        model(**inputs, inputs_embeds=embeds)


@pytest.mark.parametrize("name", PADDED)
def test_padding_while_a_model_is_trained(name: str) -> None:
    """Layer drop and gradient checkpointing leave masked padding alone; stand-ins are refused."""
    model, inputs = exact(name).train(), exactly(name, SHORT)
    whole = model(**inputs).logits
    model.gradient_checkpointing_enable({"use_reentrant": False})
    counted, hook = frames_computed(model)
    with ap.prune(model, STAND_INS), hook:
        if name in PADDED[3:]:
            with pytest.raises(ValueError, match="cannot be merged while its blocks are left out or run again"):
                model(**inputs)
            return
        found = model(**inputs).logits
        assert torch.allclose(found, whole, rtol=0, atol=1e-12)
        found.sum().backward()
    assert set(counted) == {40}


@pytest.mark.parametrize("name", PADDED)
def test_gradients_without_padding(name: str) -> None:
    model, inputs = exact(name), exactly(name, SHORT)
    first = model.model.audio_tower.layers[0].self_attn.q_proj.weight
    model(**inputs).logits.sum().backward()
    whole, first.grad = first.grad, None
    with ap.prune(model, STAND_INS):
        model(**inputs).logits.sum().backward()
    assert first.grad is not None
    assert torch.isfinite(first.grad).all()
    if name in PADDED[:3]:
        assert torch.allclose(first.grad, whole, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("name", "method", "reason"),
    [
        ("qwen3_asr", ap.PaddingMerge(), "merges padding, but the encoder of Qwen3ASR.* has none; leave it out"),
        ("voxtral", ap.PaddingMerge(layers=(0, 1)), "acts before the first block"),
        ("voxtral", [ap.PaddingMerge(), ap.PaddingMerge(0.1)], "merged once; give one such method"),
        ("voxtral", [ap.PaddingMerge(), ap.EViT(0.5)], "adds one token"),
    ],
)
def test_padding_that_cannot_be_merged(name: str, method: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        ap.prune(build(name), method)
