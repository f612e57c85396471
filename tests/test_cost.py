"""Counts of multiply-accumulates against the paper's table and against a hand count."""

from __future__ import annotations

import itertools

import pytest
import torch

import audioprune as ap
from audioprune.cost import peak_memory
from audioprune.models.audiomae import AudioMAEConfig, AudioMAEForAudioClassification

from .families import audiomae

KEEP_RATES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)
# Table 1 of arXiv 2504.01690, in GMACs; the last three cells at 512 tokens are what the authors' code gives when it
# is profiled (the paper prints 31.12, 27.12 and 23.65).
TABLE_1 = {
    128: (5.61, 4.93, 4.30, 3.72, 3.27, 2.81),
    512: (23.11, 20.02, 17.29, 15.02, 13.05, 11.37),
    1024: (48.57, 41.79, 36.04, 31.21, 27.13, 23.66),
}


@pytest.mark.parametrize("frames", TABLE_1)
def test_table_1(frames: int) -> None:
    with torch.device("meta"):
        model = AudioMAEForAudioClassification(AudioMAEConfig(max_length=frames, num_labels=50))
    for rate, expected in zip(KEEP_RATES, TABLE_1[frames], strict=True):
        with ap.prune(model, ap.TopK(rate)):
            assert ap.macs(model, frames=frames) / 1e9 == pytest.approx(expected, rel=0.005)


def hand_count(counts: list[int], special: int = 1, width: int = 48, mlp: int = 96, labels: int = 11) -> int:
    """Patches, then per block: q, k, v, o, two attention products, MLP on what is left; then the head."""
    total = 64 * 256 * width + width * labels
    for before, after in itertools.pairwise(counts):
        n, m = before + special, after + special
        total += 4 * n * width * width + 2 * n * n * width + 2 * m * width * mlp
    return total


def test_exact_against_a_hand_count() -> None:
    model = audiomae()
    assert ap.macs(model) == hand_count([64, 64, 64, 64, 64])
    with ap.prune(model, ap.TopK(0.5)):
        assert ap.macs(model) == hand_count([64, 64, 32, 16, 8])
    with ap.prune(model, ap.TopK(0.5, score="cls", layers=[1])):  # plus the CLS row's logits
        assert ap.macs(model) == hand_count([64, 64, 32, 32, 32]) + 65 * 48
    with ap.prune(model, ap.TopK(0.25, score="random", layers=[0], dropped="merge")):  # plus key cosines
        assert ap.macs(model) == hand_count([64, 16, 16, 16, 16]) + 48 * 16 * 12
    assert ap.macs(model) == hand_count([64, 64, 64, 64, 64])


def test_shapes_alone_count_as_a_real_run(model, spectrogram) -> None:
    model.train()
    with ap.prune(model, ap.SegmentwiseTopK(0.5, dropped="merge")):
        assert (
            ap.macs(model) == ap.macs(model, inputs=spectrogram) == ap.macs(model, inputs={"input_values": spectrogram})
        )
    assert model.training
    assert all(p.device.type == "cpu" for p in model.parameters())


def test_counting_leaves_no_mark(model, spectrogram) -> None:
    model.train()
    frozen = getattr(model, model.base_model_prefix).layers[0]
    frozen.eval()
    model.set_attn_implementation("eager")
    with ap.prune(model, ap.TopK(0.5)), ap.trace(model) as record:
        model(spectrogram)
        kept = record.kept
        ap.macs(model)
        assert record.kept is kept
    assert model.training
    assert not frozen.training
    assert model.config._attn_implementation == "eager"
    model.set_attn_implementation("flex_attention")
    with ap.prune(model, ap.TopK(0.5, dropped="merge")):
        assert ap.macs(model) > 0
    with pytest.raises(ValueError, match="no spectrogram length in its config"):
        ap.macs(torch.nn.Sequential(model))


def test_a_length_that_the_model_does_not_take() -> None:
    with pytest.raises(ValueError, match="takes exactly 128"):
        ap.macs(audiomae(), frames=1024)


def test_peak_memory_sees_an_allocation() -> None:
    small = peak_memory(lambda: None)
    if small is None:
        pytest.skip("this system does not tell the peak of its resident set")
    big = peak_memory(lambda: torch.ones(64, 1024, 1024).sum())
    assert big - small > 200 * 2**20
