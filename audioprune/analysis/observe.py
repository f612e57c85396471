"""What every block of a pruned model saw of a batch of clips, from one forward."""

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
"""A keep rate at which every token stays, but at which the method is asked."""


@dataclass(frozen=True)
class Block:
    """One block of the model. n tokens entered its attention, K of them left it.

    layer: 0-based. patch: (clips, n), the input patch of each token. attention: (clips, n), received from the other
    patches (eq. 2a); cls: (clips, n), from the CLS token (eq. 2b), None where the model has none. score: the one of the
    two by which the method ranks. kept: (clips, K), positions among the n that stayed, ascending, None where the block
    does not prune. residual, attended: (clips,), Frobenius norms of the block's input and of its attention's output,
    special tokens included.
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
        """(clips, n) booleans: which tokens go on."""
        if self.kept is None:
            return torch.ones_like(self.patch, dtype=torch.bool)
        return torch.zeros_like(self.patch, dtype=torch.bool).scatter(1, self.kept, True)


@dataclass(frozen=True)
class Observation:
    """A batch of clips through a model at one keep rate, on the CPU in float32.

    keep_rate: 1.0 for the unpruned model. clips: (batch,) numbers of the clips in the data set. labels, logits:
    (batch, classes). log_mel: (batch, frames, mels), as the model takes it. intensity, variation: (batch, patches),
    mean and standard deviation of each patch. blocks: of the whole depth.
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
class _Seen:
    layer: int
    patch: Tensor
    evidence: Evidence
    kept: Tensor | None


@dataclass(frozen=True)
class Observed(Method):
    """Another method, looked at in every block: it reduces as ever where it prunes, and elsewhere all tokens stay.

    of: the method. special: whether the model has a CLS token. seen: what it was asked, in order, each forward's after
    the last's.
    """

    of: Method | None = None
    special: bool = False
    seen: list[_Seen] = field(default_factory=list, compare=False)

    @classmethod
    def watching(cls, method: Method, special: bool) -> Observed:
        """A method under observation."""
        return cls(method.keep_rate, method.layers, of=method, special=special)

    @property
    def needs(self) -> frozenset[str]:
        assert self.of is not None
        own = {"attention", "cls"} if self.special else {"attention"}
        return self.of.needs | own

    def schedule(self, depth: int) -> dict[int, float]:
        assert self.of is not None
        return dict.fromkeys(range(depth), BARELY) | {
            layer: min(rate, BARELY) for layer, rate in self.of.schedule(depth).items()
        }

    def reduce(self, tokens: Tokens, evidence: Evidence, keep_rate: float) -> Reduction:
        assert self.of is not None
        n = tokens.count
        if keep_rate == BARELY:
            everything = torch.arange(n, device=tokens.patch.device).expand(len(tokens.patch), -1)
            self.seen.append(_Seen(evidence.layer, tokens.patch, evidence, None))
            return Reduction(tokens, everything, torch.zeros_like(tokens.patch, dtype=torch.float32))
        reduction = self.of.reduce(tokens, evidence, keep_rate)
        self.seen.append(_Seen(evidence.layer, tokens.patch, evidence, reduction.kept))
        return reduction


class Observer:
    """A classifier of spectrograms, pruned by a method, under observation: `with Observer(…) as observer`.

    method: one that keeps or forgets tokens (`TopK` and its like), since a merged token is no patch; at keep rate 1.0
    it prunes nothing. score: "attention" or "cls", by which the statistics rank where the method has no say.
    """

    def __init__(self, model: Any, method: Method, score: str = "attention") -> None:
        self.model, self.method, self._score = model, method, score
        self._norms: dict[str, list[Tensor]] = {"residual": [], "attended": []}

    def __enter__(self) -> Observer:
        self._observed = Observed.watching(self.method, find_blocks(self.model).has_cls)
        self._handle: Pruned = prune(self.model, self._observed)
        self._hooks = list(self._watch_norms())
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()
        self._handle.remove()

    @torch.inference_mode()
    def __call__(self, log_mel: Tensor, clips: Tensor, labels: Tensor) -> Observation:
        """log_mel: (batch, frames, mels); clips: (batch,); labels: (batch, classes)."""
        self._observed.seen.clear()
        for norms in self._norms.values():
            norms.clear()
        adapter = find_blocks(self.model)
        given = log_mel.to(self.model.device, self.model.dtype)
        logits = self.model(given).logits
        intensity, variation = adapter.patch_statistics({adapter.encoder.main_input_name: given})
        rate = self.method.keep_rate
        return Observation(
            keep_rate=float(rate if not isinstance(rate, Sequence) else rate[0]),
            clips=clips,
            labels=labels,
            logits=logits.float().cpu(),
            log_mel=log_mel.float().cpu(),
            intensity=intensity.float().cpu(),
            variation=variation.float().cpu(),
            blocks=tuple(self._block(i, seen) for i, seen in enumerate(self._observed.seen)),
        )

    def _block(self, index: int, seen: _Seen) -> Block:
        attention, cls = (getattr(seen.evidence, name) for name in ("attention", "cls"))
        score = cls if self._score == "cls" else attention
        assert attention is not None
        if score is None:
            raise ValueError('score="cls": this model has no CLS token; use "attention"')
        return Block(
            layer=seen.layer,
            patch=seen.patch.cpu(),
            attention=attention.float().cpu(),
            cls=None if cls is None else cls.float().cpu(),
            score=score.float().cpu(),
            kept=None if seen.kept is None else seen.kept.cpu(),
            residual=self._norms["residual"][index],
            attended=self._norms["attended"][index],
        )

    def _watch_norms(self) -> Iterator[Any]:
        adapter = find_blocks(self.model)

        def into(layer: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
            hidden = args[0] if args else kwargs["hidden_states"]
            self._norms["residual"].append(hidden.float().flatten(1).norm(dim=1).cpu())

        def out_of(attention: nn.Module, args: tuple, output: Any) -> None:
            attended = output[0] if isinstance(output, tuple) else output
            self._norms["attended"].append(attended.float().flatten(1).norm(dim=1).cpu())

        for layer in adapter.layers:
            yield layer.register_forward_pre_hook(into, with_kwargs=True)
            yield adapter.attention_of(layer).register_forward_hook(out_of)
