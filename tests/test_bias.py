"""Bias correction: what is the same in all clips goes, and everything else stays as it was."""

from __future__ import annotations

import copy
import json
import pickle

import pytest
import torch
from torch import nn

import audioprune as ap
from audioprune.compare import comparison
from audioprune.compare.comparison import compare
from audioprune.compare.settings import parse_methods
from audioprune.core.settings import describe, parse_method, parse_settings, read_method
from audioprune.methods.chain import Chain

from .audio_lms import qwen2_audio
from .conftest import class_folders
from .families import FAMILIES, audiomae
from .settings import METHODS, teach

CLASSIFIERS = [family for family in FAMILIES if family != "whisper-decoder"]
TWO = [ap.PaddingMerge(), ap.ToMe(0.8, layers="all")]


@pytest.fixture
def method(name: str) -> ap.Method:
    return METHODS[name]


def logits_of(model, inputs) -> torch.Tensor:
    with torch.no_grad():
        return model(**inputs).logits


def differences(model, inputs, method) -> torch.Tensor:
    """What pruning adds to each clip's logits: a model that is pruned, and one that never was."""
    unpruned = logits_of(model, inputs)
    with ap.prune(model, method) as handle:
        teach(handle)
        return logits_of(model, inputs) - unpruned


@pytest.mark.parametrize(
    ("family", "name"),
    [*((family, name) for family in CLASSIFIERS for name in ("topk", "tome", "padding")), ("ast", "ats")],
)
def test_the_mean_difference_is_taken_off(model, inputs, method) -> None:
    slow = differences(model, inputs, method)
    assert slow.mean(dim=0).abs().max() > 1e-4
    unpruned, classes = logits_of(model, inputs), [type(module) for module in model.modules()]
    keys, attributes = list(model.state_dict()), [sorted(module.__dict__) for module in model.modules()]
    with ap.prune(model, method) as handle:
        found = torch.tensor(handle.correct_bias(inputs))
        corrected = logits_of(model, inputs)
        assert list(model.state_dict()) == keys
        assert not found.requires_grad
    assert torch.allclose(found, slow.mean(dim=0), atol=1e-6)
    assert torch.allclose(corrected, unpruned + slow - slow.mean(dim=0), atol=1e-5)
    assert torch.equal(logits_of(model, inputs), unpruned)
    assert [type(module) for module in model.modules()] == classes
    assert [sorted(module.__dict__) for module in model.modules()] == attributes


@pytest.fixture
def pruned(spectrogram):
    model = audiomae().eval()
    handle = ap.prune(model, ap.TopK(0.4))
    handle.correct_bias(spectrogram)
    return model, handle


def test_batches_are_one_mean_over_clips(spectrogram) -> None:
    model = audiomae().eval()
    handle = ap.prune(model, ap.TopK(0.4))
    whole = handle.correct_bias(spectrogram)
    assert handle.correct_bias(spectrogram) == pytest.approx(whole, abs=1e-6), "a second time, as the first"
    parts = ({"input_values": spectrogram[:1]}, spectrogram[1:])
    assert handle.correct_bias(part for part in parts) == pytest.approx(whole, abs=1e-6)
    assert handle.method.bias == handle.correct_bias(list(parts))


@pytest.mark.parametrize("method", [ap.TopK(0.4), TWO], ids=["one", "two"])
def test_it_is_saved_with_the_method(method, spectrogram, tmp_path) -> None:
    model = audiomae().eval()
    with ap.prune(model, method) as handle:
        handle.correct_bias(spectrogram)
        expected, settings = logits_of(model, {"input_values": spectrogram}), handle.method
        handle.save(tmp_path)
    assert read_method(tmp_path) == settings
    assert parse_settings(json.dumps(describe(settings))) == settings
    with ap.prune(model, tmp_path):
        assert torch.equal(logits_of(model, {"input_values": spectrogram}), expected)
    named = parse_method(str(tmp_path))
    assert named.at(settings.keep_rate) == settings
    if not isinstance(settings, Chain):
        assert named.at(0.5).bias is None, "the bias of another rate"
        assert named.plus("merge").at(0.4).bias is None, "the bias of another method"
    assert "bias" not in str(settings)
    assert len(repr(settings)) < 500


