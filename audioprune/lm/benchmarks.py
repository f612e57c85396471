"""Clotho v2, AudioCaps, ClothoAQA and MMAU as their authors give them out."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data.files import csv_columns, csv_rows, some
from ..data.table import DataError
from .items import MISSING, REPEATED, Benchmark, Item, Problems, SoundIndex, checked
from .metrics import YES_NO, normalised

__all__ = ["READERS", "Benchmark", "Item", "Reader", "read", "recognise"]

_CAPTIONS = tuple(f"caption_{i}" for i in range(1, 6))
_CLOTHO = ("file_name", *_CAPTIONS)
_AUDIOCAPS = ("audiocap_id", "youtube_id", "start_time", "caption")
_CLOTHO_AQA = ("file_name", "QuestionText", "answer")
_ANNOTATORS = 3


@dataclass(frozen=True)
class Reader:
    """How a benchmark is known and read.

    lists: names that its list may have, the first that is there is read. columns: of that list where it is a CSV file.
    read: takes the list's path; the sounds lie anywhere beneath its folder.
    """

    lists: tuple[str, ...]
    columns: tuple[str, ...]
    read: Callable[[Path], Benchmark]

    def find(self, folder: Path) -> Path | None:
        """The list within a folder, where it is there and is this benchmark's."""
        paths = [folder / name for name in self.lists if (folder / name).is_file()]
        # `test.csv` may be anybody's.
        known = [path for path in paths if not self.columns or csv_columns(path) >= set(self.columns)]
        return known[0] if known else None


def read_clotho(path: Path) -> Benchmark:
    """`clotho_captions_evaluation.csv`: a line a sound with five captions; the sounds in `evaluation/`.

    Clotho v2 (Drossos et al., ICASSP 2020; zenodo.org/records/4783391). Raises `DataError`.
    """
    split = path.stem.rpartition("_")[2]  # "evaluation"
    found, problems = SoundIndex(path.parent, (split, f"clotho_audio_{split}")), _none()
    items = []
    for row in csv_rows(path, _CLOTHO):
        name = row["file_name"]
        sound = _sound(found, problems, name, name)
        if sound is not None:
            items.append(Item(name, sound, references=tuple(row[column] for column in _CAPTIONS)))
    return checked("clotho", items, problems)


def read_audiocaps(path: Path) -> Benchmark:
    """`test.csv`: a line a caption, five of each sound; sounds by YouTube's id, `Y` and the id, or `audiocap_id`.

    AudioCaps (Kim et al., NAACL 2019; github.com/cdjkim/audiocaps). Videos vanish, so sounds that are not on disk are
    left out and counted. Raises `DataError`, also where none is there.
    """
    found, problems = SoundIndex(path.parent, (path.stem,)), _none()
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
        sound = found.find(*_audiocaps_names(video, start, several[video] > 1), *(row["audiocap_id"] for row in rows))
        if sound is None:
            absent.append(name)
        else:
            items.append(Item(name, sound, references=tuple(row["caption"] for row in rows)))
    if absent and not items:
        raise DataError(
            f"{path.parent}: none of the {len(grouped):,} sounds is on disk ({some(absent, 3)}); put them beneath this "
            "folder, named by youtube_id (YOUTUBE_ID.wav) or audiocap_id"
        )
    notes = [f"{len(absent):,} of {len(grouped):,} sounds are not on disk: {some(absent, 3)}"] if absent else []
    return checked("audiocaps", items, problems, notes)


def read_clotho_aqa(path: Path) -> Benchmark:
    """`clotho_aqa_test.csv`: a line an annotator's answer, three of each question; the sounds in `audio_files/`.

    Clotho-AQA (Lipping et al., EUSIPCO 2022; zenodo.org/records/6473207). A question is asked once, and its references
    are the annotators' answers. It is a yes/no question where most of them said so. Raises `DataError`.
    """
    found, problems = SoundIndex(path.parent, ("audio_files",)), _none()
    answers: dict[tuple[str, str], list[str]] = defaultdict(list)
    for row in csv_rows(path, _CLOTHO_AQA):
        answers[row["file_name"].strip(), row["QuestionText"].strip()].append(row["answer"])
    items, notes = [], []
    for (name, question), said in answers.items():
        sound = _sound(found, problems, name, name)
        sure = sum(normalised(answer) in YES_NO for answer in said)
        task = "yes/no" if 2 * sure > len(said) else "single word"
        if sound is not None:
            items.append(Item(f"{name}: {question}", sound, question=question, references=tuple(said), task=task))
    odd = [item.id for item in items if len(item.references) != _ANNOTATORS]
    if odd:
        notes.append(f"{len(odd):,} questions have not {_ANNOTATORS} answers: {some(odd, 3)}")
    return checked("clothoaqa", items, problems, notes)


def read_mmau(path: Path) -> Benchmark:
    """`mmau-test-mini.json`: a list of multiple-choice questions; the sounds where `audio_id` says.

    MMAU (Sakshi et al., ICLR 2025; github.com/Sakshi113/MMAU). `mmau-test.json` has no answers, its authors keep them:
    raises `DataError`, as for whatever else is wrong.
    """
    found, problems = SoundIndex(path.parent, ("test-mini-audios", "test-audios")), _none()
    items, odd = [], []
    for number, row in enumerate(_json_list(path), 1):
        item = _mmau_item(row, number, path, found, problems)
        if item is not None:
            items.append(item)
            odd += [] if item.references[0] in item.choices else [item.id]
    notes = [f"{len(odd):,} answers are none of the choices, letter by letter: {some(odd, 3)}"] if odd else []
    return checked("mmau", items, problems, notes)


