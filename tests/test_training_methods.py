"""Methods that learn, or that add to the loss, through whole trainings."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback

import audioprune as ap
from audioprune.compare.benchmark import mean_macs
from audioprune.data import ClipTable, SoundCache, read
from audioprune.methods import LearnedMethod
from audioprune.training import finetune
from audioprune.training.dataset import SpectrogramDataset
from audioprune.training.evaluation_table import evaluate
from audioprune.training.finetune import fine_tune
from audioprune.training.recipe import read_recipe
from audioprune.training.task import Task

from .conftest import class_folders

TINY = """
about: For a test.
family: ast
preset: speech-commands
config: {hidden_size: 32, num_hidden_layers: 4, num_attention_heads: 2, intermediate_size: 64, max_length: 64,
  time_stride: 16, frequency_stride: 16}
epochs: 2
batch_size: 4
optimizer: {lr: 1.0e-2, weight_decay: 0.05}
method: {method: TopK, keep_rate: 1.0}
precision: fp32
"""
METHODS = {
    "dynamicvit": "{method: DynamicViT, keep_rate: 0.5}",
    "spvit": "{method: SPViT, keep_rate: 0.5}",
    "avit": "{method: AViT, keep_rate: 0.5, beta: 2.0}",
    "metr": "{method: METR, keep_rate: 0.5}",
    "fastast": "{method: FastAST, keep_rate: 0.6}",
}
LEARNED = ("dynamicvit", "spvit", "avit")
TAUGHT = ("dynamicvit", "spvit", "fastast")
"""Those that compare with the unpruned model."""


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> ClipTable:
    """Two classes: ten training clips, four of validation, four of test."""
    return read(class_folders(tmp_path_factory.mktemp("parts"), {"train": 5, "validation": 2, "test": 2}))


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("recipes") / "tiny.yaml"
    path.write_text(TINY)
    return path


@pytest.fixture(scope="module")
def start(recipe_file: Path, table: ClipTable, tmp_path_factory) -> Task:
    """The unpruned model that the others start from."""
    task = Task(read_recipe(recipe_file), table, tmp_path_factory.mktemp("start") / "out")
    fine_tune(task)
    return task


@pytest.fixture(scope="module")
def asked(recipe_file: Path, start: Task, tmp_path_factory):
    """Name → a task that trains with that method from the unpruned model."""

    def make(name: str, *words: str, out: Path | None = None) -> Task:
        recipe = read_recipe(recipe_file, [f"method={METHODS[name]}", *words])
        out = out or tmp_path_factory.mktemp("asked") / "out"
        return replace(start, recipe=recipe, out=out, init=start.out)

    return make


class Note(TrainerCallback):
    """Notes what a method learns before the first step and after the last, and the model's logits at its end."""

    def __init__(self) -> None:
        self.before: dict[str, torch.Tensor] = {}
        self.after: dict[str, torch.Tensor] = {}
        self.steps, self.teacher = 0, None

    @staticmethod
    def _learned(model) -> dict[str, torch.Tensor]:
        learned = ap.handle(model).learned
        return {} if learned is None else {name: tensor.clone() for name, tensor in learned.state_dict().items()}

    def on_train_begin(self, args, state, control, model=None, **kwargs) -> None:
        self.before = self._learned(model)

    def on_step_end(self, args, state, control, **kwargs) -> None:
        self.steps += 1

    def on_train_end(self, args, state, control, model=None, **kwargs) -> None:
        self.after = self._learned(model)


def dataset_of(task: Task) -> SpectrogramDataset:
    return task.dataset(task.table.split().test)


@pytest.fixture
def predictions(monkeypatch) -> list[torch.Tensor]:
    """The logits by which each training in the test was judged, right after it."""
    found: list[torch.Tensor] = []
    predict = finetune.predict

    def note(*words, **more) -> torch.Tensor:
        found.append(predict(*words, **more))
        return found[-1]

    monkeypatch.setattr(finetune, "predict", note)
    return found


