"""The handle: attach, adjust, remove, and what is refused."""

from __future__ import annotations

import copy
import gc
import json

import pytest
import torch
from torch import nn

import audioprune as ap
from audioprune.core.settings import describe, read_method
from audioprune.methods import METHODS

from .families import ast, audiomae


@torch.no_grad()
def test_a_handle_is_a_context_manager(model, spectrogram) -> None:
    before = model(spectrogram).logits
    with ap.prune(model, ap.TopK(0.5)) as handle:
        assert ap.handle(model) is handle
        assert not torch.equal(model(spectrogram).logits, before)
    assert ap.handle(model) is None
    assert not handle.attached
    assert torch.equal(model(spectrogram).logits, before)
    handle.remove()  # a second time does nothing


@torch.no_grad()
def test_the_model_is_restored_when_the_body_raises(model, spectrogram) -> None:
    before = model(spectrogram).logits
    with pytest.raises(KeyError), ap.prune(model, ap.TopK(0.5)):
        raise KeyError
    assert torch.equal(model(spectrogram).logits, before)


@torch.no_grad()
def test_keep_rate_can_be_set_while_attached(spectrogram) -> None:
    model = audiomae().eval()
    with ap.prune(model, ap.TopK(0.5)) as handle:
        half = model(spectrogram).logits
        assert handle.tokens == (64, 32, 16, 8)
        handle.keep_rate = 1.0
        full = model(spectrogram).logits
        handle.keep_rate = (0.75, 0.5, 0.25)
        assert handle.tokens == (64, 48, 24, 6)
        with ap.trace(model) as record:
            model(spectrogram)
        assert [k.shape[1] for k in record.kept] == [48, 24, 6]
        handle.keep_rate = 0.5
        assert torch.equal(model(spectrogram).logits, half)
        with pytest.raises(ValueError, match="keep_rate is 1.5"):
            handle.keep_rate = 1.5
        assert handle.keep_rate == 0.5
    assert torch.equal(model(spectrogram).logits, full)


@torch.no_grad()
@pytest.mark.parametrize("build", [audiomae, ast])
@pytest.mark.parametrize("score", ["intensity", "variation"])
def test_special_tokens_survive_ranking_by_the_spectrogram(build, score: str, spectrogram) -> None:
    """The authors' code ranks patches and gathers without the special tokens' offset: it can drop CLS. Ours cannot."""
    model = build().eval()
    encoder = getattr(model, model.base_model_prefix)
    seen = []
    # The last patches are the loudest and the most varied: an offset would move the choice by one or two.
    patches = torch.linspace(0.1, 3.0, 64)
    signs = torch.tensor([[0.5, 1.5], [1.5, 0.5]]).repeat(8, 8)
    grid = patches.reshape(8, 8)
    grid = grid.T if build is ast else grid  # frequency-major, time-major
    clip = (grid.repeat_interleave(16, 0).repeat_interleave(16, 1) * signs.repeat(8, 8))[None]
    hook = encoder.layers[0].mlp.register_forward_hook(lambda m, a, out: seen.append(out.shape[1]))
    with ap.prune(model, ap.TopK(0.25, layers=[0], score=score)), ap.trace(model) as record:
        hidden = model(clip, output_hidden_states=True).hidden_states
    hook.remove()
    special = 2 if build is ast else 1
    assert record.kept[0].tolist() == [list(range(48, 64))]
    assert seen == [16 + special]
    # The special tokens went through block 0 unharmed: what they are equals an unpruned model's.
    whole = model(clip, output_hidden_states=True).hidden_states
    assert torch.allclose(hidden[1][:, :special], whole[1][:, :special], atol=1e-6)
    assert torch.allclose(hidden[1][:, special:], whole[1][:, special + 48 :], atol=1e-6)


