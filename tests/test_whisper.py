"""Whisper with its decoder: what it reads of a pruned encoder, and everything that `generate` does."""

from __future__ import annotations

import copy
import os
from difflib import SequenceMatcher
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import audioprune as ap
from audioprune.adapters.blocks.adapter import constant_tail
from audioprune.adapters.blocks.transcriber import MergedEncoderOutput, PrunedWhisperModel
from audioprune.adapters.blocks.whisper import convolve
from audioprune.methods.chain import Chain
from audioprune.transcribing.differences import differences

from .conftest import SHARED
from .families import inputs_for, padded, transcriber

WINDOW = 128
"""Frames of the tiny model's window."""
METHODS = {
    "padding": ap.PaddingMerge(0.2, margin=1),
    "padding-and-adjacent": Chain.of([ap.PaddingMerge(0.2, margin=1), ap.AToMe(0.8, layers=(1, 3))]),
    "threshold": ap.AToMe(0.5, layers="all", threshold=0.3),
    "topk": ap.TopK(0.5),
    "fused": ap.TopK(0.6, dropped="fuse"),
}


def tiny(**changes: object) -> torch.nn.Module:
    model = transcriber(**changes).eval()
    # Words 20 … 59 are times, 19 says that there are none.
    for name, value in {
        "no_timestamps_token_id": 19,
        "is_multilingual": False,
        "return_timestamps": False,
        "max_length": 30,
        "alignment_heads": [[0, 1], [1, 2]],
        "max_initial_timestamp_index": 10,
    }.items():
        setattr(model.generation_config, name, value)
    return model


@pytest.fixture
def model() -> torch.nn.Module:
    return tiny()


@pytest.fixture
def clips() -> Tensor:
    """Three clips of a window, padded from different frames on: (3, mels, frames)."""
    return padded(inputs_for("whisper"))["input_features"]


@pytest.fixture(params=METHODS)
def method(request: pytest.FixtureRequest) -> ap.Method:
    return METHODS[request.param]


@pytest.fixture
def all_positions(monkeypatch: pytest.MonkeyPatch):
    """A switch: the decoder reads every position, as a model does that knows of no merged tokens."""
    return lambda: monkeypatch.setattr(PrunedWhisperModel, "_can_read", lambda self, *_: False)


GENERATIONS = {
    "greedy": {},
    "beams": {"num_beams": 3},
    "beams and more answers": {"num_beams": 3, "num_return_sequences": 2},
    "sampling": {"do_sample": True, "num_return_sequences": 2},
    "without a cache": {"use_cache": False},
    "a prompt": {"decoder_input_ids": torch.tensor([[1, 7, 9]] * 3)},
    "temperature fallback": {"temperature": (0.0, 0.5), "logprob_threshold": 0.0, "no_speech_threshold": None},
    "times": {"return_timestamps": True},
    "outputs": {"return_dict_in_generate": True, "output_scores": True},
}


@torch.no_grad()
@pytest.mark.parametrize("how", GENERATIONS)
@pytest.mark.parametrize("name", [name for name in METHODS if name not in ("topk", "fused")])
def test_generates_as_with_all_positions(model, clips, name, how, all_positions) -> None:
    """Merged tokens that count by size are the same to the decoder as all positions, in every way of generating."""

    def words() -> Tensor:
        torch.manual_seed(3)
        found = model.generate(clips, max_new_tokens=8, min_new_tokens=4, **GENERATIONS[how])
        return found if isinstance(found, Tensor) else found["sequences"]

    with ap.prune(model, METHODS[name]):
        merged = words()
        all_positions()
        assert torch.equal(words(), merged)


