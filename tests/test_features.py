"""The log-mel front end: Kaldi's numerics, batches, padding, and bad input."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from transformers import ASTFeatureExtractor, AutoFeatureExtractor

from audioprune import PRESETS, AudioMAEFeatureExtractor, LogMel, load_audio
from audioprune.audio.features import mel_frequencies

from .conftest import tone


def test_clips_are_taken_and_paths_are_not(clips) -> None:
    front, (path, *_) = LogMel(128), sorted(clips.iterdir())
    clip = load_audio(path)
    expected = front(clip.waveform)
    assert torch.equal(front(clip), expected)
    assert torch.equal(front([clip]), expected)
    for given in (path, str(path), [path]):
        with pytest.raises(TypeError, match=r"got the path .*load_audio"):
            front(given)


def slow_log_mel(wave: np.ndarray) -> np.ndarray:
    """Kaldi's filter bank, frame by frame in float64, from its definition."""
    wave = wave.astype(np.float64) - wave.astype(np.float64).mean()
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 399)
    mel = [1127 * math.log(1 + f / 700) for f in np.arange(257) * 16_000 / 512]
    low, high = (1127 * math.log(1 + f / 700) for f in (20, 8000))
    edges = np.linspace(low, high, 130)
    rows = []
    for start in range(0, len(wave) - 399, 160):
        frame = wave[start : start + 400]
        frame = frame - frame.mean()
        frame = np.concatenate([[frame[0] * (1 - 0.97)], frame[1:] - 0.97 * frame[:-1]]) * window
        power = np.abs(np.fft.rfft(frame, 512)) ** 2
        bins = []
        for i in range(128):
            left, centre, right = edges[i : i + 3]
            weights = [max(0.0, min((m - left) / (centre - left), (right - m) / (right - centre))) for m in mel]
            bins.append(math.log(max(float(np.dot(weights, power)), 1.1920929e-07)))
        rows.append(bins)
    return np.array(rows)


@pytest.mark.parametrize("seconds", [0.05, 0.3])
def test_equals_kaldi_written_slowly(seconds: float) -> None:
    wave = tone(seconds) + 0.01 * np.random.default_rng(0).normal(size=round(16_000 * seconds)).astype(np.float32)
    expected = slow_log_mel(wave)
    ours = LogMel(len(expected), mean=0.0, std=0.5)(wave)[0].numpy()
    assert np.abs(ours - expected).max() < 5e-3
    assert (np.abs(ours - expected) < 1e-3).mean() > 0.99


def test_golden(golden) -> None:
    """98 % of cells within 1e-3 and all within 1e-2 of Kaldi's own, padded with the minimum.

    In float64 it is 98.8 % of the sweep's: the rest, close to the floor, is the reference's own rounding. In float32 it
    is 98.5 to 99.2 %, by the processor.
    """
    data = np.load(golden / "kaldi-fbank-16k.npz")
    for name in {key.rsplit("_", 1)[0] for key in data.files}:
        expected = data[f"{name}_fbank"]
        error = np.abs(LogMel(len(expected), mean=0.0, std=0.5)(data[f"{name}_wave"])[0].numpy() - expected)
        assert error.max() < 1e-2
        assert (error < 1e-3).mean() >= 0.98


def test_batches_of_different_lengths() -> None:
    front = LogMel(100)
    waves = [tone(s, hertz=300 + 200 * i) for i, s in enumerate((0.05, 0.7, 1.0, 2.3))]
    alone = torch.cat([front(wave) for wave in waves])
    assert torch.allclose(front(waves), alone, atol=1e-5)
    lengths = torch.tensor([len(w) for w in waves])
    padded = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(w) for w in waves], batch_first=True)
    assert torch.allclose(front(padded, lengths), alone, atol=1e-5)
    assert alone.shape == (4, 100, 128)


def test_padding_is_explicit() -> None:
    wave = tone(0.5)
    minimum, zero = LogMel(100, 0.0, 0.5)(wave)[0], LogMel(100, 0.0, 0.5, padding=0.0)(wave)[0]
    frames = (8000 - 400) // 160 + 1
    assert torch.equal(minimum[:frames], zero[:frames])
    assert (minimum[frames:] == minimum[:frames].min()).all()
    assert (zero[frames:] == 0).all()


def test_normalisation_and_presets() -> None:
    plain, esc = LogMel(512, 0.0, 0.5)(tone(1.0)), LogMel.preset("esc50")(tone(1.0))
    assert torch.allclose(esc, (plain + 6.627) / (2 * 5.359), atol=1e-6)
    assert {name: preset.max_length for name, preset in PRESETS.items()} == {
        "esc50": 512,
        "speech-commands": 128,
        "voxceleb1": 1024,
        "audioset": 1024,
        "fsdd": 64,
    }


def test_silence_is_finite() -> None:
    assert torch.isfinite(LogMel(64)(torch.zeros(2, 8000))).all()