@pytest.mark.parametrize("name", METHODS)
def test_a_training_leaves_what_runs_as_it_was_trained(name: str, asked, predictions) -> None:
    task, note = asked(name, "epochs=1"), Note()
    result = fine_tune(task, (note,))
    assert note.steps == result["steps"] == 2
    assert np.isfinite(result["losses"]).all()
    weighed = {key for key in note.before if not key.endswith("trained")}
    assert bool(weighed) == (name in ("dynamicvit", "spvit", "metr"))
    still = [key for key in weighed if torch.equal(note.before[key], note.after[key])]
    assert len(still) < len(weighed) / 10 or not weighed, f"{still} did not move"

    assert (task.out / "pruning.json").exists()
    assert (task.out / "pruning.safetensors").exists() == (name in LEARNED)
    settings = json.loads((task.out / "pruning.json").read_text())
    assert settings["method"] == result["method"]["method"]
    assert settings.get("weights") == ("pruning.safetensors" if name in LEARNED else None)
    if name in LEARNED:
        saved = load_file(task.out / "pruning.safetensors")
        assert saved.keys() == note.after.keys()
        assert all(torch.equal(saved[key], note.after[key]) for key in saved)
        assert saved["trained"] == 1

    keys = set(load_file(task.out / "model.safetensors"))
    assert keys == set(load_file(Path(task.init) / "model.safetensors")), "a model as any other"
    model = ap.load(task.out, pruned=False)
    (logits,) = predictions
    spectrograms = torch.stack([dataset_of(task)[i]["input_values"] for i in range(4)])
    with torch.no_grad():
        unpruned = model(spectrograms).logits
        with ap.prune(model, task.out) as handle:
            assert isinstance(handle.method, LearnedMethod) == (name in LEARNED)
            assert torch.equal(model(spectrograms).logits, logits)
        assert torch.equal(model(spectrograms).logits, unpruned)
        assert not torch.equal(unpruned, logits)


@pytest.mark.parametrize("name", METHODS)
def test_who_needs_a_teacher_gets_one(name: str, asked, monkeypatch) -> None:
    """The model that training starts from, as it was, though the recipe says nothing of it."""
    found = []
    make = finetune.make_trainer

    def note(*words, **more):
        trainer = make(*words, **more)
        found.append(trainer.teacher)
        return trainer

    monkeypatch.setattr(finetune, "make_trainer", note)
    task = asked(name, "epochs=1")
    assert task.recipe.distill is None
    fine_tune(task)
    (teacher,) = found
    assert (teacher is not None) == (name in TAUGHT)
    if teacher is not None:
        assert ap.handle(teacher) is None
        assert not any(parameter.requires_grad for parameter in teacher.parameters())
        begun = ap.load(task.init).state_dict()
        assert all(torch.equal(tensor, begun[key]) for key, tensor in teacher.state_dict().items())


@pytest.mark.parametrize("name", METHODS)
def test_weights_drawn_at_random_teach_nothing(name: str, asked, tmp_path: Path) -> None:
    task = replace(asked(name, "epochs=1"), init=None, out=tmp_path / "out")
    if name in TAUGHT:
        with pytest.raises(ValueError, match="needs a teacher, and random weights cannot teach"):
            fine_tune(task)
        # At a keep rate of 1 nothing is pruned, and nobody is asked.
        assert fine_tune(replace(task, keep_rate=1.0, out=tmp_path / "unpruned"))["method"] is None
    else:
        assert np.isfinite(fine_tune(task)["losses"]).all()


def test_a_new_head_teaches_nothing(asked, table: ClipTable, tmp_path: Path) -> None:
    renamed = tuple(replace(row, labels=("one",)) for row in table.rows)
    other = replace(table, labels=("one", "two"), rows=renamed)
    with pytest.raises(ValueError, match="gets a new head, which cannot teach"):
        fine_tune(replace(asked("dynamicvit"), table=other, out=tmp_path / "out"))


