"""Audio-language models whose encoder's attention is reached: every family, every method, and `generate` as ever."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import (
    DynamicCache,
    GenerationConfig,
    LogitsProcessorList,
)

import audioprune as ap
from audioprune.adapters.audio_lm.prompts import Layout, Run, find_runs
from audioprune.adapters.audio_lm.tap import summed_scores

from .audio_lms import AUDIO, EOS, FAMILIES, WORDS, Prompt, ask, build, exact, no_mask
from .families import ast
from .kinds import one_of_each_kind
from .slow_audio_lms import (
    THREE_AXES,
    TOWERS,
    answer,
    attention_map,
    exactly,
    in_double,
    listen,
    logits,
    shortened,
)

METHODS: dict[str, ap.Method] = {
    "topk": ap.TopK(0.25),
    "topk-merged": ap.TopK(0.25, dropped="merge"),
    "random": ap.TopK(0.25, score="random", seed=3),
    "random-merged": ap.TopK(0.25, score="random", dropped="merge"),
    "segmentwise": ap.SegmentwiseTopK(0.25),
    "segmentwise-merged": ap.SegmentwiseTopK(0.25, dropped="merge"),
    "segments": ap.SegmentwiseTopK(0.25, segments=4),
    "segments-merged": ap.SegmentwiseTopK(0.25, segments=4, dropped="merge"),
    "uniform": ap.UniformStride(0.25),
    "uniform-merged": ap.UniformStride(0.25, dropped="merge"),
    "pooled": ap.AveragePooling(0.25),
    "tome": ap.ToMe(0.5),
    "tome-hidden": ap.ToMe(0.5, metric="hidden"),
    "tofu": ap.ToFu(0.5),
    "tofu-merged": ap.ToFu(0.5, pruned_share=0.0),
    "visionzip": ap.VisionZip(0.25, contextual=0.4),
    "evs": ap.EVS(0.25),
    "evs-merged": ap.EVS(0.25, dropped="merge"),
    "divprune": ap.DivPrune(0.25),
    "divprune-merged": ap.DivPrune(0.25, dropped="merge"),
    "dpp": ap.DPP(0.25),
    "dpp-merged": ap.DPP(0.25, dropped="merge"),
    "dpp-unscored": ap.DPP(0.25, score="none"),
    "atome": ap.AToMe(0.25),
    "atome-keys": ap.AToMe(0.25, metric="keys"),
    "fastadasp": ap.FastAdaSP(0.25),
    "fastadasp-keys": ap.FastAdaSP(0.25, metric="keys"),
    "ltbm": ap.LTBM(0.25, window=2),
    "ltbm-global": ap.LTBM(0.25, window=None),
    "ltbm-keys": ap.LTBM(0.5, metric="keys"),
    "peaks": ap.PeakSegments(0.25),
    "samap": ap.SAMAP(0.25, threshold=0.3),
    "selective": ap.TopK(0.25, score="selective"),
    "bottomk": ap.TopK(0.25, order="lowest"),
}
MERGED = ap.TopK(0.25, dropped="merge")
BY_ATTENTION = {"topk", "topk-merged", "segmentwise", "segmentwise-merged", "segments", "segments-merged", "visionzip"}
"""Methods whose traces show attention received."""
WINDOWED = ("audio_flamingo3", "music_flamingo", "voxtral", "glm_asr")
"""Their clips may be longer than what the encoder takes at once."""

KINDS = one_of_each_kind(METHODS)
each_family = pytest.mark.parametrize("name", FAMILIES)
each_kind = pytest.mark.parametrize(
    ("name", "method"),
    [(name, method) for name in FAMILIES for method in METHODS if name == "qwen2_5_omni" or method in KINDS],
)
"""Every method with one family, and one of each kind with every family: formulas are compared with their slow forms."""
on_each_side = pytest.mark.parametrize("side", ["left", "right"])


def prompts(name: str) -> list[Prompt]:
    """One clip and words, two, none, nothing but a clip. The third clip is longer than a window where that can be."""
    first, second, third = map(str, FAMILIES[name].clips)
    return [[10, 8, first, 9, 11, 12], [13, 8, second, 9, 14, 8, third, 9, 15], [16, 17, 18], [second]]


def clips(name: str) -> list[int]:
    """Frames of the clips in `prompts`."""
    return [int(part) for prompt in prompts(name) for part in prompt if isinstance(part, str)]


model_of = functools.cache(build)
exact_model_of = functools.cache(exact)


@functools.cache
@torch.no_grad()
def heard(name: str) -> list:
    return [listen(exact_model_of(name), name, prompt) for prompt in prompts(name)]


def labels_of(inputs: dict[str, Tensor]) -> Tensor:
    """Every word but the first of a prompt, which nothing foretells."""
    real = inputs["attention_mask"].bool()
    words = real & (inputs["input_ids"] != AUDIO) & (real.long().cumsum(dim=1) > 1)
    return inputs["input_ids"].where(words, -100)


def new_tokens(found: Any, inputs: dict[str, Tensor]) -> Tensor:
    """What `generate` said after the prompt, which it must have given back as it was."""
    sequences = getattr(found, "sequences", found)
    ids = inputs["input_ids"]
    assert torch.equal(sequences[:, : ids.shape[1]], ids.repeat_interleave(len(sequences) // len(ids), dim=0))
    return sequences[:, ids.shape[1] :]


def rows(values: Tensor) -> list[list[int]]:
    return [[value for value in row if value >= 0] for row in values.tolist()]


def counts(record: ap.Trace) -> list[int]:
    """Tokens of each clip, padding aside."""
    return [len(row) for row in rows(record.candidates[0])]


def budget(method: ap.Method, n: int) -> int:
    """⌈rate · n⌉ of a quarter or a half."""
    return -(-n // round(1 / method.schedule(1)[0]))


# Nothing pruned


@torch.no_grad()
@each_family
@on_each_side
@pytest.mark.parametrize("positions", ["renumber", "keep"])
def test_keep_rate_one_is_the_unpruned_model(name: str, side: str, positions: str) -> None:
    model, inputs = model_of(name), ask(name, prompts(name), side)
    labels = labels_of(inputs)

    def everything() -> list[Tensor]:
        output = model(**inputs, labels=labels)
        return [output.logits, output.loss, model.generate(**inputs, max_new_tokens=4)]

    expected = everything()
    with ap.prune(model, ap.TopK(1.0), positions=positions) as handle, ap.trace(model) as record:
        assert all(torch.equal(*pair) for pair in zip(everything(), expected, strict=True))
        assert record.kept == ()
        assert all(value is inputs[key] for key, value in handle.shorten(inputs).items())
        handle.keep_rate = 0.25
        assert model(**inputs).logits.shape[1] < expected[0].shape[1]
        handle.keep_rate = 1.0
        assert all(torch.equal(*pair) for pair in zip(everything(), expected, strict=True))
    assert all(torch.equal(*pair) for pair in zip(everything(), expected, strict=True))


# Every method against its slow form


@torch.no_grad()
@each_family
@pytest.mark.parametrize(
    ("method", "positions"),
    [*((method, "renumber") for method in METHODS), ("topk", "keep"), ("segmentwise-merged", "keep")],
)
def test_every_method_equals_its_slow_form(name: str, method: str, positions: str) -> None:
    model, asked = exact_model_of(name), prompts(name)
    slow = [shortened(reading, sounds, METHODS[method], positions) for reading, sounds in heard(name)]
    with ap.prune(model, METHODS[method], positions=positions), ap.trace(model) as record:
        found = model(**exactly(name, asked)).logits
        inputs = in_double(ask(name, asked))
        words = new_tokens(model.generate(**inputs, max_new_tokens=4), inputs)
    assert rows(record.kept[0]) == [kept for _, chosen in slow for kept in chosen]
    assert found.shape[1] == max(len(reading.embeds) for reading, _ in slow)
    for row, (reading, _) in zip(found, slow, strict=True):
        assert torch.allclose(row[-len(reading.embeds) :], logits(model, reading), rtol=0, atol=1e-8)
    assert words.tolist() == [answer(model, reading, 4) for reading, _ in slow]
    if method in BY_ATTENTION:
        for clip, sound in enumerate(sound for _, sounds in heard(name) for sound in sounds):
            expected = torch.tensor(sound.scores, dtype=torch.float64)
            assert torch.allclose(record.scores[0][clip, : len(expected)], expected, rtol=0, atol=1e-9)


@torch.no_grad()
@each_kind
def test_exactly_k_tokens_of_each_clip_survive(name: str, method: str) -> None:
    model, inputs = model_of(name), ask(name, prompts(name))
    with ap.prune(model, METHODS[method]) as handle, ap.trace(model) as record:
        found = model(**inputs).logits
        assert model.generate(**inputs, max_new_tokens=2).shape == (4, inputs["input_ids"].shape[1] + 2)
        kept, tokens = rows(record.kept[0]), counts(record)
        assert [handle.tokens_of(n) for n in tokens] == [(n, budget(METHODS[method], n)) for n in tokens]
    assert tokens == [sum(map(TOWERS[name].tokens, TOWERS[name].rooms(n))) for n in clips(name)]
    assert [len(row) for row in kept] == [budget(METHODS[method], n) for n in tokens]
    assert found.shape == (4, max(5 + len(kept[0]), 7 + len(kept[1]) + len(kept[2])), WORDS)
    assert torch.isfinite(found).all()
    discards = getattr(METHODS[method], "dropped", None) == "discard"
    for clip, n in enumerate(tokens):
        sources = record.sources(0, clip)
        assert all(patch in group for patch, group in zip(kept[clip], sources, strict=True))
        if discards:
            assert sources == [[patch] for patch in kept[clip]]
        elif isinstance(METHODS[method], ap.SAMAP):  # it merges, and then forgets
            assert sum(map(len, sources)) == len({patch for group in sources for patch in group}) <= n
        else:
            assert sorted(patch for group in sources for patch in group) == list(range(n))


@torch.no_grad()
@each_kind
@on_each_side
def test_a_batch_equals_each_prompt_alone(name: str, side: str, method: str) -> None:
    model, asked = exact_model_of(name), prompts(name)
    with ap.prune(model, METHODS[method]), ap.trace(model) as record:
        together, kept = model(**exactly(name, asked, side)).logits, rows(record.kept[0])
        alone = []
        for row, prompt in zip(together, asked, strict=True):
            one = model(**exactly(name, [prompt])).logits[0]
            part = row[-len(one) :] if side == "left" else row[: len(one)]
            assert torch.allclose(part, one, rtol=0, atol=1e-9)
            alone += rows(record.kept[0]) if any(isinstance(part, str) for part in prompt) else []
    assert kept == alone


@torch.no_grad()
def test_each_clips_silence_is_at_its_own_floor() -> None:
    """Whisper's features are cut 8 below their loudest, so that padding is at another number in each clip."""
    model = exact_model_of("voxtral")

    def inputs(clips: Sequence[str]) -> dict[str, Tensor]:
        features = [no_mask([int(n)])["input_features"].clamp_min(-9.0 if n == "47" else -4.0) for n in clips]
        return {**exactly("voxtral", [[10, 8, n, 9] for n in clips]), "input_features": torch.cat(features).double()}

    with ap.prune(model, ap.TopK(0.5)), ap.trace(model) as record:
        model(**inputs(["47", "33"]))
        together = rows(record.kept[0])
        for clip, frames in enumerate(["47", "33"]):
            model(**inputs([frames]))
            assert together[clip] == rows(record.kept[0])[0]


