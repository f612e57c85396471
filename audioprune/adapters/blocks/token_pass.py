"""State of the tokens in one forward: which tokens enter each block, and which leave it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from ...attention.scoring import AttentionCall
from ...core.stages import Stage
from ...core.tokens import NO_PATCH, Evidence, Grid, Place, Reducer, Reduction, Tokens, needs_from
from .ragged import join, unless_all

if TYPE_CHECKING:
    from .adapter import BlockAdapter

FROM_ATTENTION = frozenset(needs_from("attention"))


@dataclass(frozen=True)
class TokenState:
    """The droppable tokens at a point of the forward, without their hidden states.

    Args:
        patch: as in `Tokens`.
        size: as in `Tokens`.
        policy: as in `Tokens`.
        memory: as in `Tokens`.
        lengths: (batch,), number of tokens of each row; the rest of the row is filler. None without filler.
    """

    patch: Tensor
    size: Tensor | None = None
    policy: Tensor | None = None
    memory: dict[str, Tensor] | None = None
    lengths: Tensor | None = None

    @property
    def real(self) -> Tensor | None:
        """Mask of the tokens, False for filler, (batch, n); None without filler."""
        if self.lengths is None:
            return None
        return torch.arange(self.patch.shape[1], device=self.patch.device) < self.lengths[:, None]


class TokenPass:
    """State of the tokens in one forward.

    The state is stored for each block and not overwritten, so that a block that runs again (gradient checkpointing)
    sees the same state as the first time. The state ends with the forward.
    """

    def __init__(
        self, adapter: BlockAdapter, reducer: Reducer, eager: Callable[..., Any], inputs: dict[str, Any]
    ) -> None:
        self.adapter, self.reducer, self.eager, self.inputs = adapter, reducer, eager, inputs
        self.stages: dict[Place, Stage] = {}
        self.notes: dict[int, dict[str, Tensor]] = {}
        """Notes of the method at each pruned layer, for its loss."""
        self._with_gradient = torch.is_grad_enabled()
        self._before: dict[int, TokenState] = {}
        self._within: dict[int, TokenState] = {}
        self._final: TokenState | None = None
        self._grid: Grid | None = None
        self._whole: Tensor | None = None
        """Number of tokens of each clip at the beginning, without padding, (batch,); None if no clip is padded."""

    @property
    def grid(self) -> Grid | None:
        """The patches of this forward's clips; None if they differ in length and no block has run."""
        return self._grid or self.adapter.grid

    @property
    def final(self) -> TokenState:
        """State of the tokens that leave the last block."""
        return self._final or self._before[max(self._before)]

    def final_weight(self, tokens: Tensor) -> Tensor | None:
        """Weights of the last block's tokens in a mean, (batch, n); None if all are equal.

        tokens: (batch, n, width), without special ones.
        """
        # Layer drop may have skipped every block.
        state, weight = self.final if self._before else self._first(tokens), None
        for factor in (state.size, state.policy, state.real):
            if factor is not None:
                weight = factor.float() if weight is None else weight * factor
        return weight

    def enter(self, layer: int, hidden: Tensor) -> tuple[Tensor, AttentionCall]:
        """Tokens that enter block `layer`, and the requests to its attention. Called before the block.

        hidden: (batch, special + n, width), special tokens first.
        """
        if not self._before:
            self._before[layer] = self._first(hidden[:, self.adapter.special :])
        # Not always the previous block, because layer drop skips some in training.
        state = self._before[max(index for index in self._before if index <= layer)]
        for place in self.reducer.before(layer):
            hidden, state = self._apply(place, hidden, state, {})
        self._within[layer] = state
        return hidden, self._attention_call(layer, state, hidden.dtype)

    def reduce(self, layer: int, hidden: Tensor, call: AttentionCall) -> Tensor:
        """Tokens that stay after the attention of a block, special ones first. hidden: (batch, special + n, width)."""
        state = self._within[layer]
        if self.reducer.prunes(place := Place(layer)):
            hidden, state = self._apply(place, hidden, state, call.results)
        self._before[layer + 1] = state
        return hidden

    def leave(self, layer: int, hidden: Tensor) -> Tensor:
        """Output of block `layer` for the rest of the model."""
        last = len(self.adapter.layers)
        if layer + 1 < last:
            return hidden
        special = self.adapter.special
        finished = self.reducer.finish(self._tokens(hidden, self._before[last]), hidden[:, :special])
        if finished is None:
            return hidden
        self.notes[last] = finished.notes
        self._final = self._before[min(self._before)]
        # It is as long as the longest clip, but the batch may be padded further.
        missing = special + self._final.patch.shape[1] - finished.hidden.shape[1]
        return pad(finished.hidden, (0, 0, 0, missing)) if missing else finished.hidden

    def _first(self, tokens: Tensor) -> TokenState:
        count = tokens.shape[1]
        self._grid = self.adapter.grid_of(count)
        patch = torch.arange(count, device=tokens.device).expand(tokens.shape[0], -1)
        lengths = self.adapter.lengths(self.inputs)
        self._whole = lengths = None if lengths is None else unless_all(lengths, count)
        if lengths is None:
            return TokenState(patch)
        return TokenState(torch.where(patch < lengths[:, None], patch, NO_PATCH), lengths=lengths)

    def _tokens(self, hidden: Tensor, state: TokenState) -> Tokens:
        return Tokens(hidden[:, self.adapter.special :], state.patch, state.size, state.policy, state.memory)

    def _attention_call(self, layer: int, state: TokenState, dtype: torch.dtype) -> AttentionCall:
        real, policy = state.real, state.policy
        return AttentionCall(
            implementation=self.adapter.implementation,
            eager=self.eager,
            special=self.adapter.special,
            bias=self._bias(state, real, torch.promote_types(dtype, torch.float32)),
            voters=None if real is None else real.float(),
            policy=None if policy is None else pad(policy, (self.adapter.special, 0), value=1.0),
            wants=self.reducer.needs(Place(layer)) & FROM_ATTENTION,
            differentiable=self.reducer.needs_gradient,
        )

    def _bias(self, state: TokenState, real: Tensor | None, dtype: torch.dtype) -> Tensor | None:
        """Bias of the logits of each key, (batch, 1, 1, special + n): log(size), and -inf for filler."""
        bias = None
        if state.size is not None and self.reducer.proportional:
            bias = state.size.to(dtype).log()
        if real is not None:
            bias = torch.zeros_like(real, dtype=torch.float32) if bias is None else bias
            bias = bias.masked_fill(~real, float("-inf"))
        return None if bias is None else pad(bias, (self.adapter.special, 0))[:, None, None, :]

    def _apply(
        self, place: Place, hidden: Tensor, state: TokenState, results: dict[str, Tensor]
    ) -> tuple[Tensor, TokenState]:
        """Let the method reduce the tokens, and record the result.

        Args:
            place: where in which block.
            hidden: (batch, special + n, width).
            state: state of the tokens.
            results: results of the attention, by name.
        """
        self._check_gradient()
        special = hidden[:, : self.adapter.special]
        tokens, evidence = self._tokens(hidden, state), self._evidence(place, special, state, results)
        if state.lengths is None and self._whole is None:
            reduction = self.reducer.reduce(tokens, evidence)
        else:
            reduction = self._reduce_rows(tokens, evidence, state.lengths)
        left, lengths = reduction.tokens, reduction.lengths
        lengths = None if lengths is None else unless_all(lengths, left.count)
        self.notes[place.layer] = reduction.notes
        self.stages[place] = Stage(reduction.kept, reduction.scores, state.patch, reduction.destination)
        return (
            torch.cat((special, left.hidden), dim=1),
            TokenState(left.patch, left.size, left.policy, left.memory, lengths),
        )

    def _check_gradient(self) -> None:
        """Raise `ValueError` if a block runs without gradients in a forward in which the method learns."""
        lost = self._with_gradient and not torch.is_grad_enabled()
        if lost and self.reducer.learns and self.adapter.encoder.training:
            raise ValueError(
                "use_reentrant=True: such checkpointing first runs a block without gradients, so the method could not "
                "learn from it; use gradient_checkpointing_enable(gradient_checkpointing_kwargs="
                '{"use_reentrant": False})'
            )

    def _reduce_rows(self, tokens: Tokens, evidence: Evidence, lengths: Tensor | None) -> Reduction:
        """Reduce rows of equal length, of clips of equal length, together, so that a method never sees filler."""
        batch, device = len(tokens.patch), tokens.patch.device
        assert self._grid is not None
        now = [tokens.count] * batch if lengths is None else lengths.tolist()
        whole = [self._grid.patches] * batch if self._whole is None else self._whole.tolist()
        rows_of: dict[tuple[int, int], list[int]] = {}
        for row, length_and_whole in enumerate(zip(now, whole, strict=True)):
            rows_of.setdefault(length_and_whole, []).append(row)
        order, parts = [], []
        for (length, patches), listed in rows_of.items():
            rows, grid = torch.tensor(listed, device=device), self.adapter.grid_of(patches)
            part_evidence = replace(evidence.take(rows, length), columns=grid.time, patches=grid.patches)
            parts.append(self.reducer.reduce(tokens.take(rows, length), part_evidence))
            order.append(rows)
        return join(parts, torch.cat(order).argsort(), tokens.count)

    def _evidence(self, place: Place, special: Tensor, state: TokenState, results: dict[str, Tensor]) -> Evidence:
        assert self._grid is not None
        parts: dict[str, Any] = dict(results)
        for name, statistic in self._statistics(place, state):
            gathered = statistic.gather(1, state.patch.clamp_min(0))
            # A fused token is not a patch of the input, so it gets the average; it is no padding.
            average = False if statistic.dtype == torch.bool else self._average(statistic)
            parts[name] = torch.where(state.patch < 0, average, gathered)
        return Evidence(
            layer=place.layer,
            after=place.after,
            turn=place.turn,
            depth=len(self.adapter.layers),
            patch=state.patch,
            column=self._grid.column(state.patch),
            columns=self._grid.time,
            row=self._grid.row(state.patch),
            patches=self._grid.patches,
            special=special,
            learned=self.reducer.learned,
            training=self.adapter.encoder.training,
            **parts,
        )

    def _sinks(self, state: TokenState) -> Tensor:
        """Which patches are attention sinks, (batch, patches) booleans."""
        assert self._grid is not None
        sinks = self.adapter.sinks
        if sinks is None:
            sinks = torch.zeros(self._grid.patches, dtype=torch.bool)
        return sinks.to(state.patch.device).expand(len(state.patch), -1)

    def _average(self, statistic: Tensor) -> Tensor:
        """Mean over a clip's patches without padding: (batch, patches) → (batch, 1)."""
        if self._whole is None:
            return statistic.mean(dim=1, keepdim=True)
        real = torch.arange(statistic.shape[1], device=statistic.device) < self._whole[:, None]
        return statistic.where(real, 0.0).sum(dim=1, keepdim=True) / self._whole[:, None]

    def _statistics(self, place: Place, state: TokenState) -> Iterator[tuple[str, Tensor]]:
        needs = self.reducer.needs(place)
        if needs & {"intensity", "variation"}:
            pair = self.adapter.patch_statistics(self.inputs)
            yield from ((n, s) for n, s in zip(("intensity", "variation"), pair, strict=True) if n in needs)
        if "padding" in needs:
            yield "padding", self.adapter.padding(self.inputs)
        if "sinks" in needs:
            yield "sinks", self._sinks(state)
