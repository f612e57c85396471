"""The notebooks run, cell by cell, without a network."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import pytest

from .transcribers import save

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def cells(notebook: Path, kind: str) -> list[str]:
    return ["".join(cell["source"]) for cell in json.loads(notebook.read_text())["cells"] if cell["cell_type"] == kind]


def run(notebook: Path, **changes: Any) -> tuple[dict[str, Any], str]:
    """What the cells define, and what they print. changes: values in place of those that a cell gives to a name."""
    namespace: dict[str, Any] = {"__name__": "notebook"}
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        for i, text in enumerate(cells(notebook, "code")):
            exec(compile(text, f"{notebook.name}, cell {i}", "exec"), namespace)
            namespace |= {name: value for name, value in changes.items() if name in namespace}
    return namespace, printed.getvalue()


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_clean(notebook: Path) -> None:
    """Without outputs, which would grow and grow old; it begins with what it is for, and says what to install."""
    made = json.loads(notebook.read_text())
    assert made["nbformat"] == 4
    assert all(cell["outputs"] == [] for cell in made["cells"] if cell["cell_type"] == "code")
    assert cells(notebook, "markdown")[0].startswith("# ")
    assert "pip install audioprune" in cells(notebook, "markdown")[0]
    assert notebook.stat().st_size < 20_000


@pytest.mark.usefixtures("counted_once")
def test_classify() -> None:
    found, printed = run(FOLDER / "classify.ipynb")
    assert found["pruned"] == found["unpruned"]
    assert "25% of the work" in printed
    assert "baby_cry" in printed
    assert found["figure"].axes


def test_transcribe(tmp_path: Path) -> None:
    found, printed = run(FOLDER / "transcribe.ipynb", MODEL=save(tmp_path / "whisper", multilingual=False))
    assert found["pruned"]["text"]
    assert printed.count("\n") == 3
