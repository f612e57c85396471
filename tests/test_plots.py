"""Pictures of what a pruned model kept and merged."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

import audioprune as ap
from audioprune.plots import _stages_to_draw, average_tokens, explain_figure, save

from .families import FAMILIES
from .settings import METHODS, teach


def slowly_averaged(log_mel: np.ndarray, holder: np.ndarray) -> np.ndarray:
    """One cell at a time."""
    frames, mels = log_mel.shape
    columns, rows = holder.shape

    def token(t: int, f: int) -> int:
        return int(holder[min(t * columns // frames, columns - 1), min(f * rows // mels, rows - 1)])

    cells = [(t, f) for t in range(frames) for f in range(mels)]
    groups: dict[int, list[float]] = {}
    for cell in cells:
        groups.setdefault(token(*cell), []).append(float(log_mel[cell]))
    drawn = log_mel.astype(float)
    for cell in cells:
        group = groups[token(*cell)]
        if token(*cell) >= 0:
            drawn[cell] = sum(group) / len(group)
    return drawn


@given(st.data())
def test_merged_patches_are_drawn_at_their_mean(data) -> None:
    """Patches that do not tile the spectrogram evenly too."""
    columns, rows = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 4))
    shape = data.draw(st.integers(columns, 13)), data.draw(st.integers(rows, 13))
    holder = data.draw(npst.arrays(np.int64, (columns, rows), elements=st.integers(-1, 4)))
    log_mel = np.random.default_rng(data.draw(st.integers(0, 99))).normal(size=shape)
    before = log_mel.copy()
    drawn = average_tokens(log_mel, holder)
    np.testing.assert_allclose(drawn, slowly_averaged(log_mel, holder), rtol=1e-12)
    np.testing.assert_array_equal(log_mel, before)


@given(st.integers(0, 40))
def test_at_most_four_stages_are_drawn_and_always_the_last(stages: int) -> None:
    shown = _stages_to_draw(stages)
    assert len(shown) == min(stages, 4)
    assert shown == sorted(set(shown))
    assert set(shown) <= set(range(stages))
    assert shown[-1:] == ([stages - 1] if stages else [])
    gaps = np.diff([-1, *shown])
    assert not stages or max(gaps) - min(gaps) <= 1, "they are spread evenly"


def titles(
    method: ap.Method, family: str = "audiomae", *, drawn: bool = False, **changes
) -> tuple[list[str], list[str]]:
    """Of the left and right panels of each stage. drawn: whether the picture is drawn too, which takes two seconds."""
    model = FAMILIES[family]().eval()
    clip = torch.randn(1, 128, 128, generator=torch.Generator().manual_seed(7))
    with torch.no_grad(), ap.prune(model, method) as handle, ap.trace(model) as record:
        teach(handle)
        model(clip)
    figure = explain_figure(clip[0].numpy(), record, title="a $ title", **changes)
    if drawn:
        figure.canvas.draw()
    panels = [axes for axes in figure.axes if axes.get_visible() and axes.get_ylabel() == "frequency (Hz)"]
    first, *found = [axes.get_title(loc="left") for axes in panels]
    assert first == "input: log-mel spectrogram"
    assert figure.get_suptitle() == "a $ title"
    return found[::2], found[1::2]


MERGING = ("tome", "tome-every-block", "merged", "merged-unsized", "segments-merged", "tofu", "pooled", "fused", "evit")
DROPPING = ("topk", "segments", "ats", "uniform", "dynamicvit")
DRAWN = {("audiomae", "topk"), ("audiomae", "fused"), ("ast-overlapping", "tome"), ("ast-overlapping", "ats")}
"""Patches that are kept, fused and merged, also where they overlap, and rows that differ in length."""


@pytest.mark.parametrize(
    ("family", "name"),
    [
        *(("audiomae", name) for name in (*MERGING, *DROPPING, "avit")),
        *(("ast-overlapping", name) for name in ("tome", "pooled", "fused", "topk", "ats")),
    ],
)
def test_titles_say_what_became_of_the_patches(name: str, family: str) -> None:
    method = METHODS[name]
    left, right = titles(method, family, drawn=(family, name) in DRAWN)
    patches = 144 if family == "ast-overlapping" else 64
    stages = len(method.schedule(4))
    assert len(left) == len(right) == min(4, stages)
    if name in MERGING:
        assert all(f": {patches} patches in " in title and title.endswith(" tokens") for title in left)
    else:
        assert all(title.endswith(f" of {patches} patches kept") for title in left)
    if method.static:
        after = method.counts(patches, 4)[1:]
        shown = [int(title.split()[-2 if name in MERGING else -5]) for title in left]
        assert shown == after if name in DROPPING or name.startswith("tome") else len(shown) == len(after)
    if name.startswith("tome"):  # no token is better than another
        assert right == ["patches in each token"] * stages
    elif name in ("topk", "ats"):
        assert right[0] == f"scores of the {patches} candidates"


def test_of_many_stages_four_are_drawn() -> None:
    model = ap.load("esc10")
    clip = torch.randn(1, model.config.max_length, 128, generator=torch.Generator().manual_seed(7))
    with torch.no_grad(), ap.prune(model, ap.recommended(model, 0.25)) as handle, ap.trace(model) as record:
        model(clip)
    figure = explain_figure(clip[0].numpy(), record)
    drawn = [axes.get_title(loc="left") for axes in figure.axes]
    drawn = [title for title in drawn if " patches in " in title]
    depth = len(handle.layers)
    assert len(drawn) == 4 < depth
    assert drawn[-1].startswith(f"after the attention of block {depth}: 256 patches in {handle.tokens[-1]} tokens")


def test_a_stage_that_keeps_all_is_drawn(tmp_path) -> None:
    left, _ = titles(ap.ToMe((1.0, 0.7), layers=(0, 1)), clip_seconds=0.5)
    assert left == ["after the attention of block 2: 64 patches in 45 tokens"]
    left, _ = titles(ap.ToMe(1.0))
    assert left == []
    left, _ = titles(ap.ToMe(0.999))
    assert left[0].endswith("64 of 64 patches kept")


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_a_picture_of_merging_is_written(suffix: str, tmp_path) -> None:
    model = FAMILIES["ast"]().eval()
    clip = torch.randn(1, 128, 128)
    with torch.no_grad(), ap.prune(model, ap.recommended(model)), ap.trace(model) as record:
        model(clip)
    save(explain_figure(clip[0].numpy(), record), tmp_path / f"new/a{suffix}")
    assert (tmp_path / f"new/a{suffix}").stat().st_size > 5000
