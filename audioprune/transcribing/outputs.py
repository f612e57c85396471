"""Where transcripts are written: JSON Lines, one subtitle file a sound, or one table of texts. Imports no PyTorch.

Whatever the form, rows are first appended to a file of JSON Lines. It says what is done and with which settings; the
others are written from it, whole or not at all.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from ..bulk.asked import Asked
from ..bulk.log import ResultLog, ResultLogError, begun
from ..files import Row, write_bytes
from .subtitles import FORMATS, table

JOURNAL = "_rows.jsonl"
"""Rows of a folder of subtitles; those of a.srt are in .a.srt.jsonl."""
WITH_TIMES = ("srt", "vtt")


@dataclass(frozen=True)
class Output:
    """Where results go.

    path: the file or folder. kind: "jsonl", "srt", "vtt" or "txt". is_folder: whether each sound gets a file there.
    """

    path: Path
    kind: str
    is_folder: bool

    @property
    def needs_times(self) -> bool:
        return self.kind in WITH_TIMES

    @property
    def journal(self) -> Path:
        """The file of rows."""
        if self.kind == "jsonl":
            return self.path
        return self.path / JOURNAL if self.is_folder else self.path.with_name(f".{self.path.name}.jsonl")

    @property
    def pieces(self) -> Path:
        """The file of what was heard of long recordings, while a run goes on."""
        return self.journal.with_name(f".{self.journal.name.removeprefix('.')}.pieces")


def choose_output(out: str, form: str | None = None) -> Output:
    """What `--out` and `--format` ask for: a file by its suffix; a folder if it is one, ends in /, or has a format
    and no suffix. Raises `ValueError` for what cannot be, with what can."""
    path, suffix = Path(out), Path(out).suffix.lower()[1:]
    if form is not None and form not in FORMATS:
        raise ValueError(f"--format is {form!r}; it is {', '.join(FORMATS)}; JSON Lines are one file: --out a.jsonl")
    if path.is_dir() or out.endswith(("/", os.sep)) or (form is not None and not suffix):
        if form is None:
            raise ValueError(f"--out {out} is a folder; say what each sound gets there, such as --format srt")
        return Output(path, form, True)
    if suffix not in ("jsonl", *FORMATS):
        raise ValueError(
            f"--out is {out!r}; give it a name that ends in .jsonl, {', '.join(f'.{name}' for name in FORMATS)}, or a "
            "folder with what each sound gets there, such as --out subtitles/ --format srt"
        )
    if form is not None and form != suffix:
        raise ValueError(f"--out {out} and --format {form} differ; leave out --format, or give a folder")
    return Output(path, suffix, False)


def open_output(
    output: Output,
    setting: Row,
    sounds: Sequence[Path],
    sources: Sequence[Path] = (),
    asked: Asked | None = None,
) -> ResultLog:
    """Open what an `Output` names.

    Args:
        output: where to write.
        setting: all that decides about a text; what was begun with another is refused.
        sounds: all sounds of the run.
        sources: the files and folders that were named. A folder's subfolders are made anew in a folder of results.
        asked: the words of which the setting came.

    Raises `ValueError` if the form cannot hold these sounds, and `ResultLogError` if a file is in the way that this
    command did not write.
    """
    if output.kind == "jsonl":
        return ResultLog(output.path, setting, asked)
    if output.is_folder:
        return FolderLog(output, setting, names_of(sounds, sources, output.kind), asked)
    if len(sounds) > 1 and output.needs_times:
        raise ValueError(
            f"{output.path} would hold the times of one recording, and there are {len(sounds)}; give a folder, such "
            f"as --out subtitles/ --format {output.kind}"
        )
    return TextLog(output, setting, sounds, asked)


def reopen_output(
    output: Output, asked: Asked | None, sounds: Sequence[Path], sources: Sequence[Path] = ()
) -> ResultLog | None:
    """Open results before the model is loaded, with the setting in them; None if another may be asked for now.

    The setting is trusted only if it came of the same words and files.
    """
    found = begun(output.journal)
    if asked is None or found is None or asked.mark(found[0]) != found[1]:
        return None
    return open_output(output, found[0], sounds, sources, asked)


class FolderLog(ResultLog):
    """A folder with a file for each sound. names: by the sounds' paths, relative to the folder."""

    def __init__(self, output: Output, setting: Row, names: Mapping[str, Path], asked: Asked | None) -> None:
        self._output, self._names = output, names
        self._ours: set[str] = set()
        super().__init__(output.journal, setting, asked)
        for path, name in names.items():
            if path not in self._ours and (output.path / name).exists():
                self._journal.close()
                raise _in_the_way(output.path / name)

    def _count(self, row: Row) -> None:
        super()._count(row)
        self._ours.add(row["path"])
        name = self._names.get(row["path"])
        if name is None or "error" in row or (self._output.path / name).exists():
            return  # of another run, or it was written before
        write_bytes(self._output.path / name, _encoded(FORMATS[self._output.kind](row)))


