"""What is asked of the package before it has to do anything is answered at once."""

from __future__ import annotations

import subprocess
import sys

import pytest

import audioprune as ap

HEAVY = ("torch", "transformers", "numpy", "scipy", "matplotlib", "soundfile")
MOST_MODULES = 600
"""At `--help`: some 460 are typer's, rich's and Python's own. With transformers they are 4,000."""


FORKS = """
import os, sys
import torch
import accelerate, huggingface_hub.hf_api, jinja2, PIL.Image, scipy.stats, torch._dynamo, yaml

def fork(do):
    if os.fork() == 0:
        try:
            do()
        except BaseException as error:
            print(repr(error))
        sys.stdout.flush()
        os._exit(0)
    os.wait()

def begin(first, codes):
    exec(first, names := {{}})
    for code in codes:
        fork(lambda: exec(code, names))

assert not {{"transformers", "audioprune"}} & set(sys.modules)
for first, codes in {pieces!r}:
    fork(lambda: begin(first, codes))
"""
"""Runs each piece of code in a process in which PyTorch, some of what Transformers needs, and what is to come first are
imported, and nothing else. The imports take most of the time."""


def lines(code: str) -> list[str]:
    """Lines that a fresh Python prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300)
    return done.stdout.strip().splitlines()


def run(code: str) -> list[str]:
    """The last line that a fresh Python prints, in words."""
    return lines(code)[-1].split()


@pytest.mark.parametrize(
    "words",
    [
        "--help",
        "--version",
        "tag --help",
        "transcribe --help",
        "calibrate --help",
        "train --help",
        "ask --help",
        "eval-asr --help",
        "tag",
        "tag --nope",
        "nothing",
    ],
)
def test_help_version_and_usage_errors_import_nothing_heavy(words: str) -> None:
    code = f"""
import sys
from audioprune.cli import main
sys.argv = ["audioprune", *{words.split()!r}]
try:
    main()
except SystemExit:
    pass
print(len(sys.modules), *(name for name in {HEAVY!r} if name in sys.modules))
"""
    count, *heavy = run(code)
    assert not heavy
    assert int(count) < MOST_MODULES


def test_importing_the_package_imports_nothing_heavy() -> None:
    assert run(f"import audioprune, sys; print('none', *(name for name in {HEAVY!r} if name in sys.modules))") == [
        "none"
    ]


def test_every_public_name_is_there_and_is_itself() -> None:
    for name in ap.__all__:
        assert getattr(getattr(ap, name), "__name__", "PRESETS") == name
    assert set(ap.__all__) <= set(dir(ap))
    with pytest.raises(AttributeError, match="no attribute 'prun'"):
        _ = ap.prun
    names = run("from audioprune import *; print(*(name for name in dir() if not name.startswith('_')))")
    assert set(ap.__all__) <= set(names)


def test_a_function_is_never_hidden_by_a_module_of_its_name() -> None:
    first = ("audioprune.core.trace", "audioprune.core.pruning", "audioprune.cli")
    pieces = [(f"import {name}, audioprune", ["print(type(audioprune.trace).__name__)"]) for name in first]
    assert lines(FORKS.format(pieces=pieces)) == ["function"] * len(first)


ORDERS = {
    "audioprune, then the Auto classes": ("import audioprune", "from transformers import {auto}"),
    "the Auto classes, then audioprune": ("", "from transformers import {auto}; import audioprune"),
    "transformers' models before both": (
        "import transformers.modeling_utils, audioprune",
        "from transformers import {auto}",
    ),
    "audioprune's own models first": ("import audioprune; audioprune.prune", "from transformers import {auto}"),
}
"""What comes first for all Auto classes, and what then."""

AUTO = {
    "AutoConfig": "AudioMAEConfig",
    "AutoFeatureExtractor": "AudioMAEFeatureExtractor",
    "AutoModel": "AudioMAEModel",
    "AutoModelForAudioClassification": "AudioMAEForAudioClassification",
}


def test_transformers_knows_audiomae_in_any_order_of_imports() -> None:
    """Each Auto class in a process of its own: whichever is imported first must know it."""
    load = "print({order!r}, '|', type({auto}.from_pretrained('audioprune/assets/audiomae-esc10')).__name__)"
    pieces = [
        (first, [f"{then}; {load}".format(auto=auto, order=order) for auto in AUTO])
        for order, (first, then) in ORDERS.items()
    ]
    expected = [f"{order} | {name}" for order in ORDERS for name in AUTO.values()]
    assert lines(FORKS.format(pieces=pieces)) == expected
