"""The contract between methods and adapters: what a stage of pruning is given and what it gives back.

A *token* stands for one patch of the input, or for several after merging. Special tokens (CLS, distillation) never
appear here: adapters put them aside before a method is asked, so that no method can drop one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

NO_PATCH = -1
"""Patch number of a fused token, and filler where rows of a trace differ in length."""


@dataclass(frozen=True)
class Grid:
    """How a model numbers the patches of its input.

    `time` × `frequency` patches; `frequency_major` numbering is f·time + t (AST), otherwise t·frequency + f (AudioMAE).
    """

    time: int
    frequency: int
    frequency_major: bool

    @property
    def patches(self) -> int:
        return self.time * self.frequency

    def column(self, patch: Tensor) -> Tensor:
        """Time column of each patch, same shape; `NO_PATCH` stays `NO_PATCH`."""
        column = patch % self.time if self.frequency_major else patch // self.frequency
        return torch.where(patch < 0, NO_PATCH, column)

    def to_map(self, values: Tensor) -> Tensor:
        """(..., patches) in the model's numbering → (..., time, frequency)."""
        if self.frequency_major:
            return values.unflatten(-1, (self.frequency, self.time)).transpose(-1, -2)
        return values.unflatten(-1, (self.time, self.frequency))


@dataclass(frozen=True)
class Tokens:
    """The droppable tokens at one stage.

    hidden: (batch, n, width). patch: (batch, n), the input patch of each token, `NO_PATCH` for a fused one.
    size: (batch, n), how many patches each stands for; None where every token stands for one.
    """

    hidden: Tensor
    patch: Tensor
    size: Tensor | None = None

    @property
    def count(self) -> int:
        return self.hidden.shape[1]


@dataclass(frozen=True)
class Evidence:
    """What a method may look at, over the n droppable tokens. Only what it listed in `needs` is there.

    attention: (batch, n), attention received from the patch tokens, mean over heads and queries (eq. 2a).
    cls: (batch, n), attention received from the CLS token, mean over heads (eq. 2b).
    keys: (batch, n, head_dim), attention keys, mean over heads.
    intensity, variation: (batch, n), mean and standard deviation of each token's patch of the log-mel.
    patch, column: (batch, n), input patch and its time column, of `columns` in all; `NO_PATCH` for a fused token.
    layer: 0-based index of the block that is pruned.
    """

    layer: int
    patch: Tensor
    column: Tensor
    columns: int
    attention: Tensor | None = None
    cls: Tensor | None = None
    keys: Tensor | None = None
    intensity: Tensor | None = None
    variation: Tensor | None = None


@dataclass(frozen=True)
class Reduction:
    """What a stage left over.

    tokens: those that go on. kept: (batch, K), the positions that were kept, ascending, in the tokens as they came.
    scores: (batch, n), the scores by which they were chosen.
    """

    tokens: Tokens
    kept: Tensor
    scores: Tensor


class Reducer(Protocol):
    """What an adapter knows of the method at work."""

    needs_gradient: bool
    """Whether gradients must flow through the scores."""

    def needs(self, layer: int) -> frozenset[str]:
        """Names of `Evidence` fields to compute at this layer; nothing is asked where nothing is pruned."""

    def prunes(self, layer: int) -> bool:
        """Whether tokens are reduced after this layer's attention."""

    def reduce(self, tokens: Tokens, evidence: Evidence) -> Reduction:
        """Reduce the tokens of `evidence.layer`."""


@dataclass(frozen=True)
class Stage:
    """A trace's record of one stage: patches kept (batch, K), ascending positions, and scores (batch, n) before."""

    kept: Tensor
    scores: Tensor
