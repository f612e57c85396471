"""Measure what pruning costs a listener: every method at every keep rate, on held-out scenes.

    python scripts/listener_tables.py measure --model runs/seed0/model runs/seed1/model --data PATH --out runs/tables
    python scripts/listener_tables.py render --out runs/tables

PATH holds `esc10/` and `fsdd/`, and for a listener with a real ear `commands/` and `speech/` too. `measure` appends a
line to OUT/rows.jsonl for each model and setting. If you start it again, it continues where it stopped. `render` writes
results/listener.json, docs/listener.png and the table of docs/audio-language-models.md; with a real ear, their names
are listener-ear.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.progress import track
from transformers import AutoProcessor, Qwen2AudioForConditionalGeneration

from audioprune.compare.benchmark import machine
from audioprune.lm.settings import method
from listener import Examination, hears_timelines, held_out_sets
from listener.scenes import KINDS
from listener.timelines import KINDS as EAR_KINDS

METHODS = (
    "segmentwise",
    "segmentwise+merge",
    "topk",
    "topk+merge",
    "visionzip",
    "evs",
    "evs+merge",
    "divprune",
    "divprune+merge",
    "dpp",
    "dpp+merge",
    "uniform",
    "uniform+merge",
    "random",
    "random+merge",
    "pooling",
    "atome",
    "fastadasp",
)
"""Names of `audioprune eval-lm`. random is one draw for each model."""
LATER = ("topk+selective", "visionzip+contextual=0.18", "peaks", "ltbm", "ltbm+window=none", "samap")
"""What the listener with a real ear is also asked by."""
AT_THEIR_TIMES = ("segmentwise", "segmentwise+merge", "topk", "uniform", "pooling")
"""Methods that are also measured with positions="keep"."""
SEGMENTS = (2, 3, 4, 5, 8, 10, 15)
"""Segments of segmentwise Top-K beside S = K."""
RIVALS = ("topk", "bottomk", "random", "pooling", "uniform", "atome", "visionzip")
"""What segmentwise Top-K is compared with, question by question."""
FIRST_SEED, SETS = 9_000, 5
"""Held-out scenes. scripts/train_listener.py tests a listener on the same scenes."""
DOCS = Path("docs/audio-language-models.md")
TITLES = {
    "order": "what was said, in order?",
    "first": "what was heard first, A or B?",
    "count": "how many?",
    "between": "what was said between A and B?",
    "sound": "which sound interrupts the talk?",
}


@dataclass(frozen=True)
class Tables:
    """What is measured of one of the listeners, and where it is written."""

    name: str
    kinds: tuple[str, ...]
    rates: tuple[float, ...]
    methods: tuple[str, ...]
    segments: tuple[int, ...] = ()

    def settings(self) -> Iterator[dict[str, Any]]:
        """Yield the settings to measure, in order."""
        yield {"method": "unpruned", "keep_rate": 1.0, "positions": "renumber"}
        swept = tuple(f"segmentwise+segments={count}" for count in self.segments)
        for positions, names in (("renumber", self.methods + swept), ("keep", AT_THEIR_TIMES)):
            for name in names:
                for rate in self.rates:
                    yield {"method": name, "keep_rate": rate, "positions": positions}


OWN = Tables("listener", KINDS, (0.5, 0.33, 0.25, 0.125), METHODS)
EAR = Tables("listener-ear", EAR_KINDS, (0.5, 0.25, 0.1), (*METHODS[:4], "bottomk", *METHODS[4:], *LATER), SEGMENTS)


def measure(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    log = args.out / "rows.jsonl"
    done = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    known = {(row["model"], row["method"], row["keep_rate"], row["positions"]) for row in done}
    for number, folder in enumerate(args.model):
        model = Qwen2AudioForConditionalGeneration.from_pretrained(folder).float().eval()
        processor = AutoProcessor.from_pretrained(folder)
        tables = EAR if hears_timelines(processor) else OWN
        todo = [s for s in tables.settings() if (str(folder), s["method"], s["keep_rate"], s["positions"]) not in known]
        sets = held_out_sets(processor, args.data, "test", range(FIRST_SEED, FIRST_SEED + SETS), args.scenes)
        examination = Examination(model, processor, sets)
        for setting in track(todo, f"model {number + 1} of {len(args.model)}"):
            pruned = setting["method"] != "unpruned"
            chosen = method(setting["method"], setting["keep_rate"]) if pruned else None
            shares = examination.accuracy(chosen, setting["positions"])
            row = {"model": str(folder), **setting, "scenes": args.scenes, **shares}
            with log.open("a") as file:
                file.write(json.dumps(row) + "\n")


def render(args: argparse.Namespace) -> None:
    rows = [json.loads(line) for line in (args.out / "rows.jsonl").read_text().splitlines()]
    models = sorted({row["model"] for row in rows})
    for row in rows:
        row["model"] = models.index(row["model"])
    tables = EAR if EAR_KINDS[-1] in rows[0] else OWN
    command = "python scripts/listener_tables.py measure --model MODEL … --data PATH --out RUNS; … render --out RUNS"
    whole = {"command": command, "machine": machine(), "models": len(models), "sets": SETS, "rows": rows}
    Path(f"results/{tables.name}.json").write_text(json.dumps(whole, indent=None, separators=(",", ":")) + "\n")
    figure(rows, tables).savefig(f"docs/{tables.name}.png", dpi=110)
    parts = {"": table(rows, tables)}
    if tables.segments:
        parts |= {"-segments": segments_table(rows, tables), "-rivals": rivals_table(rows, tables)}
    for part, text in parts.items():
        put(f"{tables.name}{part}", text)
        print(text, file=sys.stderr)


def put(name: str, text: str) -> None:
    """Replace what is between the marks of a name in the docs."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, rest = DOCS.read_text().split(begin)
    DOCS.write_text(before + begin + "\n\n" + text + "\n" + end + rest.split(end)[1])


