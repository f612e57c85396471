"""Sound files to the features of a calibration, and what had to be left out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import fingerprints
from ..audio.files import SAMPLE_RATE, AudioError, Clip, decode_ahead, load_audio
from ..audio.front_end import FrontEnd
from ..audio.windowing import Windowing
from ..audio.windows import spread

AHEAD = 16
"""Files that are decoded ahead."""


@dataclass
class CalibrationSounds:
    """features: of what can be used, (1, …) each, as the model takes them, one window for each sound that fits.
    recordings: the sound of each window, 0 … n - 1. failed: errors of files that cannot be decoded. silent: files in
    which nobody hears anything, on which a model's answer tells nothing. copies: files that hold the very sound of
    another. cut: files longer than the model hears, of which the beginning is heard. long: those of which several
    windows are heard.
    """

    features: list[Tensor] = field(default_factory=list)
    recordings: list[int] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    silent: list[Path] = field(default_factory=list)
    copies: list[Path] = field(default_factory=list)
    cut: list[Path] = field(default_factory=list)
    long: list[Path] = field(default_factory=list)

    def __len__(self) -> int:
        """Number of sounds."""
        return self.recordings[-1] + 1 if self.recordings else 0


def read_sounds(
    paths: Sequence[Path],
    front: FrontEnd,
    advance: Callable[[], Any] = lambda: None,
    windows: Windowing | None = None,
) -> CalibrationSounds:
    """Decode files and make their features, on the CPU. `advance` is called after each.

    A sound that is there twice must not count twice: copies are told by their samples, of what the model hears.

    windows: how a longer sound is heard; with no `hop` in `MOST_SPREAD` windows at most, over the whole of it. None
        hears its beginning. Silent windows are left out.
    """
    sounds, known = CalibrationSounds(), set[str]()
    for path, clips in decode_ahead(paths, partial(_windows, front=front, windows=windows), ahead=AHEAD):
        advance()
        if isinstance(clips, AudioError):
            sounds.failed.append(str(clips))
            continue
        key = fingerprints.of_parts([clip.waveform.data for clip in clips])
        heard = [clip for clip in clips if not clip.is_silent]
        if not heard:
            sounds.silent.append(path)
        elif key in known:
            sounds.copies.append(path)
        else:
            known.add(key)
            sounds.recordings += [len(sounds)] * len(heard)
            sounds.features += [front(torch.from_numpy(clip.waveform).to(front.device)).cpu() for clip in heard]
            if len(clips) > 1:
                sounds.long.append(path)
            elif windows is None and clips[0].is_cut:
                sounds.cut.append(path)
    return sounds


def _windows(path: Path, front: FrontEnd, windows: Windowing | None) -> list[Clip]:
    """The windows of a file that are heard."""
    seconds = front.max_seconds if windows is None else windows.of(front).seconds
    first = load_audio(path, max_seconds=seconds)
    if windows is None or not first.is_cut:
        return [first]
    window, _ = windows.of(front).samples
    hop = None if windows.hop is None else round(windows.hop * SAMPLE_RATE)
    starts = spread(round(first.seconds * SAMPLE_RATE), window, hop)
    return [first, *(load_audio(path, max_seconds=seconds, start_seconds=start / SAMPLE_RATE) for start in starts[1:])]
