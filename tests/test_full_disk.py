"""A full disk, and places that cannot be written to: a clear error, and nothing that was written before is lost."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

import audioprune.files
from audioprune.data import cache
from audioprune.disk import named_if_full
from audioprune.files import Journal, check_writable, read_json, write_text

from .outputs import build, words_of

FULL = "the disk is full; make room and run the same command again"
PAGE = 4096
"""Bytes that a tmpfs gives a file at a time."""


@pytest.fixture(scope="module")
def stage(tmp_path_factory) -> Path:
    return build(tmp_path_factory.mktemp("stage"))


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts a disk in memory with some options. Called again, it changes them."""
    folder = tmp_path / "disk"

    def mounted(options: str) -> Path:
        again = folder.exists()
        folder.mkdir(exist_ok=True)
        words = ["mount", "-t", "tmpfs", "-o", f"remount,{options}" if again else options, "tmpfs", str(folder)]
        try:
            subprocess.run(words, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            folder.rmdir()
            pytest.skip(f"a disk of its own cannot be mounted here ({error})")
        return folder

    yield mounted
    if folder.exists():
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def error_of(err: str) -> str:
    """The one error of a command."""
    assert "Traceback" not in err
    (line,) = [line for line in err.splitlines() if line.startswith("error:")]
    return line.removeprefix("error: ")


def rows_of(path: Path) -> list[dict[str, Any]]:
    """All lines of a JSON Lines file, each of them whole."""
    text = path.read_text()
    assert text == "" or text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


def found_in(out: Path) -> Any:
    """What a run has found, without times and its own words."""
    if out.suffix == ".jsonl":
        rows = sorted(rows_of(out), key=lambda row: row["path"])
        return [{key: value for key, value in row.items() if not re.search("seconds|factor", key)} for row in rows]
    if out.suffix == ".csv":
        return sorted(out.read_text().splitlines())
    if out.suffix == ".parquet":
        return sorted(pytest.importorskip("pyarrow.parquet").read_table(out).to_pylist(), key=lambda row: row["path"])
    if out.suffix == ".json":
        return json.loads(out.read_text())["rows"]
    if (out / "model.safetensors").exists():
        return {name: tensor.tolist() for name, tensor in load_file(out / "model.safetensors").items()}
    return {path.name: path.read_text() for path in out.glob("*.srt")}


@pytest.mark.parametrize(
    ("command", "out", "pages", "journal"),
    [
        ("tag", "a.jsonl", 1, "a.jsonl"),
        ("tag", "a.csv", 1, ".a.csv.jsonl"),
        ("tag", "a.csv", 3, ".a.csv.jsonl"),  # room for the rows, and none for the table
        ("tag", "a.parquet", 1, "a.parquet/_rows.jsonl"),
        ("tag", "a.parquet", 3, "a.parquet/_rows.jsonl"),
        ("transcribe", "a.jsonl", 1, "a.jsonl"),
        ("subtitles", "texts", 2, "texts/_rows.jsonl"),
        ("compare", "a.json", 0, None),
        ("compare", "a.json", 1, "a.json.partial.jsonl"),
        ("train", "run", 1, None),
        ("train", "run", 16, None),
        ("train", "run", 48, None),
        ("train", "run", 128, None),
    ],
)
def test_a_full_disk_loses_nothing(
    run, mount, stage: Path, tmp_path: Path, command: str, out: str, pages: int, journal: str | None
) -> None:
    """The error names a file there; the same command goes on once there is room, to what an undisturbed run finds."""
    disk = mount(f"size={max(pages, 1) * PAGE}")
    if pages == 0:
        (disk / "other").write_bytes(bytes(PAGE))
    words = words_of(command, stage, disk / out)
    code, _, err = run(*words)
    assert code == 2, err
    named, _, told = error_of(err).partition(": ")
    assert named.startswith(str(disk / out).removesuffix("l")) or named == str(disk / str(journal))
    assert told == FULL
    before = [] if journal is None else rows_of(disk / journal)
    mount("size=16m")
    code, _, err = run(*words)
    assert code == 0, err
    if journal is not None:
        assert before, "nothing was written before the disk was full, so nothing is tested"
        assert command == "compare" or f"{len(before)} were done before" in err
    assert run(*words_of(command, stage, tmp_path / out))[0] == 0
    assert found_in(disk / out) == found_in(tmp_path / out)


def test_a_calibration_on_a_full_disk(run, mount, stage: Path) -> None:
    disk = mount(f"size={PAGE}")
    (disk / "other").write_bytes(bytes(PAGE))
    words = words_of("calibrate", stage, disk / "a.json")
    code, _, err = run(*words)
    assert code == 2
    assert error_of(err) == f"{disk / 'a.json.partial.jsonl'}: {FULL}"
    (disk / "other").unlink()
    mount("size=1m")
    code, _, err = run(*words)
    assert code in (0, 1), err  # 1: no setting is faster, on a busy machine
    assert "a.json.partial.jsonl" not in [path.name for path in disk.iterdir()]


def full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_row_that_does_not_fit_leaves_nothing(tmp_path: Path, monkeypatch) -> None:
    """Half of it is written, then the disk is full, as on disks that cannot be mounted here."""
    path, write = tmp_path / "rows.jsonl", os.write
    journal = Journal(path, ValueError, "a row")
    journal.append([{"a": 1}])
    calls = []

    def half(file: int, content: memoryview) -> int:
        calls.append(1)
        return write(file, content[: len(content) // 2]) if len(calls) == 1 else full()

    with monkeypatch.context() as patched:
        patched.setattr(audioprune.files.os, "write", half)
        with pytest.raises(OSError, match="No space left") as caught:
            journal.append([{"b": 2}, {"c": 3}])
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(path))
    assert path.read_text() == '{"a": 1}\n'
    journal.append([{"b": 2}, {"c": 3}])
    journal.close()
    assert rows_of(path) == [{"a": 1}, {"b": 2}, {"c": 3}]


def test_a_short_write_is_continued(tmp_path: Path, monkeypatch) -> None:
    write = os.write
    monkeypatch.setattr(audioprune.files.os, "write", lambda file, content: write(file, content[:3]))
    journal = Journal(tmp_path / "rows.jsonl", ValueError, "a row")
    journal.append([{"a": 1}, {"b": 2}])
    journal.close()
    assert rows_of(tmp_path / "rows.jsonl") == [{"a": 1}, {"b": 2}]


def test_a_draft_that_does_not_fit_is_told_by_the_files_own_name(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "a.json"
    path.write_text("before")
    monkeypatch.setattr(audioprune.files.os, "fsync", full)
    with pytest.raises(OSError, match="a.json") as caught:
        write_text(path, "after")
    assert caught.value.filename == str(path)
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("error", "free", "number"),
    [
        (SafetensorError("I/O error: No space left on device (os error 28)"), 1 << 30, errno.ENOSPC),
        (SafetensorError("I/O error: File too large (os error 27)"), 1 << 30, errno.EFBIG),
        (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0"), 0, errno.ENOSPC),
        (RuntimeError("basic_ios::clear: iostream error"), 1 << 30, errno.EFBIG),
        (OSError(errno.ENOSPC, "No space left on device"), 0, errno.ENOSPC),
        (RuntimeError("CUDA error: out of memory"), 0, None),
        (SafetensorError("header too large"), 0, None),
        (ValueError("iostream error"), 0, None),
    ],
)
def test_what_libraries_say_of_a_full_disk(tmp_path: Path, monkeypatch, error: Exception, free: int, number) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": free}))
    with pytest.raises(Exception, match=".") as caught, named_if_full(tmp_path):
        raise error
    if number is None:
        assert caught.value is error
    else:
        assert isinstance(caught.value, OSError)
        assert (caught.value.errno, caught.value.filename) == (number, str(tmp_path))


def test_pytorch_on_a_full_disk(mount) -> None:
    """What it really says, in each of its ways to fail."""
    disk = mount(f"size={2 * PAGE}")
    for numbers in (10, 1500, 100_000):
        with named_if_full(disk):
            torch.save({"a": torch.zeros(10)}, disk / "small.pt")
        with pytest.raises(OSError, match="No space left") as caught, named_if_full(disk):
            torch.save({"a": torch.zeros(numbers), "b": torch.zeros(100_000)}, disk / "large.pt")
        assert caught.value.errno == errno.ENOSPC
        (disk / "large.pt").unlink()


COMMANDS = [
    ("tag", "a.jsonl"),
    ("tag", "a.csv"),
    ("tag", "a.parquet"),
    ("compare", "a.json"),
    ("calibrate", "a.json"),
    ("eval", "a.json"),
    ("analyze", "out"),
    ("train", "out"),
    ("pretrain", "out"),
    ("sweep", "out"),
    ("explain", "a.png"),
]


@pytest.mark.parametrize(("command", "out"), COMMANDS)
def test_where_nothing_can_be_written_is_told_before_the_work(
    run, stage: Path, tmp_path: Path, monkeypatch, command: str, out: str
) -> None:
    def refused(*_: object, dir: Path) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(dir))

    def loaded(*_: object, **__: object) -> None:
        pytest.fail("a model or the sounds were read first")

    monkeypatch.setattr(tempfile, "TemporaryFile", refused)
    for name in ("options.open_model", "options.open_spectrogram_model", "training_options.open_data"):
        monkeypatch.setattr(f"audioprune.cli.{name}", loaded)
    code, printed, err = run(*words_of(command, stage, tmp_path / out))
    assert (code, printed) == (2, "")
    named, _, told = error_of(err).partition(": ")
    assert Path(named) == tmp_path / out or Path(named).parent == tmp_path / out
    assert told == "cannot be written to; choose another path"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("command", "out"), [("tag", "a.parquet"), ("compare", "a.json"), ("train", "out")])
def test_a_disk_that_may_only_be_read(run, mount, stage: Path, command: str, out: str) -> None:
    disk = mount("ro")
    code, _, err = run(*words_of(command, stage, disk / out))
    assert code == 2
    assert error_of(err).endswith(": cannot be written to; choose another path")
    assert error_of(err).startswith(str(disk / out))


def test_what_may_be_written_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("before")
    check_writable(tmp_path / "a.json", None, tmp_path / "new" / "folder" / "b.json")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.json", "before")]
    with pytest.raises(NotADirectoryError):
        check_writable(tmp_path / "a.json" / "b.json")
    with pytest.raises(IsADirectoryError):
        check_writable(tmp_path)


@pytest.mark.parametrize("kind", ["mounted", "made up", "full"])
def test_a_cache_that_cannot_be_written_stops_nothing(
    run, request, stage: Path, tmp_path: Path, monkeypatch, kind: str
) -> None:
    folder = tmp_path / "cache"
    if kind == "mounted":
        folder = request.getfixturevalue("mount")("ro")
    elif kind == "made up":
        monkeypatch.setattr(Path, "mkdir", _but(folder, Path.mkdir))
    else:
        monkeypatch.setattr(cache.np.lib.format, "write_array", full)
    words = words_of("compare", stage, tmp_path / "a.json")
    code, _, err = run(*words, "--cache", folder)
    assert code == 0, err
    assert err.count(f"note: {folder}: cannot keep decoded sounds (") == 1
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert run(*words[:-1], tmp_path / "b.json", "--cache", tmp_path / "good")[0] == 0
    assert found_in(tmp_path / "a.json") == found_in(tmp_path / "b.json")


def _but(folder: Path, mkdir: Callable) -> Callable:
    """`Path.mkdir`, which may not make anything in a folder."""

    def made(path: Path, *words: Any, **options: Any) -> None:
        if folder in (path, *path.parents):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        mkdir(path, *words, **options)

    return made


@pytest.mark.parametrize("text", ["", "3", "[" * 100_000, '{"a": ' + "9" * 5000 + "}"])
def test_a_file_that_is_no_object(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match="a.json: is not a JSON object as this command writes it; delete it"):
        read_json(tmp_path / "a.json")
