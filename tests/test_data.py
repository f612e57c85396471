"""Every layout of a data set, everything that can be wrong with one, and the cache of decoded sounds."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st

from audioprune.audio.features import PRESETS, LogMel
from audioprune.audio.files import AudioError, load_audio
from audioprune.data import (
    DATASETS,
    ClipRow,
    ClipTable,
    DataError,
    SoundCache,
    cache,
    check,
    read,
    read_audioset,
    recognise,
)

from .conftest import SHARED, tone

SHORT = tone(0.05)


def sound(path: Path, samples: np.ndarray = SHORT, rate: int = 16_000) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate)
    return path


def text(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return path


# The layouts, as small as they come.

WORDS = ("zebra", "ant", "dog")


def esc50(folder: Path) -> None:
    lines = ["filename,fold,target,category,esc10,src_file,take"]
    for fold in "12345":
        for target, word in enumerate(WORDS):
            name = f"{fold}-100{target}-A-{target}.wav"
            sound(folder / "audio" / name)
            lines.append(f"{name},{fold},{target},{word},{word != 'ant'},100{target},A")
    text(folder / "meta" / "esc50.csv", *lines)


def esc10(folder: Path) -> None:
    lines = ["path,label,fold"]
    for fold in "12345":
        for word in WORDS:
            sound(folder / "audio" / f"{fold}-{word}.wav")
            lines.append(f"audio/{fold}-{word}.wav,{word},{fold}")
    text(folder / "manifest.csv", *lines)


def speech_commands(folder: Path) -> None:
    for word in ("yes", "no"):
        for i in range(4):
            sound(folder / word / f"{i}_nohash_0.wav")
    sound(folder / "_background_noise_" / "white.wav")
    text(folder / "validation_list.txt", "yes/0_nohash_0.wav", "no/0_nohash_0.wav")
    text(folder / "testing_list.txt", "yes/1_nohash_0.wav", "no/1_nohash_0.wav")


def voxceleb1(folder: Path) -> None:
    lines = []
    for speaker, root in (("id10002", "dev/wav"), ("id10001", "test/wav")):
        for part in "123":
            sound(folder / root / speaker / "video" / f"0000{part}.wav")
            lines.append(f"{part} {speaker}/video/0000{part}.wav")
    text(folder / "iden_split.txt", *lines)


MIDS = {"/m/09x0r": "Speech", "/m/04rlf": "Music", "/m/07yv9": "Vehicle, road"}


def audioset_classes(folder: Path) -> None:
    lines = [f'{i},{mid},"{name}"' for i, (mid, name) in enumerate(MIDS.items())]
    text(folder / "class_labels_indices.csv", "index,mid,display_name", *lines)


def audioset(folder: Path) -> None:
    audioset_classes(folder)
    header = ("# Segments csv created Sun Mar  5 10:54:31 2017", "# num_ytids=4", "# YTID, start, end, positive_labels")
    clips = [f'clip_-{i}xxxxx, {i}0.000, {i + 1}0.000, "{",".join(list(MIDS)[: 2 + i // 4])}"' for i in range(6)]
    text(folder / "balanced_train_segments.csv", *header, *clips)
    text(folder / "eval_segments.csv", *header, 'evalevaleva, 0.000, 10.000, "/m/07yv9"')
    sound(folder / "audio" / "clip_-0xxxxx.wav")
    sound(folder / "audio" / "a" / "b" / "Yclip_-1xxxxx.flac")
    sound(folder / "balanced_train_segments" / "clip_-2xxxxx_20000.ogg")
    sound(folder / "audio" / "balanced_train" / "clip_-3xxxxx_30.wav")
    sound(folder / "balanced_train" / "Yclip_-4xxxxx_40.000_50.000.wav")
    sound(folder / "audio" / "eval_segments" / "evalevaleva_0-10.wav")


def fsdd(folder: Path) -> None:
    for digit in "01":
        for speaker in ("theo", "george"):
            for take in (0, 4, 5, 12):
                sound(folder / "recordings" / f"{digit}_{speaker}_{take}.wav")


def folders(folder: Path) -> None:
    for word in ("dog", "cat"):
        for i in range(3):
            sound(folder / word / f"{i}.wav")


LAYOUTS: dict[str, Callable[[Path], None]] = {
    "esc50": esc50,
    "esc10": esc10,
    "speech-commands": speech_commands,
    "voxceleb1": voxceleb1,
    "audioset": audioset,
    "folders": folders,
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_is_recognised(name: str, tmp_path: Path) -> None:
    LAYOUTS[name](tmp_path)
    assert recognise(tmp_path) == name
    table = read(tmp_path)
    assert table.rows == read(str(tmp_path), name).rows
    assert len(table) > 0
    assert table.preset is None or table.preset in PRESETS
    assert not table.warnings
    assert pickle.loads(pickle.dumps(table)) == table


def test_esc50_is_in_the_order_of_its_targets(tmp_path: Path) -> None:
    esc50(tmp_path)
    table = read(tmp_path)
    assert (table.name, table.labels, table.folds, table.preset) == ("esc50", WORDS, tuple("12345"), "esc50")
    assert len(table) == 15
    ten = read(tmp_path, "esc10")
    assert (ten.name, ten.labels, len(ten)) == ("esc10", ("zebra", "dog"), 10)


def test_an_esc_manifest_is_in_the_order_of_names(tmp_path: Path) -> None:
    esc10(tmp_path)
    assert read(tmp_path).labels == ("ant", "dog", "zebra")
    with pytest.raises(DataError, match="does not list the classes of esc50; read it as esc10"):
        read(tmp_path, "esc50")


def test_contradicting_targets(tmp_path: Path) -> None:
    esc50(tmp_path)
    meta = tmp_path / "meta" / "esc50.csv"
    meta.write_text(meta.read_text().replace(",0,zebra", ",1,zebra"))
    with pytest.raises(DataError, match="target 1 is both 'zebra' and 'ant'"):
        read(tmp_path)


def test_speech_commands_parts(tmp_path: Path) -> None:
    speech_commands(tmp_path)
    table = read(tmp_path)
    assert table.labels == ("no", "yes")
    split = table.split()
    assert [len(part) for part in (split.train, split.validation, split.test)] == [4, 2, 2]
    assert {row.path.name for row in split.test} == {"1_nohash_0.wav"}


def test_a_listed_word_that_is_not_there(tmp_path: Path) -> None:
    speech_commands(tmp_path)
    text(tmp_path / "testing_list.txt", "up/0.wav", "yes/0_nohash_0.wav")
    with pytest.raises(DataError) as caught:
        read(tmp_path)
    message = str(caught.value)
    assert "1 files are missing" in message
    assert "'up', first of" in message
    assert "(validation and test)" in message


def test_voxceleb_is_found_in_either_folder(tmp_path: Path) -> None:
    voxceleb1(tmp_path)
    table = read(tmp_path)
    assert table.labels == ("id10001", "id10002")
    assert Counter(row.part for row in table.rows) == {"train": 2, "validation": 2, "test": 2}
    text(tmp_path / "iden_split.txt", "1 id10002/video/00001.wav", "4 id10002/video/00002.wav", "nonsense")
    with pytest.raises(DataError, match="expected lines like.*line 2: '4 id.*line 3: 'nonsense'"):
        read(tmp_path)


def test_audioset_finds_the_usual_names_and_counts_the_rest(tmp_path: Path) -> None:
    audioset(tmp_path)
    table = read(tmp_path)
    assert table.multi_label
    assert table.labels == tuple(MIDS.values())
    split = table.split()
    assert [row.path.suffix for row in split.train] == [".wav", ".flac", ".ogg", ".wav", ".wav"]
    assert [row.labels for row in split.test] == [("Vehicle, road",)]
    assert all(row.start == 0 and row.end is None for row in table.rows)
    assert table.skipped == ("balanced_train_segments.csv: 1 of 6 clips not on disk: clip_-5xxxxx",)
    np.testing.assert_array_equal(table.targets([split.train[0], split.test[0]]), [[1, 1, 0], [0, 0, 1]])


def test_audioset_unbalanced(tmp_path: Path) -> None:
    audioset(tmp_path)
    text(tmp_path / "unbalanced_train_segments.csv", 'clip_-0xxxxx, 0.0, 10.0, "/m/04rlf"')
    assert len(read(tmp_path).split().train) == 5
    assert len(read_audioset(tmp_path, "unbalanced").split().train) == 1
    (tmp_path / "balanced_train_segments.csv").unlink()
    assert len(read(tmp_path).split().train) == 1
    with pytest.raises(DataError, match="'eval'; AudioSet's training lists are balanced, unbalanced"):
        read_audioset(tmp_path, "eval")  # type: ignore[arg-type]


def test_audioset_by_the_authors_json(tmp_path: Path) -> None:
    audioset_classes(tmp_path)
    absolute = sound(tmp_path / "elsewhere" / "b.wav")
    sound(tmp_path / "a.wav")
    clips = [
        {"wav": "a.wav", "labels": "/m/09x0r,/m/04rlf"},
        {"wav": str(absolute), "labels": "/m/07yv9"},
        {"wav": "gone.wav", "labels": "/m/07yv9"},
    ]
    (tmp_path / "train.json").write_text(json.dumps({"data": clips}))
    table = read(tmp_path)
    assert [row.labels for row in table.rows] == [("Speech", "Music"), ("Vehicle, road",)]
    assert table.skipped == ("train.json: 1 of 3 clips not on disk: gone.wav",)
    (tmp_path / "train.json").write_text('{"data": [{"path": "a.wav"}]}')
    with pytest.raises(DataError, match="KeyError: 'wav'.*expected"):
        read(tmp_path)


def test_audioset_for_evaluation_only(tmp_path: Path) -> None:
    audioset(tmp_path)
    (tmp_path / "balanced_train_segments.csv").unlink()
    assert read(tmp_path).warnings == ("no training clip, only validation and test clips",)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("clip, 0.0, 10.0", "line 2: expected `YTID, start, end"),
        ('clip, 0.0, 10.0, "/m/04rlf', "line 2: is not CSV"),
        ('clip, zero, 10.0, "/m/04rlf"', "line 2: the times are 'zero' and '10.0'"),
        ('clip_-0xxxxx, 0.0, 10.0, "/m/unknown"', "'/m/unknown', first of"),
        ('clip_-0xxxxx, 0.0, 10.0, ""', "1 clips have no label"),
        ('clip_-9xxxxx, 0.0, 10.0, "/m/04rlf"', "none of the clips is on disk.*1 of 1 clips not on disk"),
    ],
)
def test_audioset_lines_that_cannot_be(line: str, message: str, tmp_path: Path) -> None:
    audioset(tmp_path)
    (tmp_path / "eval_segments.csv").unlink()
    text(tmp_path / "balanced_train_segments.csv", "# header", line)
    with pytest.raises(DataError, match=message):
        read(tmp_path)


@pytest.mark.parametrize(("task", "labels"), [("digits", ("0", "1")), ("speakers", ("george", "theo"))])
def test_fsdd(task: str, labels: tuple[str, ...], tmp_path: Path) -> None:
    fsdd(tmp_path)
    sound(tmp_path / "recordings" / "noise.wav")
    with pytest.raises(DataError, match="two tasks; choose fsdd-digits or fsdd-speakers"):
        read(tmp_path)
    table = read(tmp_path, f"fsdd-{task}")
    assert (table.name, table.labels, table.preset) == (f"fsdd-{task}", labels, "fsdd")
    assert table.skipped == ("recordings not named digit_speaker_take.wav: noise.wav",)
    assert {row.path.stem.split("_")[2] for row in table.split().test} == {"0", "4"}
    assert len(table.split().train) == 8


def test_fsdd_by_manifest(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        sound(tmp_path / f"{name}.wav")
    lines = ["path,digit,speaker,take,split", "a.wav,0,theo,5,train", "b.wav,1,theo,6,train", "c.wav,1,theo,0,test"]
    text(tmp_path / "manifest.csv", *lines)
    assert len(read(tmp_path, "fsdd-digits").split().train) == 2
    text(tmp_path / "manifest.csv", *lines[:-1], "c.wav,1,theo,0,dev")
    with pytest.raises(DataError, match="split of c.wav is 'dev'; it must be one of train, validation, test"):
        read(tmp_path, "fsdd-digits")


def test_folders_without_parts(tmp_path: Path) -> None:
    folders(tmp_path)
    sound(tmp_path / "dog" / "deeper" / "3.flac")
    sound(tmp_path / "loose.wav")
    text(tmp_path / "dog" / "notes.txt", "woof")
    sound(tmp_path / ".hidden" / "x.wav")
    (tmp_path / "dog" / "round").symlink_to(tmp_path / "dog", target_is_directory=True)
    table = read(tmp_path)
    assert (table.name, table.labels, len(table)) == (tmp_path.name, ("cat", "dog"), 7)
    assert table.skipped == (f"1 sounds that are in no class folder: {tmp_path / 'loose.wav'}",)
    assert len(table.split().train) == 7


def test_folders_with_parts(tmp_path: Path) -> None:
    for part in ("train", "val", "Test"):
        folders(tmp_path / part)
    split = read(tmp_path).split()
    assert [len(part) for part in (split.train, split.validation, split.test)] == [6, 6, 6]
    sound(tmp_path / "bird" / "0.wav")
    with pytest.raises(DataError, match=r"class folders \(bird\) and parts \(Test, train, val\); move each"):
        read(tmp_path)


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    folders(tmp_path)
    sound(tmp_path / "train" / "0.wav")
    assert read(tmp_path).labels == ("cat", "dog", "train")


def test_folders_need_two_classes_and_clips_in_each(tmp_path: Path) -> None:
    sound(tmp_path / "dog" / "0.wav")
    with pytest.raises(DataError, match=r"1 class folders \(dog\); a classifier needs two"):
        read(tmp_path)
    (tmp_path / "cat").mkdir()
    with pytest.raises(DataError, match="1 classes have no clip.*\n    cat"):
        read(tmp_path)


def test_a_class_without_training_clip_is_a_warning(tmp_path: Path) -> None:
    folders(tmp_path / "train")
    sound(tmp_path / "test" / "bird" / "0.wav")
    assert read(tmp_path).warnings == ("1 of 3 classes without a training clip: bird",)


def test_a_class_of_one_fold_is_a_warning(tmp_path: Path) -> None:
    esc10(tmp_path)
    manifest = tmp_path / "manifest.csv"
    sound(tmp_path / "once.wav")
    manifest.write_text(manifest.read_text() + "once.wav,bat,3\n")
    (warning,) = read(tmp_path).warnings
    assert warning.startswith("1 of 4 classes in one fold only")
    assert warning.endswith(": bat")


def test_what_is_no_data_set(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        read(tmp_path / "nowhere")
    with pytest.raises(DataError, match="is not a folder"):
        read(sound(tmp_path / "a.wav"))
    with pytest.raises(DataError, match="no data set 'esc51'; there are esc10, esc50"):
        read(tmp_path, "esc51")
    with pytest.raises(DataError, match="no known layout; looked for(.|\n)*iden_split.txt"):
        read(tmp_path)
    for name in DATASETS:
        with pytest.raises(DataError, match="looked for|class folders"):
            read(tmp_path, name)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"path,label,fold\na.wav,,1\n", "line 2: label is blank"),
        (b"path,label,fold\na.wav,x\n", "line 2: fold is blank"),
        (b'path,label,fold\n\na.wav,"x,1\n', "line 3: is not CSV"),
        (b"path,label,fold\n\xff\xfe,x,1\n", "cannot be read as UTF-8"),
        (b"path,label,fold\n", "there is no clip"),
    ],
)
def test_manifests_that_cannot_be_read(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "manifest.csv").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read(tmp_path, "esc10")


def test_a_table_as_a_spreadsheet_saves_it(tmp_path: Path) -> None:
    sound(tmp_path / "a b.wav")
    sound(tmp_path / "c.wav")
    content = '\ufeffpath,label,fold\r\n"a b.wav","dog, small",1\r\nc.wav,cat,2\r\n'
    (tmp_path / "manifest.csv").write_bytes(content.encode())
    assert read(tmp_path).labels == ("cat", "dog, small")


def test_missing_columns(tmp_path: Path) -> None:
    text(tmp_path / "meta" / "esc50.csv", "filename,fold,category", "a.wav,1,dog")
    with pytest.raises(DataError, match="the columns target, esc10 are missing; the header has filename, fold, cat"):
        read(tmp_path)


# The report.


@pytest.fixture
def table(tmp_path: Path) -> ClipTable:
    rows = tuple(ClipRow(sound(tmp_path / f"{label}{i}.wav"), (label,)) for label in "ab" for i in range(10))
    return ClipTable("mine", rows, ("a", "b"))


def with_rows(table: ClipTable, *rows: ClipRow) -> ClipTable:
    return replace(table, rows=(*table.rows, *rows))


def test_a_good_table_has_nothing_to_report(table: ClipTable) -> None:
    assert check(table) == ()
    slices = [replace(table.rows[0], start=0.01 * i, end=0.01 * (i + 1)) for i in range(1, 4)]
    assert check(with_rows(table, *slices)) == ()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"path": Path("nowhere.wav")},
            "1 files are missing; complete the download, or unpack it again\n.*nowhere.wav",
        ),
        ({"path": Path(__file__).parent}, r"1 files are missing(.|\n)*is not a file"),
        ({"labels": ("c",)}, "1 labels are no class; .*\n    'c', first of "),
        ({"labels": ()}, "1 clips have no label"),
        ({}, "1 clips are listed twice"),
        ({"part": "test"}, r"1 files are in two parts.*\n.*a0.wav \(train and test\)"),
        ({"part": "dev"}, r"1 clips are of an unknown part(.|\n)*'dev'"),
        ({"start": -1.0}, "1 clips have an impossible start or end"),
        ({"start": 1.0, "end": 1.0}, r"1 clips have an impossible start or end(.|\n)*1.0 to 1.0 s"),
        ({"start": float("nan")}, "1 clips have an impossible start or end"),
        ({"end": float("inf")}, "1 clips have an impossible start or end"),
    ],
)
def test_one_bad_row_is_named(change: dict, message: str, table: ClipTable) -> None:
    with pytest.raises(DataError, match=message):
        check(with_rows(table, replace(table.rows[0], **change)))


def test_repeated_slices_are_found_at_any_place(table: ClipTable) -> None:
    late = replace(table.rows[0], start=0.02)
    with pytest.raises(DataError, match="1 clips are listed twice"):
        check(with_rows(table, late, late))
    with pytest.raises(DataError, match="2 clips are listed twice"):
        check(with_rows(table, table.rows[0], late, table.rows[0]))


def test_one_report_of_everything(table: ClipTable) -> None:
    table.rows[3].path.write_bytes(b"")
    gone = [ClipRow(Path(f"gone{i}.wav"), ("a",)) for i in range(12)]
    wrong = replace(with_rows(table, table.rows[0], *gone), labels=("a", "b", "c", "a"))
    with pytest.raises(DataError) as caught:
        check(wrong, limit=2)
    message = str(caught.value)
    assert message.startswith("mine (33 clips) cannot be used:\n")
    assert "12 files are missing" in message
    assert "gone1.wav\n    … and 10 more" in message
    assert "gone2.wav" not in message
    for kind in ("1 files are empty (0 bytes)", "1 clips are listed twice", "1 classes have no clip", "named twice"):
        assert kind in message


def test_classes_that_never_occur(table: ClipTable) -> None:
    more = replace(table, labels=("a", "b", "c"))
    with pytest.raises(DataError, match="1 classes have no clip; fill them"):
        check(more)
    check(replace(more, multi_label=True))
    with pytest.raises(DataError, match="mine: there is no clip"):
        check(replace(table, rows=()))


# Splits and targets.


def test_folds(tmp_path: Path) -> None:
    esc50(tmp_path)
    table = read(tmp_path)
    split = table.split("2")
    assert {row.part for row in split.test} == {"2"}
    assert {row.part for row in split.train} == set("1345")
    assert split.validation == ()
    assert {row.part for row in table.split("2", hold_out=("4", "5")).train} == set("13")
    with pytest.raises(DataError, match="has the folds 1, 2, 3, 4, 5; choose one as the test"):
        table.split()
    with pytest.raises(DataError, match="there is no fold '6'"):
        table.split("6")
    with pytest.raises(DataError, match="there is no fold '7'"):
        table.split("1", hold_out=("7",))
    with pytest.raises(DataError, match="no fold is left"):
        table.split("1", hold_out=tuple("2345"))


def test_no_folds(table: ClipTable) -> None:
    assert len(table.split().train) == 20
    with pytest.raises(DataError, match="mine has no folds, but fold is '1'"):
        table.split("1")
    with pytest.raises(DataError, match="mine has no folds"):
        table.split(hold_out=("1",))


def test_validation_is_stratified_and_seeded(table: ClipTable) -> None:
    split = table.split().with_validation(0.3, seed=1)
    assert Counter(row.labels for row in split.validation) == {("a",): 3, ("b",): 3}
    assert sorted(map(str, (*split.train, *split.validation))) == sorted(map(str, table.rows))
    assert split == table.split().with_validation(0.3, seed=1)
    assert split != table.split().with_validation(0.3, seed=2)
    assert split.with_validation(0.5, seed=3) is split


@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=5), share=st.floats(0.01, 0.99), seed=st.integers(0, 9))
def test_validation_leaves_every_class_a_training_clip(sizes: list[int], share: float, seed: int) -> None:
    rows = tuple(ClipRow(Path(f"{k}-{i}"), (str(k),)) for k, size in enumerate(sizes) for i in range(size))
    split = ClipTable("any", rows, tuple(map(str, range(len(sizes))))).split()
    if max(sizes) == 1:
        with pytest.raises(DataError, match="no class of the"):
            split.with_validation(share, seed)
        return
    split = split.with_validation(share, seed)
    assert set(split.train) | set(split.validation) == set(rows)
    assert len(split.train) + len(split.validation) == len(rows)
    assert {row.labels for row in split.train} == {row.labels for row in rows}


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, float("nan")])
def test_impossible_shares(share: float, table: ClipTable) -> None:
    with pytest.raises(DataError, match="must be between 0 and 1"):
        table.split().with_validation(share, seed=0)


def test_targets(table: ClipTable) -> None:
    targets = table.targets(table.rows[9:11])
    assert targets.dtype == np.int64
    assert targets.tolist() == [0, 1]
    several = replace(table, multi_label=True).targets([ClipRow(Path("x"), ("b", "a")), table.rows[0]])
    assert several.dtype == np.float32
    assert several.tolist() == [[1, 1], [1, 0]]
    with pytest.raises(DataError, match="'z' is not a class of mine"):
        table.targets([ClipRow(Path("x"), ("z",))])


# The cache.


@pytest.fixture
def row(tmp_path: Path) -> ClipRow:
    return ClipRow(sound(tmp_path / "tone.wav", tone(1.0, rate=22_050), 22_050), ("a",))


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[ClipRow]:
    """The rows that were decoded, in order."""
    calls: list[ClipRow] = []
    original = cache._decode

    def counted(row: ClipRow, max_seconds: float) -> np.ndarray:
        calls.append(row)
        return original(row, max_seconds)

    monkeypatch.setattr(cache, "_decode", counted)
    return calls


@pytest.mark.parametrize("on_disk", [True, False])
def test_a_clip_is_decoded_once(on_disk: bool, row: ClipRow, decoded: list[ClipRow], tmp_path: Path) -> None:
    sounds = SoundCache(tmp_path / "cache" if on_disk else None, 10.0)
    first = sounds.waveform(row)
    np.testing.assert_array_equal(first, load_audio(row.path).waveform)
    first[:] = 0
    second = sounds.waveform(row)
    assert second.dtype == np.float32
    assert second.any(), "the caller's changes must not reach the cache"
    assert len(decoded) == 1
    again = SoundCache(tmp_path / "cache" if on_disk else None, 10.0)
    np.testing.assert_array_equal(again.waveform(row), second)
    assert len(decoded) == (1 if on_disk else 2)


def test_only_the_beginning_is_kept(row: ClipRow, tmp_path: Path) -> None:
    short = SoundCache(tmp_path / "cache", 0.25).waveform(row)
    np.testing.assert_array_equal(short, load_audio(row.path, max_seconds=0.25).waveform)
    assert len(SoundCache(tmp_path / "cache", 0.5).waveform(row)) == pytest.approx(8000, abs=2)


def test_features(row: ClipRow, decoded: list[ClipRow], tmp_path: Path) -> None:
    sounds = SoundCache(tmp_path / "cache", 2.0)
    front = LogMel.preset("speech-commands")
    features = sounds.features(row, front)
    torch.testing.assert_close(features, front(load_audio(row.path).waveform)[0], rtol=0, atol=0)
    again = SoundCache(tmp_path / "cache", 2.0)
    assert torch.equal(again.features(row, front), features)
    others = [LogMel(64), LogMel(128, mean=0.0), LogMel(128, std=1.0), LogMel(128, num_mel_bins=64)]
    others += [LogMel.preset("speech-commands", padding=0.0)]
    for other in others:
        expected = other(load_audio(row.path).waveform)[0]
        assert torch.equal(again.features(row, other), expected)
    assert len(decoded) == 1


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[: len(content) // 2],
        lambda content: b"garbage",
        lambda content: b"PK\x03\x04" + content,
        lambda content: bytes(len(content)),
        lambda content: content.replace(b"<f4", b"<i4"),
        lambda content: content[:10] + b"(((" + content[13:],
    ],
)
def test_a_damaged_entry_is_made_again(damage: Callable[[bytes], bytes], row: ClipRow, tmp_path: Path) -> None:
    expected = SoundCache(tmp_path / "cache", 1.0).waveform(row)
    (entry,) = (tmp_path / "cache").rglob("*.npy")
    good = entry.read_bytes()
    entry.write_bytes(damage(good))
    np.testing.assert_array_equal(SoundCache(tmp_path / "cache", 1.0).waveform(row), expected)
    assert entry.read_bytes() == good


def test_a_changed_file_is_decoded_anew(row: ClipRow, tmp_path: Path) -> None:
    sounds = SoundCache(tmp_path / "cache", 1.0)
    before = sounds.waveform(row)
    found = row.path.stat()
    sound(row.path, 0.5 * tone(1.0, rate=22_050), 22_050)
    assert row.path.stat().st_size == found.st_size
    os.utime(row.path, ns=(found.st_atime_ns, found.st_mtime_ns + 1_000_000))
    np.testing.assert_allclose(sounds.waveform(row), before / 2, atol=1e-4)


@given(start=st.floats(0, 0.9), length=st.floats(0.03, 0.5), max_seconds=st.floats(0.03, 1.0))
def test_slices(start: float, length: float, max_seconds: float, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "slices.wav"
    whole = tone(2.0)
    if not path.exists():
        soundfile.write(path, whole, 16_000, subtype="FLOAT")
    heard = SoundCache(None, max_seconds).waveform(ClipRow(path, ("a",), start, start + length))
    first = round(start * 16_000)
    assert len(heard) == pytest.approx(min(length, max_seconds) * 16_000, abs=1.01)
    np.testing.assert_array_equal(heard, whole[first : first + len(heard)])


def test_slices_of_one_file_are_kept_apart(row: ClipRow, tmp_path: Path) -> None:
    times = [(0.0, None), (0.0, 0.5), (0.25, None), (0.25, 0.5)]
    for _ in range(2):
        sounds = SoundCache(tmp_path / "cache", 10.0)
        lengths = [len(sounds.waveform(replace(row, start=start, end=end))) for start, end in times]
        assert lengths == pytest.approx([16_000, 8_000, 12_000, 4_000], abs=2)


def test_slices_of_another_rate(row: ClipRow) -> None:
    slice_ = SoundCache(None, 10.0).waveform(replace(row, start=0.5))
    np.testing.assert_allclose(slice_[200:-200], load_audio(row.path).waveform[8200:-200], atol=1e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"start": 5.0}, "tone.wav: the clip starts at 5.0 s, but the file ends at 1.00 s"),
        ({"start": 0.5, "end": 0.501}, "from 0.5 s.* is too short"),
        ({"path": Path("nowhere.wav")}, "nowhere.wav: cannot be read .No such file"),
        ({"path": Path(__file__), "start": 1.0}, "cannot be decoded as audio"),
    ],
)
def test_what_cannot_be_decoded(change: dict, message: str, row: ClipRow) -> None:
    with pytest.raises(AudioError, match=message):
        SoundCache(None, 10.0).waveform(replace(row, **change))


def test_memory_is_bounded(table: ClipTable, decoded: list[ClipRow]) -> None:
    sounds = SoundCache(None, 1.0, memory=3 * SHORT.nbytes)
    for _ in range(2):
        for clip in table.rows[:5]:
            sounds.waveform(clip)
    assert len(decoded) == 5 + 2


@pytest.mark.parametrize("on_disk", [True, False])
def test_prepare(on_disk: bool, table: ClipTable, decoded: list[ClipRow], tmp_path: Path) -> None:
    steps: list[int] = []
    sounds = SoundCache(tmp_path / "cache" if on_disk else None, 1.0)
    sounds.prepare(table.rows, lambda: steps.append(1))
    assert len(steps) == len(decoded) == 20
    sounds.prepare(table.rows)
    for clip in table.rows:
        sounds.waveform(clip)
    assert len(decoded) == 20


def test_prepare_reports_all_that_fails(table: ClipTable, decoded: list[ClipRow], tmp_path: Path) -> None:
    for clip in (table.rows[2], table.rows[7]):
        clip.path.write_bytes(b"no sound")
    steps: list[int] = []
    sounds = SoundCache(tmp_path / "cache", 1.0)
    with pytest.raises(DataError, match=r"2 of 20 clips:\n  2 cannot be decoded.*\n.*a2.wav.*\n.*a7.wav"):
        sounds.prepare(table.rows, lambda: steps.append(1))
    assert len(steps) == 20
    assert len(list((tmp_path / "cache").rglob("*.npy"))) == 18


def test_a_cache_that_cannot_be_written(row: ClipRow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="cannot contain the cache"):
        SoundCache(row.path, 1.0)
    with pytest.raises(ValueError, match="max_seconds is 0; it must be positive"):
        SoundCache(None, 0)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    sounds = SoundCache(tmp_path / "cache", 1.0)
    monkeypatch.setattr(cache.os, "fsync", full)
    with pytest.warns(UserWarning, match="cache: cannot keep decoded sounds .No space left.*make room"):
        sounds.prepare([row, row])
    assert np.array_equal(sounds.waveform(row), SoundCache(None, 1.0).waveform(row))
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


# A slow disk, so that the kill comes midway on any machine, and in the middle of a write.
PREPARE = """
import io, sys, time
from pathlib import Path
from audioprune.data import SoundCache, read
from audioprune.data.cache import np
write = np.lib.format.write_array
def slow(file, array, **options):
    buffer = io.BytesIO()
    write(buffer, array, **options)
    file.write(buffer.getvalue()[:9000])
    file.flush()
    time.sleep(0.02)
    file.write(buffer.getvalue()[9000:])
