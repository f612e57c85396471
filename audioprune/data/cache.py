"""Decoded sounds on disk and in memory, so that an epoch does not decode again what the last one did."""

from __future__ import annotations

import hashlib
import math
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import soundfile
import torch

from ..audio.features import LogMel
from ..audio.files import AudioError, load_audio, to_mono, undecodable
from ..files import DRAFT, draft
from .table import ClipRow, DataError, report

VERSION = 1
"""Part of every key: raise it when decoding or the front end give other numbers than before."""

_UNFINISHED = "unfinished"
_STALE_SECONDS = 3600.0
_THREADS = 4
_BATCH = 256


class SoundCache:
    """Waveforms and spectrograms of clips, each decoded once.

    A file that was changed is decoded anew, for its size and time are part of the key. Entries are written under
    another name, and renamed when they are complete: a run that is killed leaves none that is torn, and several runs
    may share a folder. An entry that cannot be read nevertheless is made again.

    Args:
        folder: made where it is missing. None keeps everything in memory.
        max_seconds: only this much of each clip is decoded and kept.
        memory: bytes of sounds to hold in memory in front of the folder.

    Raises `DataError` where the folder cannot be made or written.
    """

    def __init__(self, folder: str | Path | None, max_seconds: float, *, memory: int = 2 << 30) -> None:
        if not 0 < max_seconds < math.inf:
            raise ValueError(f"max_seconds is {max_seconds}; it must be positive, 10 for ten-second clips")
        self.folder = None if folder is None else Path(folder).expanduser()
        self.max_seconds, self.memory = float(max_seconds), memory
        self._held: dict[str, np.ndarray] = {}
        self._held_bytes = 0
        if self.folder is not None:
            try:
                (self.folder / _UNFINISHED).mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise DataError(f"{self.folder}: cannot hold the cache ({error}); choose another folder") from error
            self._sweep(self.folder / _UNFINISHED)

    def waveform(self, row: ClipRow) -> np.ndarray:
        """(samples,) float32, mono at 16 kHz: the row's `start` to `end`, at most `max_seconds`. Yours to change.

        Raises `AudioError` as `load_audio` does, and where `start` lies beyond the file's end.
        """
        return self._get(self._key(row), lambda: _decode(row, self.max_seconds), dimensions=1).copy()

    def features(self, row: ClipRow, front: LogMel) -> torch.Tensor:
        """(frames, mels) float32 on the CPU: the clip's spectrogram by `front`. Yours to change.

        Raises `AudioError` as `waveform` does.
        """
        sound = self._key(row)
        settings = (front.max_length, front.mean, front.std, front.num_mel_bins, front.padding)
        key = _digest(sound, type(front).__qualname__, *settings)

        def make() -> np.ndarray:
            # Not held: the memory is for what every epoch asks for.
            waveform = self._get(sound, lambda: _decode(row, self.max_seconds), dimensions=1, hold=False)
            with torch.no_grad():
                return front(waveform)[0].cpu().numpy()

        return torch.from_numpy(self._get(key, make, dimensions=2).copy())

    def prepare(self, rows: Sequence[ClipRow], advance: Callable[[], object] = lambda: None) -> None:
        """Decode all clips that are not in the cache yet, several at a time.

        `advance` is called in this thread after each clip. Raises one `DataError` of all that cannot be decoded,
        after the others are done.
        """
        failures: list[str] = []
        with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as pool:
            # In batches, so that an interrupted run ends soon and two million clips are no two million futures.
            for first in range(0, len(rows), _BATCH):
                for failure in pool.map(self._attempt, rows[first : first + _BATCH]):
                    if failure is not None:
                        failures.append(failure)
                    advance()
        if failures:
            kind = "cannot be decoded; repair, replace or remove them"
            raise DataError(report(f"{len(failures):,} of {len(rows):,} clips", {kind: failures}))

    def _attempt(self, row: ClipRow) -> str | None:
        """The error's message where the clip cannot be decoded."""
        try:
            key = self._key(row)
            if self.folder is None or not self._path(key).exists():
                hold = self.folder is None
                self._get(key, lambda: _decode(row, self.max_seconds), dimensions=1, hold=hold)
        except AudioError as error:
            return str(error)
        return None

    def _key(self, row: ClipRow) -> str:
        try:
            found = os.stat(row.path)
        except OSError as error:
            raise AudioError(f"{row.path}: cannot be read ({error.strerror})") from error
        end = None if row.end is None else float(row.end)
        where = (os.path.abspath(row.path), found.st_size, found.st_mtime_ns)
        return _digest(VERSION, *where, float(row.start), end, self.max_seconds)

    def _path(self, key: str) -> Path:
        assert self.folder is not None
        return self.folder / key[:2] / f"{key}.npy"

    def _get(self, key: str, make: Callable[[], np.ndarray], *, dimensions: int, hold: bool = True) -> np.ndarray:
        """From memory, else from disk, else made and stored."""
        array = self._held.get(key)
        if array is not None:
            return array
        array = None if self.folder is None else _load(self._path(key), dimensions)
        if array is None:
            array = make()
            if self.folder is not None:
                self._store(key, array)
        # Held until the end, for an epoch visits every clip once: dropping the oldest would drop what comes next.
        if hold and self._held_bytes + array.nbytes <= self.memory:
            self._held[key] = array
            self._held_bytes += array.nbytes
        return array

    def _store(self, key: str, array: np.ndarray) -> None:
        assert self.folder is not None
        try:
            with draft(self._path(key), self.folder / _UNFINISHED) as made, made.open("xb") as file:
                np.lib.format.write_array(file, array, allow_pickle=False)
        except OSError as error:
            raise DataError(
                f"{self.folder}: cannot write the cache ({error}); make room, choose another folder, or do without"
            ) from error

    @staticmethod
    def _sweep(folder: Path) -> None:
        """Remove what a killed run left unfinished. The young ones may be another run's, which writes just now."""
        for entry in os.scandir(folder):
            try:
                if entry.name.endswith((DRAFT, ".tmp")) and time.time() - entry.stat().st_mtime > _STALE_SECONDS:
                    os.unlink(entry.path)
            except OSError:
                # Another run swept first.
                continue


def _digest(*parts: object) -> str:
    return hashlib.blake2b(repr(parts).encode(), digest_size=20).hexdigest()


def _load(path: Path, dimensions: int) -> np.ndarray | None:
    """The stored array, or None where there is none that is whole."""
    try:
        with path.open("rb") as file:
            array = np.lib.format.read_array(file, allow_pickle=False)
    except Exception:
        # A damaged file may raise anything, and the sound is still there to be decoded.
        return None
    return array if array.dtype == np.float32 and array.ndim == dimensions else None


def _decode(row: ClipRow, max_seconds: float) -> np.ndarray:
    """(samples,) float32 of the row's slice. Raises `AudioError`."""
    seconds = max_seconds if row.end is None else min(max_seconds, row.end - row.start)
    if row.start == 0:
        return load_audio(row.path, max_seconds=seconds).waveform
    try:
        with soundfile.SoundFile(os.fsencode(row.path) if os.name == "posix" else row.path) as file:
            rate, first = file.samplerate, round(row.start * file.samplerate)
            if first >= file.frames:
                raise AudioError(f"{row.path}: starts at {row.start} s, but ends at {file.frames / rate:.2f} s")
            file.seek(first)
            samples = file.read(math.ceil(seconds * rate), dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, RuntimeError, TypeError, ZeroDivisionError) as error:
        raise undecodable(row.path, error) from error
    return to_mono(samples, rate, name=f"{row.path} from {row.start} s")
