"""Models of each kind that can be pruned, and what their answers are compared with."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

import audioprune as ap

from .. import audio_lms
from ..families import FAMILIES

KINDS = ("spectrogram classifiers", "speech encoders", "audio-language models")
SPECTROGRAM, SPEECH, LANGUAGE = KINDS


class UnservedError(Exception):
    """The unpruned model cannot do it either."""


@dataclass(frozen=True)
class Subject:
    """A model to do things to.

    build: the model, the same each time. inputs: some clips, others for each number. method: what prunes it.
    """

    name: str
    kind: str
    build: Callable[[], Any]
    inputs: Callable[[int], dict[str, Tensor]]
    method: ap.Method

    def model(self) -> Any:
        return self.build().eval()

    def shallow(self) -> Subject:
        """The same with half the blocks: a compiler's time grows with their number."""
        return replace(self, build=partial(_halved, self.build))

    @torch.no_grad()
    def answer(self, model: Any, number: int = 0, **more: Any) -> Tensor:
        return model(**self.inputs(number), **more).logits

    def expected(self, plain: Any, number: int = 0) -> Tensor:
        """What a pruned copy of an unpruned model answers."""
        other = copy.deepcopy(plain)
        with ap.prune(other, self.method):
            return self.answer(other, number)

    def check(self, model: Any, plain: Any, atol: float = 2e-5, numbers: Sequence[int] = (0, 1)) -> None:
        """Raise `AssertionError` unless a model answers as a pruned copy of `plain` does, and unlike `plain`."""
        for number in numbers:
            found, expected, unpruned = (
                self.answer(model, number),
                self.expected(plain, number),
                self.answer(plain, number),
            )
            assert found.shape == expected.shape, "of another length"
            assert torch.allclose(found, expected, atol=atol), f"off by {float((found - expected).abs().max())}"
            alike = expected.shape == unpruned.shape and torch.allclose(expected, unpruned, atol=10 * atol)
            assert not alike, "pruning changes nothing here, so that nothing is shown"

    def check_unpruned(self, model: Any, plain: Any, atol: float = 0.0, numbers: Sequence[int] = (0, 1)) -> None:
        for number in numbers:
            found, expected = self.answer(model, number), self.answer(plain, number)
            assert found.shape == expected.shape, "of another length"
            assert torch.allclose(found, expected, rtol=0, atol=atol), f"off by {(found - expected).abs().max()}"


def _halved(build: Callable[[], Any]) -> Any:
    model = build()
    for name, blocks in list(model.named_modules()):
        if name.endswith(".layers"):
            del blocks[len(blocks) // 2 :]
    return model


def _clips(family: str) -> Callable[[int], dict[str, Tensor]]:
    shape = {"audiomae": (128, 128), "ast": (128, 128), "whisper": (16, 128)}.get(family, (5120,))
    name = "input_features" if family == "whisper" else "input_values"
    return lambda number: {name: torch.randn(2, *shape, generator=torch.Generator().manual_seed(number))}


def _prompts(family: str) -> Callable[[int], dict[str, Tensor]]:
    return lambda number: _asked(family, number)


def _asked(family: str, number: int) -> dict[str, Tensor]:
    # Of one length: what stands at places of padding is of no meaning, and differs.
    clips = str(80 - 4 * (number % 8)), "47"
    return audio_lms.ask(family, [[10, clips[0], 11, clips[1], 12 + number % 8], [13, clips[1], 15, clips[0], 14]])


# The first of each kind is the quickest to compile.
SUBJECTS = (
    *(Subject(name, SPECTROGRAM, FAMILIES[name], _clips(name), ap.TopK(0.5)) for name in ("audiomae", "ast")),
    *(
        Subject(name, SPEECH, FAMILIES[name], _clips(name), ap.TopK(0.5))
        for name in ("whisper", "wav2vec2-stable", "hubert")
    ),
    *(
        Subject(name, LANGUAGE, partial(audio_lms.build, name), _prompts(name), ap.SegmentwiseTopK(keep_rate=0.5))
        for name in ("qwen2_audio", "qwen3_asr")
    ),
)
