"""Speech models: what they do beside what every family does. Padded batches, refusals, and transformers' own habits."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable

import pytest
import torch
import transformers
from torch import Tensor, nn

import audioprune as ap
from audioprune.adapters import find_adapter

from .families import SPEECH, STABLE, WAVEFORM, data2vec, inputs_for, transcriber, wav2vec2, waveform, whisper
from .settings import METHODS, teach
from .slow_speech import slow_speech


def of(name: str, **changes: object) -> transformers.PreTrainedModel:
    """A tiny model with a classification head, by the name that its classes begin with."""
    cls = getattr(transformers, f"{name}ForSequenceClassification")
    return waveform(cls, getattr(transformers, f"{name}Config"), **changes)


ALIKE_WHEN_PADDED: dict[str, Callable[[], transformers.PreTrainedModel]] = {
    "wav2vec2": lambda: wav2vec2(feat_extract_norm="layer"),
    "wav2vec2-stable": lambda: wav2vec2(**STABLE),
    "wav2vec2-adapters": lambda: wav2vec2(**STABLE, adapter_attn_dim=8),
    "hubert": lambda: of("Hubert", feat_extract_norm="layer"),
    "hubert-stable": lambda: of("Hubert", **STABLE),
    "unispeech-stable": lambda: of("UniSpeech", **STABLE),
    "unispeech-sat": lambda: of("UniSpeechSat", feat_extract_norm="layer"),
    "unispeech-sat-stable": lambda: of("UniSpeechSat", **STABLE),
    "data2vec": lambda: data2vec(num_conv_pos_embeddings=1),
}
"""Models that hear nothing of a clip's padding themselves."""

SAMPLES = (5120, 3000, 5090, 250, 60)
"""Lengths of the clips of a padded batch: 64, 37, 63, 3 tokens, and one."""
TOKENS = (64, 37, 63, 3, 1)
NO_CLS = sorted(name for name, method in METHODS.items() if "cls" not in method.needs)


def padded(dtype: torch.dtype = torch.float64, padding: float = 5.0) -> dict[str, Tensor]:
    """Clips of `SAMPLES`, padded to 6000 with what no clip may hear."""
    x = torch.randn(len(SAMPLES), 6000, generator=torch.Generator().manual_seed(7), dtype=dtype)
    x[:, 2000:2600] *= 10
    mask = torch.arange(6000) < torch.tensor(SAMPLES)[:, None]
    return {"input_values": torch.where(mask, x, padding), "attention_mask": mask.long()}


def alone(inputs: dict[str, Tensor], clip: int) -> dict[str, Tensor]:
    return {"input_values": inputs["input_values"][clip : clip + 1, : SAMPLES[clip]]}


def patches(kept: Tensor) -> list[int]:
    return [patch for patch in kept.tolist() if patch >= 0]


def check_padded(model: nn.Module, method: ap.Method, padding: float = 5.0) -> None:
    """Each clip of a padded batch as if it were alone, by its logits and by the patches kept."""
    model, inputs = model.eval().double(), padded(padding=padding)
    with ap.prune(model, method) as handle, ap.trace(model) as record:
        teach(handle)
        together, kept = model(**inputs).logits, record.kept
        for clip, tokens in enumerate(TOKENS):
            assert torch.allclose(model(**alone(inputs, clip)).logits[0], together[clip], atol=1e-6), clip
            found = [patches(stage[clip]) for stage in kept]
            assert found == [patches(stage[0]) for stage in record.kept]
            assert all(max(stage, default=0) < tokens for stage in found)


@torch.no_grad()
@pytest.mark.parametrize("name", NO_CLS)
def test_no_method_hears_padding(name: str) -> None:
    check_padded(ALIKE_WHEN_PADDED["wav2vec2-stable"](), METHODS[name])


@torch.no_grad()
def test_a_fused_token_is_average_among_what_was_heard() -> None:
    # It competes with the tokens that are left at the second stage, where silent padding would have it lose.
    method = ap.TopK((0.6, 0.7), layers=[0, 2], score="intensity", dropped="fuse")
    check_padded(ALIKE_WHEN_PADDED["wav2vec2-stable"](), method, padding=0.0)


