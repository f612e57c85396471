"""Small trainings from the clips to the saved model, through the functions and through the command line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

import audioprune as ap
from audioprune.audio.features import LogMel
from audioprune.data import ClipTable, DataError, SoundCache, read
from audioprune.models.loading import load_features
from audioprune.training import finetune, sweep
from audioprune.training.dataset import SpectrogramDataset
from audioprune.training.evaluation_table import evaluate
from audioprune.training.finetune import fine_tune
from audioprune.training.pretrain import pretrain
from audioprune.training.recipe import read_recipe
from audioprune.training.task import Task

from .conftest import class_folders, tone

TINY = """
about: For a test.
family: audiomae
preset: speech-commands
config: {hidden_size: 32, num_hidden_layers: 4, num_attention_heads: 2, intermediate_size: 64, max_length: 64}
epochs: 3
batch_size: 4
optimizer: {lr: 1.0e-3, weight_decay: 0.05}
learning_rate: {warmup_epochs: 1}
method: {method: TopK, keep_rate: 0.5}
shrink: {start: 1, epochs: 1}
precision: fp32
"""
PRETRAIN = """
about: For a test.
task: pretrain
family: audiomae
preset: speech-commands
config: {hidden_size: 32, num_hidden_layers: 4, num_attention_heads: 2, intermediate_size: 64, max_length: 64,
  decoder_hidden_size: 16, decoder_num_hidden_layers: 1, decoder_num_attention_heads: 2, decoder_intermediate_size: 32,
  norm_pix_loss: false}