@torch.no_grad()
@pytest.mark.parametrize(("silent", "tokens"), [(0, 20), (60, 13), (80, 10), (160, 20)])
def test_silence_at_the_end_of_a_clip(silent: int, tokens: int) -> None:
    """It is taken for padding, a window altogether of it too, but not where there is nothing else."""
    model, inputs = model_of("voxtral"), ask("voxtral", [[10, 8, "160", 9]])
    sound = inputs["input_features"].transpose(0, 1).reshape(8, 160).clone()
    sound[:, 160 - silent :] = -9.0
    sound[0, 3] = -9.0  # the floor, which some frame of every sound is at
    inputs["input_features"] = sound.unflatten(1, (2, 80)).transpose(0, 1)
    with ap.prune(model, ap.TopK(0.5)), ap.trace(model) as record:
        model(**inputs)
    assert counts(record) == [tokens]


@torch.no_grad()
@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "voxtral"])
def test_a_clip_of_one_token(name: str) -> None:
    model, frames = model_of(name), 8 if name == "glm_asr" else 4
    assert FAMILIES[name].tokens(frames) == 1
    inputs = ask(name, [[10, 8, str(frames), 9], [11, 8, "47", 9, 12]])
    with ap.prune(model, MERGED), ap.trace(model) as record:
        assert new_tokens(model.generate(**inputs, max_new_tokens=3), inputs).shape == (2, 3)
    assert [len(row) for row in rows(record.kept[0])] == [1, -(-FAMILIES[name].tokens(47) // 4)]


@torch.no_grad()
@pytest.mark.parametrize("name", WINDOWED)
def test_a_clip_a_little_longer_than_a_window(name: str) -> None:
    """Its last window makes no token at all (in Voxtral: one)."""
    model, inputs = model_of(name), ask(name, [[10, 8, "81", 9], [11, 8, "47", 9]])
    assert torch.isfinite(model(**inputs).logits).all()
    with ap.prune(model, ap.TopK(0.25)), ap.trace(model) as record:
        model(**inputs)
    assert counts(record)[0] == (11 if name == "voxtral" else FAMILIES[name].tokens(80))


# Training


@torch.no_grad()
@each_family
def test_the_loss_is_that_of_each_prompt_alone(name: str) -> None:
    model, asked = exact_model_of(name), prompts(name)
    with ap.prune(model, MERGED) as handle:
        alone = [exactly(name, [prompt]) for prompt in asked[:3]]  # the fourth has nothing to say
        losses = [model(**one, labels=labels_of(one)).loss for one in alone]
        numbers = [int((labels_of(one) >= 0).sum()) for one in alone]
        expected = sum(loss * n for loss, n in zip(losses, numbers, strict=True)) / sum(numbers)
        for side in ("left", "right"):
            inputs = exactly(name, asked, side)
            inputs["labels"] = labels_of(inputs)
            assert torch.allclose(model(**inputs).loss, expected, rtol=0, atol=1e-6)  # most compute it in float32
            shorter = handle.shorten(inputs)
            assert (shorter["labels"] >= 0).sum() == sum(numbers)
            assert (shorter["labels"] == shorter["input_ids"])[shorter["labels"] >= 0].all()
            assert torch.equal(labels_of(shorter), shorter["labels"])
            words = {key: x for key, x in inputs.items() if key != "position_ids"}
            assert torch.allclose(model(**words).loss, expected, rtol=0, atol=1e-4)


@each_family
@pytest.mark.parametrize("dropped", ["discard", "merge"])
def test_gradients_reach_the_encoder_through_what_was_kept_and_merged(name: str, dropped: str) -> None:
    model, frames = model_of(name).train(), FAMILIES[name].clips[1]
    inputs, pool, left = ask(name, [[10, 8, str(frames), 9, 11, 12]]), TOWERS[name].pool, []

    def leave(module: nn.Module, args: tuple, output: Any) -> None:
        left.append(output[0] if isinstance(output, tuple) else output)
        left[-1].retain_grad()

    hook = model.model.audio_tower.layers[-1].register_forward_hook(leave)
    with ap.prune(model, ap.SegmentwiseTopK(0.25, dropped=dropped)), ap.trace(model) as record:
        model(**inputs, labels=labels_of(inputs)).loss.backward()
    hook.remove()
    model.eval().zero_grad(set_to_none=True)
    reached = left[0].grad.flatten(0, -2).any(dim=1).tolist()
    tokens = rows(record.kept[0])[0] if dropped == "discard" else range(counts(record)[0])
    assert len(left) == 1
    assert [i for i, found in enumerate(reached) if found] == [t * pool + i for t in tokens for i in range(pool)]


@each_family
def test_gradient_checkpointing_changes_nothing(name: str) -> None:
    model, inputs, gradients = build(name).train(), ask(name, prompts(name)), []
    for keep_rate, checkpointed in ((1.0, False), (0.25, False), (0.25, True)):
        if checkpointed:
            model.activation_checkpointing_enable({"use_reentrant": False})
            assert model.model.audio_tower.layers[-1].gradient_checkpointing
        with ap.prune(model, MERGED.with_keep_rate(keep_rate)):
            model(**inputs, labels=labels_of(inputs)).loss.backward()
        gradients.append({key: p.grad for key, p in model.named_parameters() if p.grad is not None})
        model.zero_grad(set_to_none=True)
    unpruned, plain, again = gradients
    assert unpruned.keys() == plain.keys() == again.keys()
    assert all(torch.isfinite(gradient).all() for gradient in plain.values())
    assert all(torch.allclose(plain[key], again[key], atol=1e-6) for key in plain)


# Generation


HOW: tuple[dict[str, Any], ...] = (
    {},
    {"num_beams": 3},
    {"num_beams": 4, "num_return_sequences": 2, "length_penalty": 0.5},
    {"do_sample": True, "num_return_sequences": 3},
    {"do_sample": True, "num_beams": 2, "top_k": 5},
    {"repetition_penalty": 1.7, "use_cache": False},
    {"cache_implementation": "static"},
    {"return_dict_in_generate": True, "output_scores": True, "output_hidden_states": True},
)
"""Ways to generate. Positions matter to the forward, not to how words are chosen: four ways meet both."""


@torch.no_grad()
@each_family
@pytest.mark.parametrize(
    ("how", "positions"),
    [*((how, "renumber") for how in HOW), *((HOW[i], "keep") for i in (0, 1, 5, 6))],
    ids=lambda part: part if isinstance(part, str) else "-".join(part) or "greedy",
)
def test_generate_is_generate_on_the_shorter_prompt(name: str, how: dict[str, Any], positions: str) -> None:
    model, inputs, how = model_of(name), ask(name, prompts(name)), {**how, "max_new_tokens": 5}
    with ap.prune(model, MERGED, positions=positions) as handle:
        torch.manual_seed(3)
        found = model.generate(**inputs, **how)
        shorter = handle.shorten(inputs)
        torch.manual_seed(3)
        again = model.generate(**shorter, **how)
    torch.manual_seed(3)
    plain = model.generate(**shorter, **how)
    expected = new_tokens(plain, shorter)
    assert torch.equal(new_tokens(found, inputs), expected)
    assert torch.equal(new_tokens(again, shorter), expected)
    assert shorter["input_ids"].shape[1] < inputs["input_ids"].shape[1]
    if how.get("return_dict_in_generate"):
        assert all(torch.equal(*pair) for pair in zip(found.scores, plain.scores, strict=True))
        assert found.hidden_states[0][0].shape[1] == shorter["input_ids"].shape[1]


@torch.no_grad()
@each_family
def test_beams_of_a_batch_are_those_of_each_prompt_alone(name: str) -> None:
    model, asked, how = exact_model_of(name), prompts(name), {"num_beams": 3, "max_new_tokens": 4}
    with ap.prune(model, MERGED):
        inputs = in_double(ask(name, asked))
        together = new_tokens(model.generate(**inputs, **how), inputs)
        for row, prompt in zip(together, asked, strict=True):
            one = in_double(ask(name, [prompt]))
            alone = new_tokens(model.generate(**one, **how), one)[0]
            assert torch.equal(row[: len(alone)], alone)


def _lengths(prompt: int) -> list[tuple[dict[str, Any], int]]:
    """How to ask for lengths, and how many new tokens that is. Any word but 0 ends an answer where `soon`."""
    soon = list(range(1, WORDS))
    never = {"suppress_tokens": [EOS]}
    return [
        (never, 20),
        ({**never, "max_length": prompt + 3}, 3),
        ({**never, "generation_config": GenerationConfig(max_length=prompt + 4)}, 4),
        ({**never, "max_length": prompt + 3, "max_new_tokens": 5}, 5),
        ({"eos_token_id": soon, "min_length": prompt + 3, "max_length": prompt + 8, "pad_token_id": 0}, 4),
        ({"eos_token_id": soon, "min_new_tokens": 2, "max_new_tokens": 8, "pad_token_id": 0}, 3),
    ]


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:Using the model-agnostic default")
@each_family
@pytest.mark.parametrize("case", range(6))
def test_lengths_count_the_whole_prompt(name: str, case: int) -> None:
    model, inputs = model_of(name), ask(name, prompts(name)[:1])
    how, number = _lengths(inputs["input_ids"].shape[1])[case]
    assert new_tokens(model.generate(**inputs, **how), inputs).shape[1] == number
    with ap.prune(model, ap.TopK(0.25)):
        assert new_tokens(model.generate(**inputs, **how), inputs).shape[1] == number


class Listener:
    """A streamer that keeps what it is given."""

    def __init__(self) -> None:
        self.heard: list[Tensor] = []
        self.ended = False

    def put(self, value: Tensor) -> None:
        self.heard.append(value)

    def end(self) -> None:
        self.ended = True


@torch.no_grad()
@each_family
def test_a_streamer_hears_the_whole_prompt_first(name: str) -> None:
    model, inputs, streamer = model_of(name), ask(name, prompts(name)), Listener()
    with ap.prune(model, ap.TopK(0.25)):
        found = model.generate(**inputs, max_new_tokens=3, streamer=streamer)
    assert torch.equal(streamer.heard[0], inputs["input_ids"])
    assert torch.equal(torch.stack(streamer.heard[1:], dim=1), new_tokens(found, inputs))
    assert streamer.ended


@each_family
def test_arguments_by_position(name: str) -> None:
    model, inputs = model_of(name), ask(name, prompts(name))
    rest = {key: x for key, x in inputs.items() if key != "input_ids"}
    config, forbidden = GenerationConfig(max_new_tokens=3, pad_token_id=0, eos_token_id=EOS), []

    def forbid(ids: Tensor, scores: Tensor) -> Tensor:
        forbidden.append(ids.shape[1])
        return scores.index_fill(1, torch.tensor([20, 36, 59]), float("-inf"))

    processors = LogitsProcessorList([forbid])
    with ap.prune(model, ap.TopK(0.25)), torch.inference_mode():
        found = model.generate(inputs["input_ids"], config, processors, **rest)
        named = model.generate(**inputs, generation_config=config, logits_processor=processors)
        assert torch.equal(model(inputs["input_ids"], **rest).logits, model(**inputs).logits)
    assert torch.equal(found, named)
    whole = inputs["input_ids"].shape[1]
    assert forbidden == [whole, whole + 1, whole + 2] * 2, "who forbids words knows the prompt as it was given"


@torch.no_grad()
@each_family
def test_text_alone_is_not_touched(name: str) -> None:
    model, inputs = model_of(name), ask(name, [[16, 17, 18], [19, 20]])
    expected = [model(**inputs).logits, model.generate(**inputs, max_new_tokens=3)]
    with ap.prune(model, ap.TopK(0.25)), ap.trace(model) as record:
        model.generate(**ask(name, prompts(name)), max_new_tokens=3)
        kept = record.kept
        assert torch.equal(model(**inputs).logits, expected[0])
        assert torch.equal(model.generate(**inputs, max_new_tokens=3), expected[1])
        assert record.kept is kept


@torch.no_grad()
@each_family
def test_bfloat16(name: str) -> None:
    model, inputs = build(name).bfloat16(), ask(name, prompts(name))
    inputs["input_features"] = inputs["input_features"].bfloat16()
    for method in (MERGED, ap.DPP(0.25, dropped="merge"), ap.VisionZip(0.25)):
        with ap.prune(model, method) as handle, ap.trace(model) as record:
            found = model(**inputs).logits
            assert handle.shorten(inputs)["inputs_embeds"].dtype == found.dtype == torch.bfloat16
            assert torch.isfinite(found).all()
            assert new_tokens(model.generate(**inputs, max_new_tokens=2), inputs).shape == (4, 2)
        assert [len(row) for row in rows(record.kept[0])] == [budget(method, n) for n in counts(record)]


@torch.no_grad()
@each_family
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_attention_is_looked_at_and_stays_what_it_was(name: str, attention: str) -> None:
    model, inputs = build(name), ask(name, prompts(name))
    model.set_attn_implementation(attention)
    tower, said = model.model.audio_tower, []
    hook = tower.register_forward_hook(lambda module, args, output: said.append(output.last_hidden_state))
    model(**inputs)
    with ap.prune(model, ap.TopK(0.25)), ap.trace(model) as record:
        model(**inputs)
    hook.remove()
    if attention == "eager":
        assert torch.equal(*said)
    else:  # without padding, one softmax gives both the output and the scores
        assert torch.allclose(*said, rtol=0, atol=1e-5)
    with ap.prune(model_of(name), ap.TopK(0.25)), ap.trace(model_of(name)) as other:
        model_of(name)(**inputs)
    assert torch.allclose(record.scores[0], other.scores[0], atol=1e-6)


# Positions


@torch.no_grad()
@each_family
@on_each_side
@pytest.mark.parametrize("positions", ["renumber", "keep"])
def test_positions_that_the_language_model_sees(name: str, side: str, positions: str) -> None:
    model, asked, seen = model_of(name), prompts(name), []
    wanted = [shortened(*one, ap.TopK(0.25), positions)[0].positions for one in heard(name)]

    def see(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        seen.append(kwargs["position_ids"])

    inputs = ask(name, asked, side)
    hook = model.model.language_model.register_forward_pre_hook(see, with_kwargs=True)
    with ap.prune(model, ap.TopK(0.25), positions=positions):
        model(**inputs)
        if side == "left":
            model.generate(**inputs, max_new_tokens=4, suppress_tokens=[EOS])
    hook.remove()
    forward, *steps = [found if found is None or found.ndim == 3 else found[None] for found in seen]
    assert len(steps) == (4 if side == "left" else 0)
    for found in (forward, *steps[:1]):
        if found is None:  # the model counts them itself
            assert (positions, name in THREE_AXES, found is forward) == ("renumber", False, True)
            continue
        for row, expected in enumerate(wanted):
            part = found[-3:, row, -len(expected) :] if side == "left" else found[-3:, row, : len(expected)]
            assert part.T.tolist() == expected
    for step, found in enumerate(steps[1:]):
        for row, expected in enumerate(wanted):
            assert found[-3:, row].T.tolist() == [[axis + 1 + step for axis in expected[-1]]]


@torch.no_grad()
@each_family
def test_gaps_in_positions_are_no_borders_between_sequences(name: str) -> None:
    model, inputs = model_of(name), ask(name, prompts(name)[:1])
    with ap.prune(model, ap.TopK(0.25), positions="keep"):
        expected = model(**inputs, use_cache=False).logits
        del inputs["attention_mask"]
        assert torch.allclose(model(**inputs, use_cache=False).logits, expected, atol=1e-5)


@torch.no_grad()
@each_family
def test_a_batch_without_a_mask(name: str) -> None:
    """Prompts of one length, of which different numbers of tokens stay."""
    model, frames = exact_model_of(name), FAMILIES[name].clips
    longest = max(map(FAMILIES[name].tokens, frames))
    asked = [[10, 8, str(n), 9, *[11] * (longest - FAMILIES[name].tokens(n))] for n in frames]
    for positions in ("renumber", "keep"):
        with ap.prune(model, ap.TopK(0.25), positions=positions) as handle:
            inputs = in_double(ask(name, asked))
            expected = model(**inputs).logits
            del inputs["attention_mask"]
            shorter = handle.shorten(inputs)
            assert (shorter["attention_mask"] == 0).any()
            mask = shorter["attention_mask"].bool()
            assert torch.allclose(model(**inputs).logits[mask], expected[mask], rtol=0, atol=1e-4)


# Attached and removed


@torch.no_grad()
@each_family
def test_a_removed_handle_leaves_nothing(name: str) -> None:
    model, inputs = build(name), ask(name, prompts(name))
    expected = [model(**inputs).logits, model.generate(**inputs, max_new_tokens=3)]
    attributes = {key: (set(module.__dict__), vars(module).get("config")) for key, module in model.named_modules()}
    settings = [str(module.config) for module in model.modules() if hasattr(module, "config")]
    state, forward, hooks = list(model.state_dict()), type(model).forward, len(model._forward_pre_hooks)
    handle = ap.prune(model, ap.TopK(0.25))
    assert {"generate", "forward"} <= set(model.__dict__)
    assert type(model).forward is forward
    assert list(model.state_dict()) == state
    assert type(model).__name__ in repr(handle)
    with pytest.raises(ap.AlreadyPrunedError, match="pruned already with TopK"):
        ap.prune(model, ap.TopK(0.5))
    model.generate(**inputs, max_new_tokens=3)
    shorter, short = handle.shorten(inputs), model(**inputs).logits
    assert torch.equal(model(**shorter).logits, short)
    handle.remove()
    handle.remove()
    assert torch.equal(model(**shorter).logits, short)
    assert not {"generate", "forward"} & set(model.__dict__)
    assert len(model._forward_pre_hooks) == hooks
    assert ap.handle(model) is None
    for key, module in model.named_modules():
        names, config = attributes[key]
        assert set(module.__dict__) - {"rope_deltas"} == names - {"rope_deltas"}
        assert vars(module).get("config") is config
    assert [str(module.config) for module in model.modules() if hasattr(module, "config")] == settings
    assert torch.equal(model(**inputs).logits, expected[0])
    assert torch.equal(model.generate(**inputs, max_new_tokens=3), expected[1])
    with pytest.raises(RuntimeError, match="removed"):
        handle.shorten(inputs)


@torch.no_grad()
@each_family
def test_a_copy_is_pruned_by_itself(name: str) -> None:
    model, inputs = build(name), ask(name, prompts(name))
    unpruned = model(**inputs).logits
    with ap.prune(model, MERGED) as handle:
        other = copy.deepcopy(model)
        expected = [model(**inputs).logits, model.generate(**inputs, max_new_tokens=3)]
    assert ap.handle(other) not in (None, handle)
    assert torch.equal(model(**inputs).logits, unpruned)
    model.lm_head.weight.zero_()
    with ap.trace(other) as record:
        assert torch.equal(other(**inputs).logits, expected[0])
        assert torch.equal(other.generate(**inputs, max_new_tokens=3), expected[1])
        assert len(record.kept) == 1
    ap.handle(other).keep_rate = 0.5
    assert other(**inputs).logits.shape[1] > expected[0].shape[1]
    ap.handle(other).remove()
    assert torch.equal(other(**inputs).logits, unpruned)


@torch.no_grad()
def test_an_error_leaves_the_model_as_it_was() -> None:
    model, inputs = build("audio_flamingo3"), ask("audio_flamingo3", prompts("audio_flamingo3"))
    expected = model(**inputs).logits
    with ap.prune(model, ap.TopK(0.25)):
        short = model(**inputs).logits
        with pytest.raises(ValueError, match="do not match|do not fit"):
            model(**{**inputs, "input_ids": inputs["input_ids"].where(inputs["input_ids"] != AUDIO, 7)})
        assert torch.equal(model(**inputs).logits, short)
    assert torch.equal(model(**inputs).logits, expected)


@torch.no_grad()
@pytest.mark.parametrize("positions", ["renumber", "keep"])
def test_settings_on_disk(positions: str, tmp_path: Any) -> None:
    model, inputs = model_of("qwen2_audio"), ask("qwen2_audio", prompts("qwen2_audio"))
    with ap.prune(model, MERGED, positions=positions) as handle:
        assert handle.layers == (0,)
        assert handle.tokens_of(20) == (20, 5)
        with pytest.raises(ValueError, match="clips of any length"):
            _ = handle.tokens
        handle.save(tmp_path)
        expected = model(**inputs).logits
    for where in (tmp_path, tmp_path / "pruning.json"):
        with ap.prune(model, where) as handle:
            assert handle.method == MERGED
            assert handle.adapter.positions == positions
            assert torch.equal(model(**inputs).logits, expected)
    with ap.prune(model, tmp_path, positions="keep") as handle:
        assert handle.adapter.positions == "keep"


@torch.no_grad()
def test_a_pruned_model_is_saved_as_what_it_is(tmp_path: Any) -> None:
    model, inputs = model_of("audio_flamingo3"), ask("audio_flamingo3", prompts("audio_flamingo3"))
    expected = model(**inputs).logits
    with ap.prune(model, ap.TopK(0.25)):
        model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path).eval()
    assert torch.equal(again(**inputs).logits, expected)


def test_a_model_inside_another_module() -> None:
    inner, inputs = model_of("qwen3_asr"), ask("qwen3_asr", prompts("qwen3_asr"))
    with ap.prune(nn.ModuleDict({"inner": inner}), ap.TopK(0.25)) as handle, torch.no_grad():
        assert handle.adapter.encoder is inner
        assert inner(**inputs).logits.shape[1] < inputs["input_ids"].shape[1]
    assert "generate" not in inner.__dict__


# What cannot be served


@pytest.mark.parametrize(
    ("method", "reason"),
    [
        (ap.TopK(0.5, score="cls"), 'no CLS token.*use score="attention"'),
        (ap.VisionZip(0.5, score="cls"), "no CLS token"),
        (ap.TopK(0.5, score="intensity"), "intensity: the encoder outputs of an audio-language model do not give this"),
        (ap.TopK(0.5, score="variation"), "variation: the encoder outputs"),
        (ap.TopK(0.5, layers=(1,)), r"layers is \(1,\).*reduced once.*leave layers out"),
        (ap.TopK((0.5, 0.5), layers=(0, 1)), r"layers is \(0, 1\)"),
        (ap.TopK((0.5, 0.5)), "2 keep rates for 1"),
        (ap.TopK(0.5, dropped="fuse"), "adds one token.*merge"),
        (ap.EViT(0.5), "adds one token"),
        (ap.METR(0.5), "adds one token"),
        (ap.ToMe(0.5, metric="hidden", before=True), "acts before a block, but this model's tokens are reduced after"),
        (ap.ATS(0.5), "with ATS, the sound decides"),
        (ap.SPViT(0.5), "with SPViT, the sound decides"),
        (ap.AViT(0.5), "with AViT, the sound decides"),
        (ap.DynamicViT(0.5), "DynamicViT learns"),
    ],
    ids=lambda value: str(value) if isinstance(value, ap.Method) else "",
)
def test_methods_that_cannot_be_served(method: ap.Method, reason: str) -> None:
    model = model_of("glm_asr")
    before = dict(model.__dict__)
    with pytest.raises(ValueError, match=reason):
        ap.prune(model, method)
    assert model.__dict__ == before


def _cached(model: Any, inputs: dict[str, Tensor]) -> DynamicCache:
    words = {"input_ids": inputs["input_ids"][:, :2], "attention_mask": inputs["attention_mask"][:, :2]}
    return model(**words, use_cache=True).past_key_values


CALLS: dict[str, tuple[str, Callable[[Any, dict[str, Tensor]], Any]]] = {
    "assistant": ("assistant_model: assisted", lambda m, x: m.generate(**x, assistant_model=m)),
    "lookup": ("prompt_lookup_num_tokens", lambda m, x: m.generate(**x, prompt_lookup_num_tokens=2)),
    "lookup in a config": (
        "prompt_lookup_num_tokens",
        lambda m, x: m.generate(**x, generation_config=GenerationConfig(prompt_lookup_num_tokens=2)),
    ),
    "an earlier turn": ("past_key_values: the cache", lambda m, x: m(**x, past_key_values=_cached(m, x))),
    "an earlier turn's answer": (
        "past_key_values: the cache",
        lambda m, x: m.generate(**x, past_key_values=_cached(m, x)),
    ),
    "a mask of pairs": (
        r"attention_mask has shape \(4, 1, 1, \d+\); it must be \(batch, length\)",
        lambda m, x: m(**{**x, "attention_mask": x["attention_mask"][:, None, None].bool()}),
    ),
    "no words": (
        "input_ids are missing",
        lambda m, x: m(**{key: value for key, value in x.items() if key != "input_ids"}),
    ),
    "places of logits": (
        "logits_to_keep: positions in the prompt change",
        lambda m, x: m(**x, logits_to_keep=torch.tensor([1, 2])),
    ),
}


@torch.no_grad()
@each_family
@pytest.mark.parametrize("call", CALLS)
def test_calls_that_cannot_be_served(name: str, call: str) -> None:
    model, inputs = model_of(name), ask(name, prompts(name))
    reason, ask_it = CALLS[call]
    with ap.prune(model, ap.TopK(0.25)), pytest.raises(ValueError, match=reason):
        ask_it(model, inputs)


@torch.no_grad()
@each_family
def test_a_second_turn_with_the_cache_of_the_first(name: str) -> None:
    """Unpruned, words and a cache go on where an answer ended; the sounds are in the cache."""
    model, inputs = model_of(name), ask(name, prompts(name)[:1])
    how = {"max_new_tokens": 3, "suppress_tokens": [EOS]}

    def second_turn(first: Any) -> Tensor:
        ids = torch.cat((first.sequences, torch.tensor([[20, 21, 22]])), dim=1)
        return model.generate(ids, attention_mask=torch.ones_like(ids), past_key_values=first.past_key_values, **how)

    second_turn(model.generate(**inputs, **how, return_dict_in_generate=True))
    with ap.prune(model, ap.TopK(0.25)):
        first = model.generate(**inputs, **how, return_dict_in_generate=True)
        with pytest.raises(ValueError, match="past_key_values"):
            second_turn(first)


@torch.no_grad()
@pytest.mark.parametrize("name", THREE_AXES)
@pytest.mark.parametrize("images", ["pixel_values", "pixel_values_videos", "mm_encoder_outputs"])
def test_images_beside_sounds(name: str, images: str) -> None:
    model, inputs = model_of(name), ask(name, prompts(name))
    with ap.prune(model, ap.TopK(0.25)):
        for call in (model, model.generate):
            with pytest.raises(ValueError, match=f"{images}: prompts with images"):
                call(**inputs, **{images: torch.ones(1)})


@torch.no_grad()
@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "voxtral"])
def test_clips_without_a_token_between_them(name: str) -> None:
    """A clip that is a whole window or more and the next one look like one that is longer; others are told apart.
    Voxtral's clips are all whole windows, each after a token of its own."""
    model, frames = model_of(name), FAMILIES[name].clips
    inputs = ask(name, [[10, 8, str(frames[1]), str(frames[0]), 9, 11]])
    with ap.prune(model, ap.TopK(0.25)):
        for call in (model, model.generate):
            with pytest.raises(ValueError, match="do not fit together.*between two clips"):
                call(**inputs)


