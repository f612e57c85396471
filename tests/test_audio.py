"""Decoding: every format, rate and channel count, and files that are none."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile

from audioprune import AudioError, load_audio
from audioprune.audio.files import to_mono

from .conftest import tone


def test_one_sound_at_a_time() -> None:
    with pytest.raises(TypeError, match="expected the path of one sound, got list"):
        load_audio(["a.wav"])


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
@pytest.mark.parametrize(("rate", "channels"), [(8000, 1), (16_000, 2), (44_100, 2), (96_000, 1)])
def test_formats_rates_channels(tmp_path, suffix: str, rate: int, channels: int) -> None:
    if suffix in ("mp3", "ogg") and rate == 96_000:
        rate = 48_000  # MPEG has no higher rate
    path = tmp_path / f"tone.{suffix}"
    soundfile.write(path, tone(1.0, rate, channels=channels), rate)
    clip = load_audio(path)
    assert clip.waveform.dtype == np.float32
    assert clip.seconds == pytest.approx(1.0, abs=0.08)
    assert clip.heard_seconds == pytest.approx(clip.seconds, abs=0.01)
    spectrum = np.abs(np.fft.rfft(clip.waveform))
    peak = spectrum.argmax() * 16_000 / len(clip.waveform)
    assert peak == pytest.approx(440, abs=3)


def test_channels_are_averaged() -> None:
    left, right = tone(hertz=300), tone(hertz=900)
    assert np.allclose(to_mono(np.stack([left, right], 1), 16_000), (left + right) / 2)


def test_of_a_long_recording_only_the_window_is_decoded(tmp_path) -> None:
    path = tmp_path / "long.wav"
    soundfile.write(path, np.tile(tone(60.0, 8000), 10), 8000)
    clip = load_audio(path, max_seconds=5.135)
    assert clip.seconds == 600
    assert clip.heard_seconds == pytest.approx(5.135, abs=0.001)


def bad_files(folder):
    (folder / "empty.wav").write_bytes(b"")
    (folder / "text.wav").write_text("This is not a sound.")
    soundfile.write(folder / "whole.flac", tone(1.0), 16_000)
    (folder / "header.wav").write_bytes(b"RIFF\x24\x00\x00\x00WAVEfmt ")
    soundfile.write(folder / "none.wav", np.zeros(0, dtype=np.float32), 16_000)
    soundfile.write(folder / "short.wav", tone(0.02), 16_000)
    nan = tone(0.5)
    nan[100] = np.nan
    soundfile.write(folder / "nan.wav", nan, 16_000, subtype="FLOAT")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.wav", "no such file"),
        ("empty.wav", "is empty"),
        ("text.wav", "cannot be decoded"),
        ("header.wav", "cannot be decoded"),
        ("none.wav", "contains no samples"),
        ("short.wav", "20 ms is too short"),
        ("nan.wav", "NaN"),
        (".", "is not a file"),
    ],
)
def test_bad_files_are_named_with_a_remedy(tmp_path, name: str, message: str) -> None:
    bad_files(tmp_path)
    with pytest.raises(AudioError, match=message) as error:
        load_audio(tmp_path / name)
    assert str(tmp_path) in str(error.value)


def test_a_twentieth_of_a_second_is_enough(tmp_path) -> None:
    path = tmp_path / "blip.wav"
    soundfile.write(path, tone(0.05), 16_000)
    assert load_audio(path).heard_seconds == pytest.approx(0.05)
