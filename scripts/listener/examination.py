"""Questions about held-out scenes, asked of a listener by many methods. Each sound is encoded once."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

import audioprune as ap
from audioprune.adapters.audio_lm.prompts import find_runs
from audioprune.adapters.audio_lm.shortening import EncodedPrompt
from audioprune.audio.files import SAMPLE_RATE
from audioprune.methods import Method

from .batches import audio_tokens
from .evaluate import blind, kinds, silenced
from .model import prompt
from .scenes import Scene
from .timelines import Timeline

BATCH = 20
"""Scenes that are asked about at once."""


@dataclass(frozen=True)
class _Sheet:
    """One kind of question about some scenes of a set. `encoded`: up to the language model, with the first kind of
    question."""

    kind: str
    number: int
    inputs: dict[str, Tensor]
    answers: list[str]
    encoded: EncodedPrompt
    first_ids: Tensor


class Examination:
    """The held-out questions of all sets.

    What is the same for every method and question is computed once: the encoder, with its last attention.

    sets: scenes for each set. batch: scenes that are asked about at once.
    """

    def __init__(self, model: Any, processor: Any, sets: Sequence[Sequence[Scene | Timeline]], batch: int = BATCH):
        self.model, self.processor, self.kinds, self._sets = model, processor, kinds(sets[0]), len(sets)
        self._sheets: list[_Sheet] = []
        # This method looks at everything that a method can look at.
        with ap.prune(model, ap.TopK(0.5, dropped="merge")) as handle, torch.no_grad():
            for number, scenes in enumerate(sets):
                for at in range(0, len(scenes), batch):
                    self._sheets += self._sheets_of(scenes[at : at + batch], number, handle.attachment)

    def _sheets_of(self, scenes: Sequence[Scene | Timeline], number: int, attachment: Any) -> list[_Sheet]:
        words = [prompt(scene.questions[0].text) for scene in scenes]
        sounds = [scene.waveform for scene in scenes]
        given = {"sampling_rate": SAMPLE_RATE, "return_tensors": "pt", "padding": True}
        first = dict(self.processor(text=words, audio=sounds, **given))
        encoded, sheets = attachment.encode(first), []
        for i, kind in enumerate(self.kinds):
            texts = [_expanded(scene, i) for scene in scenes]
            asked = first | dict(self.processor.tokenizer(texts, padding=True, return_tensors="pt"))
            answers = [scene.questions[i].answer for scene in scenes]
            sheets.append(_Sheet(kind, number, asked, answers, encoded, first["input_ids"]))
        return sheets

    def accuracy(self, method: Method | None = None, positions: str = "renumber") -> dict[str, list[float]]:
        """Return kind of question → share of right answers on each set. method: None leaves the model unpruned."""
        if method is None:
            return self._ask(None)
        with ap.prune(self.model, method, positions=positions) as handle:
            return self._ask(handle.attachment)

    @torch.no_grad()
    def _ask(self, attachment: Any) -> dict[str, list[float]]:
        right: dict[str, list[list[bool]]] = {kind: [[] for _ in range(self._sets)] for kind in self.kinds}
        for sheet in self._sheets:
            encoded = self._asked(sheet)
            if attachment is None:
                names = ("input_ids", "attention_mask")
                inputs = {name: sheet.inputs[name] for name in names} | {"inputs_embeds": encoded.call["inputs_embeds"]}
            else:
                inputs = attachment.shorten(sheet.inputs, encoded)
            said = self.model.generate(**inputs)[:, inputs["input_ids"].shape[1] :]
            texts = self.processor.batch_decode(said, skip_special_tokens=True)
            right[sheet.kind][sheet.number] += [
                text.strip() == answer for text, answer in zip(texts, sheet.answers, strict=True)
            ]
        return {kind: [statistics.fmean(found) for found in sets] for kind, sets in right.items()}

    def _asked(self, sheet: _Sheet) -> EncodedPrompt:
        """The encoded sounds of a sheet in the prompts of its own questions."""
        audio, ids = self.model.config.audio_token_id, sheet.inputs["input_ids"]
        tokens = sheet.encoded.call["inputs_embeds"][sheet.first_ids == audio]
        embeds = self.model.get_input_embeddings()(ids)
        embeds = embeds.masked_scatter((ids == audio)[..., None], tokens)
        clips = [replace(clip, run=run) for clip, run in zip(sheet.encoded.clips, find_runs(ids, audio), strict=True)]
        return EncodedPrompt({"inputs_embeds": embeds}, clips)


def _expanded(scene: Scene | Timeline, question: int) -> str:
    """A prompt with a placeholder for each audio token, as the processor makes it."""
    _, tokens = audio_tokens(len(scene.waveform))
    return prompt(scene.questions[question].text).replace("<|AUDIO|>", "<|AUDIO|>" * tokens)


def summary(model: Any, processor: Any, sets: Sequence[Sequence[Scene | Timeline]]) -> dict[str, dict[str, Any]]:
    """Return for each kind of question the percent right: mean and standard deviation over the sets, and without
    hearing: given silence, by the best fixed answer, and the better of the two."""
    heard = Examination(model, processor, sets).accuracy()
    everything = [scene for scenes in sets for scene in scenes]
    deaf = Examination(model, processor, [silenced(everything)]).accuracy()
    fixed = blind(everything)
    report = {}
    for kind, shares in heard.items():
        silence, constant = 100 * deaf[kind][0], 100 * fixed[kind]
        report[kind] = {
            "mean": round(100 * float(np.mean(shares)), 2),
            "std": round(100 * float(np.std(shares, ddof=1)), 2),
            "sets": [round(100 * share, 1) for share in shares],
            "given silence": round(silence, 2),
            "best fixed answer": round(constant, 2),
            "text only": round(max(silence, constant), 2),
        }
    return report