def test_pruning_twice_is_refused(model) -> None:
    with ap.prune(model, ap.TopK(0.5)):
        with pytest.raises(ap.AlreadyPrunedError, match=r"TopK\(0.5\).*remove\(\)"):
            ap.prune(model, ap.TopK(0.7))
        with pytest.raises(ap.AlreadyPrunedError):
            ap.prune(ap.handle(model).adapter.tower, ap.TopK(0.7))
    ap.prune(model, ap.TopK(0.7)).remove()


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: ap.TopK(0), ValueError, "keep_rate is 0;.*more than 0"),
        (lambda: ap.TopK(1.3), ValueError, "keep_rate is 1.3"),
        (lambda: ap.TopK(float("nan")), ValueError, "keep_rate is nan"),
        (lambda: ap.TopK("half"), ValueError, "keep_rate is 'half'"),
        (lambda: ap.TopK([0.5, 0]), ValueError, "keep_rate"),
        (lambda: ap.TopK(0.5, layers=(3, 3)), ValueError, "ascend"),
        (lambda: ap.TopK(0.5, layers=(2, 1)), ValueError, "ascend"),
        (lambda: ap.TopK(0.5, layers=(-1,)), ValueError, "0-based"),
        (lambda: ap.TopK(0.5, layers=()), ValueError, "0-based"),
        (lambda: ap.TopK(0.5, layers=True), ValueError, "0-based"),
        (lambda: ap.TopK(0.5, layers=3.5), ValueError, "0-based"),
        (lambda: ap.TopK(0.5, seed="x"), ValueError, "whole number"),
        (lambda: ap.TopK(0.5, segments=True), ValueError, "segments is True"),
        (lambda: ap.TopK(0.5, score="loudness"), ValueError, "attention, cls, intensity, variation, random"),
        (lambda: ap.TopK(0.5, dropped="keep"), ValueError, "discard, fuse, merge"),
        (lambda: ap.TopK(0.5, segments=0), ValueError, "segments is 0"),
        (lambda: ap.prune(audiomae(), ap.TopK(0.5, layers=(3, 6, 9))), ValueError, "layer 9 does not exist.*4 blocks"),
        (lambda: ap.prune(audiomae(), ap.TopK([0.5, 0.5])), ValueError, "2 keep rates for 3 pruned layers"),
        (lambda: ap.prune(audiomae(), ap.TopK), TypeError, r"did you mean TopK\(keep_rate=0.7\)"),
        (lambda: ap.prune(audiomae(), 0.5), TypeError, "expected a method"),
        (lambda: ap.prune(nn.Linear(2, 2), ap.TopK(0.5)), ap.UnsupportedModelError, "Linear.*AudioMAE"),
        (lambda: ap.prune("esc10", ap.TopK(0.5)), ap.UnsupportedModelError, "got str"),
        (lambda: ap.trace(audiomae()).__enter__(), RuntimeError, "not pruned"),
    ],
)
def test_what_is_wrong_is_refused_with_what_would_be_right(make, error, message: str) -> None:
    with pytest.raises(error, match=message):
        make()


def test_a_refusal_changes_nothing(spectrogram) -> None:
    model = audiomae().eval()
    classes = [type(module) for module in model.modules()]
    with pytest.raises(ValueError, match="does not exist"):
        ap.prune(model, ap.TopK(0.5, layers=[7]))
    assert [type(module) for module in model.modules()] == classes
    assert ap.handle(model) is None


def test_an_attention_mask_that_hides_something_is_refused_while_pruned(model, spectrogram) -> None:
    mask = torch.ones(3, 66)
    mask[:, 60:] = 0
    with ap.prune(model, ap.TopK(0.5)), pytest.raises(ValueError, match="attention_mask"):
        model(spectrogram, attention_mask=mask)


@torch.no_grad()
def test_wrong_shapes_name_the_right_one(spectrogram) -> None:
    model = audiomae().eval()
    for wrong in (spectrogram[:, :100], spectrogram[..., :64], spectrogram[0]):
        with pytest.raises(ValueError, match=r"\(batch, 128 frames, 128 mel channels\)"):
            model(wrong)


@torch.no_grad()
def test_a_thousand_rounds_leave_no_trace(spectrogram) -> None:
    model = audiomae().eval()
    before, attributes = model(spectrogram).logits, {n: sorted(m.__dict__) for n, m in model.named_modules()}
    methods = [ap.TopK(0.5), ap.SegmentwiseTopK(0.5, dropped="merge"), ap.TopK(0.7, score="intensity")]
    for _ in range(20):  # let caches fill
        ap.prune(model, methods[0]).remove()
    gc.collect()
    objects = len(gc.get_objects())
    for i in range(1000):
        with ap.prune(model, methods[i % 3]):
            if i % 100 == 0:
                model(spectrogram)
    gc.collect()
    assert len(gc.get_objects()) - objects < 500
    assert torch.equal(model(spectrogram).logits, before)
    assert {n: sorted(m.__dict__) for n, m in model.named_modules()} == attributes


@torch.no_grad()
def test_nothing_outlives_a_forward(spectrogram) -> None:
    model = audiomae().eval()
    with ap.prune(model, ap.SegmentwiseTopK(0.5, dropped="merge")):
        model(spectrogram)
        gc.collect()
        before = sum(isinstance(o, torch.Tensor) for o in gc.get_objects())
        for _ in range(5):
            model(spectrogram)
        gc.collect()
        assert sum(isinstance(o, torch.Tensor) for o in gc.get_objects()) == before


@torch.no_grad()
def test_a_copy_of_a_pruned_model_is_pruned_by_itself(model, spectrogram) -> None:
    handle = ap.prune(model, ap.TopK(0.5))
    pruned = model(spectrogram).logits
    twin = copy.deepcopy(model)
    handle.remove()
    assert torch.equal(twin(spectrogram).logits, pruned)
    own = ap.handle(twin)
    assert own is not None
    assert own is not handle
    own.remove()
    assert torch.equal(twin(spectrogram).logits, model(spectrogram).logits)


