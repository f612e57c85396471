"""Fingerprints: what they tell apart, and that those on users' disks stay the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from audioprune import fingerprints


def counting(dtype: torch.dtype = torch.float32) -> nn.Linear:
    """Weights 0 … 15, bias 0 … 3."""
    layer = nn.Linear(4, 4).to(dtype)
    with torch.no_grad():
        for tensor in layer.parameters():
            tensor.copy_(torch.arange(tensor.numel()).view_as(tensor))
    return layer


def numbers(layer: nn.Module) -> str:
    return fingerprints.of_numbers(layer.state_dict().values())


@pytest.mark.parametrize(
    ("fingerprint", "expected"),
    [
        (fingerprints.of_weights, "9649c678130088ab"),
        (numbers, "44c27ac4897c3306"),
        (fingerprints.of_beginnings, "77ca29a33b4e"),
    ],
)
def test_they_never_change(fingerprint: Callable[[Any], str], expected: str) -> None:
    """They were written to files: another algorithm would refuse the runs of those who update."""
    assert fingerprint(counting()) == expected


def test_every_number_name_shape_and_dtype_counts() -> None:
    tensor = torch.arange(16.0)
    same = fingerprints.of_tensors([("a", tensor)])
    for name, other in (
        ("b", tensor),
        ("a", tensor.view(4, 4)),
        ("a", tensor.view(torch.int32)),
        ("a", tensor.index_fill(0, torch.tensor([15]), 1.0)),
    ):
        assert fingerprints.of_tensors([(name, other)]) != same
    assert fingerprints.of_tensors([("a", torch.arange(32.0)[::2] / 2)]) == same, "strides do not count"
    for dtype in (torch.bfloat16, torch.float16, torch.int8, torch.bool):
        assert fingerprints.of_tensors([("a", tensor.to(dtype))]) != same
    assert len(same) == fingerprints.LETTERS
    fingerprints.of_tensors([("a", torch.tensor(1.0)), ("b", torch.empty(0, 3))])


def test_a_change_far_into_a_weight() -> None:
    one, other = counting(), counting()
    with torch.no_grad():
        other.weight[3, 3] += 1
    assert fingerprints.of_weights(one) != fingerprints.of_weights(other)
    assert fingerprints.of_beginnings(one) == fingerprints.of_beginnings(other), "which is why nothing new has it"


def test_a_weight_that_wraps_others() -> None:
    two = pytest.importorskip("torch.testing._internal.two_tensor")
    wrapped = two.TwoTensor(torch.zeros(4), torch.ones(4))
    found = fingerprints.of_tensors([("w", wrapped)])
    assert found == fingerprints.of_tensors([("w.a", torch.zeros(4)), ("w.b", torch.ones(4))])
