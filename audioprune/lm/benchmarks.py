"""Readers of Clotho v2, AudioCaps, ClothoAQA and MMAU, in the layouts of their authors."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data.files import csv_columns, csv_rows, some
from ..data.table import DataError
from .items import MISSING, REPEATED, Benchmark, Item, Problems, SoundIndex, build_benchmark
from .metrics import YES_NO, normalised

__all__ = ["READERS", "Benchmark", "Item", "Reader", "read", "recognise"]

_CAPTIONS = tuple(f"caption_{i}" for i in range(1, 6))
_CLOTHO = ("file_name", *_CAPTIONS)
_AUDIOCAPS = ("audiocap_id", "youtube_id", "start_time", "caption")
_CLOTHO_AQA = ("file_name", "QuestionText", "answer")
_ANNOTATORS = 3


@dataclass(frozen=True)
class Reader:
    """The layout of a benchmark, and the function that reads it.

    lists: possible names of its list; the first that exists is read. columns: columns of the list, if it is a CSV file.
    read: takes the path of the list; the sounds may be anywhere in its folder.
    """

    lists: tuple[str, ...]
    columns: tuple[str, ...]
    read: Callable[[Path], Benchmark]

    def find(self, folder: Path) -> Path | None:
        """Path of this benchmark's list in a folder; None if there is none."""
        paths = [folder / name for name in self.lists if (folder / name).is_file()]
        # `test.csv` is a common name, so check the columns.
        known = [path for path in paths if not self.columns or csv_columns(path) >= set(self.columns)]
        return known[0] if known else None


def read_clotho(path: Path) -> Benchmark:
    """Read `clotho_captions_evaluation.csv`: one line per sound, with five captions. Sounds are in `evaluation/`.

    Clotho v2 (Drossos et al., ICASSP 2020; zenodo.org/records/4783391). Raises `DataError`.
    """
    split = path.stem.rpartition("_")[2]  # "evaluation"
    index, problems = SoundIndex(path.parent, (split, f"clotho_audio_{split}")), _none()
    items = []
    for row in csv_rows(path, _CLOTHO):
        name = row["file_name"]
        sound = _sound(index, problems, name, name)
        if sound is not None:
            items.append(Item(name, sound, references=tuple(row[column] for column in _CAPTIONS)))
    return build_benchmark("clotho", items, problems)


def read_audiocaps(path: Path) -> Benchmark:
    """Read `test.csv`: one line per caption, five for each sound.

    Sound files are named by YouTube's id, by `Y` and the id, or by `audiocap_id`.

    AudioCaps (Kim et al., NAACL 2019; github.com/cdjkim/audiocaps). Videos disappear, so sounds that are not on disk
    are left out and counted. Raises `DataError`, also if no sound is on disk.
    """
    index, problems = SoundIndex(path.parent, (path.stem,)), _none()
    grouped: dict[tuple[str, str], list[dict[str, str]]] = defaultdict(list)
    known: set[str] = set()
    for row in csv_rows(path, _AUDIOCAPS):
        if row["audiocap_id"] in known:
            problems[REPEATED].append(f"audiocap_id {row['audiocap_id']}")
        known.add(row["audiocap_id"])
        grouped[row["youtube_id"], row["start_time"]].append(row)
    several = Counter(video for video, _ in grouped)
    items, absent = [], []
    for (video, start), rows in grouped.items():
        name = video if several[video] == 1 else f"{video}_{start}"
        sound = index.find(*_audiocaps_names(video, start, several[video] > 1), *(row["audiocap_id"] for row in rows))
        if sound is None:
            absent.append(name)
        else:
            items.append(Item(name, sound, references=tuple(row["caption"] for row in rows)))
    if absent and not items:
        raise DataError(
            f"{path.parent}: none of the {len(grouped):,} sounds is on disk ({some(absent, 3)}); put them into this "
            "folder, named by youtube_id (YOUTUBE_ID.wav) or audiocap_id"
        )
    notes = [f"{len(absent):,} of {len(grouped):,} sounds are not on disk: {some(absent, 3)}"] if absent else []
    return build_benchmark("audiocaps", items, problems, notes)


def read_clotho_aqa(path: Path) -> Benchmark:
    """Read `clotho_aqa_test.csv`: one line per annotator's answer, three for each question.

    Sounds are in `audio_files/`. Clotho-AQA (Lipping et al., EUSIPCO 2022; zenodo.org/records/6473207). Each question
    is one item, and the annotators' answers are its references. It is a yes/no question if most of the answers are yes
    or no. Raises `DataError`.
    """
    index, problems = SoundIndex(path.parent, ("audio_files",)), _none()
    answers: dict[tuple[str, str], list[str]] = defaultdict(list)
    for row in csv_rows(path, _CLOTHO_AQA):
        answers[row["file_name"].strip(), row["QuestionText"].strip()].append(row["answer"])
    items, notes = [], []
    for (name, question), given_answers in answers.items():
        sound = _sound(index, problems, name, name)
        sure = sum(normalised(answer) in YES_NO for answer in given_answers)
        task = "yes/no" if 2 * sure > len(given_answers) else "single word"
        if sound is not None:
            items.append(
                Item(f"{name}: {question}", sound, question=question, references=tuple(given_answers), task=task)
            )
    odd = [item.id for item in items if len(item.references) != _ANNOTATORS]
    if odd:
        notes.append(f"{len(odd):,} questions do not have {_ANNOTATORS} answers: {some(odd, 3)}")
    return build_benchmark("clothoaqa", items, problems, notes)


