"""Rows as SubRip, WebVTT and plain text."""

from __future__ import annotations

from collections.abc import Iterable

from ..files import Row

SHORTEST = 0.1
"""Seconds that a cue lasts at least, so that players show it."""


def srt(row: Row) -> str:
    """SubRip: numbered cues, one a word where the row has words, else one a segment."""
    return "".join(
        f"{number}\n{_clock(start, ',')} --> {_clock(end, ',')}\n{text}\n\n"
        for number, (start, end, text) in enumerate(_cues(row), start=1)
    )


def vtt(row: Row) -> str:
    """WebVTT: the same cues, unnumbered."""
    cues = (f"{_clock(start, '.')} --> {_clock(end, '.')}\n{_escaped(text)}\n\n" for start, end, text in _cues(row))
    return "WEBVTT\n\n" + "".join(cues)


def txt(row: Row) -> str:
    """The text alone: a line for each segment where the row has segments."""
    lines = [segment["text"] for segment in row["segments"]] if "segments" in row else [row["text"]]
    return "".join(f"{line}\n" for line in lines)


def table(rows: Iterable[Row]) -> str:
    """A line for each row without an error: path, tab, text."""
    return "".join(f"{_flat(row['path'])}\t{_flat(row['text'])}\n" for row in rows if "error" not in row)


FORMATS = {"srt": srt, "vtt": vtt, "txt": txt}
"""Formats of one file for each sound."""


def _cues(row: Row) -> Iterable[tuple[float, float, str]]:
    cues = row.get("words") or row["segments"]
    for cue in cues:
        start = cue["start"]
        yield start, max(cue["end"], start + SHORTEST), _flat(cue.get("word") or cue["text"])


def _clock(seconds: float, mark: str) -> str:
    """3723.5 → 01:02:03,500"""
    ms = round(1000 * seconds)
    return f"{ms // 3_600_000:02}:{ms // 60_000 % 60:02}:{ms // 1000 % 60:02}{mark}{ms % 1000:03}"


def _flat(text: str) -> str:
    return " ".join(text.split())


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
