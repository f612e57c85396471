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
from ..audio.files import AudioError, decode_ahead, load_audio
from ..audio.front_end import FrontEnd

AHEAD = 16
"""Files that are decoded ahead."""


@dataclass
class CalibrationSounds:
    """features: of what can be used, (1, …) each, as the model takes them. failed: errors of files that cannot be
    decoded. silent: files in which nobody hears anything, on which a model's answer tells nothing. copies: files that
    hold the very sound of another. cut: files longer than the model hears, of which the beginning is heard.
    """

    features: list[Tensor] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    silent: list[Path] = field(default_factory=list)
    copies: list[Path] = field(default_factory=list)
    cut: list[Path] = field(default_factory=list)


def read_sounds(paths: Sequence[Path], front: FrontEnd, advance: Callable[[], Any] = lambda: None) -> CalibrationSounds:
    """Decode files and make their features, on the CPU. `advance` is called after each.

    A sound that is there twice must not count twice: copies are told by their samples, of what the model hears.
    """
    sounds, known = CalibrationSounds(), set[str]()
    load = partial(load_audio, max_seconds=front.max_seconds)
    for path, clip in decode_ahead(paths, load, ahead=AHEAD):
        advance()
        if isinstance(clip, AudioError):
            sounds.failed.append(str(clip))
            continue
        key = fingerprints.of_parts([clip.waveform.data])
        if clip.is_silent:
            sounds.silent.append(path)
        elif key in known:
            sounds.copies.append(path)
        else:
            known.add(key)
            sounds.features.append(front(torch.from_numpy(clip.waveform).to(front.device)).cpu())
            if clip.seconds > clip.heard_seconds + 0.01:
                sounds.cut.append(path)
    return sounds
