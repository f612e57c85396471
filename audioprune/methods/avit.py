"""A-ViT: every token stops when it has been through enough blocks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..core import ops
from ..core.tokens import Evidence, Finish, LossInputs, ModelShape, Reduction, Tokens
from .fates import keep_ragged
from .learned import LearnedMethod


@dataclass(frozen=True)
class AViT(LearnedMethod):
    """A-ViT (Yin et al., arXiv 2112.07658): after each block a token halts with probability h = σ(γ·x₀ − β), x₀ its
    first feature; once these sum to 1 − ε it takes no further part. What the model reads is Σ h·x over the blocks
    that a token went through, the last with whatever is left of 1.

    γ and β are the paper's. The official code trains with others: 10 and 30 for its tiny model, 10 and 75 for its small
    one. What fits depends on the features that a model begins with.

    Nothing is added to the model: it learns to use its first feature so. Special tokens are averaged alike and stay
    to the end. keep_rate is the share of the blocks that training would have an average token go through: the centre
    of the prior. In training the loss gains
    ponder · mean(blocks gone through + remainder) + prior · KL(share of halting by block ‖ normal around the centre).
    """

    gamma: float = 5.0
    beta: float = 10.0
    epsilon: float = 0.01
    ponder: float = 5e-4
    prior: float = 0.1

    before = True
    static: ClassVar[bool] = False

    @property
    def needs(self) -> frozenset[str]:
        return frozenset()

    def schedule(self, depth: int) -> dict[int, float]:
        if self.layers in (None, "all"):  # before the first block there is nothing to halt by
            return dict.fromkeys(range(1, depth), self._rate())
        return super().schedule(depth)

    def _rate(self) -> float:
        if isinstance(self.keep_rate, tuple):
            raise ValueError(f"keep_rate is {self.keep_rate}; A-ViT decides after every block, towards one share")
        return float(self.keep_rate)  # type: ignore[arg-type]

    def parts(self, shape: ModelShape) -> dict[int, nn.Module]:
        return {layer: nn.Module() for layer in self.schedule(shape.depth)}

    def count_after(self, n: int, keep_rate: float) -> int:
        return n

    def choose(self, part: Any, tokens: Tokens, evidence: Evidence, keep_rate: float) -> Reduction:
        hidden = torch.cat((evidence.special, tokens.hidden), dim=1)
        place = self._places(tokens, evidence.special.shape[1])
        memory = tokens.memory or self._begin(hidden, evidence)
        halting = (self.gamma * ops.wide(hidden[..., 0]) - self.beta).sigmoid()
        before = memory["sum"].gather(1, place)
        running = before < 1 - self.epsilon
        halts = running & (before + halting >= 1 - self.epsilon)
        weight = torch.where(halts, 1 - before, halting) * running
        after = torch.where(halts, 1.0, before + halting * running)
        memory = self._add(memory, place, weight, hidden, after)
        special = evidence.special.shape[1]
        alive = ~(after >= 1 - self.epsilon)[:, special:]
        # One token at least goes on, though it adds nothing any more.
        last = torch.zeros_like(alive).scatter(1, after[:, special:].argmin(dim=1, keepdim=True), True)
        kept, lengths = ops.positions(torch.where(alive.any(dim=1, keepdim=True), alive, last))
        share = running.sum(dim=1) / (evidence.patches + special)
        notes = {
            "running": share.float(),
            "remainder": ((1 - before) * halts).sum(dim=1) / (evidence.patches + special),
            "halting": halting[:, special:].mean(dim=1),
        }
        left = replace(keep_ragged(tokens, kept), memory=memory)
        return Reduction(left, kept, 1 - after[:, special:], lengths=lengths, notes=notes)

    def finish(self, tokens: Tokens, special: Tensor) -> Finish | None:
        if tokens.memory is None:
            return None
        hidden = torch.cat((special, tokens.hidden), dim=1)
        real = torch.cat((torch.ones_like(special[..., 0], dtype=torch.bool), tokens.patch >= 0), dim=1)
        place = self._places(tokens, special.shape[1])
        before = tokens.memory["sum"].gather(1, place)
        weight = torch.where(real & (before < 1 - self.epsilon), 1 - before, 0.0)
        memory = self._add(tokens.memory, place, weight, hidden, before)
        count = tokens.memory["sum"].shape[1]
        notes = {"running": (weight > 0).sum(dim=1) / count, "remainder": weight.sum(dim=1) / count}
        return Finish(memory["output"].to(hidden.dtype), notes)

    @staticmethod
    def _places(tokens: Tokens, special: int) -> Tensor:
        """(batch, s + n), where each token is in the memory: special tokens first, then patches."""
        first = torch.arange(special, device=tokens.patch.device).expand(tokens.patch.shape[0], -1)
        return torch.cat((first, tokens.patch.clamp_min(0) + special), dim=1)

    @staticmethod
    def _begin(hidden: Tensor, evidence: Evidence) -> dict[str, Tensor]:
        batch, count = hidden.shape[0], evidence.special.shape[1] + evidence.patches
        output = ops.wide(hidden.new_zeros(batch, count, hidden.shape[2]))
        return {"output": output, "sum": output.new_zeros(batch, count)}

    @staticmethod
    def _add(
        memory: dict[str, Tensor], place: Tensor, weight: Tensor, hidden: Tensor, after: Tensor
    ) -> dict[str, Tensor]:
        """Σ h·x and Σ h, one block further. Filler, which has no weight, shares the place of a patch: it must add."""
        gone = after - memory["sum"].gather(1, place)
        gone = torch.where(weight > 0, gone, 0.0)
        weighted = weight[..., None] * ops.wide(hidden)
        index = place[..., None].expand_as(weighted)
        return {
            "output": memory["output"].scatter_add(1, index, weighted),
            "sum": memory["sum"].scatter_add(1, place, gone),
        }

    def loss(self, learning: LossInputs) -> Tensor:
        notes = learning.notes.values()
        ponder = torch.stack([note["running"] + note["remainder"] for note in notes]).sum(dim=0).mean()
        halting = torch.stack([note["halting"].mean() for note in notes if "halting" in note])
        found = (halting / halting.sum()).clamp(0.01, 0.99)
        rate = next(iter(learning.rates.values()))
        blocks = torch.arange(1, len(halting) + 1, device=halting.device, dtype=torch.float32)
        target = (-0.5 * (blocks - rate * learning.depth).square()).softmax(dim=0)
        prior = (target * (target.clamp_min(1e-9).log() - found.log())).sum()
        return self.ponder * ponder + self.prior * prior
