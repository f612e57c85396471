"""Tables of the contrast of pre-training, pooling and score for `render_results.py`, from results/contrast.json.

    python scripts/contrast_tables.py RUNS results/contrast.json

keeps what `scripts/contrast.sh test` found of each arm in one file.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from audioprune.files import write_text
from keep_speech_result import as_json

RESULTS = Path(__file__).parents[1] / "results"
STARTS = {"untrained": "random weights", "pretrained": "masked pre-training"}
POOLINGS = {"ast": "CLS tokens", "ast-mp": "mean"}
SCORES = {"attention": "received", "cls": "of the CLS token"}
TABLES = (
    "retained_signal",
    "kept_by_cluster",
    "attention_ratio",
    "rank_correlation",
    "norm_ratio",
    "tradeoff",
    "perturbation",
)
"""Tables of an analysis that are kept."""

Row = dict[str, Any]


def kept(runs: Path) -> Row:
    """The tables of all arms. Raises `FileNotFoundError` if there are none."""
    arms = []
    for path in sorted(runs.glob("*/seed*/analysis-*/answers.json")):
        start, _, pooling = path.parents[2].name.partition("-")
        answers = json.loads(path.read_text())
        found = {table["name"]: table for answer in answers["answers"].values() for table in answer["tables"]}
        arms.append(
            {
                "start": start,
                "pooling": pooling,
                "score": path.parent.name.removeprefix("analysis-"),
                "seed": int(path.parents[1].name.removeprefix("seed")),
                "clips": answers["about"]["clips"],
                **{name: {key: found[name][key] for key in ("columns", "rows")} for name in TABLES if name in found},
            }
        )
    if not arms:
        raise FileNotFoundError(f"{runs}: no */seed*/analysis-*/answers.json; run scripts/contrast.sh first")
    command = ["scripts/contrast.sh train DATA RUNS", "scripts/contrast.sh test DATA RUNS"]
    return {"command": command, "arms": arms}


def rows_of(arm: Row, table: str) -> list[Row]:
    return [dict(zip(arm[table]["columns"], row, strict=True)) for row in arm[table]["rows"]]


def contrast() -> tuple[list[str], list[list[str]]]:
    """Header and rows: what the stages keep, for each start, pooling and score; the last row is a random choice."""
    arms = json.loads((RESULTS / "contrast.json").read_text())["arms"]
    header = ["start", "pooled by", "attention", "accuracy, %", "ratio A", "ratio B", "signal", "C1, %", "Γ"]
    order = {name: i for i, name in enumerate((*STARTS, *POOLINGS, *SCORES))}
    arms.sort(key=lambda arm: (order[arm["start"]], order[arm["pooling"]], order[arm["score"]], arm["seed"]))
    stages = rows_of(arms[0], "retained_signal")
    ratios = [" / ".join(f"{row[f'random {name}']:.3f}" for row in stages) for name in "AB"]
    share = rows_of(arms[0], "kept_by_cluster")[-1]["random"]
    return header, [*map(_cells, arms), ["a random choice", "", "", "", *ratios, "0.0", f"{100 * share:.1f}", ""]]


def _cells(arm: Row) -> list[str]:
    full, pruned = rows_of(arm, "tradeoff")
    stages, last = rows_of(arm, "retained_signal"), rows_of(arm, "retained_signal")[-1]
    clusters = rows_of(arm, "kept_by_cluster")[-1]
    gamma = [row["Γ pooled"] for row in rows_of(arm, "attention_ratio") if row["retained"] == "signal"]
    return [
        STARTS[arm["start"]],
        POOLINGS[arm["pooling"]],
        SCORES[arm["score"]],
        f"{full['accuracy, %']:.1f} → {pruned['accuracy, %']:.1f}",
        *(" / ".join(f"{row[name]:.3f}" for row in stages) + _error(last, name) for name in "AB"),
        f"{100 * (last['signal of kept'] - last['signal of input']):+.1f}".replace("-", "−"),
        f"{100 * clusters['C1']:.1f}",
        " / ".join(f"{value:.2f}" for value in gamma),
    ]


def _error(row: Row, name: str) -> str:
    return f" ± {row[f'{name} ±'] / row['clips with signal'] ** 0.5:.3f}"


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    write_text(Path(sys.argv[2]), as_json(kept(Path(sys.argv[1]))) + "\n")
