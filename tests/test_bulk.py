"""Bulk tagging on Ray and from Parquet: the same rows as from files in one process, whatever is killed on the way."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest
import soundfile

import audioprune as ap
from audioprune.bulk.log import ResultLogError
from audioprune.bulk.run import run
from audioprune.bulk.sounds import key
from audioprune.files import DRAFT
from audioprune.tagging.bulk import find_sounds, open_log
from audioprune.tagging.tagger import Tagger

from .conftest import tone
from .processes import COMMAND, begin

pa = pytest.importorskip("pyarrow", reason="pip install 'audioprune[ray]'")
pq = pytest.importorskip("pyarrow.parquet", reason="pip install 'audioprune[ray]'")
ds = pytest.importorskip("pyarrow.dataset", reason="pip install 'audioprune[ray]'")

SETTING = {"model": "esc10", "keep_rate": 0.5}


@pytest.fixture(scope="module")
def tagger() -> Tagger:
    model = ap.load("esc10")
    ap.prune(model, ap.TopK(0.5))
    return Tagger(model, ap.load_features("esc10", model), batch_size=4)


@pytest.fixture(scope="module")
def cluster():
    """A Ray of two processes on this machine."""
    bulk_ray = pytest.importorskip("audioprune.tagging.bulk_ray", reason="pip install 'audioprune[ray]'")
    bulk_ray._start(None)
    yield bulk_ray
    bulk_ray.ray.shutdown()


def write_clips(folder: Path, count: int) -> list[Path]:
    folder.mkdir()
    paths = [folder / f"{i:03}.wav" for i in range(count)]
    for i, path in enumerate(paths):
        soundfile.write(path, tone(1.0, hertz=100 + 15 * i), 16_000)
    return paths


def same(rows: list[dict], others: list[dict]) -> None:
    """Raise where rows differ, in any order, by more than rounding in the scores."""
    assert sorted(row["path"] for row in rows) == sorted(row["path"] for row in others)
    by_path = {row["path"]: row for row in others}
    for row in rows:
        other = by_path[row["path"]]
        assert row.get("error") == other.get("error")
        assert row.get("seconds") == other.get("seconds")
        scores = [{item["label"]: item["score"] for item in one.get("labels") or ()} for one in (row, other)]
        assert scores[0] == pytest.approx(scores[1], abs=1e-5)


def workers_of(driver: int) -> list[int]:
    """Process ids of the workers of the Ray that a process started."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            raylet = (folder / "stat").read_text().rpartition(")")[2].split()[1]
            starter = Path("/proc", raylet, "stat").read_text().rpartition(")")[2].split()[1]
            if (folder / "cmdline").read_bytes().startswith(b"ray::MapWorker") and int(starter) == driver:
                found.append(int(folder.name))
        except (OSError, IndexError):
            continue
    return sorted(found)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are found by /proc")
def test_ray_gives_the_same_rows_though_a_worker_is_killed(cluster, tagger, tmp_path) -> None:
    paths = write_clips(tmp_path / "clips", 80)
    paths[50].write_bytes(b"RIFF1234")
    killed: list[int] = []
    rows = []
    with cluster.RayTagger(tagger, workers=2) as engine:
        for row in engine(paths):
            rows.append(row)
            if not killed:
                killed = workers_of(os.getpid())[:1]
                os.kill(killed[0], signal.SIGKILL)
    assert killed
    same(rows, list(tagger(paths)))


def embedded(path: Path, form: str = "WAV", hertz: float = 440.0) -> bytes:
    soundfile.write(path, tone(1.0, hertz=hertz), 16_000, format=form)
    return path.read_bytes()


