"""The recommended setting is as large as the work allows, and leaves the model as it was."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import audioprune as ap
from audioprune.core.fitting import greatest
from audioprune.core.recommend import HALF, _similar, padded_at, recommended_at
from audioprune.core.settings import describe, read_method

from .families import FAMILIES, SPECTROGRAM, audiomae, inputs_for, whisper

LEAST_WORK = {"wav2vec2": 0.8}
"""A tiny model of sound itself spends much before the first block."""


def share(model: torch.nn.Module, method: ap.Method, inputs: dict[str, torch.Tensor] | None) -> float:
    full = ap.macs(model, inputs=inputs)
    with ap.prune(model, method):
        return ap.macs(model, inputs=inputs) / full


@pytest.mark.parametrize("family", ["audiomae", "ast", "ast-overlapping", "wav2vec2"])
def test_the_greatest_keep_rate_within_the_work(family: str) -> None:
    model = FAMILIES[family]().eval()
    inputs = None if family in SPECTROGRAM else inputs_for(family)
    least = LEAST_WORK.get(family, 0.5)
    found = []
    for work in (least, 0.85, 0.97):
        method = ap.recommended(model, work, inputs=inputs)
        assert dataclasses.replace(method, keep_rate=0.5) == ap.ToMe(0.5, layers=(0, 1, 2), metric="hidden")
        assert share(model, method, inputs) <= work
        assert share(model, method.with_keep_rate(round(method.keep_rate + 0.001, 3)), inputs) > work
        found.append(method.keep_rate)
    assert found == sorted(found)
    assert len(set(found)) == 3


@pytest.mark.parametrize(
    ("depth", "blocks"),
    [(1, (0,)), (2, (0, 1)), (4, (0, 1, 2)), (6, (1, 2, 3, 4)), (12, (1, 3, 5, 7)), (24, (2, 6, 10, 14))],
)
def test_four_blocks_merge_where_much_work_is_left(depth: int, blocks: tuple[int, ...]) -> None:
    four, *every = _similar(depth, 0.5)
    assert four == ap.ToMe(1.0, layers=blocks, metric="hidden")
    assert every == _similar(depth, 0.25)
    assert [(one.layers, one.passes) for one in every] == [("all", passes) for passes in (1, 2, 3)]


def test_every_block_merges_where_four_would_lose_more() -> None:
    model = ap.load("esc10")
    assert ap.recommended(model, 0.5).layers == (1, 3, 5, 7)
    assert ap.recommended(model, 0.4).layers == "all"


def test_half_of_the_work_is_the_default() -> None:
    model = audiomae()
    assert ap.recommended(model) == ap.recommended(model, macs=0.5)


def test_inputs_give_the_same_as_the_models_own_length(spectrogram) -> None:
    model = audiomae()
    alone = ap.recommended(model, 0.6)
    assert ap.recommended(model, 0.6, inputs=spectrogram) == alone
    assert ap.recommended(model, 0.6, inputs={"input_values": spectrogram[:1]}) == alone


def test_all_of_the_work_prunes_nothing() -> None:
    model = audiomae()
    method = ap.recommended(model, macs=1.0)
    assert method.keep_rate == 1.0
    with ap.prune(model, method) as handle:
        assert handle.rates == {}


@given(st.integers(0, 10**6), st.floats(0.05, 1.0))
def test_the_search_against_every_keep_rate(seed: int, limit: float) -> None:
    """All is work as it is, though merging nothing much may cost more than that."""
    drawn = np.random.default_rng(seed).uniform(*sorted((seed % 7 / 10, seed % 13 / 10)), size=500)
    costs = dict(zip(range(500, 1001), [*sorted(drawn), 1.0], strict=True))
    fitting = [rate for rate, cost in costs.items() if cost <= limit]

    def search() -> float:
        return greatest(lambda keep_rate: costs[round(1000 * keep_rate)], limit, 0.5)

    if fitting:
        assert search() == max(fitting) / 1000
    else:
        with pytest.raises(ValueError, match=r"at keep rate 0\.5 there are still"):
            search()


@pytest.mark.parametrize("work", [0, -0.5, 1.3, float("nan"), float("inf")])
def test_work_that_is_no_share(work: float) -> None:
    model = audiomae()
    with pytest.raises(ValueError, match=r"macs is .*share of the unpruned model's.*in \(0, 1\]"):
        ap.recommended(model, work)
    assert ap.handle(model) is None


def test_work_that_cannot_be_reached_says_what_can() -> None:
    model = audiomae()
    possible = share(model, recommended_at(0.5), None)
    assert ap.recommended(model, possible).keep_rate >= 0.5
    further = ap.recommended(model, possible - 0.03)
    assert (further.passes, further.keep_rate < 0.5) == (2, True)
    assert share(model, further, None) <= possible - 0.03
    least = share(model, dataclasses.replace(recommended_at(0.5), keep_rate=0.125, passes=3), None)
    with pytest.raises(ValueError, match=rf"macs is 0\.01, but at keep rate 0\.125 there are still {least:.2f}"):
        ap.recommended(model, 0.01)


def test_clips_of_any_length_need_inputs() -> None:
    model = FAMILIES["wav2vec2"]()
    with pytest.raises(ValueError, match=r"pass inputs="):
        ap.recommended(model, 0.9)
    assert ap.handle(model) is None


def sounds_of(tokens: int) -> dict[str, torch.Tensor]:
    """Three clips for the tiny Whisper, of whose 64 tokens so many are sound and the rest is padding."""
    inputs = {name: x.clone() for name, x in inputs_for("whisper").items()}
    inputs["input_features"][..., 2 * tokens :] = -1.5
    return inputs


@pytest.mark.parametrize("work", [0.9, 0.75])
def test_a_model_that_pads_merges_its_padding_first(work: float) -> None:
    model = FAMILIES["whisper"]().eval()
    method = ap.recommended(model, work)
    _, merging = method.methods
    assert method == padded_at(merging.keep_rate)
    assert share(model, merging, None) <= work, "a clip that fills the window"
    assert share(model, dataclasses.replace(merging, keep_rate=merging.keep_rate + 0.001), None) > work
    for sound in (64, 40, 8):
        inputs = sounds_of(sound)
        assert share(model, method, inputs) <= work
        for_these = ap.recommended(model, work, inputs=inputs)
        assert for_these.methods[0].keep_rate >= method.methods[0].keep_rate
        assert share(model, for_these, inputs) <= work
        with ap.prune(model, method), ap.trace(model) as record, torch.no_grad():
            model(**inputs)
            assert record.kept[-1].shape[1] == merging.counts(64, 4)[-1], "all clips are left with as many tokens"


def test_the_sound_is_left_alone_where_the_padding_is_enough() -> None:
    model = FAMILIES["whisper"]().eval()
    method = ap.recommended(model, 0.75)
    with ap.prune(model, method), ap.trace(model) as record, torch.no_grad():
        model(**sounds_of(16))
    assert all(set(range(16)) <= set(clip) for clip in record.kept[-1].tolist())


def test_a_model_that_pads_goes_to_an_eighth_without_inputs() -> None:
    """Of tiny.en's shape, whose convolutions and first attention are a fifth of the work."""
    model = whisper(d_model=384, encoder_attention_heads=6, encoder_ffn_dim=1536, max_source_positions=1500).eval()
    for work in (0.5, 0.25, 0.125):
        method = ap.recommended(model, work)
        clip = torch.randn(1, 16, 3000, generator=torch.Generator().manual_seed(0))
        for sound in (3000, 500, 100):
            clip[..., sound:] = -1.5
            assert share(model, method, {"input_features": clip}) <= work


