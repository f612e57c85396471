"""Calibrate heads on real Whispers by the command line, and check what is chosen on clips that nothing had heard.

    python scripts/calibrate_probes.py commands=PROBE:DATA:manifest digits=PROBE:DATA:fsdd-digits --out FILE.json

Each PROBE is a training of `audioprune train --recipe whisper-probe`. Of its test clips, so many at even distances are
for `audioprune calibrate`, and the clips between them for `audioprune compare` with the setting that was chosen. The
file is written after each data set; what has a row is not run again.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from audioprune.compare.settings import spaced
from audioprune.core.settings import read_method
from audioprune.data import ClipRow, read
from audioprune.files import write_json

METHODS = "recommended,tome"


def link(rows: Sequence[ClipRow], folder: Path) -> None:
    """A folder with a link to each clip, for `--clips`."""
    folder.mkdir()
    for i, row in enumerate(rows):
        (folder / f"{i:04d}{row.path.suffix}").symlink_to(row.path.resolve())


def list_clips(rows: Sequence[ClipRow], folder: Path) -> None:
    """A manifest of the clips and their labels, for `--data`."""
    folder.mkdir()
    with (folder / "manifest.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("path", "label", "split"))
        table.writerows((row.path.resolve(), row.labels[0], "test") for row in rows)


def run(words: list[str], folder: Path) -> str:
    """Run a command of audioprune; what it was, without folders. Exit code 1 of `calibrate` says "not shown"."""
    code = subprocess.run([sys.executable, "-m", "audioprune", *words], cwd=folder, check=False).returncode
    if code not in (0, 1):
        raise SystemExit(code)
    return "audioprune " + " ".join(re.sub(r"^.*/", "", word) for word in words)


def calibrated(probe: Path, data: Path, name: str, clips: int, limit: float) -> dict[str, Any]:
    """What a calibration states, and what its setting does with the other clips."""
    rows = spaced(read(data, name).split().test, 2 * clips)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "calibrated"  # by which `compare` calls its settings file
        folder.mkdir()
        link(rows[::2], folder / "clips")
        list_clips(rows[1::2], folder / "others")
        asked = ["--max-disagreement", f"{limit:g}", "--methods", METHODS, "--bench-seconds", "2"]
        words = ["calibrate", "--model", str(probe.resolve()), "--clips", "clips", *asked]
        command = run([*words, "--report", "report.json", "--out", "pruning.json"], folder)
        report = json.loads((folder / "report.json").read_text())
        row = {**report, "command": command, "model": probe.name, "check": None}
        if not (folder / "pruning.json").exists():
            return row
        words = ["compare", "--model", str(probe.resolve()), "--data", "others", "--data-name", "manifest"]
        words += ["--methods", "pruning.json"]
        rate = read_method(folder / "pruning.json").keep_rate
        if isinstance(rate, float):  # a rate for each layer is the file's own
            words += ["--keep-rates", f"{rate:g}"]
        command = run([*words, "--bench-seconds", "0", "--out", "check.json"], folder)
        check = json.loads((folder / "check.json").read_text())
        return row | {"check": {**check, "command": command, "model": probe.name}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("subjects", nargs="+", help="TITLE=PROBE:DATA:NAME, NAME as for --data-name")
    parser.add_argument("--clips", type=int, default=120, help="for the calibration, and as many for the check")
    parser.add_argument("--max-disagreement", type=float, default=0.1)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    found = json.loads(args.out.read_text()) if args.out.exists() else {"rows": {}}
    for subject in args.subjects:
        title, _, rest = subject.partition("=")
        probe, data, name = rest.split(":")
        if title not in found["rows"]:
            row = calibrated(Path(probe), Path(data), name, args.clips, args.max_disagreement)
            found["rows"][title] = row
            write_json(args.out, found)


if __name__ == "__main__":
    main()
