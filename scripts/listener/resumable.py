"""A training that can be stopped after any step, and keeps a running average of its weights."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Qwen2AudioForConditionalGeneration

from audioprune.files import differences


class ResumableTraining:
    """A training that can be stopped after any step and goes on from `state()` as if it had not been.

    What it keeps is the running average of the weights. heads: what learns beside the model and is thrown away.
    settings: a dataclass with `average`, the decay of the running average. Subclasses make the `optimizer`.
    """

    optimizer: torch.optim.Optimizer

    def __init__(self, model: Qwen2AudioForConditionalGeneration, heads: nn.Module, settings: Any) -> None:
        self.model, self.heads, self.settings = model, heads, settings
        self.averaged = [parameter.detach().clone() for parameter in model.parameters()]
        self.done = 0

    def update(self, loss: Tensor) -> None:
        """One step of the optimizer, with clipped gradients."""
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_([*self.model.parameters(), *self.heads.parameters()], 1.0)
        self.optimizer.step()
        self.done += 1
        decay = min(self.settings.average, (1 + self.done) / (10 + self.done))
        with torch.no_grad():
            torch._foreach_lerp_(self.averaged, list(self.model.parameters()), 1 - decay)

    def result(self) -> Qwen2AudioForConditionalGeneration:
        """The model with the averaged weights; the training goes on with its own."""
        model = type(self.model)(self.model.config)
        model.load_state_dict(self.model.state_dict())
        model.generation_config = self.model.generation_config
        with torch.no_grad():
            for parameter, averaged in zip(model.parameters(), self.averaged):
                parameter.copy_(averaged)
        return model.eval()

    def state(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "heads": self.heads.state_dict(),
            "averaged": self.averaged,
            "optimizer": self.optimizer.state_dict(),
            "done": self.done,
            "settings": asdict(self.settings),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from a state. Raises `ValueError` if it was begun with other settings."""
        other = differences(state["settings"], asdict(self.settings))
        if other:
            raise ValueError(f"the state to resume was begun with {', '.join(other)}; finish that, or start anew")
        self.averaged, self.done = state["averaged"], state["done"]
        self._before_loading()
        self.model.load_state_dict(state["model"])
        self.heads.load_state_dict(state["heads"])
        self.optimizer.load_state_dict(state["optimizer"])

    def begin_with(self, state: dict[str, Any]) -> None:
        """Begin with the weights of another training's state, whose settings may be others."""
        self.averaged = state["averaged"]
        self.model.load_state_dict(state["model"])
        self.heads.load_state_dict(state["heads"])

    def _before_loading(self) -> None:
        """What a subclass does once `done` is known, before weights and the optimizer's state are loaded."""
