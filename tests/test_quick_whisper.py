"""QuickWhisper writes what transformers' Whisper writes, score for score."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GenerationConfig, WhisperForConditionalGeneration

from audioprune.transcribing import quick_whisper
from audioprune.transcribing.parts import WhisperParts

from .transcribers import save

SUPPRESSED, AT_BEGIN = [4, 9, 11, 100_000], [6, 8]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    folder = save(tmp_path_factory.mktemp("english"), multilingual=False)
    config = GenerationConfig.from_pretrained(folder)
    config.suppress_tokens, config.begin_suppress_tokens = SUPPRESSED, AT_BEGIN
    config.save_pretrained(folder)
    return folder


@torch.no_grad()
@pytest.mark.parametrize(
    "how", [{}, {"num_beams": 3}, {"return_timestamps": True}, {"do_sample": True, "temperature": 0.7}]
)
def test_the_same_words_and_scores(folder: str, how: dict[str, Any], monkeypatch) -> None:
    parts = WhisperParts.read(folder)
    plain, quick = parts.load(), parts.load(quick=True)
    assert type(plain) is WhisperForConditionalGeneration
    masked = []
    without = quick_whisper._without
    monkeypatch.setattr(quick_whisper, "_without", lambda *args: masked.append(args) or without(*args))
    features = torch.randn(2, plain.config.num_mel_bins, 2 * plain.config.max_source_positions)
    found = []
    for model in (plain, quick):
        torch.manual_seed(0)
        found.append(
            model.generate(features, max_new_tokens=8, output_scores=True, return_dict_in_generate=True, **how)
        )
    assert masked
    own, ours = found
    assert torch.equal(own["sequences"], ours["sequences"])
    if "scores" in own:
        assert all(torch.equal(a, b) for a, b in zip(own["scores"], ours["scores"], strict=True))
    written = ours["sequences"][:, 1:]
    assert not torch.isin(written, torch.tensor(SUPPRESSED)).any()
    assert not torch.isin(written[:, 0], torch.tensor(AT_BEGIN)).any()


def test_it_is_a_whisper_to_all_others(folder: str, tmp_path: Path) -> None:
    quick = WhisperParts.read(folder).load(quick=True)
    assert WhisperParts.of(quick).is_multilingual is False
    quick.save_pretrained(tmp_path)
    assert type(WhisperForConditionalGeneration.from_pretrained(tmp_path)) is WhisperForConditionalGeneration