@torch.no_grad()
def test_a_pruned_model_saves_as_the_plain_one(model, spectrogram, tmp_path) -> None:
    plain = {k: v.clone() for k, v in model.state_dict().items()}
    with ap.prune(model, ap.TopK(0.5)):
        model.save_pretrained(tmp_path)
        model.load_state_dict(plain)
    again = type(model).from_pretrained(tmp_path).eval()
    assert again.config._attn_implementation == "sdpa"
    assert torch.equal(again(spectrogram).logits, model(spectrogram).logits)


@torch.no_grad()
def test_output_attentions_are_the_maps_and_no_scores(spectrogram) -> None:
    model = audiomae().eval()
    model.set_attn_implementation("eager")
    with ap.prune(model, ap.TopK(0.5)):
        maps = model(spectrogram, output_attentions=True).attentions
    assert [m.shape for m in maps] == [(3, 4, n, n) for n in (65, 65, 33, 17)]


@torch.no_grad()
def test_flex_attention(spectrogram) -> None:
    for build in (audiomae, ast):
        model = build().eval()
        for method in (ap.TopK(0.5), ap.TopK(0.5, dropped="merge")):
            with ap.prune(model, method), ap.trace(model) as record:
                model.set_attn_implementation("sdpa")
                expected, kept = model(spectrogram).logits, record.kept
                model.set_attn_implementation("flex_attention")
                assert torch.allclose(model(spectrogram).logits, expected, atol=1e-4)
                assert all(torch.equal(a, b) for a, b in zip(record.kept, kept, strict=True))


def test_defaults_are_the_papers() -> None:
    method = ap.TopK(0.5)
    assert (method.layers, method.score, method.segments, method.dropped) == (None, "attention", None, "discard")
    assert list(method.schedule(12)) == [3, 6, 9]
    assert list(method.schedule(4)) == [1, 2, 3]
    assert list(method.schedule(24)) == [6, 12, 18]
    assert list(method.schedule(1)) == [0]
    assert method.counts(512, 12) == [512, 256, 128, 64]
    assert ap.TopK(0.7).counts(256, 12) == [256, 180, 126, 89]
    assert str(ap.SegmentwiseTopK(0.5, dropped="merge")) == "SegmentwiseTopK(0.5, dropped='merge')"


def test_segmentwise_is_topk_with_eight_segments(spectrogram) -> None:
    model = audiomae(max_length=512).eval()
    x = torch.randn(2, 512, 128)
    answers = []
    for method in (ap.SegmentwiseTopK(0.5), ap.TopK(0.5, segments=8)):
        with torch.no_grad(), ap.prune(model, method):
            answers.append(model(x).logits)
    assert torch.equal(*answers)


def test_settings_files(tmp_path) -> None:
    path = tmp_path / "pruning.json"
    method = ap.SegmentwiseTopK((0.5, 0.6, 0.7), layers=(1, 2, 3), dropped="merge")
    path.write_text(json.dumps(describe(method)))
    assert read_method(path) == method
    with ap.prune(audiomae(), path) as handle:
        assert handle.method == method
    for content, message in [
        ("{", "not a JSON settings file"),
        ('{"method": "Top"}', "one of TopK, SegmentwiseTopK"),
        ('{"method": ["TopK"]}', "one of TopK, SegmentwiseTopK"),
        ("[" * 100_000, "nested too deeply"),
        ('{"method": "TopK", "keep_rate": 2}', "keep_rate is 2"),
        ('{"method": "TopK", "keep": 0.5}', "unexpected keyword"),
    ]:
        path.write_text(content)
        with pytest.raises(ValueError, match=message):
            read_method(path)
    with pytest.raises(ValueError, match="no such settings file"):
        read_method(tmp_path / "none.json")


def test_training_with_pruning_lowers_the_loss(spectrogram) -> None:
    model = audiomae().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    with ap.prune(model, ap.TopK(0.5)):
        for _ in range(8):
            loss = model(spectrogram, labels=torch.tensor([1, 2, 3])).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_blocks_that_would_not_be_swapped_are_refused(spectrogram) -> None:
    """Wrappers subclass blocks or replace their forward: the model would run unpruned, and nobody would see it."""
    model = audiomae().eval()
    layer = model.audiomae.layers[2]
    original = type(layer)
    layer.__class__ = type("FSDPASTLayer", (original,), {})
    with pytest.raises(ap.UnsupportedModelError, match=r"layers.2 is a FSDPASTLayer"):
        ap.prune(model, ap.TopK(0.5))
    layer.__class__ = original
    layer.forward = layer.forward
    with pytest.raises(ap.UnsupportedModelError, match=r"layers.2.forward was replaced"):
        ap.prune(model, ap.TopK(0.5))
    del layer.forward
    ap.prune(model, ap.TopK(0.5)).remove()