@torch.no_grad()
def test_clips_that_are_left_with_as_many_tokens() -> None:
    """63 and 64 tokens leave 32 at the first stage; at the second each is cut by its own length again."""
    model, x = ALIKE_WHEN_PADDED["wav2vec2-stable"]().eval().double(), padded()["input_values"][:, :5120]
    samples = (5120, 5090, 5040)
    mask = torch.arange(5120) < torch.tensor(samples)[:, None]
    method = ap.TopK(0.5, layers=[0, 1], score="random", segments=5)
    with ap.prune(model, method), ap.trace(model) as record:
        model(x[:3], attention_mask=mask)
        kept = record.kept
        assert [stage.shape[1] for stage in kept] == [32, 16]
        for clip, length in enumerate(samples):
            model(x[clip : clip + 1, :length])
            assert [stage[clip].tolist() for stage in kept] == [stage[0].tolist() for stage in record.kept]


@torch.no_grad()
@pytest.mark.parametrize("family", ALIKE_WHEN_PADDED)
@pytest.mark.parametrize("name", ["topk", "segments-merged", "ats-attention", "tome"])
def test_no_family_hears_padding(family: str, name: str) -> None:
    check_padded(ALIKE_WHEN_PADDED[family](), METHODS[name])


@torch.no_grad()
@pytest.mark.parametrize("family", ALIKE_WHEN_PADDED)
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_keep_rate_one_on_a_padded_batch(family: str, implementation: str) -> None:
    model, inputs = ALIKE_WHEN_PADDED[family]().eval(), padded(torch.float32)
    model.set_attn_implementation(implementation)
    expected, stock = model(**inputs).logits, type(model)
    with ap.prune(model, ap.TopK(1.0)):
        assert torch.allclose(model(**inputs).logits, expected, atol=1e-6)
    assert type(model) is stock
    assert torch.equal(model(**inputs).logits, expected)


@torch.no_grad()
def test_a_padded_batch_keeps_by_each_clips_own_length() -> None:
    model = ALIKE_WHEN_PADDED["hubert-stable"]().eval()
    with ap.prune(model, ap.TopK(0.5, layers=[1, 2])) as handle, ap.trace(model) as record:
        hidden = model(**padded(torch.float32), output_hidden_states=True).hidden_states
        assert [state.shape[1] for state in hidden] == [75, 75, 32, 16, 16]
        for clip, tokens in enumerate(TOKENS):
            assert [len(patches(stage[clip])) for stage in record.kept] == list(handle.tokens_of(tokens))[1:]
    assert record.grid == (75, 1)


@torch.no_grad()
def test_a_mask_that_masks_nothing() -> None:
    model, x = SPEECH["wav2vec2-stable"]().eval(), inputs_for("wav2vec2")["input_values"]
    with ap.prune(model, ap.TopK(0.5)):
        assert torch.equal(model(x, attention_mask=torch.ones_like(x, dtype=torch.bool)).logits, model(x).logits)
        assert torch.equal(model(x, torch.ones_like(x)).logits, model(x).logits)  # by position


@torch.no_grad()
def test_without_a_mask_padding_is_sound() -> None:
    model, x = SPEECH["wav2vec2"]().eval(), inputs_for("wav2vec2")["input_values"]
    x[1, 2000:] = 0
    with ap.prune(model, ap.TopK(0.5)), ap.trace(model) as record:
        model(x)
    assert (record.kept[0] >= 0).all()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda mask: mask[:, :-1], r"attention_mask is \(5, 5999\)"),
        (lambda mask: mask[:, None, None], "one number for each sample"),
        (lambda mask: mask.where(torch.arange(6000) < 59, 0), "59 samples of clip 0, but one token needs 60"),
        (lambda mask: mask * 0, "0 samples of clip 0"),
    ],
)
def test_masks_that_cannot_be_served(change: Callable[[Tensor], Tensor], reason: str) -> None:
    model, inputs = SPEECH["wav2vec2-stable"]().eval(), padded(torch.float32)
    inputs["attention_mask"] = change(inputs["attention_mask"])
    with ap.prune(model, ap.TopK(0.5)), pytest.raises(ValueError, match=reason):
        model(**inputs)


