"""The contract between methods and adapters: what a stage of pruning is given and what it gives back.

A *token* stands for one patch of the input, or for several after merging. Special tokens (CLS, distillation) never
appear here: adapters put them aside before a method is asked, so that no method can drop one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn

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

    def row(self, patch: Tensor) -> Tensor:
        """Frequency row of each patch, same shape; `NO_PATCH` stays `NO_PATCH`."""
        row = patch // self.time if self.frequency_major else patch % self.frequency
        return torch.where(patch < 0, NO_PATCH, row)

    def to_map(self, values: Tensor) -> Tensor:
        """(..., patches) in the model's numbering → (..., time, frequency)."""
        if self.frequency_major:
            return values.unflatten(-1, (self.frequency, self.time)).transpose(-1, -2)
        return values.unflatten(-1, (self.time, self.frequency))


class Place(NamedTuple):
    """Where tokens are reduced: a 0-based block, and whether after its attention or before the block. turn: before a
    block, methods of a chain may act one after the other, from 0."""

    layer: int
    after: bool = True
    turn: int = 0


PER_CLIP = {"axis": 0}
"""Metadata of a field: it has a value for each clip of the batch, whatever the number of tokens."""
PER_TOKEN = {"axis": 1, "filler": 0.0}
"""Metadata of a field: it has a value for each token, along this axis; `filler` ends the shorter rows of a batch."""
PATCH = {"axis": 1, "filler": NO_PATCH}
BY_ATTENTION = {"axis": 1, "source": "attention"}
BY_HEAD = {"axis": 2, "source": "attention"}
BY_INPUT = {"axis": 1, "source": "input"}
"""The same of a field that is only there if a method lists it in `needs`, and where it comes from."""


def _rows(record: Any, rows: Tensor, count: int) -> Any:
    """Some rows of the batch of every field that has one, and of each the first `count` tokens."""
    taken = {}
    for each in dataclasses.fields(record):
        value, axis = getattr(record, each.name), each.metadata.get("axis")
        if value is not None and axis is not None:
            taken[each.name] = value[rows].narrow(axis, 0, count) if axis else value[rows]
    return dataclasses.replace(record, **taken)


@dataclass(frozen=True)
class Tokens:
    """The droppable tokens at one stage.

    hidden: (batch, n, width). patch: (batch, n), the input patch of each token, `NO_PATCH` for a fused one.
    size: (batch, n), how many patches each stands for; None where every token stands for one.
    policy: (batch, n) in [0, 1], 0 for a token that a learned method gave up but carries along while it trains, with
    gradients through it; None where every token is kept.
    memory: tensors with the batch in front that a method hands itself from stage to stage; None at the first.
    """

    hidden: Tensor = field(metadata=PER_TOKEN)
    patch: Tensor = field(metadata=PATCH)
    size: Tensor | None = field(default=None, metadata=PER_TOKEN)
    policy: Tensor | None = field(default=None, metadata=PER_TOKEN)
    memory: dict[str, Tensor] | None = None

    @property
    def count(self) -> int:
        return self.hidden.shape[1]

    def take(self, rows: Tensor, count: int) -> Tokens:
        """The first `count` tokens of some rows of the batch."""
        memory = None if self.memory is None else {name: value[rows] for name, value in self.memory.items()}
        return dataclasses.replace(_rows(self, rows, count), memory=memory)


@dataclass(frozen=True)
class Evidence:
    """What a method may look at, over the n droppable tokens. Only what it listed in `needs` is there.

    attention: (batch, n), attention received from the patch tokens, mean over heads and queries (eq. 2a).
    cls: (batch, n), attention received from the CLS token, mean over heads (eq. 2b).
    attention_heads, cls_heads: (batch, heads, n), the same of each head.
    keys: (batch, n, head_dim), attention keys, mean over heads. values: (batch, n, heads · head_dim), of all heads.
    intensity, variation: (batch, n), mean and standard deviation of each token's patch of the log-mel.
    padding: (batch, n) booleans, whether a token is of the padding after the clip, which the model does not mask.
    sinks: (batch, n) booleans, whether a silent clip's token at this place is an attention sink (`core.sinks`).
    patch, column, row: (batch, n), input patch, its time column, of `columns` in all, and its frequency row;
    `NO_PATCH` for a fused token. patches: of a whole clip.
    layer: 0-based index of the block that is pruned, of `depth`. after, turn: as in `Place`.
    special: (batch, s, width), the leading tokens that always go on.
    default_segments: how many time segments a budget is spent in where a method does not say; at most K of them are
    used.
    learned: what the method's `build` made; training: whether it is being trained.
    """

    layer: int
    depth: int
    patch: Tensor = field(metadata=PER_TOKEN)
    column: Tensor = field(metadata=PER_TOKEN)
    columns: int
    row: Tensor = field(metadata=PER_TOKEN)
    patches: int
    special: Tensor = field(metadata=PER_CLIP)
    after: bool = True
    turn: int = 0
    default_segments: int = 8
    learned: nn.Module | None = None
    training: bool = False
    attention: Tensor | None = field(default=None, metadata=BY_ATTENTION)
    cls: Tensor | None = field(default=None, metadata=BY_ATTENTION)
    attention_heads: Tensor | None = field(default=None, metadata=BY_HEAD)
    cls_heads: Tensor | None = field(default=None, metadata=BY_HEAD)
    keys: Tensor | None = field(default=None, metadata=BY_ATTENTION)
    values: Tensor | None = field(default=None, metadata=BY_ATTENTION)
    intensity: Tensor | None = field(default=None, metadata=BY_INPUT)
    variation: Tensor | None = field(default=None, metadata=BY_INPUT)
    padding: Tensor | None = field(default=None, metadata=BY_INPUT)
    sinks: Tensor | None = field(default=None, metadata=BY_INPUT)

    @property
    def place(self) -> Place:
        return Place(self.layer, self.after, self.turn)

    def take(self, rows: Tensor, count: int) -> Evidence:
        """What is known of the first `count` tokens of some rows of the batch."""
        return _rows(self, rows, count)


