"""The training behind the real ear: an adapter and a small language model, on what the frozen encoder heard."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers import Qwen2AudioForConditionalGeneration, Qwen2AudioProcessor

from .batches import IGNORED, Batch, prompts
from .forward import answer_logits, read
from .heard import HEADS, Heard, token_targets
from .recompose import Parts
from .resumable import ResumableTraining
from .timelines import KINDS, SPOKEN

SOME = 1500
"""Timelines by which the adapter is prepared."""
_OTHERS = 0.2
"""Strength of the adapter's random rows, in that of its first ones."""


@dataclass(frozen=True)
class EarSettings:
    """How the adapter and the language model are trained.

    `ramp`: steps over which the learning rate rises; `token_weight`: of the tokens' loss beside the answers'; `drop`:
    share of the tokens' numbers that take their mean; `thinned`: share of the batches in which a random part of each
    sound's tokens is left, from `least` to all, and mostly a small part; `average`: decay of the running average of the
    weights; `recomposed`: share of the timelines that are made of parts of others (see `recompose.py`);
    `shift`: how far their voices and sources are changed.
    """

    steps: int = 3000
    batch: int = 16
    peak_lr: float = 1.5e-3
    ramp: int = 100
    weight_decay: float = 0.05
    token_weight: float = 0.3
    drop: float = 0.15
    thinned: float = 0.75
    least: float = 0.08
    recomposed: float = 0.7
    shift: float = 0.5
    average: float = 0.99
    seed: int = 0

    @property
    def total(self) -> int:
        """Steps in all."""
        return self.steps