MASKS: dict[str, Callable[[Tensor], Tensor]] = {
    "padding before sound": lambda mask: mask.flip(1),
    "a hole": lambda mask: mask.where(torch.arange(6000) != 100, 0),
}


@torch.no_grad()
@pytest.mark.parametrize("where", MASKS)
@pytest.mark.parametrize("family", ["wav2vec2-stable", "hubert", "data2vec", "unispeech-sat"])
def test_padding_that_is_elsewhere_is_read_as_the_model_reads_it(family: str, where: str) -> None:
    """transformers counts the samples that are no padding, and takes them to stand at the beginning."""
    model, inputs = ALIKE_WHEN_PADDED[family]().eval(), padded(torch.float32)
    mask = MASKS[where](inputs["attention_mask"])
    at_beginning = (torch.arange(6000) < mask.sum(1, keepdim=True)).long()
    elsewhere = inputs | {"attention_mask": mask}
    expected = model(**elsewhere).logits
    with ap.prune(model, ap.TopK(1.0)) as handle:
        assert torch.equal(model(**elsewhere).logits, expected)
        handle.keep_rate = 0.5
        # In these families the convolutions' output is masked, so that nothing else is left of the mask.
        assert torch.equal(model(**elsewhere).logits, model(**inputs | {"attention_mask": at_beginning}).logits)


SMALL = {**WAVEFORM, "vocab_size": 12, "tdnn_dim": (16,), "tdnn_kernel": (1,), "tdnn_dilation": (1,)}
REFUSED: list[tuple[str, str, dict[str, object]]] = [
    *((f"{name}ForCTC", "time order", {}) for name in ("Wav2Vec2", "Hubert", "Data2VecAudio", "UniSpeech")),
    ("UniSpeechSatForCTC", "time order", {}),
    *(
        (f"{name}{head}", reason, {})
        for name in ("Wav2Vec2", "Data2VecAudio", "UniSpeechSat")
        for head, reason in (
            ("ForAudioFrameClassification", "labels every frame"),
            ("ForXVector", "neighbouring frames"),
        )
    ),
    *((f"{name}ForPreTraining", "its target", {}) for name in ("Wav2Vec2", "UniSpeech", "UniSpeechSat")),
    ("SEWForSequenceClassification", "upsamples", {"squeeze_factor": 2}),
    ("SEWDModel", "upsamples", {"squeeze_factor": 2}),
    ("WavLMForSequenceClassification", "position bias", {}),
    ("Wav2Vec2BertModel", "convolves over neighbouring tokens", {}),
    ("Wav2Vec2ConformerForSequenceClassification", "convolves over neighbouring tokens", {}),
    ("Wav2Vec2ForSequenceClassification", "use_weighted_layer_sum", {"use_weighted_layer_sum": True}),
    ("Wav2Vec2Model", "add_adapter", {"add_adapter": True}),
]


@pytest.mark.parametrize(("name", "reason", "changes"), REFUSED)
def test_refusals_give_their_reason(name: str, reason: str, changes: dict[str, object]) -> None:
    family = next(name.removesuffix(s) for s in sorted(HEADS, key=len, reverse=True) if name.endswith(s))
    config = getattr(transformers, f"{family}Config")(**{**SMALL, **changes})
    with torch.device("meta"):
        model = getattr(transformers, name)(config)
    for holder in (model, nn.ModuleDict({"inner": model})):
        with pytest.raises(ap.UnsupportedModelError, match=rf"{reason}.*; use"):
            ap.prune(holder, ap.TopK(0.5))


HEADS = ("ForCTC", "ForAudioFrameClassification", "ForXVector", "ForPreTraining", "ForSequenceClassification", "Model")


def test_whispers_encoder_by_itself_leaves_fewer_tokens() -> None:
    model, x = transcriber().eval(), inputs_for("whisper")
    with torch.no_grad(), ap.prune(model.get_encoder(), ap.TopK(0.5)) as handle:
        assert model.get_encoder()(**x).last_hidden_state.shape == (3, handle.tokens[-1], 48)


