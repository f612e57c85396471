"""VoxCeleb1, speaker identification: 1,251 speakers (Nagrani et al., arXiv 1706.08612)."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from .files import some, text_lines
from .table import ClipRow, ClipTable, DataError, with_warnings

SPLIT = "iden_split.txt"
_PARTS = {"1": "train", "2": "validation", "3": "test"}
_ROOTS = ("", "wav", "dev/wav", "test/wav")


def read_voxceleb1(folder: Path) -> ClipTable:
    """Read the lines of `iden_split.txt`, such as `1 id10003/na8-QEFmj44/00003.wav`: 1 train, 2 validation, 3 test.

    The speakers' folders are in the same folder, or in `wav/`, `dev/wav/` and `test/wav/`. Raises `DataError`.
    """
    if not (folder / SPLIT).is_file():
        raise DataError(f"{folder}: no voxceleb1 here; looked for {SPLIT}")

    @cache
    def root(speaker: str) -> Path:
        places = (folder / name for name in _ROOTS)
        return next((place for place in places if (place / speaker).is_dir()), folder / "wav")

    rows, bad = [], []
    for number, line in text_lines(folder / SPLIT):
        part, _, name = line.partition(" ")
        speaker = name.strip().split("/")[0]
        if part not in _PARTS or "/" not in name:
            bad.append(f"line {number}: {line!r}")
            continue
        rows.append(ClipRow(root(speaker) / name.strip(), (speaker,), part=_PARTS[part]))
    if bad:
        raise DataError(f"{folder / SPLIT}: expected lines like '1 id10003/na8-QEFmj44/00003.wav'; {some(bad)}")
    labels = tuple(sorted({row.labels[0] for row in rows}))
    return with_warnings(ClipTable("voxceleb1", tuple(rows), labels, preset="voxceleb1"))
