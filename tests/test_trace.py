"""What a trace shows, in the coordinates of the input."""

from __future__ import annotations

import pytest
import torch

import audioprune as ap

from .families import FAMILIES, ast, audiomae


def loud_patch(t: int, f: int) -> torch.Tensor:
    """A spectrogram with one loud patch at time column t and frequency row f."""
    clip = torch.zeros(1, 128, 128)
    clip[:, 16 * t : 16 * t + 16, 16 * f : 16 * f + 16] = 3.0
    return clip


@torch.no_grad()
@pytest.mark.parametrize(("build", "number"), [(audiomae, 5 * 8 + 2), (ast, 2 * 8 + 5)])
def test_patches_are_where_the_sound_is(build, number: int) -> None:
    model = build().eval()
    with ap.prune(model, ap.TopK(1 / 64, layers=[1], score="intensity")), ap.trace(model) as record:
        model(loud_patch(t=5, f=2))
    assert record.grid == (8, 8)
    assert record.layers == (1,)
    assert record.kept[0].tolist() == [[number]]
    assert record.mask(0).nonzero().tolist() == [[0, 5, 2]]
    assert record.score_map(0)[0, 5, 2] == 3.0
    assert record.score_map(0).sum() == 3.0


@torch.no_grad()
def test_scores_belong_to_the_candidates(model, spectrogram) -> None:
    with ap.prune(model, ap.TopK(0.5)), ap.trace(model) as record:
        model(spectrogram)
    for stage, (scores, candidates) in enumerate(zip(record.scores, record.candidates, strict=True)):
        assert scores.shape == candidates.shape
        k = record.kept[stage].shape[1]
        best = candidates.gather(1, scores.topk(k).indices).sort(1).values
        assert torch.equal(best, record.kept[stage])
        assert torch.equal(
            record.score_map(stage).isfinite(), record.mask(stage - 1) if stage else torch.ones_like(record.mask(0))
        )
        assert record.mask(stage).sum((1, 2)).tolist() == [k] * 3


@torch.no_grad()
def test_each_forward_replaces_the_last(model, spectrogram) -> None:
    with ap.prune(model, ap.TopK(0.5)):
        with ap.trace(model) as record:
            model(spectrogram)
            first = record.kept
            model(-spectrogram[:1])
            assert record.kept[0].shape[0] == 1
        model(spectrogram)  # unwatched
    assert record.kept[0].shape[0] == 1
    assert first[0].shape[0] == 3


@torch.no_grad()
def test_a_fused_token_is_no_patch(spectrogram) -> None:
    model = FAMILIES["audiomae"]().eval()
    # Ranked by intensity the fused token is average, so it is kept by clips whose rest is quieter.
    with ap.prune(model, ap.TopK(0.9, score="intensity", dropped="fuse")), ap.trace(model) as record:
        model(spectrogram)
    last = record.kept[-1]
    assert (last < 0).sum() > 0
    fillers = (last < 0).int()
    assert (fillers.diff(dim=1) >= 0).all()  # the fillers stand last
    assert record.mask(2).sum((1, 2)).tolist() == (last >= 0).sum(1).tolist()