READERS: dict[str, Reader] = {
    "clotho": Reader(("clotho_captions_evaluation.csv",), _CLOTHO, read_clotho),
    "audiocaps": Reader(("test.csv", "audiocaps_test.csv"), _AUDIOCAPS, read_audiocaps),
    "clothoaqa": Reader(("clotho_aqa_test.csv",), _CLOTHO_AQA, read_clotho_aqa),
    "mmau": Reader(("mmau-test-mini.json", "mmau-test.json"), (), read_mmau),
}
"""Name to reader."""


def read(place: str | Path, name: str | None = None) -> Benchmark:
    """The items of a benchmark.

    Args:
        place: the folder where it was unpacked, or its list, with the sounds anywhere beneath the list's folder.
        name: one of `READERS`; by default it is recognised by the list's name and columns.

    Raises `DataError` for a place that is not there, an unknown name or layout, and one report of all that is wrong.
    """
    place = Path(place).expanduser()
    if name is not None and name not in READERS:
        raise DataError(f"no benchmark {name!r}; there are {', '.join(READERS)}")
    if not place.exists():
        raise DataError(f"{place}: no such file or folder; give the benchmark's")
    try:
        if place.is_file():
            return READERS[name or _named(place)].read(place)
        chosen = name or recognise(place)
        path = READERS[chosen].find(place)
        if path is None:
            raise DataError(f"{place}: no {chosen} here; looked for {_layout(chosen)}")
        return READERS[chosen].read(path)
    except OSError as error:
        raise DataError(f"{place}: cannot be read ({error})") from error


def recognise(folder: Path) -> str:
    """The name of the benchmark whose list lies in a folder. Raises `DataError` where it is none, or may be two."""
    names = [name for name, reader in READERS.items() if reader.find(folder) is not None]
    if len(names) == 1:
        return names[0]
    if names:
        raise DataError(f"{folder}: holds {' and '.join(names)}; choose one")
    layouts = "\n".join(f"  {name:<10} {_layout(name)}" for name in READERS)
    raise DataError(f"{folder}: no known benchmark; looked for\n{layouts}")


def _layout(name: str) -> str:
    reader = READERS[name]
    columns = f" with the columns {', '.join(reader.columns)}" if reader.columns else ""
    return " or ".join(reader.lists) + columns


def _named(path: Path) -> str:
    """The benchmark whose list has this name."""
    for name, reader in READERS.items():
        if path.name in reader.lists:
            return name
    raise DataError(f"{path}: of which benchmark is it? say one of {', '.join(READERS)}")


def _none() -> Problems:
    return defaultdict(list)


def _sound(found: SoundIndex, problems: Problems, name: str, *names: str) -> Path | None:
    path = found.find(*names)
    if path is None and name not in problems[MISSING]:
        problems[MISSING].append(name)
    return path


def _audiocaps_names(video: str, start: str, several: bool) -> list[str]:
    """What a sound may be called, without its suffix. `several`: the video has other sounds too."""
    starts = [start, f"{start}000"] + ([f"{start}_{int(start) + 10}"] if start.isdigit() else [])
    bare = [] if several else [video, f"Y{video}"]
    return [*bare, *(f"{name}_{one}" for one in starts for name in (video, f"Y{video}"))]


def _json_list(path: Path) -> list[dict[str, Any]]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read as JSON ({error}); download it again") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError(f'{path}: expected a list of {{"id": …, "audio_id": …, "question": …, "choices": […], …}}')
    return rows


def _mmau_item(row: dict[str, Any], number: int, path: Path, found: SoundIndex, problems: Problems) -> Item | None:
    """None where something is missing, which `problems` then tells."""
    place = _text(row.get("audio_id"))
    own = _text(row.get("id"))
    name = own or place
    choices = row.get("choices")
    options = tuple(_text(one) for one in choices) if isinstance(choices, list) else ()
    question, task = _text(row.get("question")), _text(row.get("task"))
    parts = {"id or audio_id": name, "question": question, "task": task, "choices": len(options) > 1 and all(options)}
    lacking = [part for part, there in parts.items() if not there]
    if lacking:
        kind = "questions lack something; download the list again"
        problems[kind].append(f"{name or f'number {number}'}: {', '.join(lacking)}")
        return None
    answer = _text(row.get("answer"))
    if not answer:
        kind = "questions have no answer: the authors keep those of the full test; use mmau-test-mini.json"
        problems[kind].append(name)
        return None
    given = path.parent / place
    sound = given if place and given.is_file() else _sound(found, problems, name, Path(place).name, own)
    if sound is None:
        return None
    return Item(name, sound, question=question, choices=options, references=(answer,), task=task)


def _text(value: Any) -> str:
    """What a list's cell says, "" for nothing; choices may be numbers."""
    return "" if value is None or isinstance(value, list | dict) else str(value).strip()
