"""Formats that FFmpeg decodes: length, place, what is refused, and what is said without PyAV."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from audioprune import AudioError, load_audio
from audioprune.audio.extensions import EXTENSIONS, FFMPEG
from audioprune.audio.files import CODEC_PADDING, decode

from .conftest import tone
from .media import FORMATS, PROTECTED, Format, can_encode, encode, silent_video

media = pytest.importorskip("audioprune.audio.media", reason="the extra media (PyAV) is not installed")

SECONDS = 2.0
FAR = 10.0


def chirp(seconds: float, rate: int) -> np.ndarray:
    """A tone that rises from 200 to 1500 Hz, so that each moment is told from the others: (samples,) float32."""
    time = np.arange(int(seconds * rate)) / rate
    return (0.3 * np.sin(2 * np.pi * (200 * time + (1300 / (2 * seconds)) * time**2))).astype(np.float32)


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("media")


def made(folder: Path, suffix: str, seconds: float = SECONDS) -> Path:
    """A chirp in this format, made once."""
    kind, path = FORMATS[suffix], folder / f"{seconds:g}s.{suffix}"
    if not can_encode(kind):
        pytest.skip(f"this FFmpeg has no encoder {kind.encoder}")
    return path if path.exists() else encode(path, chirp(seconds, kind.rate), kind)


def lag_and_likeness(heard: np.ndarray, reference: np.ndarray) -> tuple[float, float]:
    """Seconds by which a sound at 16 kHz is later than another, and their correlation then."""
    size = len(heard) + len(reference)
    spectrum = np.fft.rfft(heard, size) * np.fft.rfft(reference, size).conj()
    lag = int(np.fft.irfft(spectrum, size).argmax())
    lag = lag - size if lag > size // 2 else lag
    first, last = max(0, -lag), min(len(reference), len(heard) - lag)
    likeness = np.corrcoef(heard[first + lag : last + lag], reference[first:last])[0, 1]
    return lag / 16_000, float(likeness)


@pytest.mark.parametrize("suffix", FORMATS)
def test_the_sound_and_its_length(folder, suffix: str) -> None:
    clip, kind = load_audio(made(folder, suffix)), FORMATS[suffix]
    assert SECONDS - 5e-3 < clip.seconds < SECONDS + kind.padding + 1e-3
    assert clip.heard_seconds == pytest.approx(clip.seconds, abs=1e-3)
    assert (clip.channels, clip.file_rate) == (kind.channels, kind.rate)
    lag, likeness = lag_and_likeness(clip.waveform, chirp(SECONDS, 16_000))
    assert abs(lag) < kind.padding + 2e-3  # what the codec put before the sound
    assert likeness > (0.95 if kind.rate == 8000 else 0.98)


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_part_is_that_part_of_the_whole(folder, suffix: str) -> None:
    """The slow reference: decode everything, and cut."""
    path = made(folder, suffix)
    whole = load_audio(path)
    for start, most in ((0.0, 0.5), (0.7, 0.5), (1.2, 3.0)):
        part = load_audio(path, start_seconds=start, max_seconds=most)
        expected = whole.waveform[round(start * 16_000) :][: round(most * 16_000)]
        assert len(part.waveform) == pytest.approx(len(expected), abs=20)
        lag, likeness = lag_and_likeness(part.waveform, expected)
        assert abs(lag) < 1.5e-3  # some formats count in milliseconds
        assert likeness > 0.97
        assert part.seconds == pytest.approx(whole.seconds, abs=0.05)


@pytest.mark.parametrize("suffix", ["m4a", "mp4", "webm", "live.webm", "wma", "aac", "amr"])
def test_a_far_moment_is_found_without_decoding_what_is_before(folder, monkeypatch, suffix: str) -> None:
    path, rate = made(folder, suffix, FAR), FORMATS[suffix].rate
    whole = load_audio(path)
    monkeypatch.setattr(media, "FAR_SECONDS", 3.0)
    monkeypatch.setattr(media, "TAIL_SECONDS", 2.0)
    frames = counted(monkeypatch)
    part = load_audio(path, start_seconds=7.0, max_seconds=1.0)
    lag, likeness = lag_and_likeness(part.waveform, whole.waveform[7 * 16_000 :][:16_000])
    assert abs(lag) < 1.5e-3
    assert likeness > 0.97
    assert part.seconds == pytest.approx(whole.seconds, abs=0.05)
    assert sum(frames) < 3 * rate
    frames.clear()
    assert load_audio(path, max_seconds=1.0).seconds == pytest.approx(whole.seconds, abs=0.05)
    assert sum(frames) < 2 * rate


def counted(monkeypatch) -> list[int]:
    """Samples of each frame that is decoded from now on."""
    frames: list[int] = []
    mono = media._mono
    monkeypatch.setattr(media, "_mono", lambda frame: (frames.append(frame.samples), mono(frame))[1])
    return frames


@pytest.mark.parametrize("suffix", ["aac", "wma", "avi", "mp3"])
def test_a_clip_of_its_exact_length_is_not_called_too_long(folder, suffix: str) -> None:
    """Codecs add up to some hundredths of a second."""
    if suffix == "mp3":
        path = folder / "exact.mp3"
        soundfile.write(path, chirp(SECONDS, 44_100), 44_100)
    else:
        path = made(folder, suffix)
    assert not load_audio(path, max_seconds=SECONDS).is_cut
    assert load_audio(path, max_seconds=SECONDS - 2 * CODEC_PADDING).is_cut


def test_the_name_tells_nothing(folder, tmp_path) -> None:
    """A name may be wrong, odd, missing, or no Unicode; and a file object has none."""
    content = made(folder, "m4a").read_bytes()
    for name in (b"a.wav", b"a.mp3", b"a", "[1] é 音 %d \n.m4a".encode(), b"odd-\xff.m4a", b"http:x.m3u8", b"-i.mp4"):
        path = tmp_path / os.fsdecode(name)
        path.write_bytes(content)
        assert load_audio(path).seconds == SECONDS
    assert decode(io.BytesIO(content), "row 1", max_seconds=0.5).heard_seconds == 0.5


def test_the_end_of_a_stream_that_is_cut(folder, tmp_path) -> None:
    """What is there is heard, as of a WAV."""
    fast = Format("aac", muxer="mp4", options={"movflags": "faststart"})
    whole = encode(tmp_path / "whole.m4a", chirp(10.0, 44_100), fast).read_bytes()
    path = tmp_path / "half.m4a"
    path.write_bytes(whole[: len(whole) // 2])
    clip = load_audio(path)
    assert 3 < clip.seconds < 7
    assert clip.heard_seconds == pytest.approx(clip.seconds, abs=1e-3)
    assert load_audio(path, max_seconds=1.0).seconds == pytest.approx(clip.seconds, abs=0.1)


def bad_files(folder: Path) -> None:
    whole = encode(folder / "whole.m4a", chirp(1.0, 44_100), FORMATS["m4a"]).read_bytes()
    encode(folder / "encrypted.m4a", chirp(1.0, 44_100), PROTECTED)
    (folder / "shop.m4a").write_bytes(whole.replace(b"mp4a", b"drms", 1))
    (folder / "no-index.mp4").write_bytes(whole[: len(whole) // 2])
    endless = b"\x00\x00\x00\x01free" + b"\xff" * 8
    (folder / "no-end.mp4").write_bytes(b"\x00\x00\x00\x10ftypM4A \x00\x00\x00\x00" + endless + whole[200:400])
    (folder / "text.m4a").write_text("This is no sound.\n" * 100)
    (folder / "list.m4a").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nwhole.m4a\n#EXT-X-ENDLIST\n")
    (folder / "concat.m4a").write_text("ffconcat version 1.0\nfile whole.m4a\n")
    encode(folder / "short.m4a", tone(0.02, 44_100), FORMATS["alac.m4a"])
    (folder / "noise.webm").write_bytes(b"\x1aE\xdf\xa3" + np.random.default_rng(0).bytes(4000))
    silent_video(folder / "silent.mp4")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("encrypted.m4a", r"protected against copying \(DRM\).*use a free copy"),
        ("shop.m4a", r"protected against copying \(DRM\)"),
        ("no-index.mp4", r"incomplete: its index \(moov\) is missing.*record or copy it again"),
        ("no-end.mp4", r"incomplete: its index \(moov\) is missing"),
        ("text.m4a", "cannot be decoded as audio .*convert it to WAV or FLAC"),
        ("list.m4a", "cannot be decoded as audio"),
        ("concat.m4a", "cannot be decoded as audio"),
        ("short.m4a", "20 ms is too short"),
        ("noise.webm", "cannot be decoded as audio"),
        ("silent.mp4", "has no sound track; give a file with sound"),
    ],
)
def test_bad_files_are_named_with_a_remedy(tmp_path, capfd, name: str, message: str) -> None:
    bad_files(tmp_path)
    capfd.readouterr()
    with pytest.raises(AudioError, match=message) as error:
        load_audio(tmp_path / name)
    assert str(error.value).startswith(str(tmp_path / name))
    assert capfd.readouterr() == ("", ""), "FFmpeg's own messages are not shown"


def test_a_start_after_the_end(folder) -> None:
    with pytest.raises(AudioError, match=r"the clip starts at 9\.0 s, but the file ends at 2\.00 s; correct the start"):
        load_audio(made(folder, "m4a"), start_seconds=9.0)


def test_what_is_said_without_pyav(folder, tmp_path, monkeypatch) -> None:
    path = made(folder, "m4a")
    monkeypatch.setitem(sys.modules, "av", None)
    monkeypatch.delitem(sys.modules, "audioprune.audio.media", raising=False)
    remedy = r"needs FFmpeg's decoders: pip install 'audioprune\[media\]'; or convert it to WAV or FLAC"
    renamed, text = tmp_path / "renamed.wav", tmp_path / "text.wav"
    renamed.write_bytes(path.read_bytes())
    text.write_text("This is no sound.")
    for named in (path, renamed):
        with pytest.raises(AudioError, match=remedy) as error:
            load_audio(named)
        assert str(error.value).startswith(str(named))
    with pytest.raises(AudioError, match="cannot be decoded as audio"):
        load_audio(text)
    soundfile.write(tmp_path / "a.wav", tone(0.5), 16_000)
    assert load_audio(tmp_path / "a.wav").seconds == 0.5


def test_folders_are_searched_for_all_of_them() -> None:
    assert {f".{suffix.split('.')[-1]}" for suffix in FORMATS} <= FFMPEG <= EXTENSIONS


def test_a_rate_that_no_sound_has(tmp_path) -> None:
    soundfile.write(tmp_path / "slow.wav", tone(1.0), 100)
    with pytest.raises(AudioError, match="its rate is 100 Hz, but sounds have 1000 Hz or more"):
        load_audio(tmp_path / "slow.wav")


@pytest.mark.parametrize("channels", [6, 8])
def test_surround_sound(tmp_path, channels: int) -> None:
    """From eight channels on, PyAV's own arrays read what is no sound, and may end the process."""
    kind = Format("aac", channels=channels)
    path = encode(tmp_path / "film.m4a", tone(1.0, kind.rate), kind)
    read = "import sys, audioprune as ap; clip = ap.load_audio(sys.argv[1]); print(clip.channels, clip.waveform.std())"
    run = subprocess.run([sys.executable, "-c", read, str(path)], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    found, loudness = run.stdout.split()
    assert int(found) == channels
    assert float(loudness) == pytest.approx(tone(1.0, 16_000).std(), rel=0.2)
