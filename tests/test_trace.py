"""What a trace shows, in the coordinates of the input."""

from __future__ import annotations

import pytest
import torch

import audioprune as ap
from audioprune.adapters.blocks.token_pass import TokenPass
from audioprune.core.trace import Trace

from .families import FAMILIES, ast, audiomae, inputs_for
from .settings import METHODS, teach


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
def test_scores_belong_to_the_candidates(model, inputs) -> None:
    with ap.prune(model, ap.TopK(0.5)), ap.trace(model) as record:
        model(**inputs)
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
def test_each_forward_replaces_the_last(model, inputs) -> None:
    with ap.prune(model, ap.TopK(0.5)):
        with ap.trace(model) as record:
            model(**inputs)
            first = record.kept
            model(**{name: -x[:1] if x.is_floating_point() else x[:1] for name, x in inputs.items()})
            assert record.kept[0].shape[0] == 1
        model(**inputs)  # unwatched
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


def watched(method: ap.Method, family: str = "audiomae") -> tuple[Trace, list]:
    """A trace of three clips, and each stage's tokens' sizes, None where they have none, filler and all."""
    model = FAMILIES[family]().eval()
    sizes: list = []
    with torch.no_grad(), ap.prune(model, method) as handle, ap.trace(model) as record:
        teach(handle)
        apply = TokenPass._apply

        def note(self, *arguments):
            hidden, state = apply(self, *arguments)
            sizes.append((state.size, state.patch))
            return hidden, state

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(TokenPass, "_apply", note)
            model(**inputs_for(family))
    return record, sizes


KEEPING = ("tome", "tofu", "merged", "pooled", "evit", "spvit-first", "fused")
FORGETTING = ("topk", "ats", "uniform", "dynamicvit", "avit")


@pytest.mark.parametrize("family", ["audiomae", "ast"])
@pytest.mark.parametrize("name", [*KEEPING, *FORGETTING])
def test_every_patch_is_accounted_for(family: str, name: str) -> None:
    record, states = watched(METHODS[name], family)
    time, frequency = record.grid
    for stage, (size, patch) in enumerate(states):
        for clip in range(3):
            sources = record.sources(stage, clip)
            went = sorted(p for group in sources for p in group)
            kept = [p for p in record.kept[stage][clip].tolist() if p >= 0]
            if name in KEEPING:
                assert went == list(range(64))
            else:
                assert went == kept
            # A token's own patch is one of its sources, and is its size in number.
            for token, group in enumerate(sources):
                if patch[clip, token] >= 0:
                    assert patch[clip, token] in group
                if size is not None:
                    assert size[clip, token] == len(group)
            holders = record.holders[stage][clip].tolist()
            assert sources == [[p for p in range(64) if holders[p] == t] for t in range(len(sources))]
            mapped = record.holder_map(stage)[clip]
            assert mapped.shape == (time, frequency)
            assert sorted(mapped.flatten().tolist()) == sorted(holders)
            for p in range(64):
                cell = (p % time, p // time) if family == "ast" else (p // frequency, p % frequency)
                assert mapped[cell] == holders[p]


@pytest.mark.parametrize("name", ["tome", "spvit-first", "fused", "ats", "avit"])
def test_holders_follow_each_patch_through_all_stages(name: str, monkeypatch) -> None:
    """Against the same found stage by stage, one patch at a time."""
    stages: list = []
    spread = Trace._record

    def note(self, token_pass):
        stages[:] = [token_pass.stages[layer] for layer in sorted(token_pass.stages)]
        spread(self, token_pass)

    monkeypatch.setattr(Trace, "_record", note)
    record, _ = watched(METHODS[name])
    assert len(stages) == len(record.holders) > 1
    for clip in range(3):
        where = list(range(64))
        for stage, holders in zip(stages, record.holders, strict=True):
            kept = [i for i in stage.kept[clip].tolist() if i >= 0]
            for patch, token in enumerate(where):
                if token < 0:
                    continue
                if stage.destination is None:
                    where[patch] = kept.index(token) if token in kept else -1
                else:
                    where[patch] = stage.destination[clip, token].item()
            assert holders[clip].tolist() == where


def test_the_package_of_soft_pruning_holds_what_was_dropped() -> None:
    record, states = watched(METHODS["spvit"])
    kept = [p for p in record.kept[0][0].tolist() if p >= 0]
    assert 0 < len(kept) < 64
    assert record.sources(0)[: len(kept)] == [[p] for p in kept]
    assert record.sources(0)[len(kept)] == [p for p in range(64) if p not in kept]
    assert states[0][1][0, len(kept)] == -1


def test_a_trace_of_a_model_that_has_not_run_says_so(model) -> None:
    with ap.prune(model, ap.TopK(0.5)), ap.trace(model) as record:
        assert not record.kept
        assert list(record.holders) == []
        for look in (lambda: record.kept[0], lambda: record.mask(0), lambda: record.sources(0)):
            with pytest.raises(IndexError, match=r"nothing is traced yet: run the model within"):
                look()
