"""Split spoken commands by speaker: no one is heard in training and in the test.

    python scripts/commands_split.py shared/data/commands runs/commands --seeds 0,1,2

For each seed it writes OUT/seed0/manifest.csv: a third of the speakers, and of the clips of no speaker, are the test.
Sounds stay where they are.
"""

from __future__ import annotations

import argparse
import csv
import random
from collections import defaultdict
from io import StringIO
from pathlib import Path

from audioprune.files import write_text

TEST = 1 / 3


def split(rows: list[dict[str, str]], seed: int) -> list[str]:
    """The part of each clip, "train" or "test"."""
    speakers = sorted({row["speaker"] for row in rows if row["speaker"]})
    drawn = random.Random(seed)
    tested = set(drawn.sample(speakers, round(TEST * len(speakers))))
    # Background noise has no speaker.
    of_nobody = defaultdict[str, list[int]](list)
    for i, row in enumerate(rows):
        if not row["speaker"]:
            of_nobody[row["label"]].append(i)
    noise = {
        i for label in sorted(of_nobody) for i in drawn.sample(of_nobody[label], round(TEST * len(of_nobody[label])))
    }
    return ["test" if row["speaker"] in tested or i in noise else "train" for i, row in enumerate(rows)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with manifest.csv: path, label, speaker")
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", default="0,1,2")
    asked = parser.parse_args()
    rows = list(csv.DictReader((asked.data / "manifest.csv").open()))
    for seed in map(int, asked.seeds.split(",")):
        text = StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(("path", "label", "split"))
        for row, part in zip(rows, split(rows, seed), strict=True):
            table.writerow(((asked.data / row["path"]).resolve(), row["label"], part))
        write_text(asked.out / f"seed{seed}" / "manifest.csv", text.getvalue())


if __name__ == "__main__":
    main()
