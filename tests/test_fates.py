"""What each fate leaves of the tokens, and where it says that each token went."""

from __future__ import annotations

import torch

from audioprune.core.tokens import NO_PATCH, Evidence, Tokens
from audioprune.methods.fates import FATES, keep, keep_ragged

KEPT = torch.tensor([[0, 3], [1, 2]])


def tokens() -> Tokens:
    """Two clips of five tokens, all of whose properties differ."""
    generator = torch.Generator().manual_seed(0)
    return Tokens(
        hidden=torch.randn(2, 5, 4, generator=generator),
        patch=torch.tensor([[2, 4, 6, 7, 9], [0, 1, 3, 5, 8]]),
        size=torch.tensor([[1.0, 2, 3, 4, 5], [5, 4, 3, 2, 1]]),
        policy=torch.tensor([[1.0, 0, 1, 0.5, 1], [0, 0.25, 1, 1, 1]]),
    )


def evidence(before: Tokens) -> Evidence:
    """What fates read: keys, by which token 1 is like 0 in the first clip, and all others like the second kept one."""
    toward = torch.tensor([[0, 0, 1, 1, 1], [1, 0, 1, 1, 1]])
    keys = torch.nn.functional.one_hot(toward, 2).float()
    return Evidence(
        layer=0, depth=4, patch=before.patch, column=before.patch, row=torch.zeros_like(before.patch), columns=10,
        patches=10, special=before.hidden[:, :0], keys=keys,
    )  # fmt: skip


def test_what_is_kept_keeps_its_properties() -> None:
    before = tokens()
    after = keep(before, KEPT)
    for clip, places in enumerate(KEPT.tolist()):
        for name in ("hidden", "patch", "size", "policy"):
            assert torch.equal(getattr(after, name)[clip], getattr(before, name)[clip, places]), name


def test_filler_has_nothing() -> None:
    before = tokens()
    after = keep_ragged(before, torch.tensor([[0, 3, 4], [2, -1, -1]]))
    assert torch.equal(after.hidden[0], before.hidden[0, [0, 3, 4]])
    assert torch.equal(after.hidden[1, 0], before.hidden[1, 2])
    assert not after.hidden[1, 1:].any()
    assert after.patch.tolist() == [[2, 7, 9], [3, NO_PATCH, NO_PATCH]]
    assert after.size is not None
    assert after.size.tolist() == [[1.0, 4.0, 5.0], [3.0, 0.0, 0.0]]


def test_discarded_tokens_go_nowhere() -> None:
    before = tokens()
    after, destination = FATES["discard"].apply(before, evidence(before), KEPT, before.size)
    assert destination is None
    assert torch.equal(after.hidden, keep(before, KEPT).hidden)


def test_the_fused_token_takes_what_is_dropped() -> None:
    before = tokens()
    weights = torch.tensor([[0.1, 0.2, 0.3, 0.4, 0.5]] * 2)
    after, destination = FATES["fuse"].apply(before, evidence(before), KEPT, weights)
    assert destination.tolist() == [[0, 2, 2, 1, 2], [2, 0, 1, 2, 2]]
    assert after.patch.tolist() == [[2, 7, NO_PATCH], [1, 3, NO_PATCH]]
    for clip, dropped in enumerate(([1, 2, 4], [0, 3, 4])):
        fused = sum(weights[clip, i] * before.hidden[clip, i] for i in dropped)
        assert torch.allclose(after.hidden[clip, 2], fused)


def test_merged_tokens_go_to_the_most_similar_kept_one() -> None:
    before = tokens()
    after, destination = FATES["merge"].apply(before, evidence(before), KEPT, before.size)
    assert destination.tolist() == [[0, 0, 1, 1, 1], [1, 0, 1, 1, 1]]
    assert after.size.tolist() == [[3.0, 12.0], [4.0, 11.0]]
    assert after.patch.tolist() == [[2, 7], [1, 3]]
    mean = (before.hidden[0, 0] + 2 * before.hidden[0, 1]) / 3
    assert torch.allclose(after.hidden[0, 0], mean)