def test_a_named_teacher_teaches_both(asked, start: Task, tmp_path: Path) -> None:
    """A recipe's own distillation and the method's have one teacher."""
    words = ("epochs=1", "distill.weight=0.5")
    files = [tmp_path / name / "model.safetensors" for name in ("alone", "both", "named")]
    fine_tune(asked("fastast", "epochs=1", out=files[0].parent))
    fine_tune(asked("fastast", *words, out=files[1].parent))
    fine_tune(asked("fastast", *words, f"distill.teacher={start.out}", out=files[2].parent))
    alone, both, named = ([*load_file(file).values()] for file in files)
    assert all(map(torch.equal, both, named))
    assert not all(map(torch.equal, alone, both))


class Interrupt(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs) -> None:
        if state.global_step == 4:
            raise KeyboardInterrupt


@pytest.mark.parametrize("name", METHODS)
def test_an_interrupted_training_ends_in_the_same_weights(name: str, asked) -> None:
    """A checkpoint lies after the third of six steps, within an epoch, and it is stopped in the fourth. What the
    method learns, and the draws by which it chooses meanwhile, go on as well."""
    words = ("epochs=3", "shrink.epochs=2", "drop_path=0.1")
    whole, cut = asked(name, *words), asked(name, *words)
    notes = Note(), Note()
    fine_tune(whole, (notes[0],), save_steps=3)
    with pytest.raises(KeyboardInterrupt):
        fine_tune(cut, (Interrupt(),), save_steps=3)
    assert [path.name for path in cut.out.glob("checkpoint-*")] == ["checkpoint-3"]
    fine_tune(cut, (notes[1],), save_steps=3)
    assert (notes[0].steps, notes[1].steps) == (6, 3)
    for file in ("model.safetensors", "pruning.safetensors") if name in LEARNED else ("model.safetensors",):
        one, other = load_file(whole.out / file), load_file(cut.out / file)
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)
    one, other = notes[0].after, notes[1].after
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("begin", [0, 1])
def test_the_best_epoch_on_the_validation_clips(name: str, begin: int, asked, predictions) -> None:
    """Epochs are judged at the final keep rate, those before the shrink as well: a predictor must choose by then."""
    task = asked(name, "best=validation", "epochs=2", f"shrink.start={begin}", "shrink.epochs=1")
    fine_tune(task)
    model, dataset = ap.load(task.out, pruned=False), dataset_of(task)
    with torch.no_grad(), ap.prune(model, task.out):
        logits = model(torch.stack([dataset[i]["input_values"] for i in range(4)])).logits
    assert torch.equal(logits, predictions[-1])


FAMILIES = ("audiomae", "ast", "ast-mp")


def plain(family: str, *words: str) -> list[str]:
    grid = "" if family == "audiomae" else ", time_stride: 16, frequency_stride: 16"
    sizes = "hidden_size: 32, num_hidden_layers: 4, num_attention_heads: 2, intermediate_size: 64, max_length: 64"
    return [f"family={family}", f"config={{{sizes}{grid}}}", "method={method: TopK, keep_rate: 0.5}", *words]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_checkpoint_holds_every_weight_of_every_family(
    family: str, recipe_file: Path, table: ClipTable, tmp_path: Path
) -> None:
    """transformers knows AST's weights by two sets of names."""
    recipe = read_recipe(recipe_file, plain(family, "epochs=3"))
    whole, cut = (Task(recipe, table, tmp_path / name) for name in ("whole", "cut"))
    fine_tune(whole, save_steps=3)
    with pytest.raises(KeyboardInterrupt):
        fine_tune(cut, (Interrupt(),), save_steps=3)
    fine_tune(cut, save_steps=3)
    one, other = (load_file(task.out / "model.safetensors") for task in (whole, cut))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_best_epochs_weights_come_back(
    family: str, recipe_file: Path, table: ClipTable, tmp_path: Path, monkeypatch
) -> None:
    """Epochs are judged ever worse, so that the first is the best."""
    judged: list[float] = []

    def worse(*_: object) -> dict[str, float]:
        judged.append(1 / (1 + len(judged)))
        return {"score": judged[-1]}

    monkeypatch.setattr(finetune, "score", worse)
    recipe = read_recipe(recipe_file, plain(family, "epochs=3", "best=validation"))
    task = Task(recipe, table, tmp_path / "out")
    fine_tune(task)
    assert judged[:3] == [1, 1 / 2, 1 / 3]
    best, last = (load_file(task.out / name / "model.safetensors") for name in ("checkpoint-2", "checkpoint-6"))
    found = ap.load(task.out).state_dict()
    assert best.keys() == found.keys()
    assert all(torch.equal(best[key], found[key]) for key in found)
    assert not any(torch.equal(best[key], last[key]) for key in found if key.endswith("weight"))


