"""transformers' own pipeline with a pruned model, as docs/pipeline.md promises."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile
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


@pytest.fixture(params=MADE)
def classify_long(request: pytest.FixtureRequest) -> AudioClassificationPipeline:
    model, extractor = MADE[request.param]
    made = model().eval()
    ap.prune(made, ap.TopK(0.5))
    kind = ap.LongAudioClassificationPipeline
    return pipeline("audio-classification", model=made, feature_extractor=extractor(), pipeline_class=kind, window=0.9)


def test_a_long_sound_is_heard_whole(classify_long, tmp_path) -> None:
    """Window by window, each as transformers' own pipeline hears it alone."""
    wave = np.concatenate([tone(1.1, hertz=300.0), tone(1.3, hertz=2000.0)])
    soundfile.write(tmp_path / "a.wav", wave, 16_000, subtype="FLOAT")
    own = AudioClassificationPipeline(classify_long.model, feature_extractor=classify_long.feature_extractor)
    starts = [0.0, 0.7, 1.4, 1.5]
    parts = [wave[round(16_000 * start) :][:14_400] for start in starts]
    expected = [{one["label"]: one["score"] for one in own(part.copy(), top_k=11)} for part in parts]
    for sound in (wave, tmp_path / "a.wav", str(tmp_path / "a.wav"), {"array": wave, "sampling_rate": 16_000}):
        for size in (1, 3):
            found = classify_long(sound, hop=0.7, top_k=11, return_windows=True, batch_size=size)
            assert [window["start"] for window in found["windows"]] == starts
            for window, answer in zip(found["windows"], expected, strict=True):
                assert {one["label"]: one["score"] for one in window["labels"]} == pytest.approx(answer, abs=1e-5)
    mean = {label: np.mean([answer[label] for answer in expected]) for label in expected[0]}
    assert {one["label"]: one["score"] for one in found["labels"]} == pytest.approx(mean, abs=1e-5)
    best = classify_long(wave, hop=0.7, pool="max", top_k=11)
    assert best[0]["score"] == pytest.approx(max(max(answer.values()) for answer in expected), abs=1e-5)


def test_several_sounds_one_of_them_long(classify_long) -> None:
    sounds = [tone(0.5), tone(2.0, hertz=700.0), tone(0.5)]
    found = classify_long([sound.copy() for sound in sounds], top_k=3)
    assert found == [classify_long(sound, top_k=3) for sound in sounds]
    own = AudioClassificationPipeline(classify_long.model, feature_extractor=classify_long.feature_extractor)
    scores = [one["score"] for one in own(sounds[0].copy(), top_k=3)]
    assert [one["score"] for one in found[0]] == pytest.approx(scores, abs=1e-6)
    with pytest.raises(ValueError, match="pool is 'median'; it is mean or max"):
        classify_long(sounds[0], pool="median")
    with pytest.raises(ValueError, match="hop is 5 s"):
        classify_long(sounds[1], hop=5.0)


def test_a_folder_saved_with_its_pruning(classify, tmp_path) -> None:
    ap.prune(classify.model, ap.TopK(0.5)).save_pretrained(tmp_path)
    classify.feature_extractor.save_pretrained(tmp_path)
    extractor = AutoFeatureExtractor.from_pretrained(tmp_path)
    again = pipeline("audio-classification", model=ap.load(tmp_path), feature_extractor=extractor)
    assert ap.handle(again.model).method == ap.TopK(0.5)
    for one, other in zip(answers(again), answers(classify), strict=True):
        assert one == pytest.approx(other, abs=1e-6)