def test_another_rate_has_another_bias(pruned, spectrogram) -> None:
    model, handle = pruned
    corrected = logits_of(model, {"input_values": spectrogram})
    handle.keep_rate = 0.4
    assert torch.equal(logits_of(model, {"input_values": spectrogram}), corrected)
    handle.keep_rate = 0.6
    assert handle.method.bias is None
    found = logits_of(model, {"input_values": spectrogram})
    handle.remove()
    with ap.prune(model, ap.TopK(0.6)):
        assert torch.equal(logits_of(model, {"input_values": spectrogram}), found)


def test_a_compiled_model_notices(spectrogram) -> None:
    model = audiomae().eval()
    handle = ap.prune(model, ap.TopK(0.4))
    compiled = torch.compile(model, backend="eager")
    before = logits_of(compiled, {"input_values": spectrogram})
    bias = torch.tensor(handle.correct_bias(spectrogram))
    assert torch.allclose(logits_of(compiled, {"input_values": spectrogram}), before - bias, atol=1e-6)
    handle.remove()
    unpruned = logits_of(model, {"input_values": spectrogram})
    assert torch.allclose(logits_of(compiled, {"input_values": spectrogram}), unpruned, atol=1e-6)


def test_copies_and_exported_graphs_have_it(pruned, spectrogram) -> None:
    model, handle = pruned
    expected = logits_of(model, {"input_values": spectrogram})
    for made in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(logits_of(made, {"input_values": spectrogram}), expected)
        ap.handle(made).remove()
        assert not torch.equal(logits_of(made, {"input_values": spectrogram}), expected)
    assert torch.equal(logits_of(model, {"input_values": spectrogram}), expected)
    graph = torch.export.export(model, (spectrogram,)).module()
    with torch.no_grad():
        assert torch.allclose(graph(spectrogram).logits, expected, atol=1e-5)
    assert handle.attached


def test_in_bfloat16(pruned, spectrogram) -> None:
    """Against the same model without the bias: in so few digits, it may keep other tokens than in float32."""
    model, handle = pruned
    low = logits_of(model.bfloat16(), {"input_values": spectrogram.bfloat16()})
    assert low.dtype == torch.bfloat16
    taken = torch.tensor(handle.method.bias)
    handle.keep_rate = 1.0  # which forgets the bias
    handle.keep_rate = 0.4
    uncorrected = logits_of(model, {"input_values": spectrogram.bfloat16()})
    assert torch.allclose(low.float(), uncorrected.float() - taken, atol=0.05)


@pytest.mark.parametrize("first", ["packed", "corrected"])
def test_a_packed_model(first, spectrogram) -> None:
    model = audiomae().eval()
    expected = differences(model, {"input_values": spectrogram}, ap.TopK(0.4))
    unpruned = logits_of(model, {"input_values": spectrogram})
    handle = ap.prune(model, ap.TopK(0.4))
    if first == "corrected":
        handle.correct_bias(spectrogram)
    with ap.pack(model):
        bias = handle.correct_bias(spectrogram)
        assert bias == pytest.approx(expected.mean(dim=0).tolist(), abs=1e-5)
        found = logits_of(model, {"input_values": spectrogram})
        assert torch.allclose(found, unpruned + expected - expected.mean(dim=0), atol=1e-5)
    assert torch.allclose(logits_of(model, {"input_values": spectrogram}), found, atol=1e-5)
    handle.remove()
    assert torch.equal(logits_of(model, {"input_values": spectrogram}), unpruned)


def test_the_work_is_the_same(pruned) -> None:
    model, handle = pruned
    corrected = ap.macs(model)
    handle.remove()
    with ap.prune(model, ap.TopK(0.4)):
        assert ap.macs(model) == corrected


