"""What was heard of long recordings, piece by piece, in a file that a run which was stopped goes on with."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path

from ..bulk.sounds import Sound, key
from ..files import Row
from ..state_file import StateFile
from .recognizer import Segment, Word


@dataclass(frozen=True)
class Piece:
    """What was heard of one piece of a recording.

    segments: their times are those of the recording. end: where the next piece starts, in seconds. of: length of the
    recording in seconds, as far as it is known by now. seconds: of computation. spoken: False if the piece is silent.
    """

    end: float
    of: float
    segments: tuple[Segment, ...] = ()
    language: str | None = None
    seconds: float = 0.0
    spoken: bool = False


class PieceLog(StateFile):
    """Pieces of each recording, in each pass over it. A recording that was changed is heard again.

    path: made with the first piece, so that runs over short sounds leave nothing. None keeps nothing.
    """

    def __init__(self, path: Path | None = None, run: Row | None = None) -> None:
        self._known: dict[tuple[str, str], list[Piece]] = {}
        self._place, self._run = path, run
        super().__init__(path if path is not None and path.exists() else None, run)

    def of(self, sound: Path | Sound, name: str) -> list[Piece]:
        """Pieces of a recording, in order. name: of the pass."""
        return list(self._known.get((_name_of(sound), name), []))

    def note(self, sound: Path | Sound, name: str, piece: Piece) -> None:
        if self.path is None and self._place is not None:
            self._open(self._place, self._run)
        if self.path is not None:
            self._write({"sound": _name_of(sound), "pass": name, **asdict(piece)})

    def _take(self, row: Row) -> None:
        segments = tuple(
            Segment(**{**segment, "words": tuple(Word(**word) for word in segment["words"])})
            for segment in row["segments"]
        )
        known = {name: row[name] for name in ("end", "of", "language", "seconds", "spoken")}
        self._known.setdefault((row["sound"], row["pass"]), []).append(Piece(segments=segments, **known))


def _name_of(sound: Path | Sound) -> str:
    """A recording's path, and of a file also its size and the time of its last change."""
    if not isinstance(sound, Path):
        return key(sound)
    try:
        about = os.stat(sound)
    except OSError:  # gone meanwhile: decoding it will say so
        return key(sound)
    return f"{key(sound)}, {about.st_size} bytes, {about.st_mtime_ns}"
