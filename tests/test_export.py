"""ONNX files: onnxruntime gives what PyTorch gives, for every method that a graph can hold."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel, Wav2Vec2FeatureExtractor

import audioprune as ap
from audioprune import METR, FastAST, LogMel
from audioprune.audio.extractor import AudioMAEFeatureExtractor
from audioprune.core.settings import read_method
from audioprune.methods import DPP, SAMAP, DivPrune, Method
from audioprune.models.ast import ASTMeanPooledForAudioClassification
from audioprune.onnx import agreement, translation
from audioprune.onnx import export as exporting
from audioprune.onnx.export import STEPS, check_exportable, export_onnx, open_session
from audioprune.onnx.operators import translations
from audioprune.onnx.translation import ExportError

from .audio_lms import qwen2_audio
from .families import STABLE, ast, audiomae, inputs_for, wav2vec2, whisper
from .settings import METHODS, teach

pytest.importorskip("onnxruntime")

TWO_BLOCKS = {"num_hidden_layers": 2}
"""Writing takes seconds for every block; in two stages the second finds what the first carries on."""

GREEDY = (DivPrune, DPP, SAMAP)
PAIRS = (
    ("topk", "tome-every-block"),
    ("topk-cls", "fused"),
    ("segments-merged", "variation"),
    ("random", "fastadasp"),
    ("segmentwise", "tofu"),
    ("evit", "pooled"),
    ("uniform", "evs"),
    ("ltbm-passes", "peaks-keys-unsized"),
)
"""Settings that differ in their operators, one in each of two blocks; the second finds what the first carries on."""
ALONE = ("atome-keys-unsized", "visionzip-cls", "dynamicvit")
"""Those that take no other beside them. Intensity is below."""
TRIED = (*(name for pair in PAIRS for name in pair), *ALONE)
SAME = (FastAST, METR)
"""Methods that differ from another in training alone."""

BUILDS: dict[str, Callable[..., PreTrainedModel]] = {
    "ast": ast,
    "ast-mp": partial(ast, ASTMeanPooledForAudioClassification),
    "ast-overlapping": partial(ast, time_stride=10, frequency_stride=10),
    "wav2vec2": partial(wav2vec2, **STABLE),
    "whisper": whisper,
}
CASES = [("ast", "variation"), ("ast-overlapping", "variation"), ("whisper", "topk")]
CASES += [(family, "segments-merged") for family in ("ast", "ast-mp", "ast-overlapping", "wav2vec2")]


def in_two_blocks(method: Method) -> Method:
    """The method at both of two blocks."""
    return replace(method, layers=(0, 1))


def one_in_each(methods: list[Method]) -> list[Method]:
    """Methods at a block each."""
    return [
        replace(method, layers=(i,), keep_rate=float(np.mean(method.keep_rate))) for i, method in enumerate(methods)
    ]


def by_file(path: Path, inputs: dict[str, Tensor]) -> Tensor:
    """What onnxruntime makes of a batch."""
    (logits,) = open_session(path).run(["logits"], {name: x.numpy() for name, x in inputs.items()})
    return torch.from_numpy(logits)


@torch.no_grad()
def assert_same(model: torch.nn.Module, path: Path, inputs: dict[str, Tensor]) -> None:
    """In batches of 3 and 1, and of 16."""
    (name, clips), *_ = inputs.items()
    for batch in (clips, clips[:1], torch.cat([clips] * 6)[:16]):
        assert torch.allclose(by_file(path, {name: batch}), model(**{name: batch}).logits, atol=1e-4)


def test_what_is_tried_is_every_method() -> None:
    tried = {type(METHODS[name]) for name in TRIED}
    assert tried == {type(method) for method in METHODS.values() if method.static} - {*GREEDY, *SAME}


@pytest.mark.parametrize("names", [*PAIRS, *((name,) for name in ALONE)], ids="+".join)
def test_every_static_method(names: tuple[str, ...], spectrogram, tmp_path) -> None:
    model = audiomae(**TWO_BLOCKS).eval()
    methods = [METHODS[name] for name in names]
    with ap.prune(model, one_in_each(methods) if len(methods) > 1 else in_two_blocks(methods[0])) as handle:
        teach(handle)
        export_onnx(model, tmp_path / "a.onnx")
        assert_same(model, tmp_path / "a.onnx", {"input_values": spectrogram})


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_families(kind: str, name: str, tmp_path) -> None:
    inputs = inputs_for(kind)
    samples = inputs["input_values"].shape[1] if kind == "wav2vec2" else None
    model = BUILDS[kind](**({"encoder_layers": 2} if kind == "whisper" else TWO_BLOCKS)).eval()
    with ap.prune(model, in_two_blocks(METHODS[name])):
        found = export_onnx(model, tmp_path / "a.onnx", samples=samples)
        assert_same(model, tmp_path / "a.onnx", inputs)
    assert {found.input: (3, *found.shape)} == {key: tuple(x.shape) for key, x in inputs.items()}


def ties(dtype: torch.dtype, sort: bool = False) -> Tensor:
    """(3, 40) of five values."""
    drawn = torch.randint(0, 5, (3, 40), generator=torch.Generator().manual_seed(1)).to(dtype)
    return drawn.sort(dim=1).values if sort else drawn


@pytest.mark.parametrize(
    ("function", "inputs"),
    [
        (lambda x: x.sort(dim=1, descending=True, stable=True), [ties(torch.float32)]),
        (lambda x: x.sort(dim=-1, stable=True), [ties(torch.int64)]),
        (lambda x: (x > 2).argsort(dim=1, stable=True), [ties(torch.float32)]),
        (lambda x: x.to(torch.uint8).argsort(dim=1, descending=True, stable=True), [ties(torch.int64)]),
        (torch.searchsorted, [ties(torch.int64, sort=True), torch.arange(-1, 8).repeat(3, 1)]),
        (torch.searchsorted, [ties(torch.float32, sort=True), torch.linspace(-1, 6, 15).repeat(3, 1)]),
        (lambda x: x.cummax(dim=1), [ties(torch.int64)]),
        (lambda x: x.cummax(dim=-1), [-ties(torch.float32)]),
    ],
)
def test_translated_operators(function: Callable, inputs: list[Tensor], tmp_path) -> None:
    class Operator(torch.nn.Module):
        def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
            found = function(*inputs)
            return (found,) if isinstance(found, Tensor) else tuple(found)

    with translation._silent():
        traced = torch.export.export(Operator(), tuple(inputs))
        program = torch.onnx.export(traced, verbose=False, opset_version=18, custom_translation_table=translations())
    program.save(tmp_path / "a.onnx")
    session = open_session(tmp_path / "a.onnx")
    found = session.run(None, {given.name: x.numpy() for given, x in zip(session.get_inputs(), inputs, strict=True)})
    for ours, theirs in zip(found, Operator()(*inputs), strict=True):
        assert torch.equal(torch.from_numpy(ours), theirs)


def test_unpruned_in_a_later_opset(spectrogram, tmp_path) -> None:
    model = audiomae(**TWO_BLOCKS).eval()
    assert export_onnx(model, tmp_path / "a.onnx", opset=23).opset == 23
    assert_same(model, tmp_path / "a.onnx", {"input_values": spectrogram})
    assert metadata(tmp_path / "a.onnx")["method"] == {"method": None}


def test_equal_scores_keep_the_earlier_token(tmp_path) -> None:
    model = audiomae(**TWO_BLOCKS).eval()
    clips = torch.zeros(3, 128, 128)
    clips[1, :40] = 1.0
    with ap.prune(model, ap.TopK(0.4, score="intensity", layers=(0, 1))):
        export_onnx(model, tmp_path / "a.onnx")
        assert_same(model, tmp_path / "a.onnx", {"input_values": clips})


def metadata(path: Path) -> dict[str, object]:
    """What a file says of itself."""
    found = open_session(path).get_modelmeta().custom_metadata_map
    return {key.removeprefix("audioprune."): json.loads(value) for key, value in found.items()}


def test_a_file_tells_how_to_use_it(tmp_path) -> None:
    model = audiomae(**TWO_BLOCKS, id2label={i: f"sound {i}" for i in range(11)}).eval()
    front, method = LogMel(128, -5.0, 4.0), ap.SegmentwiseTopK((0.5, 0.25), layers=(0, 1), dropped="merge")
    with ap.prune(model, method):
        found = export_onnx(model, tmp_path / "new" / "a.onnx", front=front, clips=torch.randn(2, 128, 128))
    assert found.path == tmp_path / "new" / "a.onnx"
    assert [file.name for file in found.path.parent.iterdir()] == ["a.onnx"]
    assert (found.size, found.labels, found.clips, found.ties) == (found.path.stat().st_size, 11, 6, 0)
    assert found.difference < 1e-5
    said = metadata(found.path)
    assert (said["version"], said["model"]) == (ap.__version__, "AudioMAEForAudioClassification")
    assert said["labels"] == [f"sound {i}" for i in range(11)]
    assert said["tokens"] == [64, 32, 8]
    rebuilt = LogMel(**said["front_end"])
    assert (rebuilt.max_length, rebuilt.mean, rebuilt.std, rebuilt.padding) == (128, -5.0, 4.0, "minimum")
    (tmp_path / "method.json").write_text(json.dumps(said["method"]))
    assert read_method(tmp_path / "method.json") == method
    # The exporter would have every node tell which line of which file made it.
    assert str(Path(ap.__file__).parent).encode() not in found.path.read_bytes()


def test_the_model_stays_as_it_was(spectrogram, tmp_path) -> None:
    model = audiomae(**TWO_BLOCKS).train()
    model.audiomae.layers[1].eval()
    level = logging.getLogger("torch.onnx").level
    with ap.prune(model, ap.TopK(0.5)) as handle, ap.trace(model) as record, torch.no_grad():
        before, modes = model(spectrogram).logits, [module.training for module in model.modules()]
        kept, steps = record.kept, []
        export_onnx(model, tmp_path / "a.onnx", advance=lambda: steps.append(1))
        assert record.kept is kept or all(map(torch.equal, record.kept, kept))
        assert len(steps) == STEPS
        assert handle.attached
        assert [module.training for module in model.modules()] == modes
        assert torch.equal(model(spectrogram).logits, before)
    assert all(not parameter.is_meta and parameter.requires_grad for parameter in model.parameters())
    assert logging.getLogger("torch.onnx").level == level
    assert ap.handle(model) is None


class Wrong:
    """A session whose answers are off by some share of the greatest logit."""

    def __init__(self, path: Path, off: float = 1e-2) -> None:
        self.session, self.off = open_session(path), off

    def run(self, names: list[str], inputs: dict) -> list:
        return [logits + self.off * abs(logits).max() for logits in self.session.run(names, inputs)]


@torch.no_grad()
def test_a_file_that_computes_something_else_is_not_left(spectrogram, tmp_path, monkeypatch) -> None:
    model = audiomae(**TWO_BLOCKS).eval()
    (tmp_path / "a.onnx").write_text("earlier")
    monkeypatch.setattr(exporting, "open_session", Wrong)
    with (
        ap.prune(model, ap.TopK(0.5)),
        pytest.raises(ExportError, match="differ from PyTorch's by .* no file was left"),
    ):
        export_onnx(model, tmp_path / "a.onnx", overwrite=True)
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("a.onnx", "earlier")]


@torch.no_grad()
def test_no_number_is_something_else(spectrogram) -> None:
    class Silent:
        def run(self, names: list[str], inputs: dict) -> list:
            return [float("nan") * inputs["input_values"][:, 0, :11]]

    model = audiomae(**TWO_BLOCKS).eval()
    with pytest.raises(ExportError, match="by nan of"):
        agreement.compare_logits(model, Silent(), "input_values", [spectrogram], [model(spectrogram).logits])


@torch.no_grad()
def test_a_tie_is_told_from_an_error(spectrogram) -> None:
    model, even = audiomae(**TWO_BLOCKS).eval(), torch.ones(128, 128)
    with ap.prune(model, ap.TopK(0.5, score="intensity")):
        for clip, is_tie in ((even, True), (spectrogram[0], False)):
            assert agreement._is_tie(model, "input_values", clip, model(clip[None]).logits[0], 1e-3) is is_tie
    assert not agreement._is_tie(model, "input_values", even, model(even[None]).logits[0], 1e-3)


def test_a_runtime_that_is_too_old(tmp_path, monkeypatch) -> None:
    model = audiomae(num_hidden_layers=1).eval()

    def refuse(path: Path) -> None:
        raise RuntimeError("ONNX Runtime only *guarantees* support for opset 18\nand more")

    monkeypatch.setattr(exporting, "open_session", refuse)
    with pytest.raises(ExportError, match="does not accept the file, of opset 18: ONNX Runtime only .* opset 18$"):
        export_onnx(model, tmp_path / "a.onnx")


def test_the_exporters_failure_is_one_sentence(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(translation, "translations", dict)
    model = audiomae(**TWO_BLOCKS).eval()
    with ap.prune(model, ap.TopK(0.5)), pytest.raises(ExportError) as failure:
        export_onnx(model, tmp_path / "a.onnx")
    message = str(failure.value)
    assert message.startswith("AudioMAEForAudioClassification, pruned with TopK(0.5), could not be written as ONNX: ")
    assert "sort" in message
    assert "\n" not in message
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("build", "method", "message"),
    [
        (audiomae, METHODS["ats"], "with ATS, the sound decides .* use TopK, SegmentwiseTopK, EViT or ToMe"),
        (audiomae, METHODS["avit"], "with AViT, the sound decides"),
        (audiomae, METHODS["spvit"], "with SPViT, the sound decides"),
        (audiomae, METHODS["divprune"], "DivPrune selects tokens one by one, .* use TopK"),
        (audiomae, METHODS["dpp"], "DPP selects tokens one by one"),
        (lambda: audiomae().bfloat16(), None, r"is in torch.bfloat16, .* export model.float\(\)"),
        (lambda: audiomae().audiomae, None, "AudioMAEModel gives no logits; export a model with a classification head"),
        (lambda: ast().audio_spectrogram_transformer, METHODS["topk"], "ASTModel gives no logits"),
        (qwen2_audio, None, "is an audio-language model: it runs many times for one answer"),
        (torch.nn.Identity, None, "contains no encoder that audioprune supports"),
    ],
)
def test_what_no_graph_can_hold(build, method: Method | None, message: str, tmp_path) -> None:
    model = build()
    if method is not None:
        ap.prune(model, method)
    with pytest.raises((ValueError, TypeError), match=message):
        export_onnx(model, tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())


def test_a_rate_of_one_asks_nothing_of_the_method() -> None:
    model = audiomae()
    with ap.prune(model, ap.ATS(1.0)):
        assert check_exportable(model).family.startswith("AudioMAE")


def test_untrained(tmp_path) -> None:
    model = audiomae(**TWO_BLOCKS).eval()
    with ap.prune(model, ap.DynamicViT(0.5)), pytest.raises(ap.UntrainedError, match="has learnt nothing yet"):
        export_onnx(model, tmp_path / "a.onnx")


@pytest.mark.parametrize(
    ("build", "given", "message"),
    [
        (wav2vec2, {}, "Wav2Vec2ForSequenceClassification takes clips of any length, .* samples=80_000 for 5 s"),
        (wav2vec2, {"samples": 0}, "samples is 0"),
        (audiomae, {"samples": 16_000}, "takes spectrograms of one length; leave it out"),
        (audiomae, {"opset": 11}, "opset is 11; it must be at least 18"),
    ],
)
def test_arguments_that_do_not_fit(build, given, message: str, tmp_path) -> None:
    with pytest.raises(ValueError, match=message):
        export_onnx(build(), tmp_path / "a.onnx", **given)


def test_where_no_file_can_be_written(tmp_path) -> None:
    model = audiomae()
    (tmp_path / "there.onnx").write_text("earlier")
    with pytest.raises(FileExistsError, match=r"there.onnx: exists; .* overwrite=True \(--overwrite\)"):
        export_onnx(model, tmp_path / "there.onnx")
    with pytest.raises(IsADirectoryError, match="is a folder; name the file to write"):
        export_onnx(model, tmp_path)
    with pytest.raises(OSError, match="there.onnx: cannot be written to"):
        export_onnx(model, tmp_path / "there.onnx" / "a.onnx")
    with pytest.raises(OSError, match="proc: cannot be written to"):
        export_onnx(model, "/proc/a.onnx")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("model")
    audiomae(**TWO_BLOCKS).save_pretrained(folder)
    return str(folder)


def test_command(run) -> None:
    shallow = ap.load("esc10")
    del shallow.audiomae.layers[2:]  # an export's time grows with the blocks; docs/onnx.md exports all twelve
    shallow.config.num_hidden_layers = 2
    shallow.save_pretrained("esc10-shallow")
    AudioMAEFeatureExtractor.of(ap.load_features("esc10", shallow)).save_pretrained("esc10-shallow")
    words = ("export", "esc10-shallow", "out/a.onnx", "--keep-rate", "0.5", "--batch-sizes", "2", "--seconds", "0.05")
    code, out, err = run(*words, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["command"].startswith("audioprune export esc10-shallow")
    assert (found["setting"]["method"], found["setting"]["keep_rate"]) == ("TopK", 0.5)
    assert (found["input"], found["shape"], found["labels"], found["opset"]) == ("input_values", [512, 128], 10, 18)
    assert found["difference"] < 1e-4
    assert found["clips"] == 4 + 6  # the shipped clips too
    assert found["size"] == Path("out/a.onnx").stat().st_size
    (row,) = found["times"]
    assert row["batch_size"] == 2
    assert min(row["torch_ms"], row["onnx_ms"]) > 0
    said = metadata(Path("out/a.onnx"))
    assert said["labels"][0] == ap.load("esc10").config.id2label[0]
    assert said["front_end"]["max_length"] == 512
    code, _, err = run(*words)
    assert code == 2
    assert "out/a.onnx: exists" in err


def test_command_compares_with_the_unpruned_model(run, tiny) -> None:
    words = ("export", tiny, "a.onnx", "--method", "segmentwise", "--keep-rate", "0.5", "--seconds", "0.05")
    code, out, err = run(*words, "--compare")
    assert code == 0, err
    assert "SegmentwiseTopK(0.5) → a.onnx" in out
    assert "onnxruntime and PyTorch differ by" in out
    assert "than the unpruned file" in out
    assert metadata(Path("a.onnx"))["method"]["keep_rate"] == 0.5
    code, out, err = run(*words[:3], "--keep-rate", "1.0", "--no-time", "--overwrite", "--json")
    assert code == 0, err
    assert json.loads(out)["times"] == []
    assert metadata(Path("a.onnx"))["tokens"] == [64, 64]


def test_command_for_a_waveform(run) -> None:
    wav2vec2(**TWO_BLOCKS).save_pretrained("speech")
    Wav2Vec2FeatureExtractor().save_pretrained("speech")
    words = ("export", "speech", "a.onnx", "--no-time")
    assert "--clip-seconds 5" in run(*words)[2]
    code, out, err = run(*words, "--clip-seconds", "0.32", "--method", "tome", "--keep-rate", "0.8", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert (found["shape"], found["setting"]["method"]) == ([5120], "ToMe")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("esc10", "a.onnx", "--keep-rate", "2"), "at most 1"),
        (("esc10", "a.onnx", "--keep-rate", "half"), "give numbers"),
        (("esc10", "a.onnx", "--method", "ats"), "with ATS, the sound decides"),
        (("esc10", "a.onnx", "--method", "dynamicvit"), "train a model with it first"),
        (("esc10", "a.onnx", "--batch-sizes", "0"), "--batch-sizes is '0'"),
        (("esc10", "a.onnx", "--opset", "17"), "greater than or equal to 18"),
        (("esc10", "a.onnx", "--compare", "--no-time"), "leave one of them out"),
        (("esc10", "a.onnx", "--clip-seconds", "5"), "--clip-seconds is 5, but esc10 hears"),
        (("esc10", "."), "is a folder"),
        (("none.pth", "a.onnx"), "none.pth: no such file"),
        (("listener", "a.onnx"), "listener: an audio-language model, which answers by running again and again"),
    ],
)
def test_command_errors(run, words: tuple[str, ...], message: str) -> None:
    code, out, err = run("export", *words)
    assert (code, out) == (2, "")
    assert message in err
    assert not Path("a.onnx").exists()


@pytest.mark.parametrize("module", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_is_named(run, monkeypatch, module: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    code, _, err = run("export", "esc10", "a.onnx")
    assert code == 2
    assert f"this needs {module}: pip install 'audioprune[export]'" in err