def test_of_two_encoders_none_is_guessed() -> None:
    pair = nn.ModuleDict({"teacher": audiomae(), "student": ast()})
    with pytest.raises(ap.UnsupportedModelError, match="contains 2 encoders"):
        ap.prune(pair, ap.TopK(0.5))
    with ap.prune(pair["student"], ap.TopK(0.5)) as handle:
        assert ap.handle(pair) is handle


class Mine(ap.Method):
    """Somebody's own, which asks for what it is told."""

    wanted = frozenset[str]()

    @property
    def needs(self) -> frozenset[str]:
        return self.wanted

    def reduce(self, tokens, evidence, keep_rate):
        raise NotImplementedError


def test_ones_own_method_is_not_saved_under_a_name_that_nobody_knows(tmp_path, monkeypatch) -> None:
    handle = ap.prune(audiomae(), Mine(0.5))
    with pytest.raises(ValueError, match=r'Mine is none of .*METHODS\["Mine"\] = Mine'):
        handle.save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())
    monkeypatch.setitem(METHODS, "Mine", Mine)
    handle.save_pretrained(tmp_path)
    assert ap.handle(ap.load(tmp_path)).method == Mine(0.5)


def test_evidence_that_there_is_not() -> None:
    class Misspelt(Mine):
        wanted = frozenset({"intensty"})

    with pytest.raises(ValueError, match=r"Misspelt.needs names intensty; there are attention, .*intensity, variation"):
        ap.prune(audiomae(), Misspelt(0.5))


def test_natural_mistakes_are_told_what_was_meant(tmp_path) -> None:
    with pytest.raises(TypeError, match="the model comes first"):
        ap.prune(ap.TopK(0.5), audiomae())
    with pytest.raises(TypeError, match=r"audioprune.load\('esc10'\)"):
        ap.prune("esc10", ap.TopK(0.5))
    (tmp_path / "a.wav").write_bytes(b"RIFF")
    with pytest.raises(ap.CheckpointError, match="a sound by its name, not a model"):
        ap.load(tmp_path / "a.wav")


def test_a_removed_handle_is_dead() -> None:
    handle = ap.prune(audiomae(), ap.TopK(0.5))
    handle.remove()
    with pytest.raises(RuntimeError, match="was removed"):
        handle.keep_rate = 0.7
    with pytest.raises(RuntimeError, match="was removed"), handle:
        pass
    assert "removed" in repr(handle)


def test_a_pruned_model_runs_in_another_process(tmp_path, spectrogram) -> None:
    import subprocess
    import sys

    model = audiomae().eval()
    with ap.prune(model, ap.TopK(0.5)):
        expected = model(spectrogram).logits
        torch.save((model, spectrogram, expected), tmp_path / "model.pt")
    code = (
        "import sys, torch, audioprune; model, x, y = torch.load(sys.argv[1], weights_only=False); "
        "assert torch.allclose(model(x).logits, y, atol=1e-6); audioprune.handle(model).remove()"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "model.pt")], check=True)


def test_hooks_of_others_see_what_they_always_saw(spectrogram) -> None:
    model, seen = audiomae().eval(), []
    model.audiomae.register_forward_pre_hook(lambda module, args: seen.append([a.shape for a in args]))
    model(spectrogram)
    with ap.prune(model, ap.TopK(0.5, score="intensity")):
        model(spectrogram)
        model.audiomae.register_forward_hook(lambda module, args, output: seen.append([a.shape for a in args]))
        model(spectrogram)
    assert all(shapes == [spectrogram.shape] for shapes in seen)
    assert len(seen) == 4


def test_scores_are_of_the_whole_map_under_attention_dropout(spectrogram) -> None:
    model = audiomae(attention_probs_dropout_prob=0.5).train()
    kept = []
    for implementation in ("eager", "sdpa"):
        model.set_attn_implementation(implementation)
        for _ in range(2):
            with ap.prune(model, ap.TopK(0.5, layers=[0])), ap.trace(model) as record:
                model(spectrogram)
            kept.append(record.kept[0])
    assert all(torch.equal(kept[0], other) for other in kept[1:])


@torch.no_grad()
def test_the_handle_works_after_casts_and_moves(model, spectrogram) -> None:
    before = model(spectrogram).logits
    handle = ap.prune(model, ap.TopK(0.5, dropped="merge"))
    model.double()
    assert model(spectrogram.double()).logits.dtype == torch.float64
    model.float()
    model.set_attn_implementation("eager")
    model(spectrogram)
    handle.remove()
    model.set_attn_implementation("sdpa")
    assert torch.equal(model(spectrogram).logits, before)
