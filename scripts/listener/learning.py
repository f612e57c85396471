"""The training: hearing first, then answering, then answering about sounds with gaps."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Qwen2AudioForConditionalGeneration, Qwen2AudioProcessor

from .batches import IGNORED, Batch, frame_targets, make_batch, mask_features, thinned
from .forward import answer_logits, encode, encode_windows
from .model import HEARD
from .resumable import ResumableTraining
from .scenes import DIGITS, MOST_DIGITS, Recordings, Scene, make_scene

_HEADS = (len(DIGITS) + 1, len(HEARD), MOST_DIGITS + 2, 2)


@dataclass(frozen=True)
class Settings:
    """How a listener is trained.

    `local`: for so many of the `steps` the encoder is trained alone, in windows; `warmup`: from then to here alone, but
    on the whole clip; `ramp`: steps over which the learning rate rises, of the encoder from the start and of the
    language model after the warm-up; `crowded`: the share of crowded scenes before the warm-up ends;
    `frame_weight`: of the frames' loss beside the answers'; `average`: decay of the running
    average of the weights, which is what is kept; `bfloat16`: under autocast. `thinned`: after the `steps`, so many in
    which the language model alone learns, from the averaged weights on, to answer about `thinned` sounds;
    `thinned_lr`: their peak learning rate.
    """

    steps: int = 3200
    local: int = 1200
    warmup: int = 1600
    batch: int = 16
    peak_lr: float = 1.2e-3
    ramp: int = 200
    weight_decay: float = 0.05
    crowded: float = 0.8
    frame_weight: float = 0.3
    average: float = 0.99
    bfloat16: bool = True
    seed: int = 0
    thinned: int = 900
    thinned_lr: float = 6e-4

    @property
    def total(self) -> int:
        """Steps in all."""
        return self.steps + self.thinned


class ListenerTraining(ResumableTraining):
    """The training of the listener that hears with an encoder of our own.

    Scenes, masks and dropout are functions of the seed and the step.
    """

    settings: Settings

    def __init__(
        self,
        model: Qwen2AudioForConditionalGeneration,
        processor: Qwen2AudioProcessor,
        recordings: Recordings,
        settings: Settings,
    ) -> None:
        # Plain attention: under bfloat16 on a CPU the backward of SDPA takes half as long again.
        model.set_attn_implementation("eager")
        torch.manual_seed(settings.seed)
        heads = nn.Linear(model.model.audio_tower.config.d_model, sum(_HEADS))
        super().__init__(model, heads, settings)
        self.processor, self.recordings = processor, recordings
        # That no digit is spoken is soon learnt, and then most of the frames.
        self.digit_weight = torch.tensor([1.0] * len(DIGITS) + [0.3])
        self.optimizer = torch.optim.AdamW(self._groups(), lr=settings.peak_lr, betas=(0.9, 0.98))

    def _groups(self) -> list[dict[str, Any]]:
        tower = self.model.model.audio_tower
        hearing = [*tower.parameters(), *self.heads.parameters()]
        known = {id(parameter) for parameter in hearing}
        speaking = [parameter for parameter in self.model.parameters() if id(parameter) not in known]
        return [
            {
                "params": [p for p in part if p.requires_grad and (p.ndim > 1) == decayed],
                "weight_decay": self.settings.weight_decay * decayed,
                "begin": begin,
            }
            for part, begin in ((hearing, 0), (speaking, self.settings.warmup))
            for decayed in (True, False)
        ]

    def _begin_thinning(self) -> None:
        """From the averaged weights on, with an encoder that stays as it is."""
        with torch.no_grad():
            for parameter, averaged in zip(self.model.parameters(), self.averaged):
                parameter.copy_(averaged)
        for parameter in (*self.model.model.audio_tower.parameters(), *self.heads.parameters()):
            parameter.requires_grad_(False)
            parameter.grad = None  # an old gradient would count in the norm that is clipped
        learning = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(
            [{"params": learning, "begin": self.settings.steps}],
            lr=self.settings.thinned_lr,
            betas=(0.9, 0.98),
            weight_decay=self.settings.weight_decay,
        )

    def batch(self, step: int) -> Batch:
        """The scenes of a step, varied, and masked or thinned."""
        settings, warming = self.settings, step < self.settings.warmup
        rng = np.random.default_rng((settings.seed, 1, step))
        scenes = []
        for i in range(settings.batch):
            crowded, index = warming and rng.random() < settings.crowded, step * settings.batch + i
            scenes.append(make_scene(self.recordings, settings.seed, index, vary=True, crowded=crowded))
        batch = make_batch(self.processor, [_answerable(scene) for scene in scenes] if warming else scenes)
        if warming:
            batch = replace(batch, frames=torch.stack([frame_targets(scene) for scene in scenes]))
        if step >= settings.steps:
            return thinned(batch, self.model.config.audio_token_id, rng)
        return replace(batch, features=mask_features(batch.features, rng))

    def step(self, batch: Batch | None = None) -> dict[str, float]:
        """One update. batch: that of this step, where it was made ahead. Returns the losses."""
        settings, step = self.settings, self.done
        batch = self.batch(step) if batch is None else batch
        torch.manual_seed(settings.seed * 1_000_003 + step)
        if step == settings.steps:
            self._begin_thinning()
        self.model.train()
        for group in self.optimizer.param_groups:
            group["lr"] = self._lr(step, group["begin"])
        if step >= settings.steps:
            losses = {"answer": self._answer_loss(batch)}
        else:
            losses = self.losses(batch, local=step < settings.local, answers=step >= settings.warmup)
        total = sum(losses[name] * (settings.frame_weight if name != "answer" else 1.0) for name in losses)
        assert isinstance(total, Tensor)
        self.update(total)
        return {name: float(loss.detach()) for name, loss in losses.items()}

    def losses(self, batch: Batch, *, local: bool = False, answers: bool = True) -> dict[str, Tensor]:
        """Cross-entropies: `digit`, `sound`, `ordinal` and `place` of the frames, and `answer`.

        local: in windows, in which the latter two frames' targets cannot be known, and are left out.
        """
        dtype = self._dtype
        with self._autocast():
            tokens = encode_windows(self.model, batch) if local else encode(self.model, batch, dtype)
            guesses = self.heads(tokens).float().split(_HEADS, dim=-1)
            said = answer_logits(self.model, batch, tokens, dtype).float() if answers else None
        names = ("digit", "sound") if local else ("digit", "sound", "ordinal", "place")
        weights = (self.digit_weight, None, None, None)
        losses = {
            name: F.cross_entropy(guess.transpose(1, 2), target, weight, ignore_index=IGNORED)
            for name, guess, target, weight in zip(names, guesses, batch.frames.unbind(-1), weights)
        }
        if said is not None:
            losses["answer"] = F.cross_entropy(said, batch.labels[batch.labels != IGNORED])
        return losses

    def _answer_loss(self, batch: Batch) -> Tensor:
        """Of the language model alone."""
        with self._autocast():
            with torch.no_grad():
                tokens = encode(self.model, batch, self._dtype)
            said = answer_logits(self.model, batch, tokens, self._dtype).float()
        return F.cross_entropy(said, batch.labels[batch.labels != IGNORED])

    @property
    def _dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.settings.bfloat16 else torch.float32

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        return torch.autocast("cpu", self._dtype) if self.settings.bfloat16 else contextlib.nullcontext()

    def _lr(self, step: int, begin: int) -> float:
        """A ramp from `begin` on, under one cosine over all steps, and under another over those with thinned sounds."""
        settings = self.settings
        if step >= settings.steps:
            done = step - settings.steps
            rise = min(1.0, (done + 1) / 50)
            return settings.thinned_lr * rise * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done / settings.thinned)))
        rise = min(1.0, max(0, step - begin + 1) / settings.ramp)
        return settings.peak_lr * rise * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / settings.steps)))

    def _before_loading(self) -> None:
        if self.done > self.settings.steps:
            self._begin_thinning()


def _answerable(scene: Scene) -> Scene:
    """A crowded scene's questions are not asked, but need words to be laid out."""
    return replace(scene, digits=scene.digits[:MOST_DIGITS])
