"""A head on a frozen Whisper, and its last blocks with pruning: from the clips to a model that every command takes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import WhisperForAudioClassification, WhisperForConditionalGeneration

import audioprune as ap
from audioprune.audio.whisper_features import WhisperFeatures
from audioprune.compare.comparison import logits_of
from audioprune.core.settings import describe, read_method
from audioprune.data import SoundCache, read
from audioprune.methods.chain import Chain
from audioprune.training.encoder_outputs import EncoderOutputs
from audioprune.training.finetune import fine_tune
from audioprune.training.recipe import read_recipe
from audioprune.training.task import Task

from .conftest import class_folders, tone
from .transcribers import SECONDS, save


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return class_folders(tmp_path_factory.mktemp("parts"), {"train": 5, "test": 2})


@pytest.fixture(scope="module")
def whisper(tmp_path_factory) -> str:
    return save(tmp_path_factory.mktemp("whisper"))


def recipe(name: str, *more: str):
    return read_recipe(name, ("config={}", "batch_size=4", *more))


@pytest.fixture(scope="module")
def probe(folder: Path, whisper: str, tmp_path_factory) -> Task:
    out = tmp_path_factory.mktemp("probe")
    chosen = recipe(
        "whisper-probe", "epochs=60", "optimizer.lr=0.01", "save_epochs=60", "learning_rate.warmup_epochs=1"
    )
    task = Task(chosen, read(folder), out / "run", init=whisper, cache=SoundCache(out / "cache", SECONDS))
    fine_tune(task)
    return task


def test_the_head_learns_and_the_encoder_stays(probe: Task, whisper: str, folder: Path) -> None:
    assert json.loads((probe.out / "result.json").read_text())["accuracy"] == 1.0
    own = WhisperForConditionalGeneration.from_pretrained(whisper).model.encoder.state_dict()
    trained = load_file(probe.out / "model.safetensors")
    assert all(torch.equal(trained[f"encoder.{name}"], tensor) for name, tensor in own.items())
    model = ap.load(probe.out)
    assert isinstance(model, WhisperForAudioClassification)
    assert model.config.id2label == {0: "high", 1: "low"}
    front = ap.load_features(probe.out, model)
    assert isinstance(front, WhisperFeatures)
    assert front.max_seconds == SECONDS
    # What was learnt on the encoder's mean is what the model computes from sounds.
    table = read(folder)
    rows = table.split(None).test
    features = torch.stack([SoundCache(None, SECONDS).features(row, front) for row in rows])
    with torch.no_grad():
        cached = torch.stack([probe.cache.features(row, EncoderOutputs(front, model)) for row in rows])
        direct = logits_of(model, features)
        assert torch.allclose(model(encoder_outputs=(cached,)).logits, direct, atol=1e-4)
    assert direct.argmax(1).tolist() == table.targets(rows).tolist()


def test_a_head_on_a_pruned_encoder(probe: Task, folder: Path) -> None:
    """It learns from what the pruned model computes, which it is saved with."""
    method = Chain.of([ap.PaddingMerge(0.5, margin=0), ap.ToMe(0.6, layers=(1,), metric="hidden")])
    pruned = recipe(
        "whisper-probe", "epochs=60", "optimizer.lr=0.01", "save_epochs=60", "learning_rate.warmup_epochs=1"
    )
    settings = {"method": [{"method": "PaddingMerge", "keep_rate": 0.5, "margin": 0}, describe(method.methods[1])]}
    task = replace(probe, out=probe.out.parent / "pruned", recipe=pruned.model_copy(update={"method": settings}))
    result = fine_tune(task)
    assert result["accuracy"] == 1.0
    assert read_method(task.out / "pruning.json") == method
    model = ap.load(task.out)
    front = ap.load_features(task.out, model)
    rows = read(folder).split(None).test
    features = torch.stack([probe.cache.features(row, front) for row in rows])
    with torch.no_grad():
        direct = logits_of(model, features)
        ap.handle(model).remove()  # type: ignore[union-attr]
        cached = torch.stack([probe.cache.features(row, EncoderOutputs(front, model, method)) for row in rows])
        assert torch.allclose(model(encoder_outputs=(cached,)).logits, direct, atol=1e-4)
        assert not torch.allclose(direct, logits_of(model, features), atol=1e-3), "pruning changes what the head reads"


def test_each_clip_is_heard_once(probe: Task, tmp_path, monkeypatch) -> None:
    """By another seed's head neither."""
    monkeypatch.setattr(WhisperFeatures, "forward", lambda *args, **kwargs: pytest.fail("a clip was heard again"))
    fine_tune(replace(probe, out=tmp_path / "again", seed=1, recipe=probe.recipe.model_copy(update={"epochs": 2})))