@torch.no_grad()
@pytest.mark.parametrize("name", [name for name in WINDOWED if name != "voxtral"])
def test_short_clips_without_a_token_between_them(name: str) -> None:
    model, inputs = model_of(name), ask(name, [[10, 8, "47", "33", 9, 11]])
    with ap.prune(model, ap.TopK(0.25)), pytest.raises(ValueError, match="do not fit together"):
        model(**inputs)


@torch.no_grad()
@each_family
@pytest.mark.parametrize("change", ["more", "fewer", "shorter"])
def test_features_of_other_sounds_than_the_prompts(name: str, change: str) -> None:
    model, (one, two, _) = model_of(name), map(str, FAMILIES[name].clips)
    others = {"more": [one, two, one], "fewer": [one], "shorter": [two, two]}[change]
    if (name, change) == ("voxtral", "shorter"):
        pytest.skip("every clip has whole windows")
    inputs = ask(name, [[10, 8, one, 9, 11, 8, two, 9]])
    features = ask(name, [[10, *[part for n in others for part in (8, n, 9)]]])
    wrong = {**features, **{key: inputs[key] for key in ("input_ids", "attention_mask")}}
    with ap.prune(model, ap.TopK(0.25)):
        for call in (model, model.generate):
            with pytest.raises(ValueError, match="prompt and sounds do not fit together"):
                call(**wrong)