def test_a_head_without_a_bias(spectrogram) -> None:
    model = audiomae().eval()
    layer = model.classifier
    model.classifier = nn.Linear(layer.in_features, layer.out_features, bias=False)
    with ap.prune(model, ap.TopK(0.4)) as handle:
        before = logits_of(model, {"input_values": spectrogram})
        bias = torch.tensor(handle.correct_bias(spectrogram))
        assert torch.allclose(logits_of(model, {"input_values": spectrogram}), before - bias, atol=1e-6)
    assert model.classifier.bias is None


def test_training_goes_on_with_it(pruned, spectrogram) -> None:
    """The constant is in the loss too, and gradients reach the layer's own bias."""
    model, handle = pruned
    with torch.inference_mode():
        handle.correct_bias(spectrogram)
    labels = torch.zeros(3, dtype=torch.long)
    output = model(spectrogram, labels=labels)
    assert torch.allclose(output.loss, nn.functional.cross_entropy(output.logits, labels), atol=1e-6)
    output.loss.backward()
    assert dict(model.named_parameters())["classifier.bias"].grad.abs().sum() > 0
    handle.remove()


def test_a_loaded_model_has_it(pruned, spectrogram, tmp_path) -> None:
    model, handle = pruned
    handle.save_pretrained(tmp_path)
    loaded = ap.load(tmp_path)
    wanted = logits_of(model, {"input_values": spectrogram})
    assert torch.allclose(logits_of(loaded, {"input_values": spectrogram}), wanted, atol=1e-6)
    assert not torch.equal(logits_of(ap.load(tmp_path, pruned=False), {"input_values": spectrogram}), wanted)


@pytest.mark.parametrize("build", [lambda: audiomae().audiomae, FAMILIES["whisper-decoder"], qwen2_audio])
def test_models_without_logits_are_refused(build) -> None:
    model = build().eval()
    handle = ap.prune(model, ap.TopK(0.5))
    with pytest.raises(ValueError, match="is no classifier with a linear last layer"):
        handle.correct_bias(torch.zeros(1, 2, 3))
    handle.remove()
    with pytest.raises(ValueError, match="is no classifier with a linear last layer"):
        ap.prune(model, ap.TopK(0.5, bias=(1.0, 2.0)))
    assert ap.handle(model) is None


class Scaled(nn.Module):
    """A head whose last layer does not give the logits."""

    def __init__(self, own: nn.Module) -> None:
        super().__init__()
        self.own = own

    def forward(self, hidden):
        return 2 * self.own(hidden)


def test_a_head_that_goes_on_after_its_last_layer_is_refused(spectrogram) -> None:
    model = audiomae().eval()
    model.classifier = Scaled(model.classifier)
    with ap.prune(model, ap.TopK(0.5)) as handle:
        before = logits_of(model, {"input_values": spectrogram})
        with pytest.raises(ValueError, match="is no classifier with a linear last layer"):
            handle.correct_bias(spectrogram)
        assert torch.equal(logits_of(model, {"input_values": spectrogram}), before)


def test_bad_clips_change_nothing(pruned, spectrogram) -> None:
    model, handle = pruned
    before, bias = logits_of(model, {"input_values": spectrogram}), handle.method.bias
    with pytest.raises(ValueError, match="no clips to correct the bias with"):
        handle.correct_bias([])
    with pytest.raises(ValueError, match="not finite"):
        handle.correct_bias([spectrogram, torch.full_like(spectrogram, float("nan"))])
    with pytest.raises(ValueError, match="128"):
        handle.correct_bias(spectrogram[:, :64, :64])
    model.train()
    with pytest.raises(ValueError, match=r"in training.*model\.eval"):
        handle.correct_bias(spectrogram)
    model.eval()
    assert handle.method.bias == bias
    assert torch.equal(logits_of(model, {"input_values": spectrogram}), before)
    handle.remove()
    with pytest.raises(RuntimeError, match="this handle was removed"):
        handle.correct_bias(spectrogram)