def state_of(model: torch.nn.Module) -> tuple:
    """All that pruning could leave behind."""
    keys = tuple(model.state_dict())
    classes = tuple((name, type(module), tuple(sorted(module.__dict__))) for name, module in model.named_modules())
    hooks = tuple(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())
    training = tuple(module.training for module in model.modules())
    return keys, classes, hooks, training, model.config._attn_implementation


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("work", [0.6, 1.0, 0.01])
def test_the_model_is_left_unpruned(work: float, training: bool, spectrogram) -> None:
    model = audiomae().train(training)
    model.set_attn_implementation("eager")
    before, kept = state_of(model), {name: tensor.clone() for name, tensor in model.state_dict().items()}
    if work == 0.01:
        with pytest.raises(ValueError, match="ask for more"):
            ap.recommended(model, work)
    else:
        ap.recommended(model, work)
    assert ap.handle(model) is None
    assert state_of(model) == before
    assert all(torch.equal(tensor, kept[name]) for name, tensor in model.state_dict().items())
    with torch.no_grad():
        again = audiomae()
        again.set_attn_implementation("eager")
        assert torch.equal(model.eval()(spectrogram).logits, again.eval()(spectrogram).logits)


def test_the_model_is_left_unpruned_where_its_inputs_do_not_fit() -> None:
    model = audiomae()
    before = state_of(model)
    with pytest.raises(Exception, match=r".+"):
        ap.recommended(model, 0.6, inputs=torch.zeros(1, 7, 7))
    assert ap.handle(model) is None
    assert state_of(model) == before