@torch.no_grad()
def test_a_processor_that_does_not_expand_placeholders() -> None:
    model = model_of("qwen2_audio")
    inputs = ask("qwen2_audio", [[10, 8, "80", 9, 11, 8, "47", 9]])
    inputs |= {"input_ids": torch.tensor([[10, 8, AUDIO, 9, 11, 8, AUDIO, 9]]), "attention_mask": torch.ones(1, 8)}
    inputs["attention_mask"] = inputs["attention_mask"].long()
    assert model(**inputs).logits.shape[1] > 8
    with ap.prune(model, ap.TopK(0.25)):
        for call in (model, model.generate):
            with pytest.raises(ValueError, match="placeholder.*processor"):
                call(**inputs)


@torch.no_grad()
def test_masks_of_features_are_needed() -> None:
    model, inputs = model_of("audio_flamingo3"), ask("audio_flamingo3", prompts("audio_flamingo3"))
    del inputs["input_features_mask"]
    with ap.prune(model, ap.TopK(0.25)), pytest.raises(ValueError, match="padding frames are unknown"):
        model(**inputs)


def named(name: str, **parts: nn.Module) -> nn.Module:
    """A model of a class of this name."""
    model = type(name, (nn.Module,), {})()
    for part, module in parts.items():
        model.add_module(part, module)
    return model


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (
            lambda: named("Qwen2_5OmniForConditionalGeneration", thinker=build("qwen2_5_omni")),
            r"Qwen2_5OmniForConditionalGeneration cannot be pruned: its talker.*model\.thinker",
        ),
        (lambda: named("Qwen3OmniMoeForConditionalGeneration"), "talker"),
        (lambda: named("VoxtralRealtimeForConditionalGeneration"), "VoxtralRealtime.*no audio tokens.*use Voxtral"),
        (lambda: named("KyutaiSpeechToTextForConditionalGeneration"), "no audio tokens"),
        (
            lambda: build("qwen2_audio").model,
            "Qwen2AudioModel cannot be pruned: prune the model with its language head",
        ),
        (lambda: build("qwen3_omni").model, "language head"),
        (lambda: build("glm_asr").model, "language head"),
        (lambda: build("voxtral").model.audio_tower, "no encoder that audioprune supports"),
        (lambda: nn.ModuleList([build("voxtral"), build("glm_asr")]), "contains 2 encoders"),
    ],
)
def test_models_that_are_refused(model: Callable[[], nn.Module], reason: str) -> None:
    with pytest.raises(ap.UnsupportedModelError, match=reason):
        ap.prune(model(), ap.TopK(0.5))


