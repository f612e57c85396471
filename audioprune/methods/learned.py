"""What methods with learned predictors share: where their weights come from, and that they must have been trained."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ..core import ops
from ..core.tokens import Evidence, ModelShape, Reduction, Tokens
from .base import Method


class UntrainedError(RuntimeError):
    """A method that learns was asked to choose before it has learnt."""


class Learned(nn.Module):
    """What a method learns: one part for each pruned layer, and whether they were trained at all."""

    trained: Tensor

    def __init__(self, parts: dict[int, nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleDict({str(layer): part for layer, part in parts.items()})
        self.register_buffer("trained", torch.zeros(1))

    def at(self, layer: int) -> Any:
        return self.parts[str(layer)]

    @property
    def ready(self) -> bool:
        # On the meta device, where models are counted, and under torch.export, nothing has a value.
        exporting = torch.compiler.is_compiling() and not torch.compiler.is_dynamo_compiling()
        return self.trained.is_meta or exporting or bool(self.trained)


@dataclass(frozen=True)
class LearnedMethod(Method):
    """A method whose predictors are trained with the model.

    weights: safetensors file that `Pruned.save` wrote beside `pruning.json`. None: untrained, which is for training
    alone; choosing with them raises `UntrainedError`.
    """

    learns: ClassVar[bool] = True

    weights: str | None = None

    @abstractmethod
    def parts(self, shape: ModelShape) -> dict[int, nn.Module]:
        """A module for each pruned layer."""

    def build(self, shape: ModelShape) -> Learned:
        learned = Learned(self.parts(shape))
        if self.weights is not None:
            _load(learned, Path(self.weights))
        return learned

    def reduce(self, tokens: Tokens, evidence: Evidence, keep_rate: float) -> Reduction:
        learned = evidence.learned
        assert isinstance(learned, Learned)
        if evidence.training:
            with torch.no_grad():
                learned.trained.fill_(1)
        elif not learned.ready:
            raise UntrainedError(
                f"{type(self).__name__} chooses tokens by what it has learnt, and it has learnt nothing yet: train the "
                "model with it (audioprune train), or give weights=… of a training"
            )
        return self.choose(learned.at(evidence.layer), tokens, evidence, keep_rate)

    @abstractmethod
    def choose(self, part: Any, tokens: Tokens, evidence: Evidence, keep_rate: float) -> Reduction:
        """`Method.reduce`, given the layer's part."""


def _load(learned: Learned, path: Path) -> None:
    """Raises `ValueError` that names the file where it does not hold what the method learns on this model."""
    try:
        found = load_file(path)
    except FileNotFoundError:
        raise ValueError(f"weights: no such file as {path}; it belongs beside the pruning.json that names it") from None
    except Exception as error:  # safetensors has an exception of its own for each kind of damage
        raise ValueError(f"{path}: not a safetensors file ({error})") from error
    try:
        learned.load_state_dict(found)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        reason = reason if len(reason) < 300 else f"{reason[:300]} …"
        raise ValueError(f"{path}: made for another method, model or choice of layers ({reason})") from error


def straight_through(log_probability: Tensor) -> Tensor:
    """(batch, n, 2) log-probabilities of keep and drop → (batch, n), a Gumbel draw of 1 (keep) or 0, whose gradient is
    the softmax's."""
    return nn.functional.gumbel_softmax(ops.wide(log_probability), hard=True)[..., 0]


def one_at_least(kept: Tensor, before: Tensor, scores: Tensor) -> Tensor:
    """(batch, n) zeros and ones; where a clip has no one left, the best token of those before stays: the mean of a clip
    without tokens is no number."""
    ranked = scores.detach().masked_fill(before.detach() < 0.5, float("-inf"))
    best = torch.zeros_like(kept).scatter(1, ranked.argmax(dim=1, keepdim=True), 1.0)
    return kept + best * (kept.detach().sum(dim=1, keepdim=True) < 0.5)


def policy_of(tokens: Tokens) -> Tensor:
    """(batch, n), 1 for every token where no policy is there yet."""
    return torch.ones_like(tokens.patch, dtype=torch.float32) if tokens.policy is None else tokens.policy


def everywhere(tokens: Tokens) -> Tensor:
    """(batch, n) positions of all tokens."""
    return torch.arange(tokens.count, device=tokens.patch.device).expand_as(tokens.patch)