def jsonl(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def parquet(path: Path) -> list[dict]:
    rows = ds.dataset(path).to_table().to_pylist()
    return [{name: value for name, value in row.items() if value is not None} for row in rows]


def test_parquet_with_paths(tagger, tmp_path) -> None:
    paths = write_clips(tmp_path / "clips", 4)
    table = pa.table(
        {
            "label": ["a"] * 6,
            "id": list(range(6)),
            "path": ["clips/000.wav", *map(str, paths[1:]), "clips/none.wav", None],
        }
    )
    pq.write_table(table, tmp_path / "all.parquet")
    found, passed = find_sounds([tmp_path / "all.parquet", paths[0]])
    rows = list(tagger(found))
    assert passed == []
    same(rows[:4], list(tagger(paths)))
    assert "none.wav: no such file" in rows[4]["error"]
    assert rows[5]["path"] == f"{tmp_path}/all.parquet#5"
    assert "neither a sound nor a path" in rows[5]["error"]


@pytest.mark.parametrize("kind", ["bytes", "binary audio", "hugging face", "hugging face, no names"])
def test_parquet_with_sounds(tagger, tmp_path, kind: str) -> None:
    paths = write_clips(tmp_path / "clips", 5)
    sounds = [path.read_bytes() for path in paths[:3]] + [b"RIFF1234", b"", embedded(tmp_path / "a.flac", "FLAC", 100)]
    names = list("abcdef")
    if kind == "bytes":
        columns = {"bytes": sounds, "id": [7, 8, 9, 10, 11, 12]}
        names = list(map(str, columns["id"]))
    elif kind == "binary audio":
        columns = {"path": names, "audio": pa.array(sounds, pa.large_binary())}
    else:
        given = [None] * 6 if "no names" in kind else names
        columns = {"audio": [{"bytes": content, "path": path} for content, path in zip(sounds, given, strict=True)]}
        names = [f"{tmp_path}/data/all.parquet#{i}" for i in range(6)] if "no names" in kind else names
    (tmp_path / "data").mkdir()
    pq.write_table(pa.table(columns), tmp_path / "data/all.parquet", row_group_size=2)
    found, _ = find_sounds([tmp_path / "data"])
    rows = list(tagger(found))
    assert [row["path"] for row in rows] == [key(sound) for sound in found] == names
    for row, plain in zip(rows, tagger(paths[:3]), strict=False):
        assert row["labels"] == plain["labels"]
        assert row["seconds"] == plain["seconds"] == 1.0
    assert rows[3]["error"].startswith(f"{names[3]}: cannot be decoded as audio (Format not recognised")
    assert "0 bytes" in rows[4]["error"]
    assert rows[5]["labels"][0]["label"] == rows[0]["labels"][0]["label"]


def test_hugging_face_rows_may_name_files(tagger, tmp_path) -> None:
    (path,) = write_clips(tmp_path / "clips", 1)
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    column = pa.array([{"bytes": None, "path": "clips/000.wav"}], kind)
    pq.write_table(pa.table({"audio": column}), tmp_path / "all.parquet")
    (row,) = tagger(find_sounds([tmp_path / "all.parquet"])[0])
    assert row["path"] == "clips/000.wav"
    assert row["labels"] == next(iter(tagger([path])))["labels"]


def test_folders_with_sounds_pass_parquet_over(tmp_path) -> None:
    write_clips(tmp_path / "clips", 2)
    pq.write_table(pa.table({"a": [1]}), tmp_path / "clips/labels.parquet")
    found, passed = find_sounds([tmp_path / "clips"])
    assert (len(found), [path.name for path in passed]) == (2, ["labels.parquet"])


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"file": ["a"], "label": [1]}, r"no column contains sounds; .* are: file \(string\), label \(int64\)"),
        ({"audio": [{"array": [0.5]}]}, "Its columns are: audio"),
        ({"path": [1]}, r"Its columns are: path \(int64\)"),
        ({"bytes": [b"a", b"b"], "id": ["x", "x"]}, "two sounds have the name x"),
        ({"path": pa.array([], pa.string())}, "contains no rows"),
    ],
)
def test_parquet_that_cannot_be_used(tmp_path, columns: dict, message: str) -> None:
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=message):
        find_sounds([tmp_path / "a.parquet"])


@pytest.mark.parametrize("content", [b"", b"PAR1", b"hello" * 100])
def test_parquet_that_is_damaged(tmp_path, content: bytes) -> None:
    (tmp_path / "a.parquet").write_bytes(content)
    with pytest.raises(ValueError, match="a.parquet: cannot be read as Parquet"):
        find_sounds([tmp_path / "a.parquet"])


def test_a_damaged_row_group_is_errors(tagger, tmp_path) -> None:
    sounds = [embedded(tmp_path / "a.wav", hertz=100 * i + 100) for i in range(4)]
    pq.write_table(pa.table({"id": [0, 1, 2, 3], "bytes": sounds}), tmp_path / "a.parquet", row_group_size=2)
    found, _ = find_sounds([tmp_path / "a.parquet"])
    content = bytearray((tmp_path / "a.parquet").read_bytes())
    place = pq.ParquetFile(tmp_path / "a.parquet").metadata.row_group(0).column(1).data_page_offset
    content[place : place + 40] = b"\xff" * 40
    (tmp_path / "a.parquet").write_bytes(content)
    rows = list(tagger(found))
    assert ["row group 0 cannot be read" in row.get("error", "") for row in rows] == [True, True, False, False]