def test_a_pruned_model_is_refused_and_stays_pruned() -> None:
    model = audiomae()
    with ap.prune(model, ap.TopK(0.5)) as handle:
        with pytest.raises(ap.AlreadyPrunedError, match=r"pruned already with TopK\(0\.5\)"):
            ap.recommended(model)
        assert ap.handle(model) is handle
        assert handle.keep_rate == 0.5


def test_what_cannot_be_entered_is_refused() -> None:
    with pytest.raises(ap.UnsupportedModelError):
        ap.recommended(torch.nn.Linear(3, 3))


# layers="all"


@pytest.mark.parametrize("build", [lambda **k: ap.ToMe(0.8, metric="hidden", **k), lambda **k: ap.TopK(0.8, **k)])
def test_all_layers_are_every_one(build, spectrogram) -> None:
    model = audiomae().eval()
    with torch.no_grad():
        with ap.prune(model, build(layers="all")) as handle:
            assert handle.layers == (0, 1, 2, 3)
            found, tokens = model(spectrogram).logits, handle.tokens
        with ap.prune(model, build(layers=tuple(range(4)))) as handle:
            assert torch.equal(model(spectrogram).logits, found)
            assert handle.tokens == tokens
    assert build(layers="all").schedule(7) == dict.fromkeys(range(7), 0.8)
    by_layer = dataclasses.replace(build(layers="all"), keep_rate=(0.9, 0.8))
    assert by_layer.schedule(2) == {0: 0.9, 1: 0.8}
    with pytest.raises(ValueError, match="2 keep rates for 3 pruned layers"):
        by_layer.schedule(3)


@pytest.mark.parametrize("layers", ["every", "", "ALL", "012", "0,1"])
def test_other_words_are_no_layers(layers: str) -> None:
    with pytest.raises(ValueError, match=rf"layers are '{layers}'; give 0-based block indices.*\"all\", or None"):
        ap.ToMe(0.8, layers=layers)


@pytest.mark.parametrize("metric", ["keys ", "values", None])
def test_other_words_are_no_metric(metric: str) -> None:
    with pytest.raises(ValueError, match="metric is .*; ToMe takes keys, hidden"):
        ap.ToMe(0.8, metric=metric)


def test_all_layers_in_a_settings_file(tmp_path) -> None:
    path = tmp_path / "m.json"
    path.write_text('{"method": "ToMe", "keep_rate": 0.9, "layers": "all", "metric": "hidden"}')
    model = audiomae()
    with ap.prune(model, path) as handle:
        assert handle.method == recommended_at(0.9)
        assert handle.layers == (0, 1, 2, 3)
        assert handle.method.needs == frozenset()
        handle.save(tmp_path / "saved")
    assert read_method(tmp_path / "saved") == recommended_at(0.9)
    path.write_text('{"method": "ToMe", "keep_rate": 0.9, "layers": "most"}')
    with pytest.raises(ValueError, match=r"m\.json: layers are 'most'"):
        ap.prune(model, path)
    path.write_text('{"method": "ToMe", "keep_rate": 0.9, "metric": "values"}')
    with pytest.raises(ValueError, match=r"m\.json: metric is 'values'"):
        ap.prune(model, path)


def test_the_recommended_method_in_words() -> None:
    method = recommended_at(0.9)
    assert str(method) == "ToMe(0.9, layers='all', metric='hidden')"
    assert eval(str(method), {"ToMe": ap.ToMe}) == method
    assert describe(method) == {
        "method": "ToMe",
        "keep_rate": 0.9,
        "layers": "all",
        "proportional": True,
        "metric": "hidden",
    }
    assert json.loads(json.dumps(describe(method))) == describe(method)


def test_at_the_default_keep_rate_about_half_of_the_work_is_left() -> None:
    model = ap.load("esc10")
    assert share(model, recommended_at(), None) == pytest.approx(0.5, abs=0.04)
    assert ap.recommended(model, 0.25).keep_rate < HALF
