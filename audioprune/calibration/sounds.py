"""Sound files to the spectrograms of a calibration, and what had to be left out."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..audio import AudioError, Clip, load_audio
from ..features import LogMel

AHEAD = 16
"""Files that are decoded ahead."""


@dataclass
class Sounds:
    """spectrograms: (clips, frames, mels) of what can be used. failed: errors of files that cannot be decoded. silent:
    files whose samples are all the same, on which a model's answer tells nothing. copies: files that hold the very
    sound of another. cut: files longer than the model hears, of which the beginning is heard.
    """

    spectrograms: Tensor
    failed: list[str] = field(default_factory=list)
    silent: list[Path] = field(default_factory=list)
    copies: list[Path] = field(default_factory=list)
    cut: list[Path] = field(default_factory=list)


def read_sounds(paths: Sequence[Path], front: LogMel, advance: Callable[[], Any] = lambda: None) -> Sounds:
    """Decode files and make their spectrograms, on the CPU. `advance` is called after each.

    A sound that is there twice must not count twice: copies are told by their samples, of what the model hears.
    """
    sounds, rows, known = Sounds(torch.empty(0)), list[Tensor](), set[bytes]()
    device = front.window.device
    for path, clip in _decoded(paths, front.max_seconds):
        advance()
        if isinstance(clip, AudioError):
            sounds.failed.append(str(clip))
            continue
        key = hashlib.sha256(clip.waveform.tobytes()).digest()
        if np.ptp(clip.waveform) == 0:
            sounds.silent.append(path)
        elif key in known:
            sounds.copies.append(path)
        else:
            known.add(key)
            rows.append(front(torch.from_numpy(clip.waveform).to(device)).cpu())
            if clip.seconds > clip.heard_seconds + 0.01:
                sounds.cut.append(path)
    sounds.spectrograms = torch.cat(rows) if rows else torch.empty(0, front.max_length, front.num_mel_bins)
    return sounds


def _decoded(paths: Sequence[Path], max_seconds: float) -> Iterator[tuple[Path, Clip | AudioError]]:
    """Each file's clip or its error, in order, a few decoded ahead."""
    waiting: deque[tuple[Path, Future[Clip]]] = deque()
    with ThreadPoolExecutor(2, thread_name_prefix="decode") as pool:
        try:
            for path in paths:
                waiting.append((path, pool.submit(load_audio, path, max_seconds=max_seconds)))
                if len(waiting) > AHEAD:
                    yield _result(*waiting.popleft())
            while waiting:
                yield _result(*waiting.popleft())
        finally:
            for _, future in waiting:
                future.cancel()


def _result(path: Path, future: Future[Clip]) -> tuple[Path, Clip | AudioError]:
    try:
        return path, future.result()
    except AudioError as error:
        return path, error
    except Exception as error:  # one file's trouble, whatever it is, stops nobody
        return path, AudioError(f"{path}: cannot be read ({type(error).__name__}: {error})")
