"""Tables of Whisper for `render_results.py`, from results/whisper-*.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[1] / "results"
NAMES = {
    "unpruned": "unpruned",
    "recommended": "**recommended: padding merged**",
    "padding-and-a-tome": "padding merged, then neighbours by keys, 5 % in every block",
    "padding-and-a-tome-10": "padding merged, then neighbours by keys, 10 % in every block",
    "padding-and-once-70": "padding merged, then 30 % of neighbours by keys, once, in block 1",
    "padding-and-once-50": "padding merged, then half of neighbours by keys, once, in block 2",
    "a-tome": "A-ToMe: neighbours by keys, 20 % in every block",
    "a-tome-threshold": "A-ToMe: neighbours of a cosine over 0.9",
    "eas": "Early Attentive Sparsification: half by attention after block 2",
    "cut+128": "window cut to the clip + 128 tokens",
    "cut": "window cut to the clip",
}


SETS = (
    "tiny.en",
    "base",
    "once-tiny.en",
    "once-base",
    "digits-tiny.en",
    "digits-base",
    "commands-tiny.en",
    "pieces-tiny.en",
    "pieces-base",
    "windows-tiny.en",
    "windows-base",
)
"""Sets of clips and models that were evaluated."""
WITHOUT_TRANSCRIPTS = "pieces"


def read(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / f"whisper-{name}.json").read_text())


def speech(name: str) -> tuple[list[str], list[list[str]]]:
    """Header and rows of an evaluation. Clips without transcripts are compared with the unpruned model's."""
    errors = ["to unpruned, %"] if name.startswith(WITHOUT_TRANSCRIPTS) else ["error, %", "change (95 %)"]
    header = ["", *errors, "same", "runaways", "tokens", "encoder", "whole"]
    return header, [_row(row, len(errors)) for row in read(name)["rows"] if row.get("clips")]


def _row(row: dict[str, Any], errors: int) -> list[str]:
    change = row["change"]
    error = [f"{100 * row['word_error_rate']:.1f}", f"{100 * change['low']:+.1f} … {100 * change['high']:+.1f}"]
    if errors == 1:
        error = [f"{100 * row['error_to_unpruned']:.1f}"]
    times = [f"{row[part]['faster']['mean']:.2f}× ± {row[part]['faster']['std']:.2f}" for part in ("encoder", "whole")]
    return [
        NAMES.get(row["method"], row["method"]),
        *error,
        f"{row['same']} of {row['clips']}",
        str(row["runaways"]),
        f"{row['tokens']:.0f}",
        *times,
    ]


def summary() -> tuple[list[str], list[list[str]]]:
    """Both models in one table: error, transcripts that stay the same, runaways, and times."""
    header = ["", *(f"{model}: {what}" for model in ("tiny.en", "base") for what in ("error", "same", "runaways"))]
    header += ["encoder", "whole"]
    found = {model: {row["method"]: row for row in read(model)["rows"]} for model in ("tiny.en", "base")}
    rows = []
    for method in ("unpruned", "recommended", "padding-and-a-tome", "a-tome", "eas", "cut+128"):
        each = [found[model][method] for model in ("tiny.en", "base")]
        cells = [
            cell
            for row in each
            for cell in (
                f"{100 * row['word_error_rate']:.1f} %",
                f"{row['same']} of {row['clips']}",
                str(row["runaways"]),
            )
        ]
        times = [" / ".join(f"{row[part]['faster']['mean']:.1f}×" for row in each) for part in ("encoder", "whole")]
        rows.append([NAMES[method], *cells, *times])
    return header, rows


def stand_ins() -> tuple[list[str], list[list[str]]]:
    """Divergence of the answers for each kind of stand-in, with attention sinks apart and merged."""
    header, columns = ["one token of", "stand-in"], []
    for model in ("tiny.en", "base"):
        for apart in (True, False):
            header.append(f"{model}, sinks {'apart' if apart else 'merged'}")
            columns.append((model, apart))
    found = {
        (model, row["keep_rate"], row["stand_in"], row["sinks_apart"]): row
        for model in ("tiny.en", "base")
        for row in read(f"stand-ins-{model}")["rows"]
    }
    kinds = dict.fromkeys((rate, kind) for _, rate, kind, _ in found)
    rows = []
    for rate, kind in kinds:
        cells = [found[model, rate, kind, apart] for model, apart in columns]
        shown = [f"{cell['divergence']:.4f} ± {cell['spread']:.4f}" for cell in cells]
        rows.append([f"{1 / rate:.0f}", f"**{kind}**" if kind == "half way" else kind, *shown])
    return header, rows


def peers(model: str) -> tuple[list[str], list[list[str]]]:
    """What a user would take instead: error, milliseconds of a clip, and ratios to plain transformers."""
    header = ["", "error, %", "runaways", "encoder, ms", "encoder", "whole, ms", "whole"]
    return header, [_peer(name, row) for name, row in read(f"peers-{model}")["engines"].items()]


def _peer(name: str, row: dict[str, Any]) -> list[str]:
    is_ours = "pruned" in name or name.startswith("audioprune")
    cells = [f"**{name}**" if is_ours else name, f"{100 * row['word_error_rate']:.1f}", str(row["runaways"])]
    for part in ("encoder", "whole"):
        faster = row[part]["faster"]
        cells += [f"{1000 * row[part]['seconds']:.0f}", f"{faster['mean']:.2f}× ± {faster['std']:.2f}"]
    return cells


PARTS = ("encoder", "self-attention", "cross-attention", "feed-forward", "rest of the decoder", "output layer", "rest")


def profile() -> tuple[list[str], list[list[str]]]:
    """Milliseconds of each part of a transcription."""
    rows = []
    for name in ("tiny.en", "base"):
        for how, row in read(f"profile-{name}")["models"].items():
            cells = [f"{1000 * row[part]:.0f}" for part in (*PARTS, "whole")]
            rows.append([f"{name}, {how}", f"{row['steps']:.0f}", *cells])
    return ["", "words", *PARTS, "whole"], rows
