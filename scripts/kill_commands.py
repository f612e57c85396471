"""Kill commands at random moments, start them again, and compare with a run that nobody killed.

    python scripts/kill_commands.py --kills 40 --whisper openai/whisper-tiny.en --out results/kills.json

Each command gets its share of the kills (SIGKILL, to all of its processes), and then ends by itself. What it wrote must
be what the run without kills wrote: no row lost, none twice, no file broken. Seconds, and what follows from them, are
not compared. A command that has its row in the file is not run again. Exit code 1 if something differs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from rich.progress import track
from safetensors.numpy import load_file

from audioprune.compare.benchmark import machine
from audioprune.files import write_json

RATE = 16_000
CLASSES = ("clock_tick", "rain", "rooster")
CLIPS = 12
"""Clips of each class."""
OF_TIME = (
    "second",
    "latency",
    "speed",
    "real_time",
    "faster",
    "per_second",
    "timing",
    "date",
    "command",
    "machine",
    "bytes",
    "fast",
)
"""Parts of the names of what depends on the moment or the place."""
RECIPE = """
about: A tiny model, to be killed.
family: audiomae
preset: esc50
config: {hidden_size: 32, num_hidden_layers: 4, num_attention_heads: 2, intermediate_size: 64}
epochs: 4
batch_size: 4
optimizer: {lr: 1.0e-3, weight_decay: 0.05}
learning_rate: {warmup_epochs: 1}
method: {method: TopK, keep_rate: 0.5}
shrink: {start: 1, epochs: 2}
"""


@dataclass(frozen=True)
class Job:
    """A command, without its `--out`, and what it made there, as a value to compare."""

    name: str
    words: Sequence[str]
    out: str
    read: Callable[[Path], Any]

    def start(self, folder: Path) -> subprocess.Popen[bytes]:
        folder.mkdir(parents=True, exist_ok=True)
        said = (folder / "said.txt").open("ab")
        words = [sys.executable, "-m", "audioprune", *self.words, "--out", str(folder / self.out)]
        return subprocess.Popen(words, stdout=said, stderr=said, start_new_session=True)


def timeless(value: Any) -> Any:
    """The value without what depends on the moment or the place."""
    if isinstance(value, dict):
        return {key: timeless(part) for key, part in value.items() if not any(word in str(key) for word in OF_TIME)}
    return [timeless(part) for part in value] if isinstance(value, list) else value


def rows(path: Path) -> Any:
    """All rows of a journal, in the order of their names; a row that is there twice stays twice."""
    return sorted(json.dumps(timeless(json.loads(line)), sort_keys=True) for line in path.read_text().splitlines())


def document(path: Path) -> Any:
    return timeless(json.loads(path.read_text()))


def answers(folder: Path) -> Any:
    found = document(folder / "answers.json")["answers"]
    found.pop("tradeoff")  # its sentences name seconds
    return found


def setting(path: Path) -> Any:
    """The choice goes by seconds; the file must be whole, and what the search kept must be gone."""
    left = [one.name for one in path.parent.iterdir() if one.name not in (path.name, "said.txt")]
    return {"method": bool(json.loads(path.read_text())["method"]), "left": left}


def trained(folder: Path) -> Any:
    tensors = load_file(folder / "model.safetensors")
    losses = json.loads((folder / "result.json").read_text())["losses"]
    return {"losses": losses, "sums": {name: float(np.abs(tensors[name]).sum()) for name in sorted(tensors)}}


def all_trained(folder: Path) -> Any:
    return {str(path.parent.relative_to(folder)): trained(path.parent) for path in folder.rglob("result.json")}


def make_sounds(folder: Path) -> None:
    noise = np.random.default_rng(0)
    for label in CLASSES:
        for part, count in (("train", CLIPS), ("test", CLIPS)):
            for i in range(count):
                path = folder / part / label / f"{i}.wav"
                path.parent.mkdir(parents=True, exist_ok=True)
                wave = np.convolve(noise.standard_normal(5 * RATE), noise.standard_normal(8), "same")
                soundfile.write(path, 0.1 * wave * noise.random(), RATE)


def jobs(folder: Path, whisper: str | None) -> list[Job]:
    sounds, data = str(folder / "sounds" / "test"), str(folder / "sounds")
    recipe = folder / "tiny.yaml"
    recipe.write_text(RECIPE)
    learn = ["--recipe", str(recipe), "--data", data, "--data-name", "folders"]
    made = [
        Job("tag", ["tag", sounds], "rows.jsonl", rows),
        Job("compare", ["compare", "--data", sounds, "--methods", "topk,tome,uniform"], "compare.json", document),
        Job("calibrate", ["calibrate", "--clips", sounds, "--max-disagreement", "0.3"], "pruning.json", setting),
        Job("analyze", ["analyze", "--data", sounds, "--keep-rates", "0.5"], "analysis", answers),
        Job("train", ["train", *learn], "model", trained),
        Job("sweep", ["sweep", *learn, "--seeds", "0,1", "--keep-rates", "0.7,0.5"], "runs", all_trained),
    ]
    if whisper is not None:
        made.insert(1, Job("transcribe", ["transcribe", sounds, "--model", whisper], "words.jsonl", rows))
    return made


def execute(job: Job, folder: Path, seconds: float | None = None) -> int:
    """Run a command to its end, or kill it after so many seconds; its exit code."""
    process = job.start(folder)
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return -signal.SIGKILL
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def run(job: Job, folder: Path, kills: int, drawn: random.Random) -> dict[str, Any]:
    """Run a command unharmed, and again with kills; what it says at the end, and whether both made the same.

    A run that ends before it is to be killed is compared too, and the next begins anew.
    """
    begun = time.monotonic()
    expected = execute(job, folder / "whole"), job.read(folder / "whole" / job.out)
    seconds = time.monotonic() - begun
    moments: list[float] = []
    codes, same, said = [expected[0]], True, ""
    is_last = False
    while not is_last:
        is_last, place = len(moments) == kills, folder / f"killed{len(codes)}"
        moment = None if is_last else drawn.uniform(0.05, 1.0) * seconds
        code = execute(job, place, moment)
        if moment is not None and code == -signal.SIGKILL:
            moments.append(moment)
            continue
        codes.append(code)
        same = same and (code, job.read(place / job.out)) == expected
        said += (place / "said.txt").read_text(errors="replace")
    return {
        "command": job.name,
        "seconds": round(seconds, 1),
        "killed_after": [round(moment, 1) for moment in moments],
        "exit_codes": codes,
        "same": same,
        "traceback": "Traceback" in said,
        "machine": machine(),
    }


def asked(args: argparse.Namespace) -> str:
    """The command line, without folders of this machine."""
    whisper = "" if args.whisper is None else f" --whisper {Path(args.whisper).name}"
    seed = f" --seed {args.seed}" if args.seed else ""
    return f"python scripts/kill_commands.py --kills {args.kills}{whisper}{seed} --out results/{args.out.name}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=40, help="in all")
    parser.add_argument("--whisper", help="folder or hub id of a Whisper; without it, nothing is transcribed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        make_sounds(folder / "sounds")
        todo, drawn = jobs(folder, args.whisper), random.Random(args.seed)
        share = [args.kills // len(todo) + (i < args.kills % len(todo)) for i in range(len(todo))]
        found = json.loads(args.out.read_text())["rows"] if args.out.exists() else []
        known = {row["command"] for row in found}
        left = [(job, kills) for job, kills in zip(todo, share, strict=True) if job.name not in known]
        for job, kills in track(left, "commands"):
            found.append(run(job, folder / job.name, kills, drawn))
            write_json(args.out, {"command": asked(args), "rows": found})
            print(found[-1])
    return int(any(not row["same"] or row["traceback"] for row in found))


if __name__ == "__main__":
    sys.exit(main())
