"""Measure how long a newcomer needs from a clean clone: time each command of docs/command-line.md.

    python scripts/five_minutes.py --sounds SOUNDS --out results/five-minutes.json

SOUNDS is a folder of sounds that the shipped model was not trained on. The script uses only what is committed in this
working tree. Packages come from the index, or from pip's cache.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
COMMANDS = {
    "first result": "make demo",
    "own sound": "audioprune explain my-sounds/{first} --keep-rate 0.5 --method topk --out first.png",
    "own folder": "audioprune tag my-sounds/ --out results.jsonl",
    "calibrated": "audioprune calibrate --clips my-sounds/ --max-disagreement 0.1",
    "tagged as calibrated": "audioprune tag my-sounds/ --method pruning.json --out calibrated.jsonl",
    "page installed": "pip install -c constraints.txt -e '.[app]'",  # `make demo` installs no extra
}
SERVED = "audioprune app --port 0"


def timed(command: str, folder: Path, environment: dict[str, str]) -> dict[str, Any]:
    """Run a command; return its seconds and its exit code."""
    start = time.perf_counter()
    found = subprocess.run(command, shell=True, cwd=folder, env=environment, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    print(found.stdout[-500:], found.stderr[-500:])
    return {"command": command, "seconds": round(seconds, 1), "exit_code": found.returncode}


def served(folder: Path, environment: dict[str, str]) -> dict[str, Any]:
    """Measure the seconds until the page answers."""
    start = time.perf_counter()
    with subprocess.Popen(
        SERVED, shell=True, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        try:
            address = process.stdout.readline().strip()
            if not address:
                raise SystemExit(f"`{SERVED}` did not start; its message is above")
            with urllib.request.urlopen(address, timeout=60) as page:
                status = page.status
            seconds = time.perf_counter() - start
        finally:
            os.killpg(process.pid, 15)
    return {"command": SERVED, "seconds": round(seconds, 1), "status": status}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sounds", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    with tempfile.TemporaryDirectory() as temporary:
        clone = Path(temporary) / "audioprune"
        subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
        (clone / "my-sounds").symlink_to(args.sounds.resolve())
        sounds = sorted(path.name for path in args.sounds.iterdir() if path.suffix in (".wav", ".ogg", ".flac"))
        environment = {**os.environ, "PATH": f"{clone}/.venv/bin:{os.environ['PATH']}", "HF_HUB_OFFLINE": "1"}
        rows = {}
        for name, command in COMMANDS.items():
            rows[name] = timed(command.format(first=sounds[0]), clone, environment)
            print(name, json.dumps(rows[name], indent=1), flush=True)
        rows["served"] = served(clone, environment)
        print("served", json.dumps(rows["served"], indent=1), flush=True)
        about = "import json; from audioprune.compare.benchmark import machine; print(json.dumps(machine()))"
        machine = subprocess.run([clone / ".venv/bin/python", "-c", about], capture_output=True, text=True)
    result = {
        "command": "python scripts/five_minutes.py --sounds SOUNDS --out results/five-minutes.json",
        "machine": json.loads(machine.stdout),
        "commit": commit.stdout.strip(),
        "sounds": len(sounds),
        "rows": rows,
    }
    args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
