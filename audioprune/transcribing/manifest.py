"""Lists of clips with their transcripts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..data.files import csv_columns, csv_rows
from ..data.table import DataError

FILE_COLUMNS = ("path", "file", "audio", "file_name", "filename", "audio_filepath", "wav")
TEXT_COLUMNS = ("text", "transcript", "transcription", "sentence", "reference")
"""Names of the columns for the sound and its transcript. The first that the header has is taken."""


@dataclass(frozen=True, slots=True)
class Utterance:
    """A clip and what is said in it. name: the path as the manifest has it."""

    name: str
    path: Path
    text: str


def read_manifest(path: Path, limit: int | None = None) -> list[Utterance]:
    """Read a CSV file with a header; paths are relative to its folder. No sound is opened.

    limit: take only so many clips, at even distances, because corpora are listed one after the other; None takes all.

    Raises `DataError` if the file cannot be read, lacks a column, has a blank cell or lists a clip twice, and
    `ValueError` for a limit below 1.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"the limit is {limit}; it must be a number of clips, at least 1")
    if not path.is_file():
        raise DataError(f"{path}: no such file; give a CSV file with a column for the sound and one for its transcript")
    header = csv_columns(path)
    file, text = (_column(path, header, names) for names in (FILE_COLUMNS, TEXT_COLUMNS))
    found = [Utterance(row[file], path.parent / row[file], row[text]) for row in csv_rows(path, (file, text))]
    if not found:
        raise DataError(f"{path}: lists no clip; each line below the header is one")
    twice = sorted(name for name, count in Counter(one.name for one in found).items() if count > 1)
    if twice:
        raise DataError(f"{path}: {', '.join(twice[:5])} listed twice; remove the repeated lines")
    if limit is None or limit >= len(found):
        return found
    return [found[i * len(found) // limit] for i in range(limit)]


def _column(path: Path, header: frozenset[str], names: Sequence[str]) -> str:
    found = next((name for name in names if name in header), None)
    if found is None:
        listed = ", ".join(sorted(header)) or "nothing"
        raise DataError(f"{path}: has none of the columns {', '.join(names)}; the header has {listed}")
    return found