@torch.no_grad()
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_reads_merged_tokens_as_all_positions(model, clips, attention, all_positions) -> None:
    model.set_attn_implementation(attention)
    inputs = {"input_features": clips, "decoder_input_ids": torch.arange(3, 18).view(3, 5)}
    with ap.prune(model, METHODS["padding-and-adjacent"]):
        merged = model(**inputs)
        all_positions()
        every = model(**inputs)
    assert torch.allclose(merged.logits, every.logits, atol=1e-5)
    assert merged.encoder_last_hidden_state.shape == (3, WINDOW // 2, 48)
    assert torch.equal(merged.encoder_last_hidden_state, every.encoder_last_hidden_state)


@torch.no_grad()
def test_attention_is_spread_over_all_positions(model, clips, all_positions) -> None:
    model.set_attn_implementation("eager")
    inputs = {"input_features": clips, "decoder_input_ids": torch.arange(3, 18).view(3, 5), "output_attentions": True}
    with ap.prune(model, METHODS["padding-and-adjacent"]):
        merged = model(**inputs).cross_attentions
        all_positions()
        every = model(**inputs).cross_attentions
    for one, other in zip(merged, every, strict=True):
        assert one.shape == (3, 4, 5, WINDOW // 2)
        assert torch.allclose(one, other, atol=1e-6)
        assert torch.allclose(one.sum(dim=-1), torch.ones(3, 4, 5), atol=1e-5)


@torch.no_grad()
def test_a_forgotten_position_has_no_attention_and_the_state_before_it(model, clips) -> None:
    model.set_attn_implementation("eager")
    with ap.prune(model, ap.TopK(0.5)), ap.trace(model) as record:
        output = model(clips, decoder_input_ids=torch.ones(3, 1, dtype=torch.long), output_attentions=True)
    for clip in range(3):
        kept = record.kept[-1][clip].tolist()
        gone = [position for position in range(WINDOW // 2) if position not in kept]
        assert bool((output.cross_attentions[0][clip, :, 0, gone] == 0).all())
        state = output.encoder_last_hidden_state[clip]
        for position in gone:
            before = [k for k in kept if k <= position] or kept[:1]
            assert torch.equal(state[position], state[before[-1]])


@torch.no_grad()
@pytest.mark.parametrize("how", [{}, {"num_beams": 2}, {"return_timestamps": True}])
def test_keep_rate_one_generates_bit_for_bit(model, clips, method, how) -> None:
    before = model.generate(clips, **how)
    hidden = model.get_encoder()(clips).last_hidden_state
    with ap.prune(model, method.with_keep_rate(1.0)):
        assert torch.equal(model.generate(clips, **how), before)
        assert torch.equal(model.get_encoder()(clips).last_hidden_state, hidden)
    assert torch.equal(model.generate(clips, **how), before)


@torch.no_grad()
def test_full_windows_are_left_alone_by_the_padding_method(model) -> None:
    clips = inputs_for("whisper")["input_features"]
    before = model(clips, decoder_input_ids=torch.ones(3, 1, dtype=torch.long)).logits
    with ap.prune(model, ap.PaddingMerge()):
        assert torch.equal(model(clips, decoder_input_ids=torch.ones(3, 1, dtype=torch.long)).logits, before)


@torch.no_grad()
def test_a_static_cache_reads_all_positions(model, clips) -> None:
    with ap.prune(model, METHODS["padding"]):
        dynamic = model.generate(clips, max_new_tokens=6)
        static = model.generate(clips, max_new_tokens=6, cache_implementation="static", disable_compile=True)
    assert torch.equal(dynamic, static)


@torch.no_grad()
def test_outputs_of_the_encoder_may_be_given(model, clips) -> None:
    words = torch.arange(3, 18).view(3, 5)
    with ap.prune(model, METHODS["padding"]):
        whole = model(clips, decoder_input_ids=words).logits
        read = model.get_encoder()(clips)
        assert isinstance(read, MergedEncoderOutput)
        assert torch.equal(model(encoder_outputs=read, decoder_input_ids=words).logits, whole)
        as_tuple = model.get_encoder()(clips, return_dict=False)
        assert [type(part) for part in as_tuple] == [Tensor]
        every = model(encoder_outputs=as_tuple, decoder_input_ids=words, return_dict=False)[0]
        assert torch.allclose(every, whole, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("how", [{}, {"num_beams": 2}, {"condition_on_prev_tokens": True}])
def test_long_sounds_in_a_batch(model, all_positions, how) -> None:
    """Three windows and a bit, of which the last is mostly padding; the other clip ends in the second window."""
    frames = 3 * WINDOW + 40
    sound = torch.randn(2, 16, frames, generator=torch.Generator().manual_seed(2))
    mask = torch.ones(2, frames, dtype=torch.long)
    mask[1, WINDOW + 30 :] = 0
    sound[1, :, WINDOW + 30 :] = -1.5

    def words() -> Tensor:
        return model.generate(sound, attention_mask=mask, return_timestamps=True, **how)

    with ap.prune(model, METHODS["padding-and-adjacent"]):
        merged = words()
        all_positions()
        assert torch.equal(words(), merged)


@torch.no_grad()
def test_times_of_words_are_those_of_all_positions(model, clips, all_positions) -> None:
    model.set_attn_implementation("eager")
    mask = torch.ones(3, WINDOW, dtype=torch.long)

    def times() -> Tensor:
        found = model.generate(clips, attention_mask=mask, return_token_timestamps=True, max_new_tokens=8)
        return found["token_timestamps"]

    with ap.prune(model, METHODS["padding"]):
        merged = times()
        all_positions()
        assert torch.allclose(times(), merged)


@torch.no_grad()
def test_an_assistant_helps(model, clips) -> None:
    assistant = copy.deepcopy(model)
    for pruned in (model, assistant):
        ap.prune(pruned, METHODS["padding"])
    alone = model.generate(clips[:1], max_new_tokens=6)
    assert torch.equal(model.generate(clips[:1], max_new_tokens=6, assistant_model=assistant), alone)


@torch.no_grad()
def test_a_multilingual_model_finds_the_language(model, clips, all_positions) -> None:
    settings = {"is_multilingual": True, "lang_to_id": {"<|en|>": 3, "<|de|>": 4}, "task_to_id": {"transcribe": 5}}
    for name, value in settings.items():
        setattr(model.generation_config, name, value)
    with ap.prune(model, METHODS["padding"]):
        found, words = model.detect_language(clips), model.generate(clips, max_new_tokens=6)
        all_positions()
        assert torch.equal(model.detect_language(clips), found)
        assert torch.equal(model.generate(clips, max_new_tokens=6), words)


def test_lora_learns_in_both_halves(model, clips) -> None:
    peft = pytest.importorskip("peft")
    adapted = peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj", "v_proj"]))
    inputs = {"input_features": clips, "labels": torch.arange(3, 18).view(3, 5)}
    with ap.prune(adapted, METHODS["padding-and-adjacent"]):
        adapted(**inputs).loss.backward()
    learnt = [name for name, p in adapted.named_parameters() if p.grad is not None and bool(p.grad.abs().sum() > 0)]
    assert any("encoder.layers.0.self_attn" in name for name in learnt)
    assert any("encoder_attn.v_proj" in name for name in learnt)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(model, clips, dtype) -> None:
    model = model.to(dtype)
    with ap.prune(model, METHODS["padding-and-adjacent"]):
        assert model.generate(clips.to(dtype), max_new_tokens=4).shape[0] == 3


def test_training_reaches_the_encoder_with_and_without_checkpoints(model, clips) -> None:
    words, gradients = torch.arange(3, 18).view(3, 5), []
    for reentrant in (None, False, True):
        trained = copy.deepcopy(model).train()
        if reentrant is not None:
            trained.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
            trained.enable_input_require_grads()
        with ap.prune(trained, METHODS["padding-and-adjacent"]):
            trained(clips.clone().requires_grad_(), labels=words).loss.backward()
        gradients.append(trained.model.encoder.layers[0].fc1.weight.grad)
    assert bool(gradients[0].abs().sum() > 0)
    for other in gradients[1:]:
        assert torch.allclose(gradients[0], other, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("part", ["decoder", "layer", "attention"])
@pytest.mark.parametrize("how", ["of another class", "wrapped"])
def test_a_decoder_that_may_not_pass_sizes_on_reads_all_positions(model, clips, part, how) -> None:
    inputs = {"input_features": clips, "decoder_input_ids": torch.arange(3, 18).view(3, 5)}
    with ap.prune(model, METHODS["padding"]):
        expected = model(**inputs).logits
    layer = model.model.decoder.layers[1]
    module = {"decoder": model.model.decoder, "layer": layer, "attention": layer.encoder_attn}[part]

    class Own(type(module)):
        def forward(self, *args: object, cross_tokens: object = None, **kwargs: object) -> object:
            return super().forward(*args, **kwargs)

    if how == "wrapped":
        own = module.forward
        module.forward = lambda *args, cross_tokens=None, **kwargs: own(*args, **kwargs)
    else:
        module.__class__ = Own
    with ap.prune(model, METHODS["padding"]):
        assert torch.allclose(model(**inputs).logits, expected, atol=1e-5)


# What counts as padding


@given(st.integers(0, 63), st.booleans(), st.floats(-2, 2))
def test_constant_tail_against_a_loop(sound: int, silent_before: bool, floor: float) -> None:
    frames = torch.full((1, 64, 3), floor)
    frames[:, :sound] = torch.randn(1, sound, 3) + 5
    if silent_before and sound > 2:
        frames[:, 1] = floor
    expected = [bool((frames[0, t:] == frames[0, -1]).all()) for t in range(64)]
    assert constant_tail(frames)[0].tolist() == expected


@torch.no_grad()
def test_a_mask_tells_of_padding_that_is_not_constant(model) -> None:
    clips = inputs_for("whisper")["input_features"]
    mask = torch.ones(3, WINDOW, dtype=torch.long)
    mask[:, 40:] = 0
    with ap.prune(model, ap.PaddingMerge(0.1, margin=2)), ap.trace(model) as record:
        model.get_encoder()(clips, attention_mask=mask)
        assert record.kept[0].shape[1] == 20 + 2 + 4 + 2  # ⌈0.1 · 40⌉
        model(clips, attention_mask=mask, decoder_input_ids=torch.ones(3, 1, dtype=torch.long))
        assert record.kept[0].shape[1] == 28
        model.get_encoder()(clips, attention_mask=mask[:1])  # of another batch: it cannot be this one's
        assert record.kept[0].shape[1] == 64


def odd_sounds() -> dict[str, np.ndarray]:
    """Sounds about the tiny model's window of 1.28 s."""
    draw = np.random.default_rng(0)
    noise = draw.standard_normal(20_480).astype(np.float32) / 20
    chord = sum(np.sin(2 * np.pi * hertz * np.arange(8_000) / 16_000) for hertz in (220.0, 277.2, 329.6)) / 6
    lengths = {"a tenth of a second": 1_600, "nearly a window": 20_320, "a window": 20_480}
    return {
        "silence": np.zeros(8_000, np.float32),
        "one sample": noise[:1],
        "chord": chord.astype(np.float32),
        **{name: noise[:length] for name, length in lengths.items()},
    }


@torch.no_grad()
def test_odd_sounds_alone_and_in_a_batch(model, all_positions) -> None:
    """Each is what it is without pruning at keep rate 1, and as with all positions otherwise."""
    extract = transformers.WhisperFeatureExtractor(feature_size=16, chunk_length=1)
    extract.n_samples, extract.nb_max_frames = 20_480, WINDOW
    sounds = list(odd_sounds().values())
    batch = extract(sounds, sampling_rate=16_000, return_tensors="pt").input_features
    each = [batch[i : i + 1] for i in range(len(sounds))]

    def words(of: list[Tensor]) -> list[list[int]]:
        found = [model.generate(one, max_new_tokens=6, min_new_tokens=3)[0].tolist() for one in of]
        return [[word for word in row if word != model.config.pad_token_id] for row in found]

    unpruned = words(each)
    with ap.prune(model, ap.PaddingMerge(1.0)) as handle:
        assert words(each) == unpruned
        handle.keep_rate = 0.1
        alone = words(each)
        together = model.generate(batch, max_new_tokens=6, min_new_tokens=3).tolist()
        assert [[word for word in row if word != model.config.pad_token_id] for row in together] == alone
        all_positions()
        assert words(each) == alone


@torch.no_grad()
@pytest.mark.parametrize("value", [0.0, -1.5])
def test_silence_is_padding(model, value) -> None:
    clips = torch.full((1, 16, WINDOW), value)
    with ap.prune(model, ap.PaddingMerge(0.1, margin=2)):
        read = model.get_encoder()(clips)
        assert model.generate(clips, max_new_tokens=3).shape[0] == 1
    assert read.size.sum() == WINDOW // 2
    assert read.tokens.shape[1] == 2 + 6 + 2  # ⌈0.1 · 60⌉


@torch.no_grad()
def test_what_is_no_number_is_no_padding(model) -> None:
    clips = torch.full((1, 16, WINDOW), float("nan"))
    with ap.prune(model, ap.PaddingMerge(0.1, margin=2)):
        assert model.get_encoder()(clips).last_hidden_state.isnan().all()


def test_sizes_are_kept(model, clips) -> None:
    with torch.no_grad(), ap.prune(model, METHODS["padding-and-adjacent"]):
        read = model.get_encoder()(clips)
    assert read.size.sum(dim=1).tolist() == [WINDOW / 2] * 3
    for clip in range(3):
        counted = torch.bincount(read.holder[clip], minlength=read.tokens.shape[1])
        assert torch.equal(counted.float(), read.size[clip])


@torch.no_grad()
@given(st.integers(0, WINDOW), st.integers(0, WINDOW), st.booleans())
def test_convolutions_leave_padding_out(sound: int, other: int, as_one: bool) -> None:
    """Against transformers' own, for two clips of a batch that end where they will."""
    encoder = ENCODER
    clips = torch.randn(2, 16, WINDOW)
    clips[0, :, sound:], clips[1, :, other:] = -1.5, (-1.5 if as_one else 0.0)
    own = torch.nn.functional.gelu(encoder.conv2(torch.nn.functional.gelu(encoder.conv1(clips))))
    assert torch.allclose(convolve(encoder, clips), own.transpose(1, 2), atol=1e-5)


ENCODER = transcriber().eval().get_encoder()


def test_a_wrong_feature_extractor_is_named(model) -> None:
    with ap.prune(model, ap.PaddingMerge()), pytest.raises(ValueError, match=r"\(1, 32, 128\).*belongs to it"):
        model.get_encoder()(torch.zeros(1, 32, WINDOW))


@torch.no_grad()
def test_an_encoder_of_ones_own_runs_its_own_forward(clips) -> None:
    class Louder(transformers.models.whisper.modeling_whisper.WhisperEncoder):
        def forward(self, input_features: Tensor, **kwargs: object) -> object:
            return super().forward(2 * input_features, **kwargs)

    model = tiny()
    with ap.prune(model, ap.ToMe(0.7)):
        expected = model.get_encoder()(2 * clips).last_hidden_state
    model.model.encoder.__class__ = Louder
    with ap.prune(model, ap.ToMe(0.7)):
        found = model.get_encoder()(clips)
    assert isinstance(found, MergedEncoderOutput)
    assert torch.allclose(found.last_hidden_state, expected, atol=1e-5)


# Lists of methods


def test_a_list_of_methods_is_a_method(model, tmp_path) -> None:
    handle = ap.prune(model, [ap.PaddingMerge(), ap.AToMe(0.9, "all")])
    assert str(handle.method) == "PaddingMerge(0.04) + AToMe(0.9, layers='all')"
    assert Chain.of([ap.PaddingMerge(), ap.ToMe(0.9)]).least_rate == 0.5
    handle.save(tmp_path)
    handle.remove()
    assert ap.prune(model, tmp_path).method == handle.method


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        ([], "an empty list"),
        ([ap.PaddingMerge(), ap.METR(0.5)], "METR learns, and cannot be one of several"),
        ([ap.TopK(0.5), ap.ToMe(0.7)], "both act after the attention of block 1; give them other layers"),
        ([ap.PaddingMerge(), ap.ToMe(0.7, proportional=False)], "proportional must be the same for all"),
    ],
)
def test_lists_that_cannot_be(model, methods, message) -> None:
    with pytest.raises(ValueError, match=message):
        ap.prune(model, methods)
    assert ap.handle(model) is None


def test_rates_of_a_list(model) -> None:
    handle = ap.prune(model, [ap.PaddingMerge(), ap.AToMe(0.9, "all")])
    handle.keep_rate = (0.1, 0.8)
    assert str(handle.method) == "PaddingMerge(0.1) + AToMe(0.8, layers='all')"
    with pytest.raises(ValueError, match=r"keep_rate is 0.5, but these are 2 methods"):
        handle.keep_rate = 0.5
    handle.keep_rate = 1.0
    assert not handle.rates


def test_recommended_needs_no_inputs(model) -> None:
    assert ap.recommended(model) == ap.PaddingMerge()
    method = ap.recommended(model, macs=0.7)
    assert [type(part) for part in method.methods] == [ap.PaddingMerge, ap.AToMe]
    unpruned = ap.macs(model)
    for step, fits in ((0.0, True), (0.01, False)):
        inside = method.methods[1]
        with ap.prune(model, inside.with_keep_rate(inside.keep_rate + step)):
            assert (ap.macs(model) <= 0.7 * unpruned) == fits


@pytest.mark.parametrize("margin", [-1, 2.5, None])
def test_margins_that_cannot_be(margin) -> None:
    with pytest.raises(ValueError, match="it is a number of tokens after the clip that stay, 0 or more"):
        ap.PaddingMerge(margin=margin)


# Real weights


@pytest.fixture(scope="module")
def real() -> Path:
    folder = Path(os.environ.get("AUDIOPRUNE_WHISPER", "")) / "whisper-tiny.en"
    if not os.environ.get("AUDIOPRUNE_WHISPER") or not folder.exists():
        pytest.skip("real weights are not here: set AUDIOPRUNE_WHISPER to a folder with whisper-tiny.en")
    return folder


@pytest.fixture(scope="module")
def speech() -> list[np.ndarray]:
    """Sentences of read speech at 16 kHz, all of them different."""
    found = sorted((SHARED / "data/speech/audio").glob("ljspeech_*.flac"))[:6]
    if not found:
        pytest.skip("the speech of ../shared/data is not here")
    return [soundfile.read(path, dtype="float32")[0] for path in found]


@torch.no_grad()
def test_words_and_times_hardly_change_in_a_pipeline(real, speech) -> None:
    """As transformers' pipeline gives them: a sentence, and several in a row, in batches of windows and in one run."""
    model = transformers.WhisperForConditionalGeneration.from_pretrained(real, dtype=torch.float32).eval()
    parts = {
        "tokenizer": transformers.WhisperTokenizer.from_pretrained(real),
        "feature_extractor": transformers.WhisperFeatureExtractor.from_pretrained(real),
    }
    listen = transformers.pipeline("automatic-speech-recognition", model=model, **parts)
    short, long = speech[0], np.concatenate(speech)

    def heard() -> list[object]:
        runs = [(short, {}), (short, {"return_timestamps": "word"})]
        runs += [(long, {"chunk_length_s": 20, "batch_size": 2}), (long, {"return_timestamps": True})]
        return [listen({"raw": x.copy(), "sampling_rate": 16_000}, **how) for x, how in runs]

    before = heard()
    with ap.prune(model, ap.PaddingMerge()):
        after = heard()
    for one, other in zip(after, before, strict=True):
        apart = differences(other["text"], one["text"])
        assert apart.count <= 0.1 * apart.words, apart.places
    told, known = after[1]["chunks"], before[1]["chunks"]
    blocks = SequenceMatcher(None, [w["text"] for w in known], [w["text"] for w in told], autojunk=False)
    for block in blocks.get_matching_blocks():
        for i in range(block.size):
            assert np.allclose(known[block.a + i]["timestamp"], told[block.b + i]["timestamp"], atol=0.1)
