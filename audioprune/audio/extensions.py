"""Suffixes of sound files, apart from what decodes them, which takes long to import."""

from __future__ import annotations

_DECODED = {".wav", ".wave", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc", ".au", ".caf", ".w64"}
# libsndfile cannot decode these. They are still listed, so that each gets an error with a remedy.
_REFUSED = {".m4a", ".aac", ".wma", ".amr", ".ape"}
EXTENSIONS = frozenset(_DECODED | _REFUSED)
"""Suffixes of sounds in a searched folder. A file that is named explicitly is always tried."""
