"""Suffixes and first bytes of sound files, apart from what decodes them, which takes long to import."""

from __future__ import annotations

import os

LIBSNDFILE = frozenset(
    {
        ".wav",
        ".wave",
        ".flac",
        ".ogg",
        ".oga",
        ".opus",
        ".mp3",
        ".aif",
        ".aiff",
        ".aifc",
        ".au",
        ".caf",
        ".w64",
        ".rf64",
    }
)
"""Suffixes of what libsndfile decodes."""
FFMPEG = frozenset(
    {".m4a", ".m4b", ".m4r", ".m4p", ".aac", ".mp4", ".m4v", ".mov", ".3gp", ".3g2", ".webm", ".weba", ".mkv", ".mka"}
    | {".wma", ".wmv", ".asf", ".amr", ".awb", ".ac3", ".eac3", ".mp2", ".ape", ".wv", ".tta", ".avi", ".flv", ".mpg"}
    | {".mpeg", ".m2ts"}
)
"""Suffixes of what FFmpeg decodes (the extra `media`): other formats of sound, and videos for their sound."""
EXTENSIONS = LIBSNDFILE | FFMPEG
"""Suffixes of sounds in a searched folder. A file that is named explicitly is always tried."""

_CONTAINERS = (
    (0, (b"\x1aE\xdf\xa3", b"0&\xb2u\x8ef\xcf\x11", b"#!AMR", b"MAC ", b"wvpk", b"TTA1", b"FLV\x01")),
    (4, (b"ftyp", b"moov", b"mdat", b"wide")),
    (8, (b"AVI ",)),
)
"""Where files of FFmpeg's formats have which bytes."""
HEAD_BYTES = 16


def is_container(head: bytes) -> bool:
    """Whether a file that begins with these bytes is of a format that only FFmpeg decodes."""
    return any(head.startswith(mark, place) for place, marks in _CONTAINERS for mark in marks)


def needs_ffmpeg(name: str, head: bytes) -> bool:
    """Whether a file of this name, and with these first bytes, is of a format that only FFmpeg decodes."""
    return is_container(head) or os.path.splitext(name)[1].lower() in FFMPEG
