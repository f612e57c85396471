"""Scored attention against the full attention map."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from audioprune.attention import pieces
from audioprune.attention import scoring as attention


def tensors(n: int, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(n)
    return [torch.randn(2, 3, n, 8, generator=generator).to(dtype) for _ in range(3)]


def full_map(query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    logits = query @ key.transpose(2, 3) / 8**0.5
    return (logits if mask is None else logits + mask).softmax(-1)


@pytest.fixture(params=[False, True], ids=["inference", "training"])
def gradients(request: pytest.FixtureRequest) -> Iterator[None]:
    """Work without gradients and with them. Only without them does a CPU take a map in pieces."""
    with torch.set_grad_enabled(request.param):
        yield


@pytest.mark.parametrize("special", [0, 1, 2])
@pytest.mark.parametrize("n", [3, 5, 64, 130])
@pytest.mark.parametrize("cells", [1, 70, 500, 10**6])
@pytest.mark.parametrize("masked", [None, "keys", "full"])
def test_pieces_equal_the_map(special: int, n: int, cells: int, masked: str | None, gradients: None) -> None:
    query, key, value = tensors(n)
    rows = {None: None, "keys": 1, "full": n}[masked]
    mask = None if rows is None else torch.randn(2, 1, rows, n, generator=torch.Generator().manual_seed(5))
    weights = full_map(query, key, mask)
    context, received = pieces.attend_and_score(query, key, value, 8**-0.5, mask, special, cells=cells)
    assert torch.allclose(context, weights @ value, atol=1e-5)
    assert torch.allclose(received, weights[:, :, special:, special:].mean(2), atol=1e-6)
    if special:
        cls = attention.cls_attention(query, key, 8**-0.5, mask, special)
        assert torch.allclose(cls, weights[:, :, 0, special:], atol=1e-6)


@pytest.mark.parametrize("cells", [1, 20, 100])
@pytest.mark.parametrize("special", [0, 2])
def test_filler_does_not_vote(special: int, cells: int, gradients: None) -> None:
    query, key, value = tensors(9)
    voters = torch.ones(2, 9 - special)
    voters[1, 4:] = 0
    weights = full_map(query, key, None)[:, :, special:, special:]
    _, received = pieces.attend_and_score(query, key, value, 8**-0.5, None, special, voters, cells=cells)
    assert torch.allclose(received[0], weights[0].mean(1), atol=1e-6)
    assert torch.allclose(received[1], weights[1, :, :4].mean(1), atol=1e-6)
    mapped = attention.received_attention(full_map(query, key, None), special, voters)
    assert torch.allclose(received, mapped, atol=1e-6)


@pytest.mark.parametrize("n", [3, 64, 130])
@pytest.mark.parametrize("cells", [1, 70, 10**6])
@pytest.mark.parametrize("by_rows", [False, True])
def test_scores_without_a_context(n: int, cells: int, by_rows: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Piece by piece on a CPU, and as on other devices."""
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: by_rows)
    query, key, _ = (t.requires_grad_() for t in tensors(n))
    mask = torch.zeros(2, 1, 1, n)
    mask[1, ..., 2:] = float("-inf")
    voters = (mask[:, 0, 0] == 0).float()
    expected = torch.stack([full_map(query, key, mask)[0].mean(1), full_map(query, key, mask)[1, :, :2].mean(1)])
    scores = attention.score_keys(query, key, 8**-0.5, mask, voters, cells=cells)
    assert not scores.requires_grad
    assert torch.allclose(scores, expected, atol=1e-6)
    scores = attention.score_keys(query, key, 8**-0.5, cells=cells)
    assert torch.allclose(scores, full_map(query, key, None).mean(2), atol=1e-6)
    context, received = pieces.attend_and_score(query, key, None, 8**-0.5, None, 1, cells=cells)
    assert context.numel() == 0
    assert torch.allclose(received, full_map(query, key, None)[:, :, 1:, 1:].mean(2), atol=1e-6)


def test_policy_equals_its_formula() -> None:
    query, key, value = tensors(7)
    policy = torch.tensor([[1.0, 0, 1, 1, 0, 0, 1], [1, 1, 1, 1, 1, 1, 1]])
    context = pieces.attend_by_policy(query, key, value, 8**-0.5, None, policy)
    weights = full_map(query, key, None)
    for b in range(2):
        for i in range(7):
            allowed = torch.tensor([1.0 if j == i else policy[b, j] for j in range(7)])
            row = weights[b, :, i] * allowed
            row = row / row.sum(1, keepdim=True)
            expected = (row[:, :, None] * value[b]).sum(1)
            assert torch.allclose(context[b, :, i], expected, atol=1e-4)


@pytest.mark.parametrize("differentiable", [False, True])
def test_scores_take_gradients_only_if_the_method_needs_them(differentiable: bool) -> None:
    query, key, value = (x.requires_grad_() for x in tensors(7))
    wants = frozenset({"attention", "attention_heads", "cls", "cls_heads"})
    call = attention.AttentionCall("sdpa", torch.softmax, special=1, wants=wants, differentiable=differentiable)
    context, _ = attention.scoring_attention(torch.nn.Identity(), query, key, value, None, attention_call=call)
    assert context.requires_grad
    assert {name: scores.requires_grad for name, scores in call.results.items()} == dict.fromkeys(wants, differentiable)


def test_half_precision_scores_are_float32() -> None:
    query, key, value = tensors(40, torch.bfloat16)
    context, received = pieces.attend_and_score(query, key, value, 8**-0.5, None, 1)
    assert context.dtype == torch.bfloat16
    assert received.dtype == attention.cls_attention(query, key, 8**-0.5, None, 1).dtype == torch.float32
    expected = full_map(query.float(), key.float(), None)
    assert torch.allclose(received, expected[:, :, 1:, 1:].mean(2), atol=2e-3)


def test_gradients_equal_those_of_the_map() -> None:
    grads = []
    for in_pieces in (True, False):
        query, key, value = (t.double().requires_grad_() for t in tensors(20))
        if in_pieces:
            context, received = pieces.attend_and_score(query, key, value, 8**-0.5, None, 1, cells=70)
        else:
            weights = full_map(query, key, None)
            context, received = weights @ value, weights[:, :, 1:, 1:].mean(2)
        (context.sin().sum() + (received * torch.arange(19)).sum()).backward()
        grads.append([t.grad for t in (query, key, value)])
    assert all(torch.allclose(a, b) for a, b in zip(*grads, strict=True))


def test_importing_registers_nothing() -> None:
    """Transformers' attention registry changes when a model is pruned, not when the package is imported."""
    import subprocess
    import sys

    code = (
        "import audioprune, transformers.modeling_utils as m; "
        "assert 'audioprune' not in m.ALL_ATTENTION_FUNCTIONS.valid_keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