def test_the_last_blocks_learn_with_pruning(probe: Task, folder: Path, tmp_path) -> None:
    chosen = recipe("whisper-topk", "epochs=3", "trained=1", "shrink.epochs=1")
    task = Task(chosen, read(folder), tmp_path / "topk", init=probe.out, keep_rate=0.5)
    result = fine_tune(task)
    assert result["method"]["keep_rate"] == 0.5
    before, after = (load_file(at / "model.safetensors") for at in (probe.out, task.out))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    last = ap.load(probe.out).config.encoder_layers - 1
    assert {name.split(".")[0] for name in changed} == {"encoder", "projector", "classifier"}
    assert all(name.startswith(f"encoder.layers.{last}.") for name in changed if name.startswith("encoder"))
    assert read_method(task.out / "pruning.json") == ap.TopK(0.5)


def test_commands_take_the_model(probe: Task, folder: Path, run, tmp_path) -> None:
    model = ("--model", probe.out)
    code, out, err = run("tag", folder / "test", *model, "--out", "rows.jsonl", "--method", "padding")
    assert code == 0, err
    rows = [json.loads(line) for line in Path("rows.jsonl").read_text().splitlines()]
    assert {(Path(row["path"]).parent.name, row["labels"][0]["label"]) for row in rows} == {
        ("high", "high"),
        ("low", "low"),
    }
    code, out, err = run(
        "compare", *model, "--data", folder, "--methods", "padding,tome", "--keep-rates", "0.5", "--json"
    )
    assert code == 0, err
    found = {row["method"]: row for row in json.loads(out)["rows"]}
    assert found["padding"]["macs_ratio"] > 1
    code, out, err = run("bench", *model, "--keep-rates", "1.0,0.5", "--seconds", "0.1", "--json")
    assert code == 0, err
    code, out, err = run("explain", folder / "test/high/0.wav", *model)
    assert code == 0, err
    assert Path("0-kept.png").exists()


def test_train_on_the_command_line(whisper: str, folder: Path, run) -> None:
    words = ("train", "--recipe", "whisper-probe", "--init", whisper, "--data", folder, "--out", "probe")
    code, out, err = run(*words, "--set", "epochs=2", "--set", "batch_size=4", "--set", "save_epochs=2", "--json")
    assert code == 0, err
    assert json.loads(out)["clips"] == {"train": 10, "validation": 0, "test": 4}
    code, _, err = run(*words[:-1], "learnt", "--set", "method={method: DynamicViT, keep_rate: 0.5}")
    assert code == 2
    assert "trains the head alone, and DynamicViT learns in the blocks of the encoder; train some of them too" in err
    assert not Path("learnt").exists()


@pytest.mark.parametrize(
    ("name", "setting", "message"),
    [
        ("whisper-probe", "augment.noise=true", "family is whisper, whose features have no noise"),
        ("whisper-probe", "augment.roll=true", "the encoder hears each clip once"),
        ("whisper-probe", "trained=0", "trained"),
        ("esc10-ast", "trained=head", "only a whisper's head trains alone"),
        ("esc10-ast", "preset=null", "preset is missing; ast needs one"),
    ],
)
def test_settings_that_cannot_be(name: str, setting: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_recipe(name, [setting])


def test_starts_that_cannot_be(folder: Path, whisper: str, tmp_path) -> None:
    table = read(folder)
    ap.load("esc10").save_pretrained(tmp_path / "other")
    for init, message in ((tmp_path / "other", "Whisper"), (tmp_path / "nothing", "nothing")):
        with pytest.raises((ValueError, OSError), match=message):
            fine_tune(Task(recipe("whisper-probe"), table, tmp_path / "a", init=init))
    with pytest.raises(ValueError, match="trained is 9, but the model has"):
        fine_tune(Task(recipe("whisper-topk", "trained=9", "distill=null"), table, tmp_path / "b", init=whisper))


def test_features_are_transformers_own(whisper: str) -> None:
    model = WhisperForAudioClassification.from_pretrained(whisper, num_labels=2)
    front = ap.load_features(whisper, model)
    sounds = [tone(0.5), tone(0.9, hertz=300.0)]
    expected = front.extractor(sounds, sampling_rate=16_000, return_tensors="pt").input_features
    assert torch.equal(front(sounds), expected)
    assert front(sounds).shape[1:] == front.shape
    with pytest.raises(ap.AudioError):
        front([float("nan") * tone(0.5)])
    model.config.num_mel_bins = 128
    with pytest.raises(ValueError, match="save them together"):
        ap.load_features(whisper, model)
