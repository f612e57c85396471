"""transformers' own pipeline with a pruned model, as docs/pipeline.md promises."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import (
    ASTFeatureExtractor,
    AudioClassificationPipeline,
    AutoFeatureExtractor,
    PreTrainedModel,
    Wav2Vec2FeatureExtractor,
    WhisperFeatureExtractor,
    pipeline,
)

import audioprune as ap

from .conftest import tone
from .families import FAMILIES, STABLE, wav2vec2, whisper

MADE = {
    "audiomae": (FAMILIES["audiomae"], lambda: ap.AudioMAEFeatureExtractor(max_length=128)),
    "ast": (FAMILIES["ast"], lambda: ASTFeatureExtractor(max_length=128)),
    "whisper": (lambda: whisper(max_source_positions=50), lambda: WhisperFeatureExtractor(16, chunk_length=1)),
    "wav2vec2": (lambda: wav2vec2(**STABLE), lambda: Wav2Vec2FeatureExtractor(return_attention_mask=True)),
}
"""How a model, and the extractor that belongs to it, is made."""
SOUNDS = [tone(0.5 + 0.2 * i, hertz=220.0 * (i + 1)) for i in range(3)]


@pytest.fixture(params=MADE)
def classify(request: pytest.FixtureRequest) -> AudioClassificationPipeline:
    model, extractor = MADE[request.param]
    return pipeline("audio-classification", model=model().eval(), feature_extractor=extractor())


@torch.no_grad()
def expected(classify: AudioClassificationPipeline, wave: np.ndarray) -> dict[str, float]:
    """The answer without the pipeline."""
    model: PreTrainedModel = classify.model
    features = classify.feature_extractor(wave, sampling_rate=16_000, return_tensors="pt")
    scores = model(**features).logits[0].softmax(-1)
    return {model.config.id2label[i]: score for i, score in enumerate(scores.tolist())}


def answers(classify: AudioClassificationPipeline, batch_size: int = 1) -> list[dict[str, float]]:
    found = classify([wave.copy() for wave in SOUNDS], top_k=11, batch_size=batch_size)
    return [{one["label"]: one["score"] for one in clip} for clip in found]


def test_the_pipeline_says_what_the_pruned_model_says(classify) -> None:
    before = answers(classify)
    handle = ap.prune(classify.model, ap.TopK(0.5))
    pruned = answers(classify)
    for wave, answer, whole in zip(SOUNDS, pruned, before, strict=True):
        assert answer == pytest.approx(expected(classify, wave), abs=1e-5)
        assert answer != pytest.approx(whole, abs=1e-5), "nothing was pruned"
    handle.remove()
    assert answers(classify) == before


def test_batches_of_the_pipeline(classify) -> None:
    """Padding is no reason for another answer than without pruning, and none of it is kept for sound."""
    before = answers(classify, 3)
    with ap.prune(classify.model, ap.ToMe(0.8)):
        single, together = answers(classify), answers(classify, 3)
    for one, other in zip(single, together, strict=True):
        assert one == pytest.approx(other, abs=1e-5)
    assert answers(classify, 3) == before


def test_a_folder_saved_with_its_pruning(classify, tmp_path) -> None:
    ap.prune(classify.model, ap.TopK(0.5)).save_pretrained(tmp_path)
    classify.feature_extractor.save_pretrained(tmp_path)
    extractor = AutoFeatureExtractor.from_pretrained(tmp_path)
    again = pipeline("audio-classification", model=ap.load(tmp_path), feature_extractor=extractor)
    assert ap.handle(again.model).method == ap.TopK(0.5)
    for one, other in zip(answers(again), answers(classify), strict=True):
        assert one == pytest.approx(other, abs=1e-6)