def test_an_unknown_owner_is_refused() -> None:
    class Owner(transformers.Wav2Vec2PreTrainedModel):
        def __init__(self, config: transformers.Wav2Vec2Config) -> None:
            super().__init__(config)
            self.wav2vec2 = transformers.Wav2Vec2Model(config)

    owner = Owner(transformers.Wav2Vec2Config(**WAVEFORM))
    with pytest.raises(ap.UnsupportedModelError, match="Owner contains a Wav2Vec2Model.*by itself"):
        ap.prune(owner, ap.TopK(0.5))
    assert ap.prune(owner.wav2vec2, ap.TopK(0.5)).attached


def test_a_head_inside_another_module() -> None:
    model = nn.Sequential(SPEECH["wav2vec2"]().eval())
    assert find_adapter(model).encoder is model[0]
    with torch.no_grad(), ap.prune(model, ap.TopK(0.5)), ap.trace(model) as record:
        model(inputs_for("wav2vec2")["input_values"])
    assert [kept.shape[1] for kept in record.kept] == [32, 16, 8]


@torch.no_grad()
@pytest.mark.parametrize("name", SPEECH)
def test_bare_models(name: str) -> None:
    head, inputs = SPEECH[name]().eval(), inputs_for(name)
    base = find_adapter(head).tower
    expected, stock = base(**inputs).last_hidden_state, type(base)
    with ap.prune(base, ap.TopK(1.0)):
        assert torch.equal(base(**inputs).last_hidden_state, expected)
    with ap.prune(base, ap.SegmentwiseTopK(0.5)) as handle:
        output = base(**inputs, output_hidden_states=True)
        assert output.last_hidden_state.shape[1] == handle.tokens_of(64)[-1]
        assert [state.shape[1] for state in output.hidden_states] == [64, 64, 32, 16, 8]
        assert base(**inputs, return_dict=False)[0].shape[1] == 8
    assert type(base) is stock
    assert torch.equal(base(**inputs).last_hidden_state, expected)


@torch.no_grad()
@pytest.mark.parametrize("name", SPEECH)
def test_outputs_are_recorded_as_ever(name: str) -> None:
    model, inputs = SPEECH[name]().eval(), inputs_for(name)
    model.set_attn_implementation("eager")
    with ap.prune(model, ap.TopK(0.5)):
        output = model(**inputs, output_hidden_states=True, output_attentions=True)
        encoder = "encoder_" if name == "whisper-decoder" else ""
        assert [state.shape[1] for state in output[f"{encoder}hidden_states"]] == [64, 64, 32, 16, 8]
        assert [weights.shape[-1] for weights in output[f"{encoder}attentions"]] == [64, 64, 32, 16]
        logits = model(**inputs, return_dict=False)[0]
        assert torch.equal(logits, output.logits)
        assert model(**inputs).get(f"{encoder}hidden_states") is None


def dropping(name: str, rate: float) -> transformers.PreTrainedModel:
    model = SPEECH[name]().train()
    if name == "whisper":
        model.encoder.layerdrop = rate
    else:
        model.config.layerdrop = rate
    return model