def test_a_thinker_inside_a_whole_omni_that_is_inside_another_module() -> None:
    whole = named("Qwen2_5OmniForConditionalGeneration", thinker=build("qwen2_5_omni"))
    with pytest.raises(ap.UnsupportedModelError, match="thinker"):
        ap.prune(nn.Sequential(whole), ap.TopK(0.5))


def test_settings_that_are_wrong() -> None:
    with pytest.raises(ValueError, match='positions is \'sideways\'; it is "renumber" or "keep"'):
        ap.prune(model_of("glm_asr"), ap.TopK(0.5), positions="sideways")
    with pytest.raises(ValueError, match="only an audio-language model's tokens are numbered anew"):
        ap.prune(ast(), ap.TopK(0.5), positions="keep")
    with (
        ap.prune(ast(), ap.TopK(0.5)) as handle,
        pytest.raises(TypeError, match="no audio-language model: it has no prompt to shorten"),
    ):
        handle.shorten({})


# Parts


@settings(max_examples=40)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 9), st.integers(1, 4)),
    masked=st.booleans(),
    seed=st.integers(0, 99),
    data=st.data(),
)
def test_summed_scores_equal_the_whole_map(
    shape: tuple[int, ...], masked: bool, seed: int, data: st.DataObject
) -> None:
    batch, heads, n, _ = shape
    generator = torch.Generator().manual_seed(seed)
    query, key = (3 * torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    lengths = data.draw(st.none() | st.lists(st.integers(0, n), min_size=batch, max_size=batch))
    real = None if lengths is None else torch.arange(n) < torch.tensor(lengths)[:, None]
    expected = torch.zeros(batch, heads, n, dtype=torch.float64)
    for b in range(batch):
        voters = n if lengths is None else lengths[b]
        for h in range(heads):
            if voters:
                whole = attention_map(0.5 * query[b, h], key[b, h], voters if masked else n)
                expected[b, h] = torch.tensor([sum(row[i] for row in whole[:voters]) for i in range(n)])
    assert torch.allclose(summed_scores(query, key, 0.5, real, masked), expected, atol=1e-12)
    half = summed_scores(query.bfloat16(), key.bfloat16(), 0.5, real, masked)
    assert half.dtype == torch.float32
    assert torch.allclose(half.double(), expected, atol=0.1 * n)


@given(st.lists(st.lists(st.sampled_from([AUDIO, 7, 8]), min_size=6, max_size=6), min_size=1, max_size=3))
def test_runs_of_placeholders(ids: list[list[int]]) -> None:
    expected = []
    for row, words in enumerate(ids):
        for word, group in groupby(enumerate(words), key=lambda pair: pair[1]):
            places = [place for place, _ in group]
            if word == AUDIO:
                expected.append(Run(row, places[0], len(places)))
    assert find_runs(torch.tensor(ids), AUDIO) == expected


@given(
    stays=st.lists(st.lists(st.booleans(), min_size=1, max_size=8), min_size=1, max_size=4),
    side=st.sampled_from(["left", "right", None]),
)
def test_layouts(stays: list[list[bool]], side: str | None) -> None:
    """Each row's real tokens, which stay or go, and padding on a side; with None all rows are as long as the first."""
    if side is None:
        stays = [(row * 8)[: len(stays[0])] for row in stays]
    for row in stays:
        row[-1] = True
    width = max(map(len, stays))

    def lay(every: list[list[Any]], width: int, blank: Any) -> Tensor:
        blanks = [[blank] * (width - len(row)) for row in every]
        right = side == "right" and any(len(row) < len(longest) for row in stays)
        return torch.tensor([row + b if right else b + row for row, b in zip(every, blanks, strict=True)])

    longest = max(stays, key=len)
    real = [[1] * len(row) for row in stays]
    layout = Layout(lay(stays, width, False), None if side is None else lay(real, width, 0))
    places = [[i for i, stay in enumerate(row) if stay] for row in stays]
    shorter = max(map(len, places))
    words = lay([list(range(10, 10 + len(row))) for row in stays], width, 99)
    assert layout.take(words, -1).tolist() == lay([[10 + i for i in row] for row in places], shorter, -1).tolist()
    vectors = torch.stack((words, 2 * words), dim=2)
    assert torch.equal(layout.take(vectors, -1)[..., 0], layout.take(words, -1))
    assert layout.mask.tolist() == lay([[1] * len(row) for row in places], shorter, 0).tolist()
    counted = lay([list(range(len(row))) for row in stays], width, 0)
    kept, closed = lay(places, shorter, 0), lay([list(range(len(row))) for row in places], shorter, 0)
    assert layout.positions(counted, renumber=False).tolist() == kept.tolist()
    assert layout.positions(counted, renumber=True).tolist() == closed.tolist()
    axes = torch.stack((counted, counted + 5, counted))
    assert layout.positions(axes, renumber=True)[1].masked_select(layout.mask.bool()).tolist() == [
        5 + i for row in closed.masked_fill(layout.mask == 0, -5).tolist() for i in row if i >= 0
    ]


# Traces


@torch.no_grad()
@each_family
def test_seconds_of_what_was_kept(name: str) -> None:
    model, tower, frames = model_of(name), TOWERS[name], clips(name)
    with ap.prune(model, ap.TopK(0.25)), ap.trace(model) as record:
        model(**ask(name, prompts(name)))
        for clip, kept in enumerate(rows(record.kept[0])):
            spans = record.seconds(clip)
            assert spans.shape == (len(kept), 2)
            begin, end = spans.T
            assert (begin < end).all()
            assert (end[:-1] <= begin[1:] + 1e-6).all()
            # Frames are counted up: the last token may reach as far beyond the clip as it is long.
            assert begin[0] >= 0
            assert end[-1] <= 0.01 * frames[clip] + 0.02 * tower.pool
            if tower.pool > 1:
                each = 0.02 * tower.pool
                assert torch.allclose(begin, each * torch.tensor(kept))
                assert torch.allclose(end - begin, torch.tensor(each))
            else:  # chunks of 100 frames make 13 tokens, of 8 frames each but for the last
                starts = [(i // 13) + 0.08 * (i % 13) for i in kept]
                ends = [min(start + 0.08, i // 13 + 1.0) for i, start in zip(kept, starts, strict=True)]
                assert torch.allclose(spans, torch.tensor([starts, ends]).T)
        assert record.grid == (max(counts(record)), 1)
        assert record.place(0) == "between the encoder and the language model"
        assert record.mask(0).sum() == sum(map(len, rows(record.kept[0])))


def test_seconds_are_of_audio_language_models() -> None:
    model = ast().eval()
    with torch.no_grad(), ap.prune(model, ap.TopK(0.5)), ap.trace(model) as record:
        model(torch.randn(1, 128, 128))
        with pytest.raises(RuntimeError, match="seconds are of audio-language models"):
            record.seconds()
