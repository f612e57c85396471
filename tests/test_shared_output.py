"""Two runs at one --out: the second is refused and told why, or both leave every row once."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import audioprune.locks
from audioprune.bulk.log import ResultLog
from audioprune.compare.row_log import RowLog
from audioprune.files import Journal
from audioprune.locks import LOCK, alone, claim, open_locked

from .outputs import build, words_of
from .processes import COMMAND, begin

pytest.importorskip("fcntl", reason="this system has no locks of files")

HOLD = """
import sys, time
from pathlib import Path
from audioprune.locks import open_locked

held = open_locked(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(600)
"""


@pytest.fixture(scope="module")
def stage(tmp_path_factory) -> Path:
    return build(tmp_path_factory.mktemp("stage"))


@contextmanager
def another_run(locked: Path) -> Iterator[None]:
    """As if another process wrote to a file. (A lock excludes other open files of the same process too.)"""
    file = open_locked(locked)
    assert file is not None
    with file:
        yield


@pytest.mark.parametrize(
    ("command", "out", "locked"),
    [
        ("tag", "a.jsonl", "a.jsonl"),
        ("tag", "a.csv", ".a.csv.jsonl"),
        ("tag", "a.parquet", "a.parquet/_rows.jsonl"),
        ("transcribe", "a.jsonl", "a.jsonl"),
        ("transcribe", "a.txt", ".a.txt.jsonl"),
        ("subtitles", "texts", "texts/_rows.jsonl"),
        ("compare", "a.json", "a.json.partial.jsonl"),
        ("calibrate", "a.json", "a.json.partial.jsonl"),
        ("analyze", "out", f"out/{LOCK}"),
        ("train", "out", f"out/{LOCK}"),
        ("pretrain", "out", f"out/{LOCK}"),
    ],
)
def test_the_second_run_is_refused(run, stage: Path, tmp_path: Path, command: str, out: str, locked: str) -> None:
    """One sentence names the file and the remedy, and nothing of the first run is changed."""
    words = words_of(command, stage, out)
    named = out if locked.endswith(LOCK) else locked
    with another_run(tmp_path / locked):
        (tmp_path / locked).write_bytes(b"of the first run")
        code, printed, err = run(*words)
        assert (code, printed) == (2, "")
        (line,) = [line for line in err.splitlines() if line.startswith("error:")]
        assert line == f"error: {named}: another run is writing to it; wait for it, or choose another --out"
        assert (tmp_path / locked).read_bytes() == b"of the first run"
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {Path(locked).name}


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.parquet"])
def test_two_that_begin_together_leave_every_row_once(stage: Path, tmp_path: Path, name: str) -> None:
    said = [tmp_path / f"{i}.txt" for i in range(2)]
    words = words_of("tag", stage, str(tmp_path / name))
    both = [begin(COMMAND, *words, said=path) for path in said]
    for process in both:
        process.join(300)
    codes = sorted(process.exitcode or 0 for process in both)
    told = "".join(path.read_text() for path in said)
    assert codes in ([0, 2], [0, 0]), told  # 0: it began when the other had finished
    assert told.count("another run is writing to it") == codes.count(2)
    assert "Traceback" not in told
    assert sorted(names_in(tmp_path / name)) == sorted(map(str, (stage / "clips").iterdir()))


def names_in(path: Path) -> list[str]:
    """Value of `path` in every row of results."""
    if path.suffix == ".jsonl":
        return [json.loads(line)["path"] for line in path.read_text().splitlines()]
    if path.suffix == ".csv":
        return [line.split(",")[0] for line in path.read_text().splitlines() if line.split(",")[4] == "1"]
    parquet = pytest.importorskip("pyarrow.parquet")
    return [row["path"] for row in parquet.read_table(path).to_pylist()]


def test_a_lock_ends_with_its_process(tmp_path: Path) -> None:
    path, said = tmp_path / "rows.jsonl", tmp_path / "said.txt"
    process = begin(HOLD, path, said=said)
    while "held" not in (said.read_text() if said.exists() else ""):
        assert process.is_alive()
        time.sleep(0.01)
    with pytest.raises(ValueError, match="another run is writing"):
        Journal(path, ValueError, "a row")
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    Journal(path, ValueError, "a row").close()


@pytest.mark.parametrize("opened", [open_locked, lambda path: Journal(path, ValueError, "a row")._file])
def test_a_file_that_its_last_run_deletes_is_made_anew(tmp_path: Path, monkeypatch, opened: Callable) -> None:
    """Between the opening and the lock of the second run, the first deletes its file: rows would be in no folder."""
    path, lock, times = tmp_path / "rows.jsonl", audioprune.locks.lock, []

    def late(file) -> bool:
        times.append(1)
        if len(times) == 1:
            path.unlink()
        return lock(file)

    monkeypatch.setattr(audioprune.locks, "lock", late)
    with opened(path) as file:
        assert os.path.samestat(os.fstat(file.fileno()), path.stat())
    assert len(times) == 2


def test_no_results_leave_no_file_but_those_of_another_run_stay(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    with ResultLog(path, {}):
        assert path.exists()
    assert not path.exists()
    with claim(tmp_path / "out") as mine, claim(tmp_path / "out") as again:
        assert (mine, again) == (True, False)
    assert not (tmp_path / "out").exists()
    with claim(tmp_path / "out"):
        (tmp_path / "out" / "result").touch()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["result"]


def test_of_a_launchers_processes_the_first_has_the_folder(tmp_path: Path, monkeypatch) -> None:
    with alone(tmp_path):
        monkeypatch.setenv("RANK", "1")
        with alone(tmp_path):
            pass
        monkeypatch.setenv("RANK", "0")
        with pytest.raises(ValueError, match="another run is writing to it; wait"), alone(tmp_path):
            pytest.fail("two have it")


def test_what_a_state_holds_is_not_written_anew(tmp_path: Path) -> None:
    """A kill while a run opens its state must not cost what an earlier run has made."""
    path, row = tmp_path / "a.partial.jsonl", {"method": "topk", "keep_rate": 0.5}
    log = RowLog(path, {"model": "a"})
    log.note(row)
    log.close()
    whole, number = path.read_bytes(), path.stat().st_ino
    for torn in (b"", b'{"method": "to', b"[[[" * 100_000 + b"\n", b'{"other": 1}\n', b"3\n"):
        path.write_bytes(whole + torn)
        again = RowLog(path, {"model": "a"})
        assert (again.row("topk", 0.5, None), again.other) == (row, [])
        again.close()
        assert path.read_bytes() == whole
    assert path.stat().st_ino == number, "it is the file that was locked"