@pytest.mark.parametrize("name", ["wav2vec2", "wav2vec2-stable", "hubert", "whisper"])
def test_a_block_that_layer_drop_skips_prunes_nothing(name: str) -> None:
    model, inputs = dropping(name, 0.5), inputs_for(name)
    stages, read = set(), []
    model.projector.register_forward_pre_hook(lambda module, args: read.append(args[0].shape[1]))
    with ap.prune(model, ap.TopK(0.5)), ap.trace(model) as record:
        for seed in range(12):
            torch.manual_seed(seed)
            model(**inputs).logits.sum().backward()
            kept = [stage.shape[1] for stage in record.kept]
            assert kept == [64 // 2 ** (i + 1) for i in range(len(kept))]
            assert read.pop() == (kept[-1] if kept else 64)
            stages.add(len(kept))
        assert stages >= {1, 2}
        assert len(model.eval()(**inputs, output_hidden_states=True).hidden_states) == 5


@pytest.mark.parametrize("name", ["wav2vec2", "hubert", "whisper"])
def test_if_every_block_is_skipped_nothing_is_pruned(name: str) -> None:
    model, inputs = dropping(name, 1.0), inputs_for(name)
    torch.manual_seed(0)
    expected = model(**inputs).logits
    with ap.prune(model, ap.TopK(0.5)):
        torch.manual_seed(0)
        assert torch.allclose(model(**inputs).logits, expected, atol=1e-6)


@pytest.mark.parametrize("name", ["wav2vec2", "hubert", "whisper"])
def test_layer_drop_is_refused_where_a_method_learns(name: str) -> None:
    model, inputs = dropping(name, 0.2), inputs_for(name)
    with ap.prune(model, ap.DynamicViT(0.5) if name == "whisper" else METHODS["dynamicvit"]) as handle:
        teach(handle)
        with pytest.raises(ValueError, match=r"layerdrop is 0.2.*layerdrop = 0"):
            model(**inputs)
        assert torch.isfinite(model.eval()(**inputs).logits).all()


def test_tokens_need_a_length() -> None:
    with ap.prune(SPEECH["wav2vec2"](), ap.TopK(0.5)) as handle:
        assert handle.tokens_of(50) == (50, 25, 13, 7)
        with pytest.raises(ValueError, match="clips of any length"):
            _ = handle.tokens
    with ap.prune(SPEECH["whisper"](), ap.TopK(0.5)) as handle:
        assert handle.tokens == (64, 32, 16, 8)


@torch.no_grad()
def test_a_trace_learns_the_grid_from_the_clips() -> None:
    model = SPEECH["wav2vec2"]().eval()
    with ap.prune(model, ap.TopK(0.5)), ap.trace(model) as record:
        with pytest.raises(RuntimeError, match="run it first"):
            _ = record.grid
        for samples, tokens in ((5120, 64), (5179, 64), (5180, 65), (60, 1)):
            model(torch.randn(1, samples))
            assert record.grid == (tokens, 1)
            assert record.mask(0).shape == (1, tokens, 1)


@torch.no_grad()
def test_loud_sound_is_where_the_intensity_is() -> None:
    model = SPEECH["wav2vec2"]().eval()
    x = 0.001 * torch.randn(1, 5120)
    x[0, 80 * 20 : 80 * 20 + 60] = 1.0
    with ap.prune(model, ap.TopK(1 / 64, layers=[1], score="intensity")), ap.trace(model) as record:
        model(x)
    assert record.kept[0].tolist() == [[20]]


@pytest.mark.parametrize("name", ["wav2vec2", "whisper"])
def test_statistics_equal_the_slow_ones(name: str) -> None:
    model, inputs = SPEECH[name]().eval(), {key: x[:1] for key, x in inputs_for(name).items()}
    slow = slow_speech(model, inputs)
    for statistic, found in zip(("intensity", "variation"), find_adapter(model).patch_statistics(inputs), strict=True):
        assert torch.allclose(found[0], torch.tensor(slow.statistic(statistic)), atol=1e-5)


@pytest.mark.parametrize(
    ("kernels", "strides"), [((10, 3, 3), (5, 4, 4)), ((10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2)), ((3, 2), (4, 1))]
)
def test_one_statistic_for_each_token_of_any_length(kernels: tuple, strides: tuple) -> None:
    convolutions = {"conv_kernel": kernels, "conv_stride": strides, "conv_dim": (8,) * len(kernels)}
    model = wav2vec2(**convolutions, num_hidden_layers=1).eval()
    adapter = find_adapter(model)
    shortest = next(n for n in range(1, 1000) if model._get_feat_extract_output_lengths(n) == 1)
    for samples in range(shortest, shortest + 3 * math.prod(strides) + 2, 7):
        tokens = model._get_feat_extract_output_lengths(samples)
        assert adapter.patch_statistics({"input_values": torch.randn(2, samples)})[0].shape == (2, tokens)
    if len(kernels) == 7:
        assert adapter._window == (400, 320)


@torch.no_grad()
@pytest.mark.parametrize("name", SPEECH)
def test_macs(name: str) -> None:
    model, inputs = SPEECH[name](), {key: x[:1] for key, x in inputs_for(name).items()}
    whole = ap.macs(model, inputs=inputs)
    with ap.prune(model, ap.TopK(0.5)) as handle:
        half = ap.macs(model, inputs=inputs)
        handle.keep_rate = 0.9
        assert half < ap.macs(model, inputs=inputs) < whole
        assert ap.macs(model, inputs=next(iter(inputs.values()))) < whole
        if name == "whisper":  # all its clips have one length
            assert ap.macs(model) == ap.macs(model, inputs=inputs)
        elif name == "whisper-decoder":  # one word is decoded
            inputs["decoder_input_ids"] = inputs["decoder_input_ids"][:, :1]
            assert ap.macs(model) == ap.macs(model, inputs=inputs)
        else:
            with pytest.raises(ValueError, match=r"pass inputs=…"):
                ap.macs(model)


@pytest.mark.parametrize("name", SPEECH)
def test_a_pruned_model_is_saved_as_what_it_is(name: str, tmp_path) -> None:
    model, inputs = SPEECH[name]().eval(), inputs_for(name)
    expected, keys, stock = model(**inputs).logits, list(model.state_dict()), type(model)
    with ap.prune(model, ap.TopK(0.5)) as handle:
        assert list(model.state_dict()) == keys
        assert isinstance(model, stock)
        assert stock.__name__ in repr(handle)
        model.save_pretrained(tmp_path)
    again = stock.from_pretrained(tmp_path).eval()
    assert type(again) is stock
    assert again.config.architectures == [stock.__name__]
    assert torch.equal(again(**inputs).logits, expected)


@torch.no_grad()
@pytest.mark.parametrize("name", SPEECH)
def test_a_pruned_model_can_be_copied(name: str) -> None:
    model, inputs = SPEECH[name]().eval(), inputs_for(name)
    with ap.prune(model, ap.SegmentwiseTopK(0.5)):
        others = [copy.deepcopy(model)]
        if name in ("data2vec", "whisper"):  # torch pickles no weight norm, which the others have
            others.append(pickle.loads(pickle.dumps(model)))
        expected = model(**inputs).logits
    for other in others:
        assert torch.equal(other(**inputs).logits, expected)


@pytest.mark.parametrize("family", ["wav2vec2", "wav2vec2-stable", "hubert", "data2vec"])
def test_gradients_of_a_padded_batch(family: str) -> None:
    model, inputs = ALIKE_WHEN_PADDED[family]().train(), padded(torch.float32)
    labels, gradients = torch.tensor([1, 2, 3, 4, 5]), []
    for checkpointed in (False, True):
        if checkpointed:
            model.activation_checkpointing_enable({"use_reentrant": False})
        with ap.prune(model, ap.SegmentwiseTopK(0.5, dropped="merge")):
            model(**inputs, labels=labels).loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.requires_grad})
        model.zero_grad(set_to_none=True)
    plain, again = gradients
    assert all(torch.isfinite(gradient).all() and gradient.any() for gradient in plain.values())
    assert all(torch.allclose(plain[name], again[name], atol=1e-6) for name in plain)