@pytest.mark.parametrize("bias", ["1, 2", 3.0, [1.0, None], [float("nan")], [True], {"a": 1}])
def test_a_bias_that_is_none(bias, tmp_path) -> None:
    with pytest.raises(ValueError, match="bias is no list of finite numbers"):
        ap.TopK(0.5, bias=bias)
    (tmp_path / "m.json").write_text(json.dumps({"method": [{"method": "TopK", "keep_rate": 0.5}] * 2, "bias": bias}))
    with pytest.raises(ValueError, match=r"m\.json: bias is no list of finite numbers"):
        ap.prune(audiomae(), tmp_path / "m.json")


def test_a_bias_of_another_model(tmp_path) -> None:
    model = audiomae().eval()
    with pytest.raises(ValueError, match=r"bias has 2 numbers, and the model has \d+ labels"):
        ap.prune(model, ap.TopK(0.5, bias=(1.0, 2.0)))
    assert ap.handle(model) is None
    with pytest.raises(ValueError, match="correct the bias of the whole list"):
        ap.prune(model, [ap.PaddingMerge(bias=(1.0,)), ap.ToMe(0.8)])


# In comparisons.


def test_compare_finds_the_same(spectrogram) -> None:
    model, labels = audiomae(num_labels=3).eval(), torch.arange(3)
    others = torch.randn(5, 128, 128, generator=torch.Generator().manual_seed(5))
    heard: list[int] = []
    result = compare(
        model, spectrogram, labels, parse_methods(["topk", "ats"]), (0.4,), correct=others, advance=heard.append
    )
    assert sum(heard) == 3 * (3 + 5)
    row = next(row for row in result["rows"] if row["method"] == "topk")
    unpruned = logits_of(model, {"input_values": spectrogram})
    with ap.prune(model, ap.TopK(0.4)) as handle:
        handle.correct_bias(others)
        found = logits_of(model, {"input_values": spectrogram})
    kl = (unpruned.log_softmax(1).exp() * (unpruned.log_softmax(1) - found.log_softmax(1))).sum(1).mean()
    assert row["corrected"]["kl"]["mean"] == pytest.approx(float(kl), rel=1e-3, abs=1e-7)
    assert row["corrected"]["kl"]["mean"] != row["kl"]["mean"]


def test_compare_on_the_command_line(run, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    model = audiomae(num_labels=2, id2label={0: "low", 1: "high"}).eval()
    model.save_pretrained(tmp_path / "model")
    words = ("compare", "--model", tmp_path / "model", "--methods", "topk", "--keep-rates", "0.4")
    words = (*words, "--bench-seconds", 0, "--correct", 4)
    plain = class_folders(tmp_path / "plain", {"": 3})
    code, _, err = run(*words, "--data", plain)
    assert code != 0
    assert "has 0 clips to correct with that are not compared, and --correct asks for 4" in err.replace("\n", " ")
    parts = class_folders(tmp_path / "parts", {"train": 3, "test": 3})
    code, out, err = run(*words, "--data", parts, "--json")
    assert code == 0, err
    result = json.loads(out)
    assert result["correct"] == 4
    assert set(result["rows"][0]["corrected"]) == {"score", "agreement", "kl"}
    code, out, err = run(*words, "--data", parts)
    assert code == 0, err
    assert "corrected" in out


def test_a_run_goes_on_with_its_own_bias_alone(tmp_path, run, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    model = audiomae(num_labels=2, id2label={0: "low", 1: "high"}).eval()
    model.save_pretrained(tmp_path / "model")
    words = ("compare", "--model", tmp_path / "model", "--methods", "m.json", "--keep-rates", "0.4", "--out", "c.json")
    words = (*words, "--bench-seconds", 0, "--data", class_folders(tmp_path / "plain", {"": 3}))
    settings = {"method": "TopK", "keep_rate": 0.4}
    (tmp_path / "m.json").write_text(json.dumps({**settings, "bias": [1000.0, 0.0]}))
    with monkeypatch.context() as patch:
        patch.setattr(comparison, "pareto", lambda rows: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(*words)
    (tmp_path / "m.json").write_text(json.dumps({**settings, "bias": [0.0, 1000.0]}))
    code, _, err = run(*words)
    assert code == 0, err
    (row,) = json.loads((tmp_path / "c.json").read_text())["rows"]
    assert row["setting"]["bias"] == [0.0, 1000.0]