def test_results_in_parquet_are_taken_up(tagger, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("audioprune.tagging.bulk_parquet.ROWS_A_PART", 4)
    paths = write_clips(tmp_path / "clips", 10)
    paths[3].write_text("no sound")
    out = tmp_path / "out.parquet"
    with open_log(out, SETTING) as log:
        assert run(tagger, paths[:6], log) == (6, 1)
    assert sorted(path.name for path in out.iterdir()) == ["part-00000.parquet", "part-00001.parquet"]
    with open_log(out, SETTING) as log:
        assert run(tagger, paths, log) == (4, 1)
    assert len(list(out.iterdir())) == 3
    rows = parquet(out)
    assert [row["path"] for row in rows] == [str(path) for path in paths]
    same(rows, list(tagger(paths)))
    with open_log(out, SETTING) as log:
        assert run(tagger, paths, log) == (0, 1)
    metadata = ds.dataset(out).schema.metadata
    assert json.loads(metadata[b"audioprune"]) == SETTING


class Killed(BaseException):
    """What is raised where a kill would end the process."""


@pytest.mark.parametrize(
    "moment",
    [
        "audioprune.tagging.bulk_parquet.pq.write_table",
        "audioprune.files.os.replace",
        "audioprune.bulk.log.ResultLog.clear",
    ],
)
def test_a_kill_while_a_part_is_written_loses_and_doubles_nothing(tagger, tmp_path, monkeypatch, moment: str) -> None:
    def kill(*args: object) -> None:
        raise Killed

    paths = write_clips(tmp_path / "clips", 8)
    out = tmp_path / "out.parquet"
    log = open_log(out, SETTING)
    run(tagger, paths[:5], log)
    with monkeypatch.context() as patch:
        patch.setattr(moment, kill)
        with pytest.raises(Killed):
            log.__exit__(None, None, None)
    (out / f".part-00000.parquet.0{DRAFT}").write_bytes(b"PAR1")  # no `finally` runs in a kill
    with open_log(out, SETTING) as log:
        assert run(tagger, paths, log) == (3, 0)
    assert [row["path"] for row in parquet(out)] == [str(path) for path in paths]
    assert all(path.suffix == ".parquet" for path in out.iterdir())


def test_results_in_parquet_are_guarded(tagger, tmp_path) -> None:
    out = tmp_path / "out.parquet"
    with open_log(out, SETTING):
        pass
    assert not out.exists()
    with open_log(out, SETTING) as log:
        run(tagger, write_clips(tmp_path / "clips", 1), log)
        with pytest.raises(ResultLogError, match="another run"):
            open_log(out, SETTING)
    before = sorted((path.name, path.read_bytes()) for path in out.iterdir())
    with pytest.raises(ResultLogError, match=r"out.parquet: begun with keep_rate=0\.5 \(not 0\.7\)"):
        open_log(out, {**SETTING, "keep_rate": 0.7})
    assert before == sorted((path.name, path.read_bytes()) for path in out.iterdir())
    (out / "part-00001.parquet").write_bytes(b"PAR1")
    with pytest.raises(ResultLogError, match=r"part-00001.parquet: cannot be read .*delete it"):
        open_log(out, SETTING)
    (tmp_path / "data.parquet").mkdir()
    pq.write_table(pa.table({"path": ["a"]}), tmp_path / "data.parquet/a.parquet")
    with pytest.raises(ResultLogError, match="is not a part of results"):
        open_log(tmp_path / "data.parquet", SETTING)
    (tmp_path / "data.parquet/thesis.txt").touch()
    with pytest.raises(ResultLogError, match=r"contains thesis.txt"):
        open_log(tmp_path / "data.parquet", SETTING)
    (tmp_path / "file.parquet").touch()
    with pytest.raises(ResultLogError, match="is a file"):
        open_log(tmp_path / "file.parquet", SETTING)
    with pytest.raises(ValueError, match="ends in .jsonl, .csv or .parquet"):
        open_log(tmp_path / "out.tsv", SETTING)


def test_readers_pass_over_the_journal(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("audioprune.tagging.bulk_parquet.ROWS_A_PART", 2)
    with open_log(tmp_path / "out.parquet", SETTING) as log:
        for name in "abc":
            log.write({"path": name, "labels": []})
        assert (tmp_path / "out.parquet/_rows.jsonl").stat().st_size
        assert [row["path"] for row in parquet(tmp_path / "out.parquet")] == ["a", "b"]
    assert [row["path"] for row in parquet(tmp_path / "out.parquet")] == ["a", "b", "c"]


def test_the_page_says_what_was_measured() -> None:
    root = Path(__file__).parents[1]
    page = (root / "docs/bulk.md").read_text()
    found = json.loads((root / "results/bulk-tagging.json").read_text())
    assert found["same_rows"]
    assert f"{found['clips']} real clips" in page
    for row in found["runs"]:
        assert f"| {row['run']} | {row['seconds']:.0f} |" in page


def test_names_that_are_no_unicode(tagger, tmp_path) -> None:
    (path,) = write_clips(tmp_path / "clips", 1)
    odd = path.rename(path.parent / os.fsdecode(b"m\xff.wav"))
    for written in (1, 0):
        with open_log(tmp_path / "out.parquet", SETTING) as log:
            assert run(tagger, [odd], log)[0] == written
    assert parquet(tmp_path / "out.parquet")[0]["path"].endswith("m\\udcff.wav")


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are found by /proc")
@pytest.mark.parametrize(("ending", "name"), [(signal.SIGINT, "out.jsonl"), (signal.SIGKILL, "out.parquet")])
def test_a_run_on_ray_that_is_ended_goes_on(request, tmp_path, ending: signal.Signals, name: str) -> None:
    """The command itself, ended half-way on Ray and finished without."""
    pytest.importorskip("ray.data", reason="pip install 'audioprune[ray]'")
    paths, out, said = write_clips(tmp_path / "clips", 160), tmp_path / name, tmp_path / "said.txt"
    rows = out if out.suffix == ".jsonl" else out / "_rows.jsonl"
    words = ["tag", tmp_path / "clips", "--out", out, "--method", "topk"]
    process = begin(COMMAND, *words, "--engine", "ray", "--workers", "1", "--batch-size", "2", said=said)
    while process.is_alive() and (not rows.exists() or rows.read_bytes().count(b"\n") < 8):
        time.sleep(0.02)
    workers = workers_of(process.pid)
    os.kill(process.pid, ending)
    process.join()
    assert process.exitcode == (130 if ending == signal.SIGINT else -signal.SIGKILL), said.read_text()
    before = rows.read_bytes().count(b"\n")
    assert 8 <= before < 160
    code, _, err = request.getfixturevalue("run")(*words)
    assert code == 0
    assert f"{before} were done before" in err
    assert sorted(row["path"] for row in (jsonl if out.suffix == ".jsonl" else parquet)(out)) == sorted(map(str, paths))
    while any(Path(f"/proc/{worker}").exists() for worker in workers):  # Ray ends them in its own time
        time.sleep(0.1)


def test_what_ray_refuses(cluster, tagger) -> None:
    with pytest.raises(ValueError, match=r"--workers is 99, but this machine has \d+ CPUs; use at most"):
        cluster.RayTagger(tagger, workers=99)
    with pytest.raises(ValueError, match="--device is 'meta'; on Ray it must be auto, cpu or cuda"):
        cluster.RayTagger(tagger, device="meta")
    with pytest.raises(ValueError, match=r"no Ray cluster answers at 127.0.0.1:1 .*check that it is running"):
        cluster._start("127.0.0.1:1")
    if not cluster.ray.cluster_resources().get("GPU"):
        with pytest.raises(ValueError, match="--device is 'cuda', but Ray finds no GPU on this machine"):
            cluster.RayTagger(tagger, device="cuda")


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are found by /proc")
def test_a_sound_that_kills_every_worker_ends_the_run(cluster, tagger, monkeypatch) -> None:
    monkeypatch.setattr(cluster, "TRIES", 1)
    # Otherwise each worker would import this file, and all that it imports, for the sake of one class.
    cluster.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    with pytest.raises(cluster.WorkerError, match="1 workers in turn died on these clips: fatal"):
        list(cluster.RayTagger(tagger, workers=1)([Fatal()]))


class Fatal:
    key = "fatal"

    def __str__(self) -> str:
        return self.key

    def load(self, max_seconds: float, start_seconds: float = 0.0) -> None:
        os._exit(1)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--engine", "spark"), "--engine is 'spark'; there are local and ray"),
        (("--workers", "2"), "--workers and --address are for --engine ray"),
        (("--address", "auto"), "--workers and --address are for --engine ray"),
        (("--out", "out.txt"), "--out is 'out.txt'; give it a name that ends in .jsonl, .csv or .parquet"),
    ],
)
def test_words_that_make_no_sense(run, clips, words: tuple[str, ...], message: str) -> None:
    code, _, err = run("tag", clips, *words)
    assert code == 2
    assert message in err


@pytest.mark.parametrize("missing", ["ray", "pyarrow"])
def test_what_is_not_installed_is_named(run, clips, monkeypatch, missing: str) -> None:
    words = {"ray": ("--engine", "ray"), "pyarrow": ("--out", "out.parquet")}[missing]
    for name in [
        name for name in sys.modules if name.split(".")[0] == missing or name.startswith("audioprune.tagging.bulk")
    ]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    code, _, err = run("tag", clips, *words)
    assert code == 2
    assert f"this needs {missing}: pip install 'audioprune[ray]'" in err


def test_a_model_that_cannot_be_loaded_is_told_before_ray_starts(run, clips) -> None:
    code, _, err = run("tag", clips, "--engine", "ray", "--model", "none.pth")
    assert code == 2
    assert err.startswith("error: none.pth: no such file")