@torch.no_grad()
@pytest.mark.parametrize("family", ["wav2vec2", "wav2vec2-stable", "data2vec"])
def test_bfloat16_of_a_padded_batch(family: str) -> None:
    model = ALIKE_WHEN_PADDED[family]().eval().bfloat16()
    with ap.prune(model, ap.SegmentwiseTopK(0.5, dropped="merge")):
        logits = model(**padded(torch.bfloat16)).logits
    assert logits.dtype == torch.bfloat16
    assert torch.isfinite(logits).all()


@torch.no_grad()
def test_whisper_takes_a_mask_and_does_not_look() -> None:
    model, x = SPEECH["whisper"]().eval(), inputs_for("whisper")
    with ap.prune(model, ap.TopK(0.5)):
        expected = model(**x).logits
        assert torch.equal(model(**x, attention_mask=torch.zeros(3, 128)).logits, expected)
        with pytest.raises(ValueError, match="give input_features"):
            model(encoder_outputs=(torch.zeros(3, 64, 48),))
        with pytest.raises(ValueError, match=r"\(3, 16, 126\), but this model takes \(batch, 16, 128\)"):
            model(x["input_features"][..., :-2])


@torch.no_grad()
def test_whisper_in_half_precision_is_clamped() -> None:
    model, x = whisper().eval().half(), inputs_for("whisper")["input_features"].half()
    for layer in model.encoder.layers:
        layer.fc2.bias += 60000
    expected = model(x).logits
    assert torch.isfinite(expected).all()
    with ap.prune(model, ap.TopK(1.0)):
        assert torch.equal(model(x).logits, expected)
