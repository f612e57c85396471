"""Tag real clips in one process and on Ray, kill a worker and the driver on the way, and compare the rows.

    python scripts/bulk_tagging.py --data DATA --out results/bulk-tagging.json

DATA is a folder with esc10/audio. The script takes a few minutes. It starts Ray on this machine, with two workers.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow.dataset

from audioprune.compare.benchmark import machine
from audioprune.files import write_json

WORKERS = 2
ON_RAY = ("--engine", "ray", "--workers", str(WORKERS))
Rows = dict[str, dict[str, Any]]


def start(clips: Path, out: Path, *words: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "audioprune", "tag", str(clips), "--out", str(out), *words]
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    return subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)


def written(out: Path) -> int:
    """Count the rows that would survive a kill now."""
    journal = out / "_rows.jsonl" if out.suffix == ".parquet" else out
    return journal.read_bytes().count(b"\n") if journal.exists() else 0


def wait(process: subprocess.Popen[bytes], out: Path, rows: int) -> None:
    """Wait until there are so many rows. Raises `RuntimeError` if the process ends before."""
    while written(out) < rows:
        if process.poll() is not None:
            raise RuntimeError(f"ended after {written(out)} rows, before it could be killed at {rows}")
        time.sleep(0.01)


def workers_of(driver: int) -> list[int]:
    """Find the process ids of the workers of the Ray that a process started."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            raylet = (folder / "stat").read_text().rpartition(")")[2].split()[1]
            starter = Path("/proc", raylet, "stat").read_text().rpartition(")")[2].split()[1]
            if (folder / "cmdline").read_bytes().startswith(b"ray::MapWorker") and int(starter) == driver:
                found.append(int(folder.name))
        except (OSError, IndexError):  # it ended meanwhile
            continue
    return sorted(found)


def finish(process: subprocess.Popen[bytes], began: float) -> dict[str, Any]:
    code = process.wait()
    return {"exit_code": code, "seconds": round(time.monotonic() - began, 1)}


def plain(clips: Path, out: Path, *words: str) -> dict[str, Any]:
    began = time.monotonic()
    process = start(clips, out, *words)
    wait(process, out, 1)
    first = time.monotonic()
    row = finish(process, began)
    return row | {"seconds_before_first_row": round(first - began, 1)}


def worker_killed(clips: Path, out: Path, half: int) -> dict[str, Any]:
    began = time.monotonic()
    process = start(clips, out, *ON_RAY)
    wait(process, out, half)
    workers = workers_of(process.pid)
    os.kill(workers[0], signal.SIGKILL)
    killed = {"what": f"one of {len(workers)} workers, SIGKILL", "rows_written": written(out)}
    killed["at_seconds"] = round(time.monotonic() - began, 1)
    return finish(process, began) | {"killed": killed}


def driver_killed(clips: Path, out: Path, half: int) -> dict[str, Any]:
    began = time.monotonic()
    process = start(clips, out, *ON_RAY)
    wait(process, out, half)
    process.send_signal(signal.SIGKILL)
    process.wait()
    killed = {"what": "the command itself, SIGKILL; then it was started again", "rows_written": written(out)}
    killed["at_seconds"] = round(time.monotonic() - began, 1)
    return finish(start(clips, out, *ON_RAY), began) | {"killed": killed}


def read(out: Path) -> list[dict[str, Any]]:
    if out.suffix == ".parquet":
        return pyarrow.dataset.dataset(out).to_table().to_pylist()
    return [json.loads(line) for line in out.read_text().splitlines()]


def compare(out: Path, reference: list[dict[str, Any]]) -> dict[str, Any]:
    """Compare the rows with those of the local engine."""
    rows = read(out)
    by_path = {row["path"]: row for row in reference}
    both = [(row, by_path[row["path"]]) for row in rows if row["path"] in by_path]
    pairs = [(one["labels"], other["labels"]) for one, other in both]
    apart = [
        abs(a["score"] - b["score"])
        for one, other in pairs
        for a, b in zip(one, other, strict=True)
        if a["label"] == b["label"]
    ]
    return {
        "rows": len(rows),
        "rows_missing": len(by_path.keys() - {row["path"] for row in rows}),
        "rows_doubled": len(rows) - len({row["path"] for row in rows}),
        "rows_with_other_labels": sum([i["label"] for i in one] != [i["label"] for i in other] for one, other in pairs),
        "largest_difference_of_a_score": max(apart),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    clips = options.data / "esc10" / "audio"
    count = len(list(clips.iterdir()))
    with tempfile.TemporaryDirectory() as folder:
        outs = {name: Path(folder, name) for name in ("local.jsonl", "ray.jsonl", "worker.parquet", "driver.parquet")}
        runs = {
            "local": plain(clips, outs["local.jsonl"]),
            "ray": plain(clips, outs["ray.jsonl"], *ON_RAY),
            "ray, a worker killed": worker_killed(clips, outs["worker.parquet"], count // 2),
            "ray, the driver killed": driver_killed(clips, outs["driver.parquet"], count // 2),
        }
        reference = read(outs["local.jsonl"])
        rows = [
            {"run": name, "out": out.suffix, **row, **compare(out, reference)}
            for (name, row), out in zip(runs.items(), outs.values(), strict=True)
        ]
    same = all(
        row["rows"] == count
        and not row["rows_missing"] + row["rows_doubled"] + row["rows_with_other_labels"]
        and row["largest_difference_of_a_score"] <= 1e-5
        for row in rows
    )
    found = {
        "command": "python scripts/bulk_tagging.py --data DATA --out results/bulk-tagging.json",
        "machine": machine() | {"cores": os.cpu_count(), "ray": version("ray")},
        "model": "esc10, recommended pruning, half of the work",
        "clips": count,
        "workers": WORKERS,
        "same_rows": same,
        "runs": rows,
    }
    write_json(options.out, found)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
