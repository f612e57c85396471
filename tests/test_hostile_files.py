"""Files that were made to do harm: nothing in them runs, and each is one sentence with the file's name."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from audioprune.analysis.state import StateError, load_state
from audioprune.core.settings import parse_settings
from audioprune.data import SoundCache, read
from audioprune.files import Journal
from audioprune.methods import METHODS
from audioprune.methods.names import named
from audioprune.training.finetune import fine_tune
from audioprune.training.recipe import read_recipe
from audioprune.training.task import Task

from .bad_inputs.files import Interrupt
from .outputs import build, words_of

CANARY = Path("executed")
"""What hostile code would leave in the working folder."""
DEEP = 100_000
DIGITS = "9" * 5000


class Code:
    """Runs a command if it is unpickled with its code."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {CANARY}",)


@pytest.fixture(scope="module")
def stage(tmp_path_factory) -> Path:
    return build(tmp_path_factory.mktemp("stage"))


@pytest.fixture
def told(run, tmp_path: Path) -> Iterator[Callable[..., str]]:
    """Runs a command that must fail, and returns its one sentence. At the end, no code of a file has run."""

    def call(*words: object) -> str:
        code, printed, err = run(*words)
        assert (code, printed) == (2, ""), err
        assert "Traceback" not in err
        lines = err[err.index("error: ") :].splitlines()
        assert len(lines) == 1, err
        assert len(lines[0]) < 1000 + len(str(tmp_path)) * 4, "the file's content is not for the terminal"
        assert not CANARY.exists()
        return lines[0].removeprefix("error: ")

    yield call
    assert not CANARY.exists()


def test_the_canary_sings(tmp_path: Path, monkeypatch) -> None:
    """Otherwise the other tests would show nothing."""
    monkeypatch.chdir(tmp_path)
    pickle.loads(pickle.dumps(Code()))
    assert CANARY.exists()
    CANARY.unlink()
    torch.save({"a": Code()}, "code.pth")
    torch.load("code.pth", weights_only=False)
    assert CANARY.exists()


def tag(stage: Path, model: object) -> list[object]:
    return ["tag", stage / "clips" / "0.wav", "--method", "topk", "--model", model]


def folder_like(stage: Path, name: str, **files: str | bytes) -> Path:
    """A copy of the tiny model with other files."""
    folder = Path(shutil.copytree(stage / "tiny", name))
    for file, content in files.items():
        path = folder / file.replace("__", ".")
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def zipped(content: Any) -> bytes:
    torch.save(content, "made")
    made = Path("made").read_bytes()
    Path("made").unlink()
    return made


PICKLES: dict[str, Callable[[], bytes]] = {
    "of PyTorch": lambda: zipped({"model": {"a": torch.zeros(1), "b": Code()}}),
    "all code": lambda: zipped(Code()),
    "plain": lambda: pickle.dumps({"a": Code()}),
}


@pytest.mark.parametrize("kind", PICKLES)
def test_a_pickle_as_weights(told, stage: Path, kind: str) -> None:
    content = PICKLES[kind]()
    for suffix in ("pth", "bin", "pt", "safetensors"):
        Path(f"code.{suffix}").write_bytes(content)
        assert f"code.{suffix}: cannot be read as weights" in told(*tag(stage, f"code.{suffix}"))
    folder = folder_like(stage, "code", pytorch_model__bin=content)
    (folder / "model.safetensors").unlink()
    assert told(*tag(stage, folder)).startswith(
        "code: cannot be loaded (not a pickle, or a pickle of more than tensors"
    )
    assert "code: cannot be loaded" in told("transcribe", stage / "clips", "--model", whisper_like(stage, content))


def whisper_like(stage: Path, weights: bytes) -> Path:
    folder = Path(shutil.copytree(stage / "whisper", "whisper", dirs_exist_ok=True)).rename("whisper-code")
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(weights)
    return folder.rename("code") if not Path("code").exists() else _over(folder)


def _over(folder: Path) -> Path:
    shutil.rmtree("code")
    return folder.rename("code")


def test_code_beside_a_model(run, told, stage: Path) -> None:
    """transformers runs such code after a question; here nobody is asked, and it is not run."""
    code = f"import os\nos.system('touch {CANARY}')\n"
    config = json.loads((stage / "tiny" / "config.json").read_text())
    mapped = {"AutoConfig": "evil.C", "AutoModelForAudioClassification": "evil.M"}
    other = json.dumps(config | {"model_type": "evil", "auto_map": mapped})
    assert "other: cannot be loaded" in told(
        *tag(stage, folder_like(stage, "other", config__json=other, evil__py=code))
    )
    extractor = json.dumps({"feature_extractor_type": "Evil", "auto_map": {"AutoFeatureExtractor": "evil.E"}})
    folder = folder_like(stage, "extractor", preprocessor_config__json=extractor, evil__py=code)
    assert "extractor: its extractor cannot be loaded" in told(*tag(stage, folder))
    # A kind that transformers knows is loaded by its own class, whatever the file names.
    same = folder_like(stage, "same", config__json=json.dumps(config | {"auto_map": mapped}), evil__py=code)
    assert run(*tag(stage, same))[0] == 0
    assert not CANARY.exists()


