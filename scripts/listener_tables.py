"""Measure what pruning costs the listener: every method at every keep rate, on held-out scenes.

    python scripts/listener_tables.py measure --model runs/seed0/model runs/seed1/model --data PATH --out runs/tables
    python scripts/listener_tables.py render --out runs/tables

PATH holds `esc10/` and `fsdd/`. `measure` appends a line to OUT/rows.jsonl for each model and setting. If you start it
again, it continues where it stopped. `render` writes results/listener.json, docs/listener.png and the table of
docs/audio-language-models.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.progress import track
from transformers import AutoProcessor, Qwen2AudioForConditionalGeneration

import audioprune as ap
from audioprune.audio.files import SAMPLE_RATE
from audioprune.compare.benchmark import machine
from audioprune.lm.settings import method
from listener import prompt
from listener.scenes import KINDS, Scene, make_scenes, read_recordings

RATES = (0.5, 0.33, 0.25, 0.125)
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
AT_THEIR_TIMES = ("segmentwise", "segmentwise+merge", "topk", "uniform", "pooling")
"""Methods that are also measured with positions="keep"."""
FIRST_SEED, SETS, BATCH = 9_000, 5, 20
"""Held-out scenes. scripts/train_listener.py tests a listener on the same scenes."""
DOCS = Path("docs/audio-language-models.md")
BEGIN, END = "<!-- listener: begin -->", "<!-- listener: end -->"


def settings() -> Iterator[dict[str, Any]]:
    """Yield the settings to measure, in order."""
    yield {"method": "unpruned", "keep_rate": 1.0, "positions": "renumber"}
    for positions, names in (("renumber", METHODS), ("keep", AT_THEIR_TIMES)):
        for rate in RATES:
            for name in names:
                yield {"method": name, "keep_rate": rate, "positions": positions}


def measure(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    log = args.out / "rows.jsonl"
    done = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    known = {(row["model"], row["method"], row["keep_rate"], row["positions"]) for row in done}
    recordings = read_recordings(args.data, "test")
    sets = [make_scenes(recordings, FIRST_SEED + i, args.scenes) for i in range(SETS)]
    for number, folder in enumerate(args.model):
        model = Qwen2AudioForConditionalGeneration.from_pretrained(folder).float().eval()
        processor = AutoProcessor.from_pretrained(folder)
        todo = [s for s in settings() if (str(folder), s["method"], s["keep_rate"], s["positions"]) not in known]
        examination = Examination(model, processor, sets)
        for setting in track(todo, f"model {number + 1} of {len(args.model)}"):
            row = {"model": str(folder), **setting, "scenes": args.scenes, **examination.accuracy(setting)}
            with log.open("a") as file:
                file.write(json.dumps(row) + "\n")


class Examination:
    """The held-out questions of all sets.

    What is the same for every setting is computed once: the log-mels, and the encoder with its last attention.

    sets: a list of scenes for each set.
    """

    def __init__(self, model: Any, processor: Any, sets: list[list[Scene]]) -> None:
        self.model, self.processor = model, processor
        self.sheets = [
            (kind, number, self._inputs(part, i), [scene.questions[i].answer for scene in part])
            for i, kind in enumerate(KINDS)
            for number, scenes in enumerate(sets)
            for part in (scenes[at : at + BATCH] for at in range(0, len(scenes), BATCH))
        ]
        # This method looks at everything that a method can look at.
        with ap.prune(model, ap.TopK(0.5, dropped="merge")) as handle, torch.no_grad():
            self._heard = {id(x["input_features"]): handle.attachment._listen(dict(x)) for _, _, x, _ in self.sheets}
        self._sets = len(sets)

    def _inputs(self, scenes: list[Scene], kind: int) -> Any:
        words = [prompt(scene.questions[kind].text) for scene in scenes]
        sounds = [scene.waveform for scene in scenes]
        given = {"sampling_rate": SAMPLE_RATE, "return_tensors": "pt", "padding": True}
        return dict(self.processor(text=words, audio=sounds, **given))

    def accuracy(self, setting: dict[str, Any]) -> dict[str, list[float]]:
        """Return kind of question → share of right answers on each set."""
        if setting["method"] == "unpruned":
            return self._ask()
        chosen = method(setting["method"], setting["keep_rate"])
        with ap.prune(self.model, chosen, positions=setting["positions"]) as handle:
            handle.attachment._listen = lambda given: self._heard[id(given["input_features"])]
            return self._ask()

    @torch.no_grad()
    def _ask(self) -> dict[str, list[float]]:
        right: dict[str, list[list[bool]]] = {kind: [[] for _ in range(self._sets)] for kind in KINDS}
        for kind, number, inputs, answers in self.sheets:
            said = self.model.generate(**inputs)[:, inputs["input_ids"].shape[1] :]
            texts = self.processor.batch_decode(said, skip_special_tokens=True)
            right[kind][number] += [text.strip() == answer for text, answer in zip(texts, answers, strict=True)]
        return {kind: [statistics.fmean(found) for found in sets] for kind, sets in right.items()}


def render(args: argparse.Namespace) -> None:
    rows = [json.loads(line) for line in (args.out / "rows.jsonl").read_text().splitlines()]
    models = sorted({row["model"] for row in rows})
    for row in rows:
        row["model"] = models.index(row["model"])
    command = "python scripts/listener_tables.py measure --model MODEL … --data PATH --out RUNS; … render --out RUNS"
    whole = {"command": command, "machine": machine(), "models": len(models), "sets": SETS, "rows": rows}
    Path("results/listener.json").write_text(json.dumps(whole, indent=None, separators=(",", ":")) + "\n")
    figure(rows).savefig("docs/listener.png", dpi=110)
    text = DOCS.read_text()
    before, rest = text.split(BEGIN)
    DOCS.write_text(before + BEGIN + "\n\n" + table(rows) + "\n" + END + rest.split(END)[1])
    print(table(rows), file=sys.stderr)


def cells(rows: list[dict[str, Any]], name: str, rate: float, positions: str, kind: str) -> list[float]:
    """Return the percent on each set, for each model."""
    wanted = [r for r in rows if (r["method"], r["keep_rate"], r["positions"]) == (name, rate, positions)]
    return [100 * share for row in wanted for share in row[kind]]


def table(rows: list[dict[str, Any]]) -> str:
    """Make a Markdown table: mean ± standard deviation over held-out sets and models."""
    heads = [f"{kind} {rate:g}" for kind in KINDS for rate in RATES]
    lines = ["| method | " + " | ".join(heads) + " |", "|---|" + "---:|" * len(heads)]
    whole = [cells(rows, "unpruned", 1.0, "renumber", kind) for kind in KINDS]
    lines.append(
        "| unpruned | "
        + " | ".join(spread(found) if i == 0 else "″" for found in whole for i in range(len(RATES)))
        + " |"
    )
    for positions, names in (("renumber", METHODS), ("keep", AT_THEIR_TIMES)):
        for name in names:
            found = [cells(rows, name, rate, positions, kind) for kind in KINDS for rate in RATES]
            if any(found):
                title = name if positions == "renumber" else f"{name}, positions kept"
                lines.append(f"| {title} | " + " | ".join(map(spread, found)) + " |")
    return "\n".join(lines) + "\n"


def spread(found: list[float]) -> str:
    return f"{statistics.fmean(found):.1f} ± {statistics.stdev(found):.1f}" if found else "–"


def figure(rows: list[dict[str, Any]]) -> Figure:
    """Draw accuracy against the share of tokens kept, a panel for each kind of question."""
    made = Figure(figsize=(16, 5.6), layout="constrained")
    FigureCanvasAgg(made)
    panels = made.subplots(1, len(KINDS), sharey=True)
    bases = list(dict.fromkeys(name.split("+")[0] for name in METHODS))
    colours = {base: f"C{i}" if i < 10 else "black" for i, base in enumerate(bases)}
    for axes, kind in zip(panels, KINDS, strict=True):
        axes.axhline(np.mean(cells(rows, "unpruned", 1.0, "renumber", kind)), color="black", linewidth=1, linestyle=":")
        for name in METHODS:
            found = [cells(rows, name, rate, "renumber", kind) for rate in RATES]
            if all(found):
                base, merged = name.split("+")[0], name.endswith("+merge")
                axes.errorbar(
                    RATES, [np.mean(f) for f in found], color=colours[base], label=name, capsize=2, elinewidth=0.6,
                    yerr=[np.std(f, ddof=1) / len(f) ** 0.5 for f in found], marker="s" if merged else "o",
                    markersize=4, linestyle="--" if merged else "-", linewidth=2.2 if base == "segmentwise" else 1,
                )  # fmt: skip
        axes.set_xscale("log", base=2)
        axes.set_xticks(RATES, [f"{rate:g}" for rate in RATES])
        axes.set_xlabel("share of audio tokens that the language model reads")
        axes.set_title(
            {"order": "which digits, in order?", "first": "what was heard first, A or B?"}.get(kind, "how many digits?")
        )
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
