"""The blocks that prune by default are evenly spaced; files of version 0.1 keep the blocks that it took."""

from __future__ import annotations

import copy
import json
import math
import pickle
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import audioprune as ap
from audioprune.core.settings import describe, file_settings, parse_method, read_method
from audioprune.methods.base import EARLIER_SPACING, block_at

from .families import audiomae

OLD = {6: (2, 3, 4), 10: (2, 5, 8), 12: (3, 6, 9), 24: (6, 12, 18), 5: (1, 2, 4)}
NEW = {6: (2, 3, 5), 10: (3, 5, 8), 12: (3, 6, 9), 24: (6, 12, 18), 5: (1, 3, 4)}


@given(st.integers(1, 100), st.integers(0, 12), st.integers(1, 12))
def test_halves_are_rounded_up(depth: int, part: int, parts: int) -> None:
    assert block_at(depth, part, parts) == math.floor(Fraction(depth * part, parts) + Fraction(1, 2))


@given(st.integers(4, 100))
def test_the_default_is_even(depth: int) -> None:
    layers = tuple(ap.TopK(0.5).schedule(depth))
    assert len(layers) == 3
    assert all(abs(layer - depth * i / 4) <= 0.5 for i, layer in enumerate(layers, start=1))


def written_by_0_1(path: Path, **more: object) -> Path:
    """A settings file with every setting, as version 0.1 wrote it."""
    path.write_text(json.dumps({"method": "TopK", "keep_rate": 0.5, "layers": None, "score": "attention", **more}))
    return path


@pytest.mark.parametrize("depth", NEW)
def test_files_keep_their_blocks(depth: int, tmp_path: Path) -> None:
    old, new = read_method(written_by_0_1(tmp_path / "old.json")), ap.TopK(0.5)
    assert tuple(new.schedule(depth)) == NEW[depth]
    assert tuple(old.schedule(depth)) == OLD[depth]
    assert tuple(old.with_keep_rate(0.7).schedule(depth)) == OLD[depth]
    named = parse_method(str(tmp_path / "old.json"))
    assert tuple(named.at(0.3).schedule(depth)) == OLD[depth]
    chain = {"method": [{"method": "PaddingMerge", "keep_rate": 0.5, "layers": None}]}
    (tmp_path / "chain.json").write_text(json.dumps(chain))
    assert tuple(read_method(tmp_path / "chain.json").schedule(depth)) == OLD[depth]


def test_a_file_says_which_default_it_means(tmp_path: Path) -> None:
    model = audiomae(num_hidden_layers=6)
    with ap.prune(model, ap.TopK(0.5)) as handle:
        path = handle.save(tmp_path / "new")
    assert "layers" not in json.loads(path.read_text())
    assert tuple(read_method(path).schedule(6)) == NEW[6]
    with ap.prune(model, written_by_0_1(tmp_path / "old.json")) as handle:
        assert tuple(handle.method.schedule(6)) == OLD[6]
        again = handle.save(tmp_path / "again")
    assert tuple(read_method(again).schedule(6)) == OLD[6]
    assert file_settings(ap.TopK(0.5, "all"))["layers"] == "all"


def test_both_defaults_are_one_setting_elsewhere(tmp_path: Path) -> None:
    """So that models and runs of version 0.1 are evaluated and go on."""
    old, new = read_method(written_by_0_1(tmp_path / "old.json")), ap.TopK(0.5)
    assert old == new
    assert hash(old) == hash(new)
    assert str(old) == str(new)
    assert describe(old) == describe(new)
    assert json.dumps(describe(old)) == json.dumps(describe(new))
    for made in (copy.deepcopy(old), pickle.loads(pickle.dumps(old))):
        assert made.layers is EARLIER_SPACING