@pytest.mark.parametrize(
    ("header", "length"),
    [
        ("{}", 2**62),
        ('{"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 1099511627776]}}', None),
        ('{"a": {"dtype": "F32", "shape": [-4], "data_offsets": [0, 16]}}', None),
        ('{"a": {"dtype": "F32", "shape": [1099511627776], "data_offsets": [0, 4398046511104]}}', None),
        ('{"a": {"dtype": "F32", "shape": [4611686018427387904, 16], "data_offsets": [0, 16]}}', None),
        ("[" * DEEP, None),
        ('{"a"', None),
    ],
)
def test_safetensors_whose_header_lies(told, stage: Path, header: str, length: int | None) -> None:
    content = struct.pack("<Q", len(header) if length is None else length) + header.encode() + bytes(16)
    Path("lies.safetensors").write_bytes(content)
    assert told(*tag(stage, "lies.safetensors")).startswith("lies.safetensors: cannot be read as weights")
    folder = folder_like(stage, "lies", model__safetensors=content)
    assert told(*tag(stage, folder)).startswith("lies: cannot be loaded")
    settings = {"method": "DynamicViT", "keep_rate": 0.5, "weights": "lies.safetensors"}
    Path("lies.json").write_text(json.dumps(settings))
    words = ["tag", stage / "clips" / "0.wav", "--model", stage / "tiny", "--method", "lies.json"]
    assert "lies.safetensors: not a safetensors file" in told(*words)


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_size": float("nan")},
        {"hidden_size": 10**30},
        {"hidden_size": -32},
        {"hidden_size": "x"},
        {"num_hidden_layers": 10**9},
        {"num_hidden_layers": None},
        {"num_attention_heads": 0},
        {"id2label": [1, 2]},
        {"id2label": {"x": {}}},
        {"model_type": ["a"]},
        {"model_type": {"a": 1}},
        {"architectures": 5},
    ],
    ids=str,
)
def test_a_config_of_wrong_types(told, stage: Path, changes: dict[str, Any]) -> None:
    config = json.loads((stage / "tiny" / "config.json").read_text()) | changes
    folder = folder_like(stage, "model", config__json=json.dumps(config))
    assert told(*tag(stage, folder)).startswith("model: ")


NO_OBJECTS = ["[" * DEEP, '{"a": ' * DEEP, "[1]", f'{{"a": {DIGITS}}}', "\0", ""]


@pytest.mark.parametrize("text", NO_OBJECTS, ids=range(len(NO_OBJECTS)))
def test_json_that_is_none_in_a_models_folder(told, stage: Path, text: str) -> None:
    for name in ("config.json", "preprocessor_config.json"):
        folder = folder_like(stage, f"of-{name}", **{name.replace(".", "__"): text})
        assert told(*tag(stage, folder)).startswith(f"of-{name}: ")


@pytest.mark.parametrize(
    "extractor",
    [{"mean": "x"}, {"std": [1]}, {"max_length": 1e30}, {"num_mel_bins": -1}, {"num_mel_bins": "x"}],
    ids=str,
)
def test_an_extractor_of_wrong_types(told, stage: Path, extractor: dict[str, Any]) -> None:
    whole = {"feature_extractor_type": "AudioMAEFeatureExtractor", "max_length": 128, "num_mel_bins": 128}
    folder = folder_like(stage, "model", preprocessor_config__json=json.dumps(whole | extractor))
    assert told(*tag(stage, folder)).startswith("model: ")


SETTINGS = [
    "[" * DEEP + "]" * DEEP,
    '{"method": ' * DEEP + "1" + "}" * DEEP,
    "[" * 900 + "]" * 900,
    '{"method": [' * 300 + "1" + "]}" * 300,
    '{"method": "TopK", "keep_rate": ' + "[" * 900 + "]" * 900 + "}",
    *(
        f'{{"method": "TopK", "keep_rate": {rate}}}'
        for rate in ("NaN", "Infinity", "1e400", "-1", DIGITS, DIGITS[:4000])
    ),
    *(f'{{"method": "TopK", "keep_rate": {rate}}}' for rate in ('"0.5"', "[]", '{"a": 1}', "true", "null", "[NaN]")),
    *(f'{{"method": "TopK", "keep_rate": 0.5, "layers": {layers}}}' for layers in ("[1e30]", '"abc"', "[[1]]", "[-1]")),
    f'{{"method": "TopK", "keep_rate": 0.5, "layers": [{DIGITS[:4000]}]}}',
    '{"method": "TopK", "keep_rate": 0.5, "segments": 2.5}',
    '{"method": "TopK", "keep_rate": 0.5, "score": {"a": 1}}',
    '{"method": "TopK", "keep_rate": 0.5, "__class__": 1}',
    '{"method": "TopK", "keep_rate": 0.5, "self": 1}',
    '{"method": "Method"}',
    '{"method": ["TopK"]}',
    '{"method": {"a": 1}}',
    "[]",
    "null",
    "\0",
    '{"method": "TopK", "keep_rate": 0.5}\0',
]


