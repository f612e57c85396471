"""Tokens and scores of every block of a pruned model for a batch of clips, from one forward."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..adapters.blocks.adapter import find_blocks
from ..core.pruning import Pruned, prune
from ..core.tokens import Evidence, Reduction, Tokens
from ..methods import Method

BARELY = math.nextafter(1.0, 0.0)
"""A keep rate that keeps every token, but at which the method still runs."""


@dataclass(frozen=True)
class Block:
    """One block of the model. n tokens enter its attention, and K of them leave it.

    Args:
        layer: 0-based.
        patch: (clips, n), the input patch of each token.
        attention: (clips, n), attention received from the other patches (eq. 2a).
        cls: (clips, n), attention from the CLS token (eq. 2b); None if the model has no CLS token.
        score: the one of these two by which the method ranks.
        kept: (clips, K), positions of the kept tokens among the n, ascending; None if the block does not prune.
        residual: (clips,), Frobenius norm of the block's input, special tokens included.
        attended: (clips,), Frobenius norm of its attention's output, special tokens included.
    """

    layer: int
    patch: Tensor
    attention: Tensor
    cls: Tensor | None
    score: Tensor
    kept: Tensor | None
    residual: Tensor
    attended: Tensor

    @property
    def stays(self) -> Tensor:
        """Mask of the tokens that stay, (clips, n)."""
        if self.kept is None:
            return torch.ones_like(self.patch, dtype=torch.bool)
        return torch.zeros_like(self.patch, dtype=torch.bool).scatter(1, self.kept, True)


@dataclass(frozen=True)
class Observation:
    """Results of a batch of clips at one keep rate, on the CPU in float32.

    Args:
        keep_rate: 1.0 for the unpruned model.
        clips: (batch,), numbers of the clips in the data set.
        labels: (batch, classes).
        logits: (batch, classes).
        log_mel: (batch, frames, mels), the model's input.
        intensity: (batch, patches), mean of each patch.
        variation: (batch, patches), standard deviation of each patch.
        blocks: all blocks of the model.
    """

    keep_rate: float
    clips: Tensor
    labels: Tensor
    logits: Tensor
    log_mel: Tensor
    intensity: Tensor
    variation: Tensor
    blocks: tuple[Block, ...]

    @property
    def stages(self) -> tuple[Block, ...]:
        """The blocks that prune."""
        return tuple(block for block in self.blocks if block.kept is not None)


@dataclass
class _BlockRecord:
    layer: int
    patch: Tensor
    evidence: Evidence
    kept: Tensor | None


@dataclass(frozen=True)
class ObservedMethod(Method):
    """Wraps a method and records every block. Blocks that prune reduce as before; in the others all tokens stay.

    wrapped: the method. special: whether the model has a CLS token. records: one for each block, in the order of the
    forwards.
    """

    wrapped: Method | None = None
    special: bool = False
    records: list[_BlockRecord] = field(default_factory=list, compare=False)

    @classmethod
    def wrap(cls, method: Method, special: bool) -> ObservedMethod:
        """Wrap a method."""
        return cls(method.keep_rate, method.layers, wrapped=method, special=special)

    @property
    def needs(self) -> frozenset[str]:
        assert self.wrapped is not None
        own = {"attention", "cls"} if self.special else {"attention"}
        return self.wrapped.needs | own

    def schedule(self, depth: int) -> dict[int, float]:
        assert self.wrapped is not None
        return dict.fromkeys(range(depth), BARELY) | {
            layer: min(rate, BARELY) for layer, rate in self.wrapped.schedule(depth).items()
        }

    def reduce(self, tokens: Tokens, evidence: Evidence, keep_rate: float) -> Reduction:
        assert self.wrapped is not None
        n = tokens.count
        if keep_rate == BARELY:
            everything = torch.arange(n, device=tokens.patch.device).expand(len(tokens.patch), -1)
            self.records.append(_BlockRecord(evidence.layer, tokens.patch, evidence, None))
            return Reduction(tokens, everything, torch.zeros_like(tokens.patch, dtype=torch.float32))
        reduction = self.wrapped.reduce(tokens, evidence, keep_rate)
        self.records.append(_BlockRecord(evidence.layer, tokens.patch, evidence, reduction.kept))
        return reduction


class Observer:
    """Prunes a spectrogram classifier and records its blocks: `with Observer(…) as observer`.

    method: one that keeps or drops tokens, such as `TopK`, because a merged token is not a patch. At keep rate 1.0 it
    prunes nothing. score: "attention" or "cls", the score that `Block.score` contains.
    """

    def __init__(self, model: Any, method: Method, score: str = "attention") -> None:
        self.model, self.method, self._score = model, method, score
        self._norms: dict[str, list[Tensor]] = {"residual": [], "attended": []}

    def __enter__(self) -> Observer:
        self._observed = ObservedMethod.wrap(self.method, find_blocks(self.model).has_cls)
        self._handle: Pruned = prune(self.model, self._observed)
        self._hooks = list(self._norm_hooks())
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()
        self._handle.remove()

    @torch.inference_mode()
    def __call__(self, log_mel: Tensor, clips: Tensor, labels: Tensor) -> Observation:
        """Run one forward. log_mel: (batch, frames, mels); clips: (batch,); labels: (batch, classes)."""
        self._observed.records.clear()
        for norms in self._norms.values():
            norms.clear()
        adapter = find_blocks(self.model)
        inputs = log_mel.to(self.model.device, self.model.dtype)
        logits = self.model(inputs).logits
        intensity, variation = adapter.patch_statistics({adapter.encoder.main_input_name: inputs})
        rate = self.method.keep_rate
        return Observation(
            keep_rate=float(rate if not isinstance(rate, Sequence) else rate[0]),
            clips=clips,
            labels=labels,
            logits=logits.float().cpu(),
            log_mel=log_mel.float().cpu(),
            intensity=intensity.float().cpu(),
            variation=variation.float().cpu(),
            blocks=tuple(self._block(i, records) for i, records in enumerate(self._observed.records)),
        )

    def _block(self, index: int, record: _BlockRecord) -> Block:
        attention, cls = (getattr(record.evidence, name) for name in ("attention", "cls"))
        score = cls if self._score == "cls" else attention
        assert attention is not None
        if score is None:
            raise ValueError('score is "cls", but this model has no CLS token; use "attention"')
        return Block(
            layer=record.layer,
            patch=record.patch.cpu(),
            attention=attention.float().cpu(),
            cls=None if cls is None else cls.float().cpu(),
            score=score.float().cpu(),
            kept=None if record.kept is None else record.kept.cpu(),
            residual=self._norms["residual"][index],
            attended=self._norms["attended"][index],
        )

    def _norm_hooks(self) -> Iterator[Any]:
        adapter = find_blocks(self.model)

        def record_input(layer: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
            hidden = args[0] if args else kwargs["hidden_states"]
            self._norms["residual"].append(hidden.float().flatten(1).norm(dim=1).cpu())

        def record_output(attention: nn.Module, args: tuple, output: Any) -> None:
            attended = output[0] if isinstance(output, tuple) else output
            self._norms["attended"].append(attended.float().flatten(1).norm(dim=1).cpu())

        for layer in adapter.layers:
            yield layer.register_forward_pre_hook(record_input, with_kwargs=True)
            yield adapter.attention_of(layer).register_forward_hook(record_output)
