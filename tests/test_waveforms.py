"""The one door for sounds in memory: every form of a sound is the same sound, and what is none is refused."""

from __future__ import annotations

from collections import UserDict
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soxr
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import audioprune as ap
from audioprune.audio.files import MOST_PEAK
from audioprune.audio.waveforms import batch_of, waveform_of

from .families import FAMILIES

RATE = 16_000


def sweep(rate: int = RATE, seconds: float = 0.5) -> np.ndarray:
    t = np.arange(round(rate * seconds)) / rate
    return (0.4 * np.sin(2 * np.pi * (200 + 900 * t) * t)).astype(np.float32)


WAVE = sweep()
FORMS: dict[str, tuple[Any, float]] = {
    "float32": (WAVE, 0),
    "float64": (WAVE.astype(np.float64), 0),
    "float16": (WAVE.astype(np.float16), 3e-4),
    "long double": (WAVE.astype(np.longdouble), 0),
    "big-endian": (WAVE.astype(">f4"), 0),
    "reversed twice": (WAVE[::-1].copy()[::-1], 0),
    "every second of a longer one": (np.repeat(WAVE, 2)[::2], 0),
    "read-only": (np.frombuffer(WAVE.tobytes(), np.float32), 0),
    "tensor": (torch.from_numpy(WAVE), 0),
    "bfloat16 tensor": (torch.from_numpy(WAVE).bfloat16(), 2e-3),
    "list": (WAVE.tolist(), 0),
    "int16": (np.round(WAVE * 2**15).astype(np.int16), 2e-5),
    "int16 big-endian": (np.round(WAVE * 2**15).astype(">i2"), 2e-5),
    "int32": (np.round(WAVE.astype(np.float64) * 2**31).astype(np.int32), 1e-7),
    "int8": (np.round(WAVE * 2**7).astype(np.int8), 4e-3),
    "uint8": (np.round(WAVE * 2**7 + 128).astype(np.uint8), 4e-3),
    "(samples, 2)": (np.stack((WAVE * 2, WAVE * 0), axis=1), 1e-7),
    "(2, samples)": (np.stack((WAVE * 2, WAVE * 0)), 1e-7),
    "(1, samples)": (WAVE[None], 0),
    "(samples, 6) tensor": (torch.from_numpy(WAVE)[:, None].expand(-1, 6), 1e-7),
    "Clip": (ap.Clip(WAVE, 0.5), 0),
    "datasets": ({"array": WAVE, "sampling_rate": RATE, "path": "a.wav"}, 0),
    "pipeline": ({"raw": WAVE, "sampling_rate": RATE}, 0),
    "another mapping": (UserDict({"array": WAVE.tolist(), "sampling_rate": RATE}), 0),
    "torchcodec": (
        SimpleNamespace(get_all_samples=lambda: SimpleNamespace(data=torch.from_numpy(WAVE)[None], sample_rate=RATE)),
        0,
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_the_same_sound(form: str) -> None:
    sound, tolerance = FORMS[form]
    found = waveform_of(sound)
    assert found.dtype == torch.float32
    assert found.shape == WAVE.shape
    assert float((found - torch.from_numpy(WAVE)).abs().max()) <= tolerance
    front = ap.LogMel(64)
    alone, listed = front([sound]), front([WAVE, sound])
    assert torch.allclose(listed[1:], alone, atol=1e-5)
    if tolerance < 1e-6:
        assert torch.allclose(alone, front([WAVE]), atol=1e-3)


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000, 96_000])
def test_every_rate_is_the_same_sound(rate: int) -> None:
    there = sweep(rate)
    expected = soxr.resample(there, rate, RATE, quality="HQ")
    for sound, told in (
        (ap.Clip(there, 0.5, rate), None),
        ({"array": there, "sampling_rate": rate}, None),
        (there, rate),
        (np.round(there * 2**15).astype(np.int16), rate),
        (np.stack((there, there)), rate),
    ):
        found = waveform_of(sound, sampling_rate=told)
        assert len(found) == len(expected)
        assert float((found - torch.from_numpy(expected)).abs().max()) < 1e-4
    front = ap.LogMel(64)
    batch = np.stack((there, there))
    assert torch.allclose(front(batch, sampling_rate=rate), front([expected, expected]), atol=1e-4)


def test_a_clip_of_another_rate_is_heard_as_it_is() -> None:
    """The shipped model names a chainsaw, whatever the rate at which it was decoded."""
    model = ap.load("esc10")
    features = ap.load_features("esc10", model)
    for rate in (16_000, 44_100, 48_000):
        clip = ap.load_audio("audioprune/assets/clips/chainsaw.ogg", sample_rate=rate)
        with torch.no_grad():
            assert model.config.id2label[int(model(features([clip])).logits.argmax())] == "chainsaw"
            assert model.config.id2label[int(model(features(clip)).logits.argmax())] == "chainsaw"


def with_value(value: float, at: int = 100) -> np.ndarray:
    changed = WAVE.copy()
    changed[at] = value
    return changed