@pytest.mark.parametrize("text", SETTINGS, ids=range(len(SETTINGS)))
def test_settings(told, stage: Path, text: str) -> None:
    Path("mine.json").write_text(text)
    words = ["tag", stage / "clips" / "0.wav", "--model", stage / "tiny", "--method", "mine.json"]
    assert told(*words).startswith("--method: mine.json: ")
    folder = folder_like(stage, "saved", pruning__json=text)
    assert "saved/pruning.json: " in told("tag", stage / "clips" / "0.wav", "--model", folder)


WRONG = ["x", [], {}, float("nan"), float("inf"), -1, 10**4000, 10**40, True, None, ["a"], 2.5, [[0.5]], 0]


@pytest.mark.parametrize("name", METHODS)
def test_settings_of_wrong_types_are_values_that_are_wrong(name: str) -> None:
    """Every setting of every method: it is taken, or is a `ValueError`."""
    kind: Any = METHODS[name]
    refused = 0
    for field in kind.__dataclass_fields__:
        for value in WRONG:
            settings = {"method": name, "keep_rate": 0.5, field: value}
            if "keep_rate" not in kind.__dataclass_fields__:
                del settings["keep_rate"]
            try:
                parse_settings(json.dumps(settings))
            except ValueError:
                refused += 1
    assert refused > len(WRONG) / 2


def test_a_modifier_that_is_deep() -> None:
    with pytest.raises(ValueError, match="layers are"):
        named("topk+layers=" + "[" * DEEP).at(0.5)


RECIPES = [
    f"!!python/object/apply:os.system ['touch {CANARY}']",
    f"family: !!python/object/apply:os.system ['touch {CANARY}']",
    f"family: !!python/object/new:os.system ['touch {CANARY}']",
    "family: !!python/name:os.system",
    "family: !!python/module:os",
    "config: {a: &a [x, x], b: &b [*a, *a], c: [*b, *b]}",
    "config: &a {b: *a}",
    "[" * 5000,
    f"epochs: {DIGITS}",
    "epochs: .nan",
    "epochs: .inf",
    "epochs: -1",
    "epochs: [1]",
    "epochs: 2001-99-99",
    "optimizer: {lr: .nan}",
    "method: {method: TopK, keep_rate: .nan}",
    "method: [[]]",
    "config: {hidden_size: .inf}",
    "extends: [1]",
    "init: {a: 1}",
    "\0",
    "a: \ta: b: c",
    "- 1",
]


@pytest.mark.parametrize("text", RECIPES, ids=range(len(RECIPES)))
def test_recipes(told, stage: Path, text: str) -> None:
    """Alone, over a good one, and as the value of --set."""
    good = (stage / "tiny.yaml").read_text()
    key = text.partition(":")[0]
    kept = "\n".join(line for line in good.splitlines() if not line.startswith(f"{key}:"))
    Path("mine.yaml").write_text(f"{kept}\n{text}\n" if key.isalpha() else text)
    words = ["--data", stage / "data", "--out", "run"]
    assert "mine.yaml" in told("train", "--recipe", "mine.yaml", *words) or key == "config"
    if key.isalpha() and DIGITS not in text:  # a command shows its own words again
        value = text.partition(":")[2]
        told("train", "--recipe", stage / "tiny.yaml", "--set", f"{key}={value}", *words)


@pytest.fixture(scope="module")
def interrupted(stage: Path, tmp_path_factory) -> Path:
    """The folder of a training that was stopped after a checkpoint."""
    out = tmp_path_factory.mktemp("interrupted") / "run"
    with contextlib.suppress(KeyboardInterrupt):
        fine_tune(Task(read_recipe(stage / "tiny.yaml"), read(stage / "data"), out), (Interrupt(),))
    assert (out / "checkpoint-2" / "optimizer.pt").exists()
    return out


STATES = ["optimizer.pt", "scheduler.pt", "rng_state.pth", "model.safetensors", "training_args.bin", "scaler.pt"]