def cells(rows: list[dict[str, Any]], name: str, rate: float, positions: str, kind: str) -> list[float]:
    """Return the percent on each set, for each model."""
    wanted = [r for r in rows if (r["method"], r["keep_rate"], r["positions"]) == (name, rate, positions)]
    return [100 * share for row in wanted for share in row[kind]]


def heading(first: str, tables: Tables) -> list[str]:
    heads = [f"{kind} {rate:g}" for kind in tables.kinds for rate in tables.rates]
    return [f"| {first} | " + " | ".join(heads) + " |", "|---|" + "---:|" * len(heads)]


def table(rows: list[dict[str, Any]], tables: Tables) -> str:
    """Make a Markdown table: mean ± standard deviation over held-out sets and models."""
    lines = heading("method", tables)
    whole = [cells(rows, "unpruned", 1.0, "renumber", kind) for kind in tables.kinds]
    lines.append(
        "| unpruned | "
        + " | ".join(spread(found) if i == 0 else "″" for found in whole for i in range(len(tables.rates)))
        + " |"
    )
    for positions, names in (("renumber", tables.methods), ("keep", AT_THEIR_TIMES)):
        for name in names:
            found = [cells(rows, name, rate, positions, kind) for kind in tables.kinds for rate in tables.rates]
            if any(found):
                title = name if positions == "renumber" else f"{name}, positions kept"
                lines.append(f"| {title} | " + " | ".join(map(spread, found)) + " |")
    return "\n".join(lines) + "\n"


def segments_table(rows: list[dict[str, Any]], tables: Tables) -> str:
    """Make a Markdown table of segmentwise Top-K by its number of segments."""
    lines = heading("S", tables)
    for count in (1, *tables.segments, "K"):
        name = {1: "topk", "K": "segmentwise"}.get(count, f"segmentwise+segments={count}")
        found = [cells(rows, name, rate, "renumber", kind) for kind in tables.kinds for rate in tables.rates]
        title = f"{count} (Top-K)" if count == 1 else count
        lines.append(f"| {title} | " + " | ".join(map(spread, found)) + " |")
    return "\n".join(lines) + "\n"


def rivals_table(rows: list[dict[str, Any]], tables: Tables) -> str:
    """Make a Markdown table of what segmentwise Top-K (S = K) has more than others, in points: mean ± standard
    deviation of the differences on each set."""
    lines = heading("segmentwise minus", tables)
    for name in RIVALS:
        found = []
        for kind in tables.kinds:
            for rate in tables.rates:
                one, other = (cells(rows, word, rate, "renumber", kind) for word in ("segmentwise", name))
                found.append([a - b for a, b in zip(one, other, strict=True)])
        lines.append(f"| {name} | " + " | ".join(map(spread, found)) + " |")
    return "\n".join(lines) + "\n"


def spread(found: list[float]) -> str:
    return f"{statistics.fmean(found):.1f} ± {statistics.stdev(found):.1f}" if found else "–"


def figure(rows: list[dict[str, Any]], tables: Tables) -> Figure:
    """Draw accuracy against the share of tokens kept, a panel for each kind of question."""
    made = Figure(figsize=(4 + 4 * len(tables.kinds), 5.6), layout="constrained")
    FigureCanvasAgg(made)
    panels = made.subplots(1, len(tables.kinds), sharey=True)
    bases = list(dict.fromkeys(name.split("+")[0] for name in tables.methods))
    more = ("black", "gold", "navy", "lime", "crimson", "teal")
    colours = dict(zip(bases, (*(f"C{i}" for i in range(10)), *more), strict=False))
    for axes, kind in zip(panels, tables.kinds, strict=True):
        axes.axhline(np.mean(cells(rows, "unpruned", 1.0, "renumber", kind)), color="black", linewidth=1, linestyle=":")
        for name in tables.methods:
            found = [cells(rows, name, rate, "renumber", kind) for rate in tables.rates]
            if all(found):
                base, _, varied = name.partition("+")
                marker, line = {"": ("o", "-"), "merge": ("s", "--")}.get(varied, ("^", ":"))
                axes.errorbar(
                    tables.rates,
                    [np.mean(shares) for shares in found],
                    yerr=[np.std(shares, ddof=1) / len(shares) ** 0.5 for shares in found],
                    label=name,
                    color=colours[base],
                    marker=marker,
                    linestyle=line,
                    linewidth=2.2 if base == "segmentwise" else 1,
                    capsize=2,
                    elinewidth=0.6,
                    markersize=4,
                )
        axes.set_xscale("log", base=2)
        axes.set_xticks(tables.rates, [f"{rate:g}" for rate in tables.rates])
        axes.set_xlabel("share of audio tokens that the language model reads")
        axes.set_title(TITLES[kind])
        axes.grid(color="0.92")
    panels[0].set_ylabel("right answers (%)")
    handles, labels = panels[0].get_legend_handles_labels()
    made.legend(handles, labels, loc="outside right center", fontsize=9, frameon=False)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    measuring = commands.add_parser("measure")
    measuring.add_argument("--model", nargs="+", required=True, help="folders that train_listener.py wrote")
    measuring.add_argument("--data", type=Path, required=True)
    measuring.add_argument("--scenes", type=int, default=60, help="scenes in each of five held-out sets")
    measuring.add_argument("--threads", type=int, default=1)
    rendering = commands.add_parser("render")
    for command, run in ((measuring, measure), (rendering, render)):
        command.add_argument("--out", type=Path, required=True)
        command.set_defaults(run=run)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
