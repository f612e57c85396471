"""What Whisper's decoder loses by selection and by merging: the table for `render_results.py`, and the picture.

    python scripts/decoder_tables.py docs/whisper-decoder.png

reads results/whisper-decoder-tiny.en.json and results/whisper-decoder-unsized-tiny.en.json, which
`scripts/decoder_selection.py` made and `scripts/keep_speech_result.py` shortened.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from audioprune.plots import save

RESULTS = Path(__file__).parents[1] / "results"
RATES = (0.5, 0.25, 0.1)
MERGING = {
    "topk+merge": "TopK, the rest merged into the nearest kept",
    "segmentwise+segments=10+merge": "10 segments × TopK, merged",
    "random+merge": "random, merged",
    "tome+passes=4": "ToMe, up to four passes",
    "tofu+passes=4": "ToFu, up to four passes",
    "atome": "A-ToMe: neighbours",
    "fastadasp": "FastAdaSP: weighted neighbours",
    "ltbm": "LTBM: pairs under a window",
    "peaks": "segments between peaks, averaged",
    "pooling": "average pooling",
    "samap": "SA-MAP: merged, then chosen",
    "visionzip+contextual=0.18": "VisionZip, 18 % contextual",
}
CHOOSING = {
    "topk": "TopK",
    "bottomk": "Bottom-K",
    "random": "random",
    "uniform": "every n-th",
    "intensity": "the loudest",
    "segmentwise+segments=10": "10 segments × TopK",
    "segmentwise+segments=1000": "K segments × TopK",
    "evs": "EVS",
    "divprune": "DivPrune",
    "dpp": "DPP",
}
DRAWN = {
    "atome": "C0", "ltbm": "C5", "tome+passes=4": "C2", "pooling": "C4", "topk+merge": "C9",
    "topk": "C3", "segmentwise+segments=10": "C1", "uniform": "C7", "divprune": "C8",
}  # fmt: skip

Row = dict[str, Any]


def rows(name: str) -> dict[str, Row]:
    path = RESULTS / f"whisper-decoder-{name}.json"
    result = json.loads(path.read_text()) if path.exists() else {"rows": []}
    return {row["method"]: row for row in result["rows"] if "refused" not in row}


def errors() -> tuple[list[str], list[list[str]]]:
    """Header and rows, the least loss at a quarter first. "–" is what was not measured."""
    sized, unsized = rows("tiny.en"), rows("unsized-tiny.en")
    tables = {"": sized, ", unsized": unsized} if unsized else {"": sized}
    header = ["", "", *(f"{100 * rate:g} %{of}" for of in tables for rate in RATES)]
    body = []
    for kind, names in (("merges", MERGING), ("chooses", CHOOSING)):
        for word in sorted(names, key=lambda word: sized[f"{word} 0.25"]["word_error_rate"]):
            found = [_error(table, f"{word} {rate:g}") for table in tables.values() for rate in RATES]
            body.append([kind, names[word], *found])
    for name, title in (("unpruned", "unpruned"), ("padding", "padding merged, nothing more")):
        cells = [cell for table in tables.values() for cell in (_error(table, name), "", "")]
        body.insert(name == "padding", ["", title, *cells])
    return header, body


def _error(table: dict[str, Row], name: str) -> str:
    if name not in table:
        return "–"
    row = table[name]
    runaways = f" ({row['runaways']})" if row["runaways"] else ""
    return f"{100 * row['word_error_rate']:.1f}{runaways}"


def figure() -> Figure:
    """Word error rate against the share of tokens, with and without sizes: merging as full lines, choosing as dashed
    ones."""
    panels = {"a token counts as often as it stands for positions": rows("tiny.en")}
    if unsized := rows("unsized-tiny.en"):
        panels["each token counts once"] = unsized
    drawn = Figure(figsize=(4.5 + 4.5 * len(panels), 4.2), layout="constrained")
    several = drawn.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (name, found) in zip(several, panels.items(), strict=True):
        axes.set_title(name, fontsize=10)
        _draw(axes, found)
    several[0].set_ylabel("word error rate, %")
    title = "full line: merges\ndashed line: chooses"
    handles, labels = several[0].get_legend_handles_labels()
    drawn.legend(handles, labels, loc="outside right upper", title=title, fontsize=8, title_fontsize=8, frameon=False)
    return drawn


def _draw(axes: Axes, found: dict[str, Row]) -> None:
    for word, colour in DRAWN.items():
        values = [100 * found[f"{word} {rate:g}"]["word_error_rate"] for rate in RATES]
        style = "-o" if word in MERGING else "--s"
        name = {**MERGING, **CHOOSING}[word]
        axes.plot([100 * rate for rate in RATES], values, style, color=colour, label=name, markersize=5)
    level = 100 * found["unpruned"]["word_error_rate"]
    axes.axhline(level, color="black", linewidth=1, linestyle=":", label="unpruned")
    axes.set(xscale="log", yscale="log", xlabel="tokens that the decoder reads, % (after the padding is merged)")
    axes.set_xticks([10, 25, 50], ["10", "25", "50"])
    axes.set_yticks([15, 20, 30, 50, 100, 200], ["15", "20", "30", "50", "100", "200"])
    axes.minorticks_off()
    axes.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    save(figure(), Path(sys.argv[1]))