@pytest.mark.parametrize("name", STATES)
@pytest.mark.parametrize("kind", ["of PyTorch", "plain"])
def test_the_state_of_a_training(run, stage: Path, interrupted: Path, name: str, kind: str) -> None:
    shutil.copytree(interrupted, "run")
    Path("run", "checkpoint-2", name).write_bytes(PICKLES[kind]())
    code, _, err = run(*words_of("train", stage, "run"))
    assert not CANARY.exists()
    if name == "training_args.bin":  # which a training does not read
        assert code == 0, err
        return
    assert code == 2, err
    assert "Traceback" not in err
    assert "run/checkpoint-2: a file in it cannot be read (" in err
    assert "remove this folder to continue from the checkpoint before it" in err


def test_weights_of_a_training_as_a_pickle(run, stage: Path, interrupted: Path) -> None:
    checkpoint = Path(shutil.copytree(interrupted, "run")) / "checkpoint-2"
    (checkpoint / "model.safetensors").unlink()
    (checkpoint / "pytorch_model.bin").write_bytes(zipped({"a": Code()}))
    code, _, err = run(*words_of("train", stage, "run"))
    assert not CANARY.exists()
    assert code == 2
    assert "run/checkpoint-2: a file in it cannot be read (" in err


@pytest.mark.parametrize("text", ["[" * DEEP, "[1]", "{}", '{"recipe": 3}', "\0"], ids=range(5))
def test_records_of_a_training(told, stage: Path, text: str) -> None:
    for name in ("task.json", "result.json"):
        Path("run").mkdir(exist_ok=True)
        Path("run", name).write_text(text)
        if name == "task.json":
            assert "run/task.json: " in told(*words_of("train", stage, "run")) or text == "{}"
        Path("run", name).unlink()


def test_a_trainers_state_of_anything_is_no_checkpoint(run, stage: Path, interrupted: Path) -> None:
    for number, text in enumerate(["[" * DEEP, "[1]", '{"other": 1}', "{}"]):
        out = Path(shutil.copytree(interrupted, f"run{number}"))
        (out / "checkpoint-2" / "trainer_state.json").write_text(text)
        code, _, err = run(*words_of("train", stage, out))
        assert code == 0, err


def test_arrays_with_code(stage: Path, tmp_path: Path, monkeypatch) -> None:
    """The state of an analysis, and the cache of sounds."""
    monkeypatch.chdir(tmp_path)
    evil = np.array([Code()], dtype=object)
    np.savez("progress.npz", tree=evil)
    with pytest.raises(StateError, match="not the state of an analysis .*; delete it to start again"):
        load_state(Path("progress.npz"))
    for tree in ("[" * DEEP, '{"$array": "a9"}', '{"a": 1, "b": 2}', '{"$items": 3}'):
        np.savez("progress.npz", tree=np.array(tree))
        with pytest.raises(StateError, match="not the state of an analysis"):
            load_state(Path("progress.npz"))
    row = read(stage / "data").rows[0]
    cache = SoundCache("cache", 1.0)
    expected = cache.waveform(row)
    (entry,) = Path("cache").rglob("*.npy")
    np.save(entry, evil, allow_pickle=True)
    assert np.array_equal(SoundCache("cache", 1.0).waveform(row), expected)
    assert not CANARY.exists()


@pytest.mark.parametrize("line", ["[" * DEEP, '{"path": ' + "[" * DEEP, f'{{"path": {DIGITS}}}', '{"path": 3}'])
def test_rows_of_results(told, stage: Path, line: str) -> None:
    Path("a.jsonl").write_text(f"{line}\n")
    message = told(*words_of("tag", stage, "a.jsonl"))
    assert message == "a.jsonl: line 1 is not a row of results; choose another --out, nothing was changed"
    with pytest.raises(ValueError, match="line 1 is not a row") if line != '{"path": 3}' else contextlib.nullcontext():
        list(Journal(Path("a.jsonl"), ValueError, "a row").read())
    assert Path("a.jsonl").read_text() == f"{line}\n"


@pytest.mark.parametrize("line", ["[" * DEEP, "3", '{"run": 3}', '{"run": {}}', "\0", '{"run": ' + DIGITS + "}"])
def test_states_of_comparisons_are_begun_anew(run, stage: Path, line: str) -> None:
    Path("a.json.partial.jsonl").write_text(f"{line}\n")
    code, _, err = run(*words_of("compare", stage, "a.json"))
    assert code == 0, err
    assert len(json.loads(Path("a.json").read_text())["rows"]) > 1


def test_learned_weights_of_another_shape(told, stage: Path) -> None:
    save_file({"trained": torch.ones(1)}, "w.safetensors")
    Path("w.json").write_text(json.dumps({"method": "DynamicViT", "keep_rate": 0.5, "weights": "w.safetensors"}))
    words = ["tag", stage / "clips" / "0.wav", "--model", stage / "tiny", "--method", "w.json"]
    assert "w.safetensors: made for another method, model or choice of layers" in told(*words)
