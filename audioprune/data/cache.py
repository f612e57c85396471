"""Cache of decoded sounds on disk and in memory, so that each epoch does not decode them again."""

from __future__ import annotations

import errno
import hashlib
import math
import os
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from ..audio.files import AudioError, load_audio
from ..audio.front_end import FrontEnd
from ..files import DRAFT, draft
from .table import ClipRow, DataError, report

VERSION = 1
"""Part of every key: increase it if decoding or the front end gives other numbers than before."""

_UNFINISHED = "unfinished"
_NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT)
_STALE_SECONDS = 3600.0
_THREADS = 4
_BATCH = 256


class SoundCache:
    """Waveforms and spectrograms of clips, each decoded once.

    A changed file is decoded again, because its size and time are part of the key. Entries are written under another
    name, and renamed when they are complete. So a killed run leaves no incomplete entry, and several runs may share a
    folder. An entry that cannot be read is made again.

    A folder that cannot be written to, or a full disk, stops nothing: it is warned of, and new entries are kept in
    memory.

    Args:
        folder: folder of the cache; it is created if it does not exist. None keeps everything in memory.
        max_seconds: only so much of each clip is decoded and kept.
        memory: bytes of sounds to keep in memory, in addition to the folder.

    Raises `DataError` if the folder cannot be one, such as the name of a file.
    """

    def __init__(self, folder: str | Path | None, max_seconds: float, *, memory: int = 2 << 30) -> None:
        if not 0 < max_seconds < math.inf:
            raise ValueError(f"max_seconds is {max_seconds}; it must be positive, 10 for ten-second clips")
        self.folder = None if folder is None else Path(folder).expanduser()
        self.max_seconds, self.memory = float(max_seconds), memory
        self._held: dict[str, np.ndarray] = {}
        self._held_bytes = 0
        self._stores = self.folder is not None
        if self.folder is not None:
            try:
                (self.folder / _UNFINISHED).mkdir(parents=True, exist_ok=True)
                self._sweep(self.folder / _UNFINISHED)
            except OSError as error:
                if error.errno not in _NOT_WRITABLE:
                    raise DataError(
                        f"{self.folder}: cannot contain the cache ({error}); choose another folder"
                    ) from error
                self._keep_in_memory(error)

    def waveform(self, row: ClipRow) -> np.ndarray:
        """Waveform of a row from `start` to `end`, at most `max_seconds`: (samples,) float32, mono, at 16 kHz.

        The array is a copy that you may change. Raises `AudioError` as `load_audio` does, and if `start` is after the
        end of the file.
        """
        return self._get(self._key(row), lambda: _decode(row, self.max_seconds), dimensions=1).copy()

    def features(self, row: ClipRow, front: FrontEnd) -> torch.Tensor:
        """Features of a row by `front`: float32 of `front.shape`, or (samples,), on the CPU.

        The tensor is a copy that you may change. Raises `AudioError` as `waveform` does.
        """
        sound = self._key(row)
        key = _digest(sound, type(front).__qualname__, *front.settings)

        def make() -> np.ndarray:
            # Not kept in memory, which is for the arrays that every epoch reads.
            waveform = self._get(sound, lambda: _decode(row, self.max_seconds), dimensions=1, hold=False)
            with torch.no_grad():
                return front(waveform)[0].cpu().numpy()

        return torch.from_numpy(self._get(key, make, dimensions=len(front.shape or (0,))).copy())

    def prepare(self, rows: Sequence[ClipRow], advance: Callable[[], object] = lambda: None) -> None:
        """Decode all clips that are not in the cache yet, several at a time.

        `advance` is called in this thread after each clip. If some clips cannot be decoded, one `DataError` names them,
        after the others are done.
        """
        failures: list[str] = []
        with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as pool:
            # In batches, so that an interrupted run ends soon, and two million clips do not need two million futures.
            for first in range(0, len(rows), _BATCH):
                for failure in pool.map(self._attempt, rows[first : first + _BATCH]):
                    if failure is not None:
                        failures.append(failure)
                    advance()
        if failures:
            kind = "cannot be decoded; repair, replace or remove them"
            raise DataError(report(f"{len(failures):,} of {len(rows):,} clips", {kind: failures}))

    def _attempt(self, row: ClipRow) -> str | None:
        """Decode one clip; returns the error message if it cannot be decoded."""
        try:
            key = self._key(row)
            if self.folder is None or not self._path(key).exists():
                hold = not self._stores
                self._get(key, lambda: _decode(row, self.max_seconds), dimensions=1, hold=hold)
        except AudioError as error:
            return str(error)
        return None

    def _key(self, row: ClipRow) -> str:
        try:
            status = os.stat(row.path)
        except OSError as error:
            raise AudioError(f"{row.path}: cannot be read ({error.strerror})") from error
        end = None if row.end is None else float(row.end)
        identity = (os.path.abspath(row.path), status.st_size, status.st_mtime_ns)
        return _digest(VERSION, *identity, float(row.start), end, self.max_seconds)

    def _path(self, key: str) -> Path:
        assert self.folder is not None
        return self.folder / key[:2] / f"{key}.npy"

    def _get(self, key: str, make: Callable[[], np.ndarray], *, dimensions: int, hold: bool = True) -> np.ndarray:
        """Array of a key, from memory or from disk; otherwise it is made and stored.

        Args:
            key: the key.
            make: makes the array.
            dimensions: number of dimensions of the array.
            hold: whether to keep it in memory.
        """
        array = self._held.get(key)
        if array is not None:
            return array
        array = None if self.folder is None else _load(self._path(key), dimensions)
        if array is None:
            array = make()
            if self._stores:
                self._store(key, array)
        # Never dropped: an epoch reads every clip once, so the oldest entry is the one that is needed next.
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
            self._keep_in_memory(error)

    def _keep_in_memory(self, error: OSError) -> None:
        """Store nothing from now on, and say so once."""
        if self._stores:
            self._stores = False
            warnings.warn(
                f"{self.folder}: cannot keep decoded sounds ({error.strerror}), so they are in memory, and the next "
                "run decodes them again; make room, or name another folder for the cache",
                stacklevel=2,
            )

    @staticmethod
    def _sweep(folder: Path) -> None:
        """Remove unfinished files of killed runs. Recent ones are left, because another run may be writing them."""
        for entry in os.scandir(folder):
            try:
                if entry.name.endswith((DRAFT, ".tmp")) and time.time() - entry.stat().st_mtime > _STALE_SECONDS:
                    os.unlink(entry.path)
            except OSError:
                # Another run removed it first.
                continue


def _digest(*parts: object) -> str:
    return hashlib.blake2b(repr(parts).encode(), digest_size=20).hexdigest()


def _load(path: Path, dimensions: int) -> np.ndarray | None:
    """The stored array; None if there is none, or if it is damaged."""
    try:
        with path.open("rb") as file:
            array = np.lib.format.read_array(file, allow_pickle=False)
    except Exception:
        # A damaged file may raise any error, and the sound can be decoded again.
        return None
    return array if array.dtype == np.float32 and array.ndim == dimensions else None


def _decode(row: ClipRow, max_seconds: float) -> np.ndarray:
    """Decode the slice of a row: (samples,) float32. Raises `AudioError`."""
    seconds = max_seconds if row.end is None else min(max_seconds, row.end - row.start)
    return load_audio(row.path, max_seconds=seconds, start_seconds=row.start).waveform