def read_mmau(path: Path) -> Benchmark:
    """Read `mmau-test-mini.json`: a list of multiple-choice questions. `audio_id` is the path of the sound.

    MMAU (Sakshi et al., ICLR 2025; github.com/Sakshi113/MMAU). Raises `DataError` for any problem, also for
    `mmau-test.json`, because its authors do not publish its answers.
    """
    index, problems = SoundIndex(path.parent, ("test-mini-audios", "test-audios")), _none()
    items, odd = [], []
    for number, row in enumerate(_json_list(path), 1):
        item = _mmau_item(row, number, path, index, problems)
        if item is not None:
            items.append(item)
            odd += [] if item.references[0] in item.choices else [item.id]
    notes = [f"{len(odd):,} answers are not exactly one of the choices: {some(odd, 3)}"] if odd else []
    return build_benchmark("mmau", items, problems, notes)


READERS: dict[str, Reader] = {
    "clotho": Reader(("clotho_captions_evaluation.csv",), _CLOTHO, read_clotho),
    "audiocaps": Reader(("test.csv", "audiocaps_test.csv"), _AUDIOCAPS, read_audiocaps),
    "clothoaqa": Reader(("clotho_aqa_test.csv",), _CLOTHO_AQA, read_clotho_aqa),
    "mmau": Reader(("mmau-test-mini.json", "mmau-test.json"), (), read_mmau),
}
"""Name → reader."""


def read(place: str | Path, name: str | None = None) -> Benchmark:
    """Read a benchmark.

    Args:
        place: the folder where it was unpacked, or its list; the sounds may be anywhere in the list's folder.
        name: one of `READERS`; by default the list's name and columns decide.

    Raises `DataError` if the place does not exist or the name or layout is unknown, and one report of all problems.
    """
    place = Path(place).expanduser()
    if name is not None and name not in READERS:
        raise DataError(f"no benchmark {name!r}; there are {', '.join(READERS)}")
    if not place.exists():
        raise DataError(f"{place}: no such file or folder; give the path of the benchmark")
    try:
        if place.is_file():
            return READERS[name or _name_of(place)].read(place)
        chosen = name or recognise(place)
        path = READERS[chosen].find(place)
        if path is None:
            raise DataError(f"{place}: no {chosen} here; looked for {_layout(chosen)}")
        return READERS[chosen].read(path)
    except OSError as error:
        raise DataError(f"{place}: cannot be read ({error})") from error


def recognise(folder: Path) -> str:
    """Name of the benchmark whose list is in a folder. Raises `DataError` if there is none, or more than one."""
    names = [name for name, reader in READERS.items() if reader.find(folder) is not None]
    if len(names) == 1:
        return names[0]
    if names:
        raise DataError(f"{folder}: contains {' and '.join(names)}; choose one with --benchmark")
    layouts = "\n".join(f"  {name:<10} {_layout(name)}" for name in READERS)
    raise DataError(f"{folder}: no known benchmark; looked for\n{layouts}")


def _layout(name: str) -> str:
    reader = READERS[name]
    columns = f" with the columns {', '.join(reader.columns)}" if reader.columns else ""
    return " or ".join(reader.lists) + columns


def _name_of(path: Path) -> str:
    """Name of the benchmark whose list has this file name."""
    for name, reader in READERS.items():
        if path.name in reader.lists:
            return name
    raise DataError(f"{path}: its name is not the list of a known benchmark; choose one of {', '.join(READERS)}")


def _none() -> Problems:
    return defaultdict(list)


def _sound(index: SoundIndex, problems: Problems, name: str, *names: str) -> Path | None:
    path = index.find(*names)
    if path is None and name not in problems[MISSING]:
        problems[MISSING].append(name)
    return path


def _audiocaps_names(video: str, start: str, several: bool) -> list[str]:
    """Possible file names of a sound, without suffix. several: whether the video has other sounds too."""
    starts = [start, f"{start}000"] + ([f"{start}_{int(start) + 10}"] if start.isdigit() else [])
    bare = [] if several else [video, f"Y{video}"]
    return [*bare, *(f"{name}_{one}" for one in starts for name in (video, f"Y{video}"))]


def _json_list(path: Path) -> list[dict[str, Any]]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read as JSON ({error}); download it again") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError(f'{path}: expected a list of {{"id": …, "audio_id": …, "question": …, "choices": […], …}}')
    return rows


def _mmau_item(row: dict[str, Any], number: int, path: Path, index: SoundIndex, problems: Problems) -> Item | None:
    """One item of MMAU; None if something is missing, which is then added to `problems`.

    Args:
        row: the question.
        number: its number in the list, from 1.
        path: path of the list.
        index: index of the sounds.
        problems: the problems so far.
    """
    place = _text(row.get("audio_id"))
    own = _text(row.get("id"))
    name = own or place
    choices = row.get("choices")
    options = tuple(_text(one) for one in choices) if isinstance(choices, list) else ()
    question, task = _text(row.get("question")), _text(row.get("task"))
    parts = {"id or audio_id": name, "question": question, "task": task, "choices": len(options) > 1 and all(options)}
    lacking = [part for part, there in parts.items() if not there]
    if lacking:
        kind = "questions are incomplete; download the list again"
        problems[kind].append(f"{name or f'number {number}'}: {', '.join(lacking)}")
        return None
    answer = _text(row.get("answer"))
    if not answer:
        kind = "questions have no answer: the authors do not publish those of the full test; use mmau-test-mini.json"
        problems[kind].append(name)
        return None
    listed = path.parent / place
    sound = listed if place and listed.is_file() else _sound(index, problems, name, Path(place).name, own)
    if sound is None:
        return None
    return Item(name, sound, question=question, choices=options, references=(answer,), task=task)


def _text(value: Any) -> str:
    """Text of a cell, "" if it is empty. Choices may be numbers."""
    return "" if value is None or isinstance(value, list | dict) else str(value).strip()
