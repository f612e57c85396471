"""The table of an evaluation: files, cells and notes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..files import Row, write_json, write_text
from .metrics import CIDER

TABLE = "table"
"""Name of the files that an evaluation writes, without suffix."""


def write(out: Path, result: Row) -> None:
    """Write `table.json` and `table.md`, each completely or not at all."""
    write_json(out / f"{TABLE}.json", result)
    write_text(out / f"{TABLE}.md", markdown(result) + "\n")


def table(result: Row) -> tuple[list[str], list[list[str]]]:
    """Header and cells of the table, without refused rows; see `refusals` for those."""
    rows = [row for row in result["rows"] if "refused" not in row]
    tasks = list(dict.fromkeys(task for row in rows for task in row.get("tasks", {})))
    share = result["metric"] != CIDER
    header = ["method", "keep", "score", *tasks, "loss", "tokens", "ms"]
    return header, [_cells(row, tasks, share) for row in rows]


def _cells(row: Row, tasks: Sequence[str], share: bool) -> list[str]:
    def figure(value: float | None) -> str:
        return "–" if value is None else f"{100 * value:.1f}" if share else f"{value:.3f}"

    loss, tokens, seconds = row["relative_loss"], row.get("tokens"), row.get("prefill_seconds")
    return [
        row["method"],
        f"{row['keep_rate']:g}",
        figure(row.get("score")),
        *(figure(row.get("tasks", {}).get(task)) for task in tasks),
        "–" if loss is None else f"{loss:.1f}",
        "–" if tokens is None else f"{tokens[0]:.0f}→{tokens[1]:.0f}",
        "–" if seconds is None else f"{1000 * seconds:.1f}",
    ]


def refusals(result: Row) -> list[str]:
    """Lines with the reason for each refused setting."""
    return [f"{row['method']} at {row['keep_rate']:g}: {row['refused']}" for row in result["rows"] if "refused" in row]


def captions(result: Row) -> list[str]:
    """Notes on a table, one line each."""
    failed = max((row.get("failed", 0) for row in result["rows"]), default=0)
    unit = f"score: {result['metric']}" + ("" if result["metric"] == CIDER else ", %")
    words = {
        "PTB": "words by the Penn Treebank tokenizer",
        "simple": "words split without Java: not comparable with published scores",
    }
    return [
        f"{result['items']:,} items; {unit}; loss: % of the unpruned model's; tokens: mean number per sound",
        f"ms: from sound to the first token of the answer, median over sounds, {result['batch_size']} at a time, "
        f"{result['dtype']} on {result['device']}",
        *([words[result["tokenizer"]]] if "tokenizer" in result else []),
        *([f"{failed} sounds could not be decoded and are left out"] if failed else []),
        *result["notes"],
    ]


def markdown(result: Row) -> str:
    """The table in Markdown, with its notes below."""
    header, rows = table(result)
    lines = [f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *rows)]
    notes = [*captions(result), *(f"left out {line}" for line in refusals(result))]
    title = f"**{result['model']}** on {result['benchmark']}"
    return "\n".join([title, "", *lines, "", *(f"- {note}" for note in notes)])
