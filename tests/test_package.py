"""The package as a user gets it: built as wheel and sdist, installed in a bare folder, and used from there."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import audioprune

ROOT = Path(__file__).parents[1]
MOST_MIB = 10
BUILT_FROM = (
    "pyproject.toml",
    "README.md",
    "LICENSE",
    "CHANGELOG.md",
    "CITATION.cff",
    "CONTRIBUTING.md",
    "MANIFEST.in",
)
"""What the build reads, besides the package."""
BUILD = "import sys; from setuptools import build_meta; print(build_meta.build_{}(sys.argv[1]))"
USE = """
import audioprune as ap, sys
from audioprune.cli.demo import CLIPS
assert ap.__file__.startswith(sys.argv[1]), ap.__file__
model = ap.load("esc10")
ap.prune(model, ap.TopK(0.5))
clip = ap.load_audio(CLIPS / "baby.ogg")
print(model.config.id2label[int(model(ap.load_features("esc10", model)([clip])).logits.argmax())])
"""


def python(*words: str | Path, cwd: Path, path: Path | None = None) -> str:
    """What a fresh Python prints. path: folder that it imports from first, in place of this checkout."""
    environment = {
        "PYTHONPATH": str(path or ""),
        "PATH": "/usr/bin:/bin",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run([sys.executable, *map(str, words)], cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def build(kind: str, source: Path, into: Path) -> Path:
    into.mkdir()
    return into / python("-c", BUILD.format(kind), into, cwd=source).splitlines()[-1]


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    source = folder / "checkout"
    shutil.copytree(ROOT / "audioprune", source / "audioprune", ignore=shutil.ignore_patterns("__pycache__"))
    for name in (*BUILT_FROM, "constraints.txt"):
        shutil.copy(ROOT / name, source)
    return build("sdist", source, folder / "dist")


@pytest.fixture(scope="module")
def wheel(sdist: Path) -> Path:
    """Built from the sdist, as by whoever has only that."""
    folder = sdist.parent / "unpacked"
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    return build("wheel", next(folder.iterdir()), sdist.parent / "wheels")


def test_both_hold_what_the_package_needs(sdist: Path, wheel: Path) -> None:
    own = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "audioprune").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    with zipfile.ZipFile(wheel) as archive:
        packed = set(archive.namelist())
        (metadata,) = (archive.read(name).decode() for name in packed if name.endswith("METADATA"))
    assert own <= packed
    assert not any(name.startswith(("tests", "scripts", "results")) for name in packed)
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert own | set(BUILT_FROM) <= names
    assert wheel.stat().st_size < MOST_MIB * 2**20
    assert sdist.stat().st_size < MOST_MIB * 2**20
    assert f"Version: {audioprune.__version__}" in metadata
    assert "License-Expression: Apache-2.0" in metadata


def test_a_bare_install_classifies(wheel: Path, tmp_path: Path) -> None:
    there = tmp_path / "site"
    pip = ("-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-compile", "--target", there, wheel)
    python(*pip, cwd=tmp_path)
    assert python("-c", USE, there, cwd=tmp_path, path=there).strip() == "baby_cry"
    assert python("-m", "audioprune", "--version", cwd=tmp_path, path=there) == f"audioprune {audioprune.__version__}\n"
    assert (there / "bin" / "audioprune").exists() or (there / "Scripts" / "audioprune.exe").exists()


def test_one_version_everywhere() -> None:
    version = audioprune.__version__
    assert f"version: {version}\n" in (ROOT / "CITATION.cff").read_text()
    releases = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert next(name for name in releases if name != "Unreleased") == version


def test_the_core_needs_no_extra() -> None:
    """Classifiers and Whisper work with what `pip install audioprune` brings."""
    from audioprune.cli import EXTRAS

    extras = {name for modules in EXTRAS.values() for name in modules}
    code = (
        "import sys; import audioprune as ap, audioprune.cli; "
        "from audioprune.tagging.tagger import Tagger; from audioprune.transcribing.transcriber import Transcriber; "
        "from audioprune.plots import explain_figure; print(*sys.modules)"
    )
    loaded = set(python("-c", code, cwd=ROOT, path=ROOT).split())
    # Packages of others may bring these themselves.
    own = {name for name in loaded & extras if name not in {"accelerate", "yaml", "sklearn", "pydantic", "jinja2"}}
    assert not own
