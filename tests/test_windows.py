"""Windows of long sounds: what is heard, against the whole sound in memory; memory; what is written."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from audioprune.audio import windows
from audioprune.audio.files import SAMPLE_RATE, AudioError, Clip, load_audio
from audioprune.audio.windows import Envelope, batches, count, cut, pieces, read_ahead


def noise(samples: int, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(samples) * 0.1).astype(np.float32)


def slow_windows(waveform: np.ndarray, window: int, hop: int) -> list[tuple[int, np.ndarray]]:
    """Cut from the whole sound: every start that fits, and one more at the end for what is left."""
    if len(waveform) <= window:
        return [(0, waveform)] if len(waveform) else []
    starts = [start for start in range(0, len(waveform), hop) if start + window <= len(waveform)]
    if len(waveform) - (starts[-1] + window) > windows.TAIL:
        starts.append(len(waveform) - window)
    return [(start, waveform[start : start + window]) for start in starts]


@given(
    samples=st.integers(0, 3000),
    window=st.integers(1, 700),
    share=st.floats(0.01, 1.0),
    parts=st.lists(st.integers(0, 900), max_size=8),
)
def test_windows_are_those_of_the_whole_sound(samples: int, window: int, share: float, parts: list[int]) -> None:
    hop = max(1, round(share * window))
    wave = np.arange(samples, dtype=np.float32)
    cuts = np.clip(np.cumsum([0, *parts]), 0, samples).tolist()
    stream = [wave[a:b] for a, b in zip(cuts, [*cuts[1:], samples], strict=True)]
    found = [(one.start, one.waveform.tolist()) for one in cut(stream, window, hop)]
    assert found == [(start, part.tolist()) for start, part in slow_windows(wave, window, hop)]
    assert len(found) == count(samples, window, hop)


def test_the_last_window_ends_where_the_sound_ends() -> None:
    found = list(cut([np.zeros(10_000, np.float32)], 4_000, 4_000))
    assert [one.start for one in found] == [0, 4_000, 6_000]
    assert found[-1].seconds == (6_000 / SAMPLE_RATE, 10_000 / SAMPLE_RATE)


def test_a_hop_that_leaves_gaps_is_refused() -> None:
    with pytest.raises(ValueError, match="hop is 11 samples; it must be at least 1 and at most the window, 10"):
        list(cut([np.zeros(30, np.float32)], 10, 11))


@pytest.mark.parametrize(("rate", "channels", "suffix"), [(44_100, 2, "flac"), (8_000, 1, "wav"), (16_000, 1, "wav")])
@pytest.mark.parametrize("seconds", [2.5, 4.0, 5.01])
def test_pieces_are_the_whole_sound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rate: int, channels: int, suffix: str, seconds: float
) -> None:
    """Also across the ends of pieces, where the rate is converted."""
    monkeypatch.setattr(windows, "PIECE_SECONDS", 2)
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, noise(round(seconds * rate) * channels).reshape(-1, channels), rate)
    whole = load_audio(path).waveform

    def load(asked: float, start: float) -> Clip:
        return load_audio(path, max_seconds=asked, start_seconds=start)

    found = np.concatenate(list(pieces(load)))
    assert abs(len(found) - len(whole)) <= 1
    length = min(len(found), len(whole))
    assert np.abs(found[:length] - whole[:length]).max() < 1e-6


def test_what_is_wrong_in_the_middle_is_told_with_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "PIECE_SECONDS", 2)
    wave = noise(7 * SAMPLE_RATE)
    wave[6 * SAMPLE_RATE + 100] = np.nan
    soundfile.write(tmp_path / "a.wav", wave, SAMPLE_RATE, subtype="FLOAT")

    def load(asked: float, start: float) -> Clip:
        return load_audio(tmp_path / "a.wav", max_seconds=asked, start_seconds=start)

    with pytest.raises(AudioError, match=r"a\.wav from 3 s: contains NaN "):
        list(pieces(load))


@given(st.lists(st.integers(0, 4000), max_size=6))
def test_an_envelope_of_parts_is_that_of_the_whole(lengths: list[int]) -> None:
    wave = noise(sum(lengths))
    cuts = np.cumsum([0, *lengths]).tolist()
    envelope = Envelope()
    passed = list(envelope.watch([wave[a:b] for a, b in pairwise(cuts)]))
    assert sum(map(len, passed)) == len(wave)
    expected = [(part.min(), part.max()) for i in range(0, len(wave), 1600) if len(part := wave[i : i + 1600])]
    assert envelope.array().tolist() == [list(pair) for pair in expected]


def test_batches_hold_copies() -> None:
    piece = noise(100)
    found = list(batches(cut([piece], 10, 10), 4))
    assert [len(batch) for batch in found] == [4, 4, 2]
    assert not any(np.shares_memory(one.waveform, piece) for batch in found for one in batch)


def test_reading_ahead_changes_nothing_and_tells_errors() -> None:
    assert list(read_ahead(iter(range(7)))) == list(range(7))

    def broken():
        yield 1
        raise AudioError("gone")

    items = read_ahead(broken())
    assert next(items) == 1
    with pytest.raises(AudioError, match="gone"):
        next(items)


@given(st.integers(1, 5000), st.integers(1, 900), st.one_of(st.none(), st.floats(0.05, 1.0)))
def test_windows_over_the_whole_of_many_sounds(samples: int, window: int, share: float | None) -> None:
    hop = None if share is None else max(1, round(share * window))
    starts = windows.spread(samples, window, hop)
    if samples - window <= windows.TAIL:
        assert starts == [0]
        return
    if hop is not None:
        assert starts == [start for start, _ in slow_windows(np.zeros(samples, np.float32), window, hop)]
        return
    assert (starts[0], starts[-1]) == (0, samples - window)
    assert starts == sorted(set(starts))
    assert 2 <= len(starts) <= windows.MOST_SPREAD
    gaps = np.diff(starts)
    assert gaps.max() - gaps.min() <= 1
    assert gaps.max() <= window or len(starts) == windows.MOST_SPREAD, "nothing is left out without need"