def needs_from(source: str) -> tuple[str, ...]:
    """The fields of `Evidence` that a method may list in `needs`, of this source, in order."""
    return tuple(each.name for each in dataclasses.fields(Evidence) if each.metadata.get("source") == source)


@dataclass(frozen=True)
class Reduction:
    """What a stage left over.

    tokens: those that go on. kept: (batch, K), the positions that were kept, ascending, in the tokens as they came;
    -1 is filler, at the end of shorter rows.
    scores: (batch, n), the scores by which they were chosen.
    destination: (batch, n), into which of `tokens` each went, -1 where it was forgotten; None where tokens were only
    kept or forgotten.
    lengths: (batch,), how many tokens each row of `tokens` has, the rest being filler; None where rows do not differ.
    notes: what the method's loss will need of this stage, each with the batch in front and one shape for all clips.
    """

    tokens: Tokens
    kept: Tensor
    scores: Tensor
    destination: Tensor | None = None
    lengths: Tensor | None = None
    notes: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Finish:
    """What the model reads in place of its last block's output: hidden (batch, s + patches, width), all tokens that
    there were, special ones first, and notes as a `Reduction` has them."""

    hidden: Tensor
    notes: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class LossInputs:
    """One forward of a training, for a method's loss.

    notes: what `reduce` (and, at layer `depth`, `finish`) noted, by layer. rates: keep rate of each pruned layer.
    logits: (batch, classes), labels: (batch, classes), a distribution or 0 and 1. tokens: (batch, n, width), what left
    the encoder, special tokens aside; policy: (batch, n) of them. teacher_logits, teacher_tokens: of the unpruned
    model, (batch, classes) and (batch, patches, width), where the method asked for one.
    """

    depth: int
    notes: dict[int, dict[str, Tensor]]
    rates: dict[int, float]
    logits: Tensor
    labels: Tensor
    tokens: Tensor
    policy: Tensor | None = None
    teacher_logits: Tensor | None = None
    teacher_tokens: Tensor | None = None


@dataclass(frozen=True)
class ModelShape:
    """Of a model, for what a method learns. labels: of its head, None where it has none."""

    width: int
    heads: int
    depth: int
    special: int
    labels: int | None


class MethodTraits(Protocol):
    """What an adapter asks of a method before it attaches it; `Method` says what each means."""

    static: ClassVar[bool]
    learns: ClassVar[bool]

    @property
    def methods(self) -> Sequence[MethodTraits]: ...

    @property
    def layers(self) -> Sequence[int] | Literal["all"] | None: ...

    @property
    def before(self) -> bool: ...

    @property
    def needs(self) -> frozenset[str]: ...

    @property
    def appends(self) -> bool: ...

    def build(self, shape: ModelShape) -> nn.Module | None: ...


class Reducer(Protocol):
    """What an adapter knows of the method at work."""

    needs_gradient: bool
    """Whether gradients must flow through the scores."""
    proportional: bool
    """Whether attention counts a merged token as often as it stands for patches."""
    learned: nn.Module | None
    """What the method learns, None where it learns nothing."""
    learns: bool
    """Whether training, or what the model reads, needs what was noted at every pruned layer."""
    reduces: bool
    """Whether there is a layer at which tokens are reduced."""

    def needs(self, place: Place) -> frozenset[str]:
        """Names of `Evidence` fields to compute at this place; nothing is asked where nothing is pruned."""

    def prunes(self, place: Place) -> bool:
        """Whether tokens are reduced at this place."""

    def before(self, layer: int) -> Sequence[Place]:
        """The places before a block at which tokens are reduced, in turn."""

    def reduce(self, tokens: Tokens, evidence: Evidence) -> Reduction:
        """Reduce the tokens at `evidence.place`."""

    def finish(self, tokens: Tokens, special: Tensor) -> Finish | None:
        """What the model reads in place of its last block's output; None for that output."""