REFUSED: dict[str, tuple[Any, str]] = {
    "NaN": (with_value(np.nan), "NaN or infinite"),
    "infinite": (with_value(np.inf), "NaN or infinite"),
    "a NaN at the end": (with_value(np.nan, -1), "NaN or infinite"),
    "whole numbers as floats": (WAVE * 2**15, "divide by full scale"),
    "one loud sample": (with_value(-2 * MOST_PEAK), "greatest sample is 128"),
    "int64": (np.round(WAVE * 2**15).astype(np.int64), "int64, whose full scale is unknown"),
    "uint16": (np.round(WAVE * 2**14 + 2**15).astype(np.uint16), "uint16"),
    "bool": (WAVE > 0, "bool"),
    "bool tensor": (torch.from_numpy(WAVE > 0), "bool"),
    "complex": (WAVE.astype(np.complex64), "complex64"),
    "complex tensor": (torch.from_numpy(WAVE).to(torch.complex64), "complex64"),
    "objects": (WAVE.astype(object), "object"),
    "text": (np.array(["a", "b"]), "U1"),
    "empty": (WAVE[:0], "contains no samples"),
    "an empty list": ([], "contains no samples"),
    "24.9 ms": (WAVE[:399], "24.9 ms is too short"),
    "24 ms at 48 kHz": ({"array": WAVE[:1152], "sampling_rate": 48_000}, "24 ms is too short"),
    "three dimensions": (WAVE[None, None], r"shape \(1, 1, 8000\)"),
    "a square": (np.zeros((100, 100), np.float32), r"shape \(100, 100\)"),
    "a few numbers": (np.zeros((4, 4), np.float32), r"shape \(4, 4\)"),
    "a number": (np.float32(0.5), r"shape \(\)"),
    "rows of different lengths": ([[0.1, 0.2], [0.3]], "is not an array"),
    "a dict without its rate": ({"array": WAVE}, '"sampling_rate"'),
    "a dict of bytes": ({"bytes": b"RIFF", "path": None}, "is a dict of bytes, path"),
    "an empty dict": ({}, "is a dict of nothing"),
    "a rate of 0": ({"array": WAVE, "sampling_rate": 0}, "sampling rate is 0"),
    "two rates": (ap.Clip(WAVE, 0.5, 48_000), "has 48000 Hz, but sampling_rate says 44100"),
}


@pytest.mark.parametrize("form", REFUSED)
def test_what_is_no_sound_is_refused(form: str) -> None:
    sound, message = REFUSED[form]
    rate = 44_100 if form == "two rates" else None
    with pytest.raises(ap.AudioError, match=message):
        waveform_of(sound, sampling_rate=rate)
    if not (isinstance(sound, list) and not sound):
        with pytest.raises(ap.AudioError, match=f"sound 1: .*({message})"):
            ap.LogMel(64)(
                [WAVE, sound] if rate is None else [{"array": WAVE, "sampling_rate": rate}, sound], sampling_rate=rate
            )


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf, 2.0**15])
def test_batches_are_checked_too(wrong: float) -> None:
    batch = torch.from_numpy(np.stack((WAVE, WAVE)))
    batch[1, 7000] = wrong
    front = ap.LogMel(64)
    with pytest.raises(ap.AudioError, match="NaN or infinite|full scale"):
        front(batch)
    # Behind a sound nobody listens.
    cut = front(batch, torch.tensor([8000, 7000]))
    assert torch.allclose(cut, front([WAVE, WAVE[:7000]]), atol=1e-5)


def test_channels_of_one_array() -> None:
    """(samples, 2) can be nothing but channels; (2, samples) are two clips."""
    front = ap.LogMel(64)
    stereo = np.stack((WAVE * 2, WAVE * 0), axis=1)
    assert torch.allclose(front(stereo), front([WAVE]), atol=1e-4)
    assert len(front(np.ascontiguousarray(stereo.T))) == 2


def test_whole_numbers_of_a_batch_are_scaled() -> None:
    batch = np.stack((WAVE, WAVE * 0.5))
    loud, quiet = (batch_of(x)[0] for x in (np.round(batch * 2**15).astype(np.int16), batch))
    assert float((loud - quiet).abs().max()) < 2e-5


def test_a_gradient_needs_the_right_rate() -> None:
    wave = torch.from_numpy(WAVE).requires_grad_()
    ap.LogMel(64)([wave, wave]).sum().backward()
    assert float(wave.grad.abs().sum()) > 0
    with pytest.raises(ap.AudioError, match="needs a gradient"):
        waveform_of(wave, sampling_rate=48_000)


def test_files_of_whole_numbers_as_floats_are_refused(tmp_path) -> None:
    import soundfile

    soundfile.write(tmp_path / "loud.wav", WAVE * 2**15, RATE, subtype="FLOAT")
    with pytest.raises(ap.AudioError, match=r"loud\.wav: its greatest sample is 13\d\d\d.*divide by full scale"):
        ap.load_audio(tmp_path / "loud.wav")


def test_calibrate_asks_for_spectrograms() -> None:
    clip = ap.Clip(WAVE, 0.5)
    for clips in ([clip] * 4, [WAVE] * 4, "clips/"):
        with pytest.raises(TypeError, match=r"make spectrograms of sounds first: audioprune\.load_features"):
            ap.calibrate(FAMILIES["audiomae"](), clips, speed_up=1.5)


@given(
    arrays.arrays(
        st.sampled_from([np.int16, np.int32, np.int8, np.uint8]), st.integers(400, 500), elements=st.integers(0, 127)
    )
)
def test_whole_numbers_lie_within_full_scale(samples: np.ndarray) -> None:
    found = waveform_of(samples)
    information = np.iinfo(samples.dtype)
    middle = 128 if samples.dtype == np.uint8 else 0
    assert torch.allclose(
        found.double() * (information.max + 1 - middle), torch.from_numpy(samples.astype(float)) - middle
    )
    assert float(found.abs().max()) <= 1
