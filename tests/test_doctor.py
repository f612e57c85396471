"""`audioprune doctor`: what works here, and the remedy for what does not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import soundfile

from audioprune import cli, doctor
from audioprune.attention.packing import available
from audioprune.audio.files import load_audio
from audioprune.doctor import CLIP, examine, self_test, sounds, speed, versions

from .conftest import tone


def test_what_is_found(run) -> None:
    code, out, err = run("doctor", "--json")
    found = json.loads(out)
    assert code == 0, err
    assert found["works"]
    assert found["shipped_model"]["unpruned"] == found["shipped_model"]["pruned"] == "chainsaw"
    assert found["versions"]["torch"]
    assert found["machine"]["usable_cores"] >= 1
    assert found["speed"]["cpu"]["bfloat16"] > 0
    assert ("packed" in found["speed"]["cpu"]) == available()
    assert set(found["extras"]) == set(cli.EXTRAS) == set(cli.NEEDED_BY)
    known = {name for commands in cli.PANELS.values() for name in commands}
    assert {command.split()[0] for extra in found["extras"].values() for command in extra["commands"]} <= known
    assert found["hub"]["cache"]


def found_here(**changes: object) -> dict:
    """A report as `examine` makes it, with other parts."""
    found = {
        "versions": {"python": "3.11.7", "torch": "2.13.0", "gradio": None},
        "machine": {
            "system": "Linux",
            "processor": "Some CPU",
            "cores": 4,
            "usable_cores": 2,
            "threads": 1,
            "memory_bytes": 2**34,
            "pytorch_kernels": "AVX2",
            "instructions": ["avx2"],
            "devices": [],
        },
        "sounds": {"libsndfile": "1.2.2", "decoded": {"wav": True, "mp3": True}, "ffmpeg": "8.1"},
        "hub": {"cache": "hub", "models": 2, "offline": False},
        "extras": {"app": {"missing": [], "remedy": None}},
        "kernels": {"works": False, "why": "Triton is not installed"},
        "speed": {"cpu": {"bfloat16": 0.4, "packed": 2.0}},
        "shipped_model": {"works": True, "clip": CLIP, "unpruned": "chainsaw", "pruned": "chainsaw", "seconds": 1.0},
        "works": True,
        "next": "audioprune demo",
    }
    return found | changes


def printed(run, monkeypatch, **changes: object) -> tuple[int, str]:
    monkeypatch.setattr(doctor, "examine", lambda *_: found_here(**changes))
    code, out, _ = run("doctor")
    return code, out


def test_the_last_line_says_what_to_do(run, monkeypatch) -> None:
    code, out = printed(run, monkeypatch)
    assert code == 0
    assert out.splitlines()[-1] == "Next: audioprune demo"
    assert "4 cores (2 usable), 1 thread, 16.0 GiB" in out
    assert "gradio" not in out


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"extras": {"app": {"missing": ["gradio"], "remedy": "pip install 'audioprune[app]'"}}}, "lacks gradio: pip"),
        (
            {"extras": {"ray": {"commands": ["tag --engine ray"], "missing": [], "remedy": None}}},
            "tag --engine ray  ready",
        ),
        (
            {"speed": {"cpu": {"bfloat16": 0.4}}},
            "0.40× ±0.00 as fast as without: no gain here, stay with --dtype float32",
        ),
        ({"speed": {"cpu": {"bfloat16": 3.0}}}, "3.00× ±0.00 as fast as without: --dtype bfloat16 pays"),
        ({"speed": {"cpu": {"bfloat16": 0.4}}}, "no oneDNN, by which weights are packed: --no-pack"),
        ({"speed": {"cpu": {"bfloat16": 0.4, "packed": 1.0}}}, "no gain here, stay with --no-pack"),
        ({"speed": {"cpu": {"bfloat16": 3.0, "bfloat16_sure": False}}}, "not sure, as this machine is busy"),
        (
            {"sounds": {"libsndfile": "1.0", "decoded": {"wav": True, "mp3": False}, "ffmpeg": "8.1"}},
            "not mp3: pip install -U soundfile",
        ),
        (
            {"sounds": {"libsndfile": "1.0", "decoded": {"wav": True}, "ffmpeg": None}},
            "mp4, mov and mkv: not decoded: pip install 'audioprune[media]'",
        ),
        ({"hub": {"cache": "hub", "models": 0, "offline": True}}, "HF_HUB_OFFLINE is set"),
        ({"kernels": {"works": True, "why": None}}, "used on CUDA"),
    ],
)
def test_what_is_missing_comes_with_its_remedy(run, monkeypatch, changes: dict, said: str) -> None:
    code, out = printed(run, monkeypatch, **changes)
    assert code == 0
    assert said in out


def test_where_nothing_can_be_tagged_the_exit_code_is_one(run, monkeypatch, tmp_path) -> None:
    test = {"works": False, "clip": CLIP, "error": "OSError: gone"}
    code, out = printed(run, monkeypatch, shipped_model=test, works=False, next="pip install")
    assert code == 1
    assert "fails on chainsaw.ogg: OSError: gone" in out
    monkeypatch.setattr(doctor, "EMBEDDED", tmp_path / "nowhere")
    assert not self_test()["works"]
    monkeypatch.setattr(doctor, "speed", lambda device: {"bfloat16": 1.0})
    found = examine({})
    assert not found["works"]
    assert "FileNotFoundError" in found["shipped_model"]["error"]
    assert "--force-reinstall" in found["next"]


def test_an_extra_that_is_not_installed(monkeypatch) -> None:
    assert versions({"none": ["no_such_module"]})["no_such_module"] is None
    found = doctor._extra("none", ["json", "no_such_module"])
    assert found == {"commands": [], "missing": ["no_such_module"], "remedy": "pip install 'audioprune[none]'"}


def test_what_is_said_to_be_decoded_is(tmp_path: Path) -> None:
    decoded = sounds()["decoded"]
    assert decoded["wav"]
    for name, (form, subtype) in doctor.FORMATS.items():
        if decoded[name]:
            soundfile.write(tmp_path / name, tone(0.5), 16_000, format=form, subtype=subtype)
            assert load_audio(tmp_path / name).seconds == pytest.approx(0.5, abs=0.1)


def test_speeds_are_ratios_and_leave_nothing_behind() -> None:
    ratios = speed("cpu", seconds=0.01)
    assert all(0 < ratios[name] < 1000 for name in ("bfloat16", "packed") if name in ratios)
    assert "float32" not in ratios
