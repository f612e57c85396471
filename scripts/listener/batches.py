"""Scenes as batches: a sound once, and after it each question with its answer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import Qwen2AudioProcessor, WhisperFeatureExtractor

from audioprune.audio.files import SAMPLE_RATE

from .model import HEARD, SECONDS
from .scenes import DIGITS, MOST_DIGITS, Question, Scene

TOKEN_SECONDS = 0.04
"""An audio token: four frames of 10 ms."""
IGNORED = -100
"""The target of what is not asked."""


def log_mel(extractor: WhisperFeatureExtractor, waveforms: Sequence[np.ndarray]) -> Tensor:
    """(clips, mels, 1000) as the extractor makes them, at half of its time."""
    padded = torch.zeros(len(waveforms), extractor.n_samples)
    for row, waveform in zip(padded, waveforms):
        row[: len(waveform)] = torch.from_numpy(waveform[: extractor.n_samples])
    window = torch.hann_window(extractor.n_fft)
    spectrum = torch.stft(padded, extractor.n_fft, extractor.hop_length, window=window, return_complex=True)[..., :-1]
    power = torch.from_numpy(extractor.mel_filters).float().T @ torch.view_as_real(spectrum).square().sum(-1)
    level = power.clamp(min=1e-10).log10()
    return (torch.maximum(level, level.amax((1, 2), keepdim=True) - 8) + 4) / 4


def audio_tokens(samples: int) -> tuple[int, int]:
    """How many encoder positions, and after pooling audio tokens, are real in a clip of so many samples."""
    positions = (math.ceil(samples / (SAMPLE_RATE // 100)) - 1) // 2 + 1
    return positions, (positions - 2) // 2 + 1


def frame_targets(scene: Scene, tokens: int = SECONDS * 25) -> Tensor:
    """(tokens, 4) int64, of each audio token: the digit (10: none), the sound, the how-manyth digit (0: none; 5: any
    later one), and whether the second sound has begun. −100 where the clip has ended."""
    real = min(tokens, audio_tokens(len(scene.waveform))[1])
    times = (torch.arange(real) + 0.5) * TOKEN_SECONDS
    targets = torch.full((tokens, 4), IGNORED)
    targets[:real, 0], targets[:real, 2] = len(DIGITS), 0
    for i, event in enumerate(scene.digits):
        said = (times >= event.start) & (times < event.end)
        targets[:real, 0][said], targets[:real, 2][said] = DIGITS.index(event.word), min(i, MOST_DIGITS) + 1
    second = times >= scene.sounds[1].start
    words = torch.tensor([HEARD.index(event.word) for event in scene.sounds])
    targets[:real, 1], targets[:real, 3] = words[second.long()], second.long()
    return targets


@dataclass(frozen=True)
class Batch:
    """Scenes with all their questions: the sound once, and after it each question with its answer.

    No question sees another, and each stands at the positions at which it would stand alone: the answers are those of
    one prompt per question, at a third of the work.

    `features`: (scenes, mels, 1000); `lengths`: (scenes,) real encoder positions; `ids`, `positions`, `labels`,
    `question`: (scenes, length), labels −100 but for answers, `question` 0 for the sound, 1 … for the questions and
    −1 for filler; `frames`: (scenes, 250, 4), see `frame_targets`. `read`: (scenes, length) booleans, False for what
    the language model does not get to read; None where it reads all.
    """

    features: Tensor
    lengths: Tensor
    ids: Tensor
    positions: Tensor
    labels: Tensor
    question: Tensor
    frames: Tensor
    read: Tensor | None = None


def make_batch(processor: Qwen2AudioProcessor, scenes: Sequence[Scene]) -> Batch:
    tokens = [audio_tokens(len(scene.waveform))[1] for scene in scenes]
    ids, positions, labels, question = prompts(processor.tokenizer, tokens, [scene.questions for scene in scenes])
    return Batch(
        features=log_mel(processor.feature_extractor, [scene.waveform for scene in scenes]),
        lengths=torch.tensor([audio_tokens(len(scene.waveform))[0] for scene in scenes]),
        ids=ids,
        positions=positions,
        labels=labels,
        question=question,
        frames=torch.stack([frame_targets(scene) for scene in scenes]),
    )


def prompts(
    tokenizer: Any, tokens: Sequence[int], questions: Sequence[Sequence[Question]]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`ids`, `positions`, `labels` and `question` of a `Batch`. tokens: audio tokens of each scene; questions: those
    about each."""
    rows = [_row(tokenizer, count, asked) for count, asked in zip(tokens, questions, strict=True)]
    length = max(len(row) for row in rows)
    filler = np.array([tokenizer.pad_token_id, 0, IGNORED, -1])
    table = np.stack([np.concatenate((row, np.tile(filler, (length - len(row), 1)))) for row in rows])
    ids, positions, labels, question = torch.from_numpy(table).unbind(-1)
    return ids, positions, labels, question


def _row(tokenizer: Any, tokens: int, questions: Sequence[Question]) -> np.ndarray:
    """(length, 4): id, position, label, question."""
    sound = tokenizer(f"<|audio_bos|>{'<|AUDIO|>' * tokens}<|audio_eos|>").input_ids
    rows = [(token, i, IGNORED, 0) for i, token in enumerate(sound)]
    for number, question in enumerate(questions, 1):
        asked = tokenizer(question.text).input_ids
        answer = [*tokenizer(question.answer).input_ids, tokenizer.eos_token_id]
        # The last word of the question predicts the first of the answer, and the end is predicted, not read.
        read, labels = asked + answer[:-1], [IGNORED] * (len(asked) - 1) + answer
        rows += [(token, len(sound) + i, label, number) for i, (token, label) in enumerate(zip(read, labels))]
    return np.array(rows)


def thinned(batch: Batch, audio_token: int, rng: np.random.Generator, least: float = 0.1) -> Batch:
    """The batch with only some of each sound's tokens read: each with a probability that is drawn for its scene from
    `least` to 1. In three scenes of four what follows closes up over the gaps.

    A language model that has only met whole sounds takes a sound of half the tokens for another one. Large ones have
    met sounds of every length and pace; this one meets gaps, at random, so that no method of choosing is favoured but
    the random one.
    """
    heard = batch.ids == audio_token
    share = torch.from_numpy(rng.uniform(least, 1.0, (len(heard), 1)))
    read = (torch.from_numpy(rng.random(heard.shape)) < share) | ~heard
    gone = (~read).long().cumsum(dim=1)
    closed = torch.from_numpy(rng.random((len(heard), 1)) < 0.75)
    return replace(batch, read=read, positions=batch.positions - gone * closed)


def mask_features(features: Tensor, rng: np.random.Generator) -> Tensor:
    """SpecAugment (arXiv 1904.08779) on (scenes, mels, frames): in each, two bands of up to 8 channels and three
    stretches of up to 80 ms take the clip's mean."""
    features = features.clone()
    for clip in features:
        mean = clip.mean()
        for axis, count, widest in ((0, 2, 8), (1, 3, 8)):
            for _ in range(count):
                width = int(rng.integers(widest + 1))
                clip.narrow(axis, int(rng.integers(clip.shape[axis] - width + 1)), width).fill_(mean)
    return features
