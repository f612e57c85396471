"""Decoding of a sound as it is in its file: by libsndfile, and by FFmpeg what that does not know."""

from __future__ import annotations

import math
import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import soundfile

from .extensions import HEAD_BYTES, is_container, needs_ffmpeg

_LIBSNDFILE_ERRORS = (soundfile.LibsndfileError, RuntimeError, TypeError, ValueError, ZeroDivisionError)
_BLOCK = 1 << 20


class AudioError(ValueError):
    """A sound that cannot be used. The message names the file and the remedy."""


@dataclass(frozen=True)
class Native:
    """A sound as it is in its file.

    `samples`: (samples,) float32, the mean of its `channels`, at `rate` hertz; `seconds`: length of the whole file.
    """

    samples: np.ndarray
    rate: int
    channels: int
    seconds: float


def read_native(source: Any, name: str, start_seconds: float = 0.0, max_seconds: float | None = None) -> Native:
    """Decode a path or a binary file object from `start_seconds` on, at most `max_seconds`; None decodes everything.

    Raises `AudioError` if it cannot be decoded.
    """
    part = (start_seconds, max_seconds)
    with _opened(source) as opened:
        head = opened.read(HEAD_BYTES)
    if is_container(head):  # in which libsndfile may find an MP3 that is none
        return _by_ffmpeg(source, name, head, None, *part)
    try:
        file = soundfile.SoundFile(source)
    except _LIBSNDFILE_ERRORS as error:
        return _by_ffmpeg(source, name, head, error, *part)
    return _by_libsndfile(file, name, *part)


def _opened(source: Any) -> AbstractContextManager[BinaryIO]:
    """A path, opened; or a file object, at its beginning."""
    if isinstance(source, str | bytes | os.PathLike):
        return open(source, "rb")
    source.seek(0)
    return nullcontext(source)


def _by_libsndfile(file: soundfile.SoundFile, name: str, start_seconds: float, max_seconds: float | None) -> Native:
    blocks: list[np.ndarray] = []
    try:
        with file:
            rate = file.samplerate
            begin = file.seek(min(round(start_seconds * rate), file.frames)) if start_seconds else 0
            left = file.frames if max_seconds is None else math.ceil(max_seconds * rate)
            # In blocks, because a damaged header may promise more samples than fit into memory.
            most = max(1, _BLOCK // file.channels)
            while left > 0 and len(block := file.read(min(left, most), dtype="float32", always_2d=True)):
                blocks.append(block.mean(axis=1))
                left -= len(block)
            samples = np.concatenate(blocks) if blocks else np.zeros(0, np.float32)
            frames = begin + len(samples) if left > 0 else file.frames
            return Native(samples, rate, file.channels, frames / rate)
    except _LIBSNDFILE_ERRORS as error:
        raise undecodable(name, error) from error


def _by_ffmpeg(
    source: Any, name: str, head: bytes, reason: Exception | None, start_seconds: float, max_seconds: float | None
) -> Native:
    """Decode by FFmpeg. head: first bytes of the file. reason: what libsndfile said of it, if it was asked."""
    try:
        from .media import UnknownFormatError, decode_media
    except ImportError as missing:
        if reason is not None and not needs_ffmpeg(name, head):
            raise undecodable(name, reason) from reason
        raise AudioError(
            f"{name}: this format needs FFmpeg's decoders: pip install 'audioprune[media]'; or convert it to WAV or "
            "FLAC"
        ) from missing
    try:
        with _opened(source) as file:
            return decode_media(file, name, start_seconds, max_seconds)
    except UnknownFormatError as error:
        raise undecodable(name, reason or error) from error


def undecodable(name: str | Path, error: Exception) -> AudioError:
    """Error for a file that libsndfile cannot decode, with its reason."""
    reason = str(getattr(error, "error_string", error)).strip().removeprefix("Error : ").rstrip(".")
    return AudioError(
        f"{name}: cannot be decoded as audio ({reason}); convert it to WAV or FLAC, or copy it again if it is damaged"
    )
