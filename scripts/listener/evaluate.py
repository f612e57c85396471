"""Whether a listener's answers are right, and what guessing would get."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from transformers import Qwen2AudioProcessor

from audioprune.audio.files import SAMPLE_RATE

from .model import prompt
from .scenes import KINDS, Scene


@torch.no_grad()
def answers(
    model: Any, processor: Qwen2AudioProcessor, waveforms: Sequence[np.ndarray], questions: Sequence[str], batch: int
) -> list[str]:
    """What the model generates for each pair of a clip and a question, `batch` of them at a time."""
    said: list[str] = []
    for at in range(0, len(questions), batch):
        inputs = processor(
            text=[prompt(question) for question in questions[at : at + batch]],
            audio=list(waveforms[at : at + batch]),
            sampling_rate=SAMPLE_RATE,
            return_tensors="pt",
            padding=True,
        )
        written = model.generate(**inputs)[:, inputs["input_ids"].shape[1] :]
        said += [text.strip() for text in processor.batch_decode(written, skip_special_tokens=True)]
    return said


def evaluate(
    model: Any, processor: Qwen2AudioProcessor, scenes: Sequence[Scene], batch_size: int = 20
) -> dict[str, list[bool]]:
    """Kind of question → whether each scene's answer is right, word for word."""
    right: dict[str, list[bool]] = {}
    for i, kind in enumerate(KINDS):
        asked = [scene.questions[i] for scene in scenes]
        said = answers(model, processor, [scene.waveform for scene in scenes], [q.text for q in asked], batch_size)
        right[kind] = [text == question.answer for text, question in zip(said, asked)]
    return right


def silenced(scenes: Sequence[Scene]) -> list[Scene]:
    """The same questions about silence of the same length."""
    return [replace(scene, waveform=np.zeros_like(scene.waveform)) for scene in scenes]


def blind(scenes: Sequence[Scene]) -> dict[str, float]:
    """The best that one fixed answer can do on these scenes, as shares of them. Of "first" it is the better of naming
    always the one mentioned first, and always the other."""
    first = float(np.mean([scene.sounds[0].word == scene.mentioned[0] for scene in scenes]))
    shares = {"first": max(first, 1 - first)}
    for i, kind in enumerate(KINDS):
        if kind != "first":
            said = [scene.questions[i].answer for scene in scenes]
            shares[kind] = max(said.count(text) for text in set(said)) / len(said)
    return {kind: shares[kind] for kind in KINDS}