def test_a_checkpoint_of_other_weights_is_refused(recipe_file: Path, table: ClipTable, tmp_path: Path) -> None:
    task = Task(read_recipe(recipe_file, ["epochs=3"]), table, tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        fine_tune(task, (Interrupt(),), save_steps=3)
    file = task.out / "checkpoint-3" / "model.safetensors"
    tensors = load_file(file)
    tensors.pop("classifier.dense.weight")
    save_file(tensors, file)
    with pytest.raises(ValueError, match=r"not of this model \(1 tensors, classifier\.dense\.weight.*start again"):
        fine_tune(task)


# The command line.


@pytest.fixture
def run(run, monkeypatch, tmp_path: Path, recipe_file: Path):
    """The command line in the recipes' folder, and with a cache of its own."""
    monkeypatch.chdir(recipe_file.parent)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return run


@pytest.mark.parametrize("name", ["dynamicvit", "avit"])
def test_train_and_eval_on_the_command_line(run, name: str, start: Task, tmp_path: Path) -> None:
    data = start.table.rows[0].path.parents[2]
    words = ("train", "-r", "tiny.yaml", "-d", data, "--init", start.out, "--set", "epochs=1")
    trained = {}
    for rate in ("1", "0.5"):
        out_folder = tmp_path / "runs" / f"rate{rate}"
        method = ("--set", f"method={METHODS[name]}", "--keep-rate", rate)
        code, out, err = run(*words, *method, "-o", out_folder, "--json")
        assert code == 0, err
        trained[float(rate)] = json.loads(out)
    assert trained[0.5]["method"]["method"] == ("DynamicViT" if name == "dynamicvit" else "AViT")

    words = ("eval", "-d", data, "--bench-seconds", 0, "--keep-rates", "1.0,0.5", "--method", "trained")
    code, out, err = run(*words, "-m", f"{tmp_path}/runs/rate{{rate}}", "--json")
    assert code == 0, err
    result = json.loads(out)
    assert result["fine_tuned"] is True
    assert [row["mean"] for row in result["rows"]] == [trained[1.0]["accuracy"], trained[0.5]["accuracy"]]
    assert result["rows"][0]["macs"] > result["rows"][1]["macs"]
    code, out, err = run(*words, "-m", f"{tmp_path}/runs/rate0.5")
    assert (code, out) == (2, "")
    assert "put {rate} in --model" in err
    # An unpruned training is no training at another rate.
    (tmp_path / "runs" / "rate0.7").mkdir()
    for file in (tmp_path / "runs" / "rate1").iterdir():
        if file.is_file():
            (tmp_path / "runs" / "rate0.7" / file.name).write_bytes(file.read_bytes())
    code, out, err = run(*words[:-3], "0.7", "--method", "trained", "-m", f"{tmp_path}/runs/rate{{rate}}")
    assert (code, out) == (2, "")
    assert re.search(r"rate0\.7/pruning\.json: no such file", err)

    sound = next((data / "test").rglob("*.wav"))
    code, out, err = run("tag", sound, "-m", tmp_path / "runs" / "rate0.5", "--method", tmp_path / "runs" / "rate0.5")
    assert code == 0, err
    assert "high" in out or "low" in out
    code, out, err = run("tag", sound, "-m", tmp_path / "runs" / "rate0.5", "--method", name)
    assert code == 2
    assert "give the folder of that training" in err


def test_eval_counts_where_the_sound_decides(run, start: Task) -> None:
    data = start.table.rows[0].path.parents[2]
    words = ("eval", "-d", data, "-m", start.out, "--bench-seconds", 0.05, "--batch-size", 2, "--json")
    code, out, err = run(*words, "--keep-rates", "1.0,0.5", "--method", "ats")
    assert code == 0, err
    full, half = json.loads(out)["rows"]
    model, dataset = ap.load(start.out), dataset_of(start)
    assert full["macs"] == ap.macs(model)
    with ap.prune(model, ap.ATS(0.5)):
        by_clip = [ap.macs(model, inputs=dataset[i]["input_values"][None]) for i in range(4)]
        assert half["macs"] == mean_macs(model, torch.stack([dataset[i]["input_values"] for i in range(4)]))
    assert half["macs"] == round(sum(by_clip) / 4)
    with ap.prune(model, ap.TopK(0.5)):
        assert half["macs"] <= 1.05 * ap.macs(model), "at most as many tokens, and they must be sampled"
    assert half["clips_per_second"] > 0


def test_a_learned_method_in_the_table_is_pruned_by_what_it_learnt(asked, predictions) -> None:
    task = asked("spvit", "epochs=1")
    fine_tune(task)
    template = str(task.out.with_name("rate{rate}"))
    task.out.rename(template.format(rate="0.5"))
    cache = SoundCache(None, task.front.max_seconds)
    result = evaluate(template, task.table, None, [0.5], bench_seconds=0, cache=cache)
    targets = dataset_of(task).targets.argmax(1)
    assert result["rows"][0]["mean"] == (predictions[0].argmax(1) == targets).float().mean().item()
    assert result["method"]["method"] == "SPViT"
    with pytest.raises(ValueError, match="was fine-tuned with SPViT"):
        evaluate(template, task.table, ap.TopK(0.5), [0.5], bench_seconds=0)


# Recipes.


def test_another_method_has_its_own_settings(tmp_path: Path) -> None:
    """Those of the method below are not merged into it; the same method's are."""
    (tmp_path / "below.yaml").write_text(TINY.replace("keep_rate: 1.0}", "keep_rate: 0.7, score: cls, segments: 4}"))

    def extended(text: str) -> dict[str, object]:
        (tmp_path / "above.yaml").write_text(f"extends: below.yaml\n{text}")
        return read_recipe(tmp_path / "above.yaml").method

    assert extended("method: {method: DynamicViT, keep_rate: 0.5}") == {"method": "DynamicViT", "keep_rate": 0.5}
    both = {"method": "TopK", "keep_rate": 0.5, "score": "cls", "segments": 4}
    assert extended("method: {keep_rate: 0.5}") == both
    assert extended("method: {method: TopK, keep_rate: 0.5}") == both
    assert extended("epochs: 2") == {**both, "keep_rate": 0.7}
    # Two steps down.
    (tmp_path / "below.yaml").rename(tmp_path / "first.yaml")
    (tmp_path / "below.yaml").write_text("extends: first.yaml\nmethod: {method: ToMe, keep_rate: 0.8}")
    assert extended("method: {layers: all}") == {"method": "ToMe", "keep_rate": 0.8, "layers": "all"}
    with pytest.raises(ValueError, match="method AViT: .*keep_rate"):
        extended("method: {method: AViT}")


def test_the_method_of_a_shipped_recipe_is_replaced_by_a_word(tmp_path: Path) -> None:
    recipe = read_recipe("esc10-audiomae-topk", ["method={method: DynamicViT, keep_rate: 0.5}"])
    assert recipe.pruning() == ap.DynamicViT(0.5)
    (tmp_path / "mine.yaml").write_text("extends: esc10-audiomae-topk\nmethod: {method: SPViT, keep_rate: 0.7}")
    assert read_recipe(tmp_path / "mine.yaml").pruning() == ap.SPViT(0.7)
    assert read_recipe("esc10-audiomae-topk", ["method.layers=all"]).pruning().schedule(5).keys() == set(range(5))