class TextLog(ResultLog):
    """One file: of one sound in any form, or a table of the texts of many, in the order of the sounds."""

    def __init__(self, output: Output, setting: Row, sounds: Sequence[Path], asked: Asked | None) -> None:
        self._output = output
        self._rows: dict[str, Row] = {os.path.abspath(sound): {} for sound in sounds}
        self._is_table = len(sounds) > 1
        self._is_new = False
        if output.path.exists() and not output.journal.exists():
            raise _in_the_way(output.path)
        super().__init__(output.journal, setting, asked)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        rows = [row for row in self._rows.values() if row and "error" not in row]
        try:  # while the rows are locked
            if rows and (self._is_new or not self._output.path.exists()):
                form = FORMATS[self._output.kind]
                write_bytes(self._output.path, _encoded(table(rows) if self._is_table else form(rows[0])))
        finally:
            super().__exit__(kind, error, tb)

    def write(self, row: Row) -> None:
        super().write(row)
        self._is_new = True

    def _count(self, row: Row) -> None:
        super()._count(row)
        if self._output.needs_times and row["path"] not in self._rows:
            raise ResultLogError(f"{self._output.path}: holds {row['path']}; choose another --out")
        self._rows[row["path"]] = row  # those of earlier runs too: a table grows
        self._is_table |= len(self._rows) > 1


def names_of(sounds: Sequence[Path], sources: Sequence[Path], form: str) -> dict[str, Path]:
    """Absolute path of each sound → its file in a folder of results: talk.srt for talk.mp3, below the same subfolders
    as in the source that it was found in. Where two would have one name, both keep their suffix: talk.mp3.srt.

    Raises `ValueError` if that does not tell them apart.
    """
    folders = [Path(os.path.abspath(source)) for source in sources if source.is_dir()]
    within: dict[str, Path] = {}
    for sound in sounds:
        absolute = Path(os.path.abspath(sound))
        folder = next((folder for folder in folders if folder in absolute.parents), absolute.parent)
        within[str(absolute)] = absolute.relative_to(folder)
    count = Counter(relative.with_suffix("") for relative in within.values())
    names: dict[str, Path] = {}
    taken: dict[Path, str] = {}
    for path, relative in within.items():
        stem = relative.with_suffix("")
        name = relative.with_name(f"{(relative if count[stem] > 1 else stem).name}.{form}")
        if name in taken:
            raise ValueError(
                f"{taken[name]} and {path} would both be written to {name}; name the folder above both, or "
                "transcribe them to two folders"
            )
        names[path], taken[name] = name, path
    return names


def _in_the_way(path: Path) -> ResultLogError:
    return ResultLogError(f"{path}: exists, and this command did not write it; move it, or choose another --out")


def _encoded(text: str) -> bytes:
    """UTF-8; names of files that are no Unicode come out as the bytes that they are."""
    return text.encode(errors="surrogateescape")
