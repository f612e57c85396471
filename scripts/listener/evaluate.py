"""Whether a listener's answers are right, and what guessing would get."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import Qwen2AudioProcessor

import audioprune as ap
from audioprune.audio.files import SAMPLE_RATE

from .ear import hears_timelines
from .model import prompt
from .scenes import Scene, make_scenes, read_recordings
from .timelines import Timeline, make_timelines, read_voices


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
        # The padding is masked. To skip it changes no answer.
        with ap.prune(model, ap.PaddingMerge()):
            written = model.generate(**inputs)[:, inputs["input_ids"].shape[1] :]
        said += [text.strip() for text in processor.batch_decode(written, skip_special_tokens=True)]
    return said


def evaluate(
    model: Any, processor: Qwen2AudioProcessor, scenes: Sequence[Scene | Timeline], batch_size: int = 20
) -> dict[str, list[bool]]:
    """Kind of question → whether each scene's answer is right, word for word."""
    right: dict[str, list[bool]] = {}
    for i, kind in enumerate(kinds(scenes)):
        asked = [scene.questions[i] for scene in scenes]
        said = answers(model, processor, [scene.waveform for scene in scenes], [q.text for q in asked], batch_size)
        right[kind] = [text == question.answer for text, question in zip(said, asked)]
    return right


def kinds(scenes: Sequence[Scene | Timeline]) -> list[str]:
    """The kinds of question that are asked of each scene, in their order."""
    return [question.kind for question in scenes[0].questions]


def held_out_sets(
    processor: Qwen2AudioProcessor, data: Path, part: str, series: Sequence[int], scenes: int
) -> list[list[Scene | Timeline]]:
    """Sets of the scenes that a listener is asked about, one for each of `series`. data: folder of the recordings."""
    if hears_timelines(processor):
        voices = read_voices(data, part)
        return [list(make_timelines(voices, seed, scenes)) for seed in series]
    recordings = read_recordings(data, part)
    return [list(make_scenes(recordings, seed, scenes)) for seed in series]


def silenced(scenes: Sequence[Scene | Timeline]) -> list[Scene | Timeline]:
    """The same questions about silence of the same length."""
    return [replace(scene, waveform=np.zeros_like(scene.waveform)) for scene in scenes]


def blind(scenes: Sequence[Scene | Timeline]) -> dict[str, float]:
    """The best that one fixed answer can do on these scenes, as shares of them. Where the question names two answers,
    it is the better of giving always the one mentioned first, and always the other."""
    shares = {}
    for i, kind in enumerate(kinds(scenes)):
        asked = [scene.questions[i] for scene in scenes]
        said = [q.choices.index(q.answer) if q.choices else q.answer for q in asked]
        shares[kind] = max(said.count(answer) for answer in set(said)) / len(said)
    return shares