class EarTraining(ResumableTraining):
    """Trains all of a listener but its encoder. Batches and what is dropped are functions of the seed and the step.

    A language model that has only met whole sounds takes a sound of half the tokens for another one. Large ones have
    met sounds of every length and pace. This one meets gaps, at random, so that no method of choosing is favoured but
    the random one.
    """

    settings: EarSettings

    def __init__(
        self,
        model: Qwen2AudioForConditionalGeneration,
        processor: Qwen2AudioProcessor,
        heard: Sequence[Heard],
        settings: EarSettings,
    ) -> None:
        torch.manual_seed(settings.seed)
        super().__init__(model, nn.Linear(model.lm_head.in_features, sum(HEADS)), settings)
        self.processor, self.heard, self.parts = processor, heard, Parts(heard)
        self.mean = prepare_adapter(model, heard[:SOME])
        learning = [p for p in (*model.parameters(), *self.heads.parameters()) if p.requires_grad]
        self.averaged = [parameter.detach().clone() for parameter in model.parameters()]
        decayed, plain = ([p for p in learning if (p.ndim > 1) == wide] for wide in (True, False))
        groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": plain, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=settings.peak_lr, betas=(0.9, 0.98))

    def batch(self, step: int) -> Batch:
        """The timelines of a step with new questions, whole or thinned."""
        settings = self.settings
        rng = np.random.default_rng((settings.seed, 1, step))
        chosen = [
            self.parts.recompose(rng, settings.shift) if rng.random() < settings.recomposed else self.heard[i]
            for i in self._indices(step)
        ]
        thin = rng.random() < settings.thinned
        # One share for a batch: rows of similar length have little filler.
        share = settings.least + (1 - settings.least) * rng.random() ** 2 if thin else 1.0
        return make_heard_batch(self.processor, chosen, rng, share)

    def _indices(self, step: int) -> list[int]:
        """Each timeline comes once in an epoch, in an order of its own."""
        count, size = len(self.heard), self.settings.batch
        places = range(step * size, (step + 1) * size)
        epochs = {place // count for place in places}
        orders = {epoch: np.random.default_rng((self.settings.seed, 2, epoch)).permutation(count) for epoch in epochs}
        return [int(orders[place // count][place % count]) for place in places]

    def step(self, batch: Batch | None = None) -> dict[str, float]:
        """One update. batch: that of this step, where it was made ahead. Returns the losses."""
        settings, step = self.settings, self.done
        batch = self.batch(step) if batch is None else batch
        torch.manual_seed(settings.seed * 1_000_003 + step)
        self.model.train()
        for group in self.optimizer.param_groups:
            group["lr"] = self._lr(step)
        losses = self.losses(batch)
        self.update(losses["answer"] + settings.token_weight * losses["token"])
        return {name: float(loss.detach()) for name, loss in losses.items()}

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropies: `answer` of the answers' words, `token` of what each audio token is."""
        gone = torch.rand(batch.features.shape) < self.settings.drop
        states = read(self.model, batch, torch.where(gone, self.mean, batch.features))
        labels = batch.labels
        said = self.model.lm_head(states[labels != IGNORED])
        heard = batch.ids == self.model.config.audio_token_id
        guesses = self.heads(states[heard]).split(HEADS, dim=-1)
        targets = batch.frames[batch.frames[..., 0] != IGNORED].unbind(-1)
        token = torch.stack([F.cross_entropy(guess, target) for guess, target in zip(guesses, targets, strict=True)])
        return {"answer": F.cross_entropy(said, labels[labels != IGNORED]), "token": token.mean()}

    def _lr(self, step: int) -> float:
        settings = self.settings
        rise = min(1.0, (step + 1) / settings.ramp)
        return settings.peak_lr * rise * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / settings.steps)))


@torch.no_grad()
def prepare_adapter(model: Qwen2AudioForConditionalGeneration, heard: Sequence[Heard]) -> Tensor:
    """Have the adapter begin with a linear discriminant analysis. Returns the mean of the tokens, (width,).

    Its first rows are the directions that tell words and blocks apart best. Its others are random ones, and weaker:
    with equal ones, the language model learns voices and rooms by heart. From random rows alone it takes many times as
    long, because a few of Whisper's numbers are far larger than the rest.
    """
    tokens = torch.cat([one.tokens.float() for one in heard])
    targets = torch.cat([token_targets(one.truth, len(one.tokens)) for one in heard])
    # Of one class: each word, and each block where no word is spoken.
    classes = torch.where(targets[:, 0] < len(SPOKEN), targets[:, 0], len(SPOKEN) + targets[:, 1])
    present, classes = classes.unique(return_inverse=True)
    counts = torch.bincount(classes)[:, None]
    means = torch.zeros(len(present), tokens.shape[1]).index_add_(0, classes, tokens) / counts
    white = _inverse_root((tokens - means[classes]).T.cov())
    _, _, directions = torch.linalg.svd((means - means.mean(0)) @ white, full_matrices=False)
    linear = model.model.multi_modal_projector.linear
    rows = directions[: min(len(present) - 1, linear.out_features // 2)] @ white
    nn.init.normal_(linear.weight, std=linear.in_features**-0.5)
    others = linear.weight[len(rows) :] / (tokens.std(0) + 1e-5)
    strengths = torch.tensor([1.0] * len(rows) + [_OTHERS] * len(others))
    linear.weight.copy_(torch.cat((rows, others)))
    linear.weight.mul_((strengths / (tokens @ linear.weight.T).std(0))[:, None])
    mean = tokens.mean(0)
    linear.bias.copy_(-linear.weight @ mean)
    return mean


def _inverse_root(covariance: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(covariance)
    # The smallest are noise, and would become the largest.
    return vectors @ (values.clamp_min(0) + 1e-2 * values.mean()).rsqrt().diag() @ vectors.T


def make_heard_batch(
    processor: Qwen2AudioProcessor, heard: Sequence[Heard], rng: np.random.Generator, share: float = 1.0
) -> Batch:
    """Timelines with new questions. share: of each sound's tokens that are left; in three timelines of four the
    positions close up over the gaps."""
    left = [_left(len(one.tokens), share, rng) for one in heard]
    questions = [one.truth.questions(rng) for one in heard]
    ids, positions, labels, question = prompts(processor.tokenizer, [len(part) for part in left], questions)
    for row, part, one in zip(positions, left, heard, strict=True):
        if share < 1 and rng.random() >= 0.75:
            # The mark before the sound has position 0.
            row[1 : len(part) + 1] = part + 1
            row[len(part) + 1 :] += len(one.tokens) - len(part)
    return Batch(
        features=pad_sequence([one.tokens[part].float() for one, part in zip(heard, left)], batch_first=True),
        lengths=torch.tensor([len(part) for part in left]),
        ids=ids,
        positions=positions,
        labels=labels,
        question=question,
        frames=pad_sequence(
            [token_targets(one.truth, len(one.tokens))[part] for one, part in zip(heard, left)],
            batch_first=True,
            padding_value=IGNORED,
        ),
    )


def _left(tokens: int, share: float, rng: np.random.Generator) -> Tensor:
    """Indices of the tokens that are left, at least one."""
    if share >= 1:
        return torch.arange(tokens)
    left = torch.from_numpy(np.flatnonzero(rng.random(tokens) < share))
    return left if len(left) else torch.tensor([tokens // 2])


@torch.no_grad()
def right_answers(
    model: Qwen2AudioForConditionalGeneration,
    processor: Qwen2AudioProcessor,
    heard: Sequence[Heard],
    share: float = 1.0,
) -> dict[str, float]:
    """Kind of question → share of right answers. As of greedy decoding: an answer is right if each of its words is the
    likeliest one after those before it."""
    rng, right = np.random.default_rng(0), np.zeros(len(KINDS))
    for at in range(0, len(heard), 16):
        batch = make_heard_batch(processor, heard[at : at + 16], rng, share)
        labels = batch.labels
        good = torch.ones_like(labels, dtype=torch.bool)
        said = answer_logits(model, batch, batch.features).argmax(-1)
        good[labels != IGNORED] = said == labels[labels != IGNORED]
        for kind in range(len(KINDS)):
            right[kind] += float((good | (batch.question != kind + 1)).all(dim=1).sum())
    return {kind: float(found) / len(heard) for kind, found in zip(KINDS, right, strict=True)}