def test_is_differentiable_and_holds_no_weights() -> None:
    front = LogMel(64)
    wave = torch.randn(2, 8000, requires_grad=True)
    front(wave).sum().backward()
    assert torch.isfinite(wave.grad).all()
    assert list(front.state_dict()) == []


def test_stays_exact_in_half_precision_surroundings() -> None:
    wave = torch.from_numpy(tone(0.5))
    expected = LogMel(64)(wave)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(LogMel(64)(wave), expected)
    halved = LogMel(64).half()(wave)  # as a part of a model that is cast as a whole
    assert halved.dtype == torch.float32
    assert torch.equal(halved, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_is_the_same_whatever_surrounds_it(dtype: torch.dtype) -> None:
    """Made in inference mode, on another default device or in another default dtype, and trained through afterwards."""
    wave = torch.from_numpy(tone(0.5))
    expected, fronts = LogMel(64, num_mel_bins=40)(wave), []
    with torch.inference_mode():
        fronts.append(LogMel(64, num_mel_bins=40))
        fronts.append(LogMel(64, num_mel_bins=40).to(dtype))
    with torch.device("meta"):
        fronts.append(LogMel(64, num_mel_bins=40))
    torch.set_default_dtype(dtype)
    try:
        fronts.append(LogMel(64, num_mel_bins=40))
        fronts.append(LogMel(64, num_mel_bins=40).to("cpu"))
        found = [front(wave) for front in fronts]
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(torch.equal(each, expected) for each in found)
    for front in fronts:
        assert not any(buffer.is_inference() for buffer in front.buffers())
        needs = wave.clone().requires_grad_()
        front(needs).sum().backward()
        assert torch.isfinite(needs.grad).all()


def test_exports_and_compiles() -> None:
    front, waves = LogMel(64), torch.randn(3, 9000)
    shapes = {"waveforms": {0: torch.export.Dim("batch", max=64)}, "lengths": None}
    program = torch.export.export(front, (waves, None), dynamic_shapes=shapes).module()
    assert torch.allclose(program(waves[:2], None), front(waves[:2]), atol=1e-4)
    compiled = torch.compile(front, fullgraph=True, backend="aot_eager")
    assert torch.allclose(compiled(waves), front(waves), atol=1e-4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: LogMel(0), "max_length is 0"),
        (lambda: LogMel(std=0.0), "std is 0.0"),
        (lambda: LogMel(padding="mean"), "padding is 'mean'"),
        (lambda: LogMel.preset("urban"), "no preset 'urban'"),
        (lambda: LogMel(64)(torch.zeros(399)), "24.9 ms is too short"),
        (lambda: LogMel(64)(torch.zeros(1, 2, 8000)), "give \\(batch, samples\\)"),
        (lambda: LogMel(64)([]), "there are no sounds"),
        (lambda: LogMel(64)(torch.zeros(2, 800), torch.tensor([800])), "lengths have shape"),
        (lambda: LogMel(64)(torch.zeros(2, 800), torch.tensor([800, 900])), "rows have 800 samples"),
        (lambda: LogMel(64)(torch.zeros(2, 800), torch.tensor([800, 90])), "5.6 ms is too short"),
        (lambda: AudioMAEFeatureExtractor()(tone(), sampling_rate=44_100), "44100 Hz"),
        (lambda: AudioMAEFeatureExtractor(sampling_rate=8000), "8000 Hz"),
    ],
)
def test_bad_input_says_what_would_be_right(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_extractor_round_trip(tmp_path) -> None:
    extractor = AudioMAEFeatureExtractor(max_length=64, mean=-5.0, std=4.0, pad_with=0.0)
    extractor.save_pretrained(tmp_path)
    again = AutoFeatureExtractor.from_pretrained(tmp_path)
    assert isinstance(again, AudioMAEFeatureExtractor)
    wave = tone(0.4)
    a = extractor(wave, sampling_rate=16_000, return_tensors="pt")["input_values"]
    b = again([wave, wave], return_tensors="np")["input_values"]
    assert a.shape == (1, 64, 128)
    assert np.array_equal(a[0].numpy(), b[1])
    assert torch.equal(a, LogMel(64, -5.0, 4.0, padding=0.0)(wave))
    assert torch.equal(AudioMAEFeatureExtractor.of(extractor.log_mel).log_mel(wave), extractor.log_mel(wave))


def test_a_stock_ast_keeps_its_own_features() -> None:
    """Our batched front end makes what transformers' AST extractor makes, padding and all."""
    stock = ASTFeatureExtractor(max_length=100)
    wave = tone(0.5) + 0.1  # an offset, which changes nothing: each frame loses its own
    expected = torch.from_numpy(stock(wave, sampling_rate=16_000, return_tensors="np")["input_values"])
    ours = LogMel(100, stock.mean, stock.std, padding=0.0)(wave)
    assert torch.allclose(ours, expected, atol=1e-3)


def test_mel_frequencies() -> None:
    centres = mel_frequencies()
    assert len(centres) == 128
    assert 20 < centres[0] < 45
    assert 7700 < centres[-1] < 8000
    assert (np.diff(centres) > 0).all()