epochs: 8
batch_size: 4
optimizer: {lr: 3.0e-3}
precision: fp32
"""
NOISY = """
drop_path: 0.2
augment: {mixup: 0.5, roll: true, gain: true, noise: true, time_mask: 16, frequency_mask: 16, patch_mask: 0.3}
"""
HERTZ = {"high": 2000.0, "low": 200.0}


@pytest.fixture(scope="module")
def parts(tmp_path_factory) -> Path:
    """Two classes as folders: ten training clips, four of validation, four of test."""
    return class_folders(tmp_path_factory.mktemp("parts"), {"train": 5, "validation": 2, "test": 2})


@pytest.fixture(scope="module")
def folds(tmp_path_factory) -> Path:
    """Two classes in three folds, listed as ESC-10."""
    folder = tmp_path_factory.mktemp("folds")
    lines = ["path,label,fold"]
    for fold in "123":
        for label, hertz in HERTZ.items():
            for i in range(2):
                name = f"{fold}-{label}{i}.wav"
                soundfile.write(folder / name, tone(0.5, hertz=hertz * (1 + 0.1 * i)), 16_000)
                lines.append(f"{name},{label},{fold}")
    (folder / "manifest.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def table(parts: Path) -> ClipTable:
    return read(parts)


@pytest.fixture(scope="module")
def recipes(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("recipes")
    (folder / "tiny.yaml").write_text(TINY)
    (folder / "noisy.yaml").write_text("extends: tiny.yaml" + NOISY)
    (folder / "plain.yaml").write_text("extends: tiny.yaml\nmethod: {keep_rate: 1.0}")
    (folder / "pre.yaml").write_text(PRETRAIN)
    return folder


@pytest.fixture(scope="module")
def finished(recipes: Path, table: ClipTable, tmp_path_factory) -> Task:
    """A training that is done; tests look at what it left."""
    task = Task(read_recipe(recipes / "tiny.yaml"), table, tmp_path_factory.mktemp("finished") / "out")
    fine_tune(task)
    return task


def weights(task: Task) -> dict[str, torch.Tensor]:
    return load_file(task.out / "model.safetensors")


def same(one: Task, other: Task) -> bool:
    a, b = weights(one), weights(other)
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


class Watch(TrainerCallback):
    """Notes the keep rate of each step as the model runs it, and counts the trainings."""

    def __init__(self) -> None:
        self.trainings, self.steps, self.rates = 0, 0, []

    def on_train_begin(self, args, state, control, model=None, **kwargs) -> None:
        self.trainings += 1
        model.register_forward_pre_hook(lambda m, _: self._look(m))

    def on_step_end(self, args, state, control, **kwargs) -> None:
        self.steps += 1

    def _look(self, model) -> None:
        if model.training:
            handle = ap.handle(model)
            self.rates.append(None if handle is None else handle.keep_rate)


# Fine-tuning.


def test_a_finished_training_is_a_model_that_runs_as_it_was_trained(finished: Task, table: ClipTable) -> None:
    result = json.loads((finished.out / "result.json").read_text())
    assert (result["data"], result["fold"], result["seed"], result["keep_rate"]) == (table.name, None, 0, 0.5)
    assert result["clips"] == {"train": 10, "validation": 4, "test": 4}
    assert result["recipe"]["name"] == "tiny"
    assert result["steps"] == 3 * 2, "ten clips are two batches of four"
    assert len(result["losses"]) == 3
    assert result["tested_on"] == "test"
    assert result["method"] == {"layers": None, **json.loads((finished.out / "pruning.json").read_text())}
    model = ap.load(finished.out, pruned=False)
    assert tuple(model.config.id2label.values()) == table.labels
    front = load_features(finished.out, model)
    assert (front.max_length, front.mean, front.std) == (64, -6.846, 5.565)
    handle = ap.prune(model, finished.out / "pruning.json")
    assert handle.tokens == (32, 16, 8, 4)
    cache, right = SoundCache(None, front.max_seconds), 0
    rows = table.split().test
    with torch.no_grad():
        for row, target in zip(rows, table.targets(rows)):
            right += int(model(cache.features(row, front)[None]).logits.argmax()) == target
    assert result["accuracy"] == result["score"] == right / 4


def test_the_same_task_is_not_trained_twice(finished: Task) -> None:
    watch, before = Watch(), (finished.out / "model.safetensors").stat().st_mtime_ns
    first = json.loads((finished.out / "result.json").read_text())
    assert fine_tune(finished, (watch,)) == first
    assert watch.trainings == 0
    assert (finished.out / "model.safetensors").stat().st_mtime_ns == before


def test_a_folder_of_another_training_is_not_taken(finished: Task) -> None:
    for other in (replace(finished, keep_rate=0.7), replace(finished, seed=1)):
        with pytest.raises(ValueError, match="begun with"):
            fine_tune(other)


def test_what_is_returned_is_what_is_written_and_the_seed_tells_all(finished: Task, tmp_path: Path) -> None:
    again, other = replace(finished, out=tmp_path / "again"), replace(finished, out=tmp_path / "other", seed=1)
    result = fine_tune(again)
    assert json.loads(json.dumps(result)) == json.loads((again.out / "result.json").read_text())
    assert same(finished, again)
    fine_tune(other)
    assert not same(finished, other)


def test_the_keep_rate_falls_while_it_trains_and_the_handle_is_removed(
    finished: Task, tmp_path: Path, monkeypatch
) -> None:
    handles = []
    monkeypatch.setattr(finetune, "prune", lambda *a: handles.append(ap.prune(*a)) or handles[-1])
    tested = []
    predict = finetune.predict
    monkeypatch.setattr(
        finetune, "predict", lambda model, *a, **k: tested.append(handles[0].keep_rate) or predict(model, *a, **k)
    )
    watch = Watch()
    fine_tune(replace(finished, out=tmp_path / "out"), (watch,))
    assert watch.rates == pytest.approx([1.0, 1.0, 1.0, 0.75, 0.5, 0.5])
    assert tested == [0.5]
    assert [handle.attached for handle in handles] == [False]


def test_a_keep_rate_of_one_prunes_nothing(finished: Task, tmp_path: Path) -> None:
    watch, task = Watch(), replace(finished, out=tmp_path / "out", keep_rate=1.0)
    result = fine_tune(task, (watch,))
    assert set(watch.rates) == {None}
    assert (result["method"], result["keep_rate"]) == (None, 1.0)
    assert not (task.out / "pruning.json").exists()


def test_a_wrong_keep_rate(finished: Task, tmp_path: Path) -> None:
    for rate in (0.0, 1.3):
        with pytest.raises(ValueError, match=f"keep_rate is {rate}"):
            fine_tune(replace(finished, out=tmp_path / "out", keep_rate=rate))


def test_trained_in_half_precision_and_tested_in_full(finished: Task, tmp_path: Path, monkeypatch) -> None:
    seen: dict[bool, set[torch.dtype]] = {True: set(), False: set()}

    class Look(TrainerCallback):
        def on_train_begin(self, args, state, control, model=None, **kwargs) -> None:
            inner = model.audiomae.layers[0].mlp.fc1
            inner.register_forward_hook(lambda m, _, out: seen[m.training].add(out.dtype))

    recipe = finished.recipe.model_copy(update={"precision": "bf16"})
    task = replace(finished, recipe=recipe, out=tmp_path / "out")
    fine_tune(task, (Look(),))
    assert seen == {True: {torch.bfloat16}, False: {torch.float32}}
    assert {value.dtype for value in weights(task).values()} == {torch.float32}


@pytest.mark.parametrize("family", ["ast", "ast-mp"])
def test_an_ast_with_adam_and_steps(family: str, recipes: Path, table: ClipTable, tmp_path: Path) -> None:
    words = [f"family={family}", "epochs=2", "config.time_stride=16", "config.frequency_stride=16"]
    words += ["optimizer.name=adam", "learning_rate.name=step", "method.score=cls", "attention=eager"]
    task = Task(read_recipe(recipes / "tiny.yaml", words), table, tmp_path / "out")
    result = fine_tune(task)
    assert result["method"]["score"] == "cls"
    model = ap.load(task.out, pruned=False)
    assert getattr(model.config, "pooling", "cls") == ("mean" if family == "ast-mp" else "cls")
    assert ap.prune(model, task.out / "pruning.json").tokens == (32, 16, 8, 4)


class Recorded(SoundCache):
    """Notes which clips were heard."""

    def __init__(self) -> None:
        super().__init__(None, LogMel(64).max_seconds)
        self.heard: set[Path] = set()

    def waveform(self, row):
        self.heard.add(row.path)
        return super().waveform(row)

    def features(self, row, front):
        self.heard.add(row.path)
        return super().features(row, front)


def test_the_best_epoch_is_chosen_without_the_test_clips(
    recipes: Path, table: ClipTable, tmp_path: Path, monkeypatch
) -> None:
    cache, before_test = Recorded(), set()
    predict = finetune.predict
    monkeypatch.setattr(finetune, "predict", lambda *a, **k: before_test.update(cache.heard) or predict(*a, **k))
    recipe = read_recipe(recipes / "tiny.yaml", ["best=validation"])
    task = Task(recipe, table, tmp_path / "out", cache=cache)
    states = []

    class States(TrainerCallback):
        def on_evaluate(self, args, state, control, metrics=None, **kwargs) -> None:
            states.append(metrics["eval_score"])

        def on_train_end(self, args, state, control, **kwargs) -> None:
            states.append(state.best_metric)

    fine_tune(task, (States(),))
    split = table.split()
    assert before_test == {row.path for row in (*split.train, *split.validation)}
    assert {row.path for row in split.test} <= cache.heard
    *by_epoch, best = states
    assert len(by_epoch) == 3
    assert best == max(by_epoch)


def test_validation_clips_are_taken_from_the_training_clips(recipes: Path, folds: Path, tmp_path: Path) -> None:
    esc = read(folds)
    recipe = read_recipe(recipes / "tiny.yaml", ["best=validation", "validation_share=0.25", "epochs=2"])
    result = fine_tune(Task(recipe, esc, tmp_path / "out", fold="1"))
    assert result["clips"] == {"train": 6, "validation": 2, "test": 4}
    alone = read_recipe(recipes / "tiny.yaml", ["best=validation"])
    with pytest.raises(DataError, match=r"esc10 has none; set validation_share=0.1"):
        fine_tune(Task(alone, esc, tmp_path / "other", fold="1"))
    with pytest.raises(DataError, match="choose one as the test"):
        fine_tune(Task(read_recipe(recipes / "tiny.yaml"), esc, tmp_path / "third"))


def test_distillation(finished: Task, tmp_path: Path) -> None:
    """From a trained model, which is its own teacher; and from a teacher that is named."""

    def train(name: str, *words: str) -> Task:
        recipe = read_recipe(recipe_file, ["epochs=2", "shrink.epochs=1", *words])
        task = replace(finished, recipe=recipe, out=tmp_path / name, init=finished.out)
        assert np.isfinite(fine_tune(task)["losses"]).all()
        return task

    recipe_file = tmp_path / "tiny.yaml"
    recipe_file.write_text(TINY)
    alone = train("alone")
    taught = train("taught", "distill.weight=0.5")
    named = train("named", "distill.weight=0.5", f"distill.teacher={finished.out}")
    other = train("other", "distill.weight=1.0", "distill.loss=bce")
    assert not same(alone, taught)
    assert same(taught, named), "the start and the teacher are one"
    assert not same(taught, other)
    recipe = read_recipe(recipe_file, ["distill.weight=0.5"])
    with pytest.raises(ValueError, match="random weights cannot teach"):
        fine_tune(replace(finished, recipe=recipe, out=tmp_path / "nothing"))


def test_a_teacher_of_other_labels(finished: Task, tmp_path: Path) -> None:
    words = ["distill.weight=0.5", "distill.teacher=esc10"]
    (tmp_path / "tiny.yaml").write_text(TINY)
    recipe = read_recipe(tmp_path / "tiny.yaml", words)
    with pytest.raises(ValueError, match="has 10 labels, but the data set has 2"):
        fine_tune(replace(finished, recipe=recipe, out=tmp_path / "out"))


def test_clips_of_several_labels(recipes: Path, table: ClipTable, tmp_path: Path) -> None:
    rows = tuple(replace(row, labels=(*row.labels, "any") if i % 2 else row.labels) for i, row in enumerate(table.rows))
    several = ClipTable("several", rows, (*table.labels, "any", "never"), multi_label=True)
    words = ["loss=bce", "augment.mixup=0.5", "augment.mixup_alpha=1.0", "best=validation"]
    result = fine_tune(Task(read_recipe(recipes / "tiny.yaml", words), several, tmp_path / "out"))
    assert 0 < result["map"] == result["score"] <= 1
    assert "accuracy" not in result


# What is interrupted goes on.


class Interrupt(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args, state, control, **kwargs) -> None:
        if state.global_step == self.step:
            raise KeyboardInterrupt


def test_an_interrupted_training_ends_in_the_same_weights(recipes: Path, table: ClipTable, tmp_path: Path) -> None:
    """Two steps an epoch; a checkpoint lies after the third step, within an epoch, and it is stopped in the fourth.
    Everything that is drawn at random is on."""
    recipe, saves = read_recipe(recipes / "noisy.yaml", ["epochs=4", "shrink.start=2"]), {"save_steps": 3}
    whole, cut = (Task(recipe, table, tmp_path / name, seed=5) for name in ("whole", "cut"))
    watched = Watch()
    fine_tune(whole, (watched,), **saves)
    with pytest.raises(KeyboardInterrupt):
        fine_tune(cut, (Interrupt(4),), **saves)
    assert [path.name for path in cut.out.glob("checkpoint-*")] == ["checkpoint-3"]
    assert not (cut.out / "result.json").exists()
    torn = cut.out / "checkpoint-4"
    torn.mkdir()
    resumed = Watch()
    result = fine_tune(cut, (resumed,), **saves)
    assert result["steps"] == 8
    assert (watched.steps, resumed.steps) == (8, 5)
    assert resumed.rates == watched.rates[3:]
    assert same(whole, cut)
    scores = [json.loads((task.out / "result.json").read_text())["accuracy"] for task in (whole, cut)]
    assert scores[0] == scores[1]


def test_a_resumed_training_tells_its_data_set_the_epoch(
    recipes: Path, table: ClipTable, tmp_path: Path, monkeypatch
) -> None:
    seen: list[int] = []
    augmented = SpectrogramDataset._augmented_waveform

    def spy(self, index, settings, random):
        seen.append(self.epoch)
        return augmented(self, index, settings, random)

    monkeypatch.setattr(SpectrogramDataset, "_augmented_waveform", spy)
    task = Task(read_recipe(recipes / "noisy.yaml"), table, tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        fine_tune(task, (Interrupt(4),), save_steps=3)
    assert seen == [0] * 8 + [1] * 8
    seen.clear()
    fine_tune(task, save_steps=3)
    assert seen == [1] * 4 + [2] * 8, "the second half of an epoch, and the last"


# Pre-training.


@pytest.fixture(scope="module")
def pretrained(recipes: Path, table: ClipTable, tmp_path_factory) -> Task:
    task = Task(read_recipe(recipes / "pre.yaml"), table, tmp_path_factory.mktemp("pretrained") / "out")
    pretrain(task)
    return task


def test_pre_training_learns_and_draws(pretrained: Task) -> None:
    result = json.loads((pretrained.out / "result.json").read_text())
    assert len(result["losses"]) == 8
    assert result["losses"][-1] < 0.6 * result["losses"][0]
    assert "score" not in result
    for name in ("losses.png", "reconstructions.png"):
        picture = matplotlib.image.imread(pretrained.out / name)
        assert min(picture.shape[:2]) > 200
        assert picture[..., :3].std() > 0.02, "it is not blank"
    watch = Watch()
    assert pretrain(pretrained, (watch,)) == result
    assert watch.trainings == 0


def test_pre_training_hears_no_test_clips(recipes: Path, folds: Path, tmp_path: Path) -> None:
    cache, esc = Recorded(), read(folds)
    pretrain(Task(read_recipe(recipes / "pre.yaml", ["epochs=1"]), esc, tmp_path / "out", fold="2", cache=cache))
    assert cache.heard == {row.path for row in esc.rows if row.part != "2"}


def test_the_picture_has_four_clips_however_few_are_for_validation(
    recipes: Path, table: ClipTable, tmp_path: Path, monkeypatch
) -> None:
    from audioprune.training import pretrain as module

    drawn = []
    monkeypatch.setattr(module, "reconstructions", lambda features, *_: drawn.append(len(features)))
    pretrain(Task(read_recipe(recipes / "pre.yaml", ["epochs=1"]), table, tmp_path / "out"))
    assert drawn == [4]


def test_a_classifier_from_a_pre_trained_one(pretrained: Task, recipes: Path, table: ClipTable, tmp_path: Path) -> None:
    recipe = read_recipe(recipes / "tiny.yaml", ["epochs=1", "shrink.start=0", "shrink.epochs=0", "lr=1e-9"])
    task = Task(recipe, table, tmp_path / "out", init=pretrained.out)
    fine_tune(task)
    before, after = weights(pretrained), weights(task)
    shared = [key for key in after if key.startswith("audiomae.")]
    assert len(shared) > 50
    assert all(torch.allclose(before[key], after[key], atol=1e-5) for key in shared)


# Many trainings.


def test_a_chain_is_trained_in_turn(folds: Path, tmp_path: Path) -> None:
    """Pre-training, an unpruned model from it, and pruned ones from that."""
    own = {
        "pre": PRETRAIN.replace("epochs: 8", "epochs: 1"),
        "plain": TINY + "init: pre.yaml",
        "pruned": TINY + "init: plain.yaml",
    }
    own["plain"] = own["plain"].replace("keep_rate: 0.5", "keep_rate: 1.0")
    for name, text in own.items():
        (tmp_path / f"{name}.yaml").write_text(text.replace("epochs: 3", "epochs: 2"))

    steps = sweep.plan(
        [read_recipe(tmp_path / "pruned.yaml")],
        read(folds),
        tmp_path / "out",
        folds=("1",),
        keep_rates=(1.0, 0.5),
        hold_out=("3",),
    )
    results = sweep.run(steps)
    assert [step.name.split("/")[0] for step in steps] == ["pre", "plain", "pruned", "pruned"]
    assert [r["keep_rate"] for r in results] == [1.0, 1.0, 1.0, 0.5]
    assert all(r["clips"]["train"] == 4 for r in results), "fold 3 is left alone"
    assert results[2]["init"] == str(steps[1].task.out)


def test_a_sweep_need_not_wait(folds: Path, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(TINY.replace("epochs: 3", "epochs: 2"))
    steps = sweep.plan([read_recipe(tmp_path / "a.yaml")], read(folds), tmp_path, folds=("1", "2"), keep_rates=(0.5,))
    with sweep.claim(steps[0].task.out) as mine:
        assert mine
        assert [result["fold"] for result in sweep.run(steps, wait_seconds=None)] == ["2"]
    assert [result["fold"] for result in sweep.run(steps)] == ["1", "2"]


def test_what_cannot_be_a_chain(tmp_path: Path, table: ClipTable) -> None:
    for name, other in (("a", "b"), ("b", "a")):
        (tmp_path / f"{name}.yaml").write_text(TINY + f"init: {other}.yaml")
    with pytest.raises(ValueError, match="a: starts from itself, through a"):
        sweep.chain([read_recipe(tmp_path / "a.yaml")])
    twin = tmp_path / "other" / "c.yaml"
    twin.parent.mkdir()
    twin.write_text(TINY)
    (tmp_path / "c.yaml").write_text(TINY + "drop_path: 0.1")
    with pytest.raises(ValueError, match="two recipes have the name c"):
        sweep.plan([read_recipe(twin), read_recipe(tmp_path / "c.yaml")], table, tmp_path / "out")


@pytest.mark.parametrize("setting", ["best: validation", "augment: {patch_mask: 0.3}", "distill: {weight: 0.5}"])
def test_what_means_nothing_in_pre_training(setting: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(PRETRAIN + setting)
    with pytest.raises(ValueError, match="which has no augment.patch_mask"):
        read_recipe(tmp_path / "a.yaml")


def test_patches_are_not_masked_while_they_are_pruned(tmp_path: Path, table: ClipTable) -> None:
    (tmp_path / "a.yaml").write_text(TINY.replace("shrink: {start: 1, epochs: 1}", "augment: {patch_mask: 0.3}"))
    with pytest.raises(ValueError, match=r"set shrink\.start"):
        fine_tune(Task(read_recipe(tmp_path / "a.yaml"), table, tmp_path / "out"))


def test_an_untrained_head_teaches_nothing(finished: Task, table: ClipTable, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(TINY + "distill: {weight: 0.5}")
    task = Task(read_recipe(tmp_path / "a.yaml"), table, tmp_path / "out", init=finished.out)
    renamed = replace(table, labels=("one", "two"), rows=tuple(replace(r, labels=("one",)) for r in table.rows))
    with pytest.raises(ValueError, match="gets a new head, which cannot teach"):
        fine_tune(replace(task, table=renamed))


def test_a_fine_tuned_model_is_tested_as_it_was_trained(finished: Task, table: ClipTable) -> None:
    template = str(finished.out.parent / (finished.out.name + "{rate}"))
    finished.out.rename(template.format(rate="0.5"))
    try:
        assert evaluate(template, table, ap.TopK(0.5), [0.5], bench_seconds=0)["fine_tuned"]
        with pytest.raises(ValueError, match=r"was fine-tuned with TopK\(0\.5\).*score='cls'"):
            evaluate(template, table, ap.TopK(0.5, score="cls"), [0.5], bench_seconds=0)
    finally:
        Path(template.format(rate="0.5")).rename(finished.out)


def test_evaluate_unpruned_and_pruned(finished: Task, table: ClipTable) -> None:
    result = evaluate(str(finished.out), table, ap.TopK(0.5), [1.0, 0.5], bench_seconds=0)
    scores = [row["mean"] for row in result["rows"]]
    assert scores[1] == json.loads((finished.out / "result.json").read_text())["accuracy"]
    assert result["rows"][0]["macs"] > 1.3 * result["rows"][1]["macs"]
    assert (result["fine_tuned"], result["metric"]) == (False, "accuracy")
    other = replace(table, labels=tuple(reversed(table.labels)))
    with pytest.raises(DataError, match="has the labels high, low"):
        evaluate(str(finished.out), other, ap.TopK(0.5), [1.0], bench_seconds=0)


# The command line.


@pytest.fixture
def run(run, monkeypatch, tmp_path, recipes):
    """The command line in a folder with the recipes, and with a cache of its own."""
    monkeypatch.chdir(recipes)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return run


SHORT = ("--set", "epochs=1", "--set", "shrink.start=0", "--set", "shrink.epochs=0")


def test_recipes_are_listed(run) -> None:
    code, out, _ = run("recipes", "--json")
    assert code == 0
    assert {"audiomae-esc50", "esc10-pretrain"} <= {recipe["name"] for recipe in json.loads(out)}
    code, out, _ = run("recipes")
    assert code == 0
    assert "ast-audioset20k" in out


def test_train_on_the_command_line(run, parts: Path, tmp_path: Path) -> None:
    words = ("train", "-r", "tiny.yaml", "-d", parts, "-o", tmp_path / "out", *SHORT, "--keep-rate", 0.7)
    code, out, err = run(*words)
    assert code == 0, err
    assert "on 4 test clips" in out
    assert str(tmp_path / "out") in err
    code, out, _ = run(*words, "--json")
    result = json.loads(out)
    assert code == 0
    assert result["keep_rate"] == 0.7
    assert result == json.loads((tmp_path / "out" / "result.json").read_text())
    assert list((tmp_path / "cache" / "audioprune").iterdir())
    sound = parts / "test" / "low" / "0.wav"
    code, out, err = run("tag", sound, "--model", tmp_path / "out", "--method", tmp_path / "out" / "pruning.json")
    assert code == 0, err
    assert "low" in out or "high" in out


def test_pre_train_on_the_command_line(run, parts: Path, tmp_path: Path) -> None:
    words = ("--data", parts, "--set", "epochs=1", "--cache", tmp_path / "sounds")
    code, out, err = run("pretrain", "--recipe", "pre.yaml", *words, "--out", tmp_path / "pre", "--json")
    assert code == 0, err
    assert json.loads(out)["clips"]["train"] == 10
    assert (tmp_path / "sounds").exists()
    words = (*words, "--out", tmp_path / "out", *SHORT, "--init", tmp_path / "pre")
    code, _, err = run("train", "--recipe", "tiny.yaml", *words)
    assert code == 0, err


def test_sweep_and_eval_on_the_command_line(run, folds: Path, tmp_path: Path, monkeypatch) -> None:
    trainings: list[str] = []
    train = sweep.fine_tune
    monkeypatch.setattr(
        sweep, "fine_tune", lambda task, *a, **k: trainings.append(task.out.name) or train(task, *a, **k)
    )
    words = ("sweep", "-r", "tiny.yaml", "-d", folds, "-o", tmp_path / "runs", *SHORT, "--folds", "1,2")
    words = (*words, "--keep-rates", "1.0,0.5", "--seeds", 3)
    code, out, err = run(*words, "--json")
    assert code == 0, err
    summary = json.loads(out)
    assert summary == json.loads((tmp_path / "runs" / "summary.json").read_text())
    assert summary["command"].startswith("audioprune sweep -r tiny.yaml")
    assert [(row["recipe"], row["keep_rate"]) for row in summary["rows"]] == [("tiny", 1.0), ("tiny", 0.5)]
    assert all(row["scores"].keys() == {"fold1-seed3", "fold2-seed3"} for row in summary["rows"])
    names = {f"fold{fold}-seed3-rate{rate}" for fold in "12" for rate in ("1", "0.5")}
    assert {path.name for path in (tmp_path / "runs" / "tiny").iterdir()} == names
    written = {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/tiny/*/*")}
    code, out, err = run(*words)
    assert code == 0
    assert "4 trainings, 4 of them done" in err
    assert "tiny" in out
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/tiny/*/*")} == written

    model = f"{tmp_path}/runs/tiny/fold{{fold}}-seed{{seed}}-rate{{rate}}"
    words = ("eval", "-m", model, "-d", folds, "--folds", "1,2", "--seeds", 3, "--keep-rates", "1.0,0.5")
    code, out, err = run(*words, "--bench-seconds", 0.05, "--batch-size", 2, "--out", tmp_path / "eval.json", "--json")
    assert code == 0, err
    result = json.loads(out)
    assert result == json.loads((tmp_path / "eval.json").read_text())
    assert result["fine_tuned"] is True
    for row, trained in zip(result["rows"], summary["rows"]):
        assert row["scores"] == trained["scores"]
        assert row["mean"] == trained["mean"]
        assert row["clips_per_second"] > 0
    code, out, err = run(*words, "--bench-seconds", 0)
    assert code == 0, err
    assert "fine-tuned at each rate" in " ".join(out.split())
    code, out, _ = run("eval", "-m", f"{tmp_path}/runs/tiny/fold1-seed3-rate1", *words[3:5], "--folds", "1",
                       "--keep-rates", "0.5", "--bench-seconds", 0)  # fmt: skip
    assert code == 0
    assert "pruned without fine-tuning" in " ".join(out.split())


def test_a_shape_is_that_of_the_models_a_sweep_starts_from_too(run, folds: Path, tmp_path: Path) -> None:
    recipes = {"plain": TINY.replace("keep_rate: 0.5", "keep_rate: 1.0"), "pruned": TINY + "init: plain.yaml\n"}
    for name, text in recipes.items():
        Path(f"{name}.yaml").write_text(text)
    words = ("-r", "pruned.yaml", "-d", folds, "-o", tmp_path / "runs", "--folds", "1", "--keep-rates", "0.5")
    code, _, err = run("sweep", *words, *SHORT, "--set", "config.hidden_size=16", "--set", "label_smoothing=0.1")
    assert code == 0, err
    found = {path.parent.parent.name: json.loads(path.read_text()) for path in tmp_path.glob("runs/*/*/config.json")}
    assert {name: config["hidden_size"] for name, config in found.items()} == {"plain": 16, "pruned": 16}


def test_a_held_out_fold_is_no_test_fold(run, folds: Path, tmp_path: Path) -> None:
    words = ("-r", "tiny.yaml", "-d", folds, "-o", tmp_path / "runs", *SHORT, "--keep-rates", "1.0", "--hold-out", "3")
    code, _, err = run("sweep", *words, "--json")
    assert code == 0, err
    names = {path.name for path in (tmp_path / "runs" / "tiny").iterdir()}
    assert names == {"fold1-without3-seed0-rate1", "fold2-without3-seed0-rate1"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("train", "-r", "tinny.yaml"), "tinny.yaml: no such recipe file"),
        (("train", "-r", "audiomae-esc"), "did you mean audiomae-esc50?"),
        (("sweep", "-r", "audiomae-esc"), "did you mean audiomae-esc50?"),
        (("pretrain", "-r", "tiny.yaml"), "use: audioprune train"),
        (("train", "-r", "pre.yaml"), "use: audioprune pretrain"),
        (("train", "-r", "tiny.yaml", "--fold", "1", "--keep-rate", "1.3"), "keep_rate is 1.3"),
        (("train", "-r", "tiny.yaml", "--fold", "1", "--keep-rate", "0"), "keep_rate is 0"),
        (("sweep", "-r", "tiny.yaml", "--keep-rates", "1.0,1.3"), "keep_rate is 1.3"),
        (("sweep", "-r", "tiny.yaml", "--keep-rates", "half"), "--keep-rates is 'half'"),
        (("sweep", "-r", "tiny.yaml", "--folds", "1,9"), "no fold '9'"),
        (("train", "-r", "tiny.yaml"), "choose one as the test"),
        (("train", "-r", "tiny.yaml", "--fold", "9"), "no fold '9'"),
        (("train", "-r", "tiny.yaml", "--fold", "1", "--set", "epoch=3"), "epoch: Extra inputs"),
        (("train", "-r", "tiny.yaml", "--fold", "1", "--init", "./nowhere"), "nowhere: no such file"),
        (("train", "-r", "esc10-audiomae", "--fold", "1"), "starts from what esc10-pretrain trains"),
        (("eval", "-m", "runs/{fold}-{epoch}"), "only {fold}, {seed} and {rate}"),
        (("eval", "-m", "runs/{seed}", "--folds", "1"), "give its values with --seeds"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_two(run, folds: Path, tmp_path: Path, words, message: str) -> None:
    out_folder = () if words[0] == "eval" else ("-o", tmp_path / "out")
    code, out, err = run(*words, "-d", folds, *out_folder)
    assert (code, out) == (2, "")
    (line,) = [line for line in err.splitlines() if "error:" in line]
    assert message in line
    assert err.strip().endswith(line.strip()), "and nothing after it"
    assert "Traceback" not in err
    assert not list(tmp_path.glob("out/**/checkpoint-*"))


def test_a_data_folder_that_is_not_there(run, tmp_path: Path) -> None:
    for words in (("train", "-r", "tiny.yaml", "-o", tmp_path / "out"), ("eval", "-m", "esc10")):
        code, out, err = run(*words, "-d", tmp_path / "nowhere")
        assert (code, out) == (2, "")
        assert f"{tmp_path / 'nowhere'}: no such folder" in err
