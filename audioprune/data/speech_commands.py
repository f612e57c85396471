"""Speech Commands: one-second words in class folders (Warden, arXiv 1804.03209). Version 2 has 35 words."""

from __future__ import annotations

from pathlib import Path

from .files import sounds, subfolders, text_lines
from .table import ClipRow, ClipTable, DataError, with_warnings

VALIDATION, TEST = "validation_list.txt", "testing_list.txt"


def read_speech_commands(folder: Path) -> ClipTable:
    """Read the words: each folder is one. The two lists name the validation and test clips; the rest is for training.

    `_background_noise_`, and any other folder that starts with an underscore, is not a word. Raises `DataError`.
    """
    missing = [name for name in (VALIDATION, TEST) if not (folder / name).is_file()]
    if missing:
        raise DataError(
            f"{folder}: no speech-commands here; looked for {VALIDATION} and {TEST} next to the words' folders"
        )
    rows = [*_listed(folder, VALIDATION, "validation"), *_listed(folder, TEST, "test")]
    listed = {row.path for row in rows}
    words = [place for place in subfolders(folder) if not place.name.startswith("_")]
    for word in words:
        rows += [ClipRow(path, (word.name,)) for path in sounds(word, deep=False) if path not in listed]
    labels = tuple(word.name for word in words)
    return with_warnings(ClipTable("speech-commands", tuple(rows), labels, preset="speech-commands"))


def _listed(folder: Path, name: str, part: str) -> list[ClipRow]:
    lines = text_lines(folder / name)
    return [ClipRow(folder / line, (line.split("/")[0],), part=part) for _, line in lines]