np.lib.format.write_array = slow
SoundCache(Path(sys.argv[2]), 5.0).prepare(read(sys.argv[1]).rows, lambda: print("clip", flush=True))
"""


@pytest.mark.skipif(os.name != "posix", reason="kill -9")
def test_a_killed_run_leaves_no_torn_entry(tmp_path: Path) -> None:
    for i in range(150):
        sound(tmp_path / "set" / "ab"[i % 2] / f"{i}.wav", tone(5.0, hertz=100.0 + i))
    cached = tmp_path / "cache"
    command = [sys.executable, "-c", PREPARE, str(tmp_path / "set"), str(cached)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as run:
        assert run.stdout is not None
        for _ in range(10):
            run.stdout.readline()
        run.send_signal(signal.SIGKILL)
    entries = list(cached.rglob("*.npy"))
    assert 0 < len(entries) < 150, "the run was to be killed midway"
    for entry in entries:
        assert np.load(entry).shape == (80_000,)

    unfinished = cached / "unfinished"
    for name, age in (("old.part", 7200), ("of-last-version.tmp", 7200), ("young.part", 0)):
        (unfinished / name).write_bytes(b"half")
        os.utime(unfinished / name, (time.time() - age,) * 2)
    table = read(tmp_path / "set")
    sounds = SoundCache(cached, 5.0)
    left = {path.name for path in unfinished.iterdir()}
    assert "young.part" in left
    assert not {"old.part", "of-last-version.tmp"} & left
    sounds.prepare(table.rows)
    assert len(list(cached.rglob("*.npy"))) == 150
    np.testing.assert_array_equal(sounds.waveform(table.rows[7]), load_audio(table.rows[7].path).waveform)


# The real ones.


@pytest.fixture
def real() -> Path:
    if not (SHARED / "data").exists():
        pytest.skip("the real data sets (../shared/data) are not here")
    return SHARED / "data"


def test_real_esc10(real: Path) -> None:
    table = read(real / "esc10")
    assert (table.name, len(table), len(table.labels)) == ("esc10", 400, 10)
    assert Counter(row.part for row in table.rows) == dict.fromkeys("12345", 80)
    split = table.split("1")
    assert (len(split.train), len(split.test)) == (320, 80)
    assert Counter(table.targets(split.test).tolist()) == dict.fromkeys(range(10), 8)


@pytest.mark.parametrize(("name", "classes"), [("fsdd-digits", 10), ("fsdd-speakers", 6)])
def test_real_fsdd(name: str, classes: int, real: Path) -> None:
    table = read(real / "fsdd", name)
    split = table.split()
    assert (len(split.train), len(split.validation), len(split.test)) == (2700, 0, 300)
    assert len(table.labels) == classes


def test_a_list_with_splits(tmp_path) -> None:
    for name in ("a.wav", "b.wav", "c.wav"):
        soundfile.write(tmp_path / name, tone(0.2), 16_000)
    (tmp_path / "set").mkdir()
    table = tmp_path / "set" / "manifest.csv"
    table.write_text(f"path,label,split\n../a.wav,no,train\n../b.wav,yes,test\n{tmp_path / 'c.wav'},yes,validation\n")
    found = read(tmp_path / "set")
    assert (found.name, found.labels) == ("set", ("no", "yes"))
    assert [(row.path.resolve().name, row.labels, row.part) for row in found.rows] == [
        ("a.wav", ("no",), "train"),
        ("b.wav", ("yes",), "test"),
        ("c.wav", ("yes",), "validation"),
    ]
    table.write_text("path,label,split\n../a.wav,no,train\n../b.wav,yes,tset\n")
    with pytest.raises(DataError, match=r"clip 2: split is 'tset'; it must be train, validation, test"):
        read(tmp_path / "set")
