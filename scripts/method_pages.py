"""Write the tables of figures on docs/methods/*.md from the JSON files under results/.

    python scripts/method_pages.py [--check]

A table stands between `<!-- measured -->` and `<!-- /measured -->`. With --check nothing is written, and the exit code
is 1 if a page differs from the JSON.
"""

from __future__ import annotations

import re
import statistics
import sys
from typing import Any

from audioprune.methods.names import SHORTCUTS, TABLE
from render_results import MODELS, ROOT, compared, faster, read, spread, table

PAGES = ROOT / "docs/methods"
BLOCK = re.compile(r"(<!-- measured -->\n).*?(<!-- /measured -->)", re.DOTALL)

NAMED = {entry.word: entry.kind for entry in TABLE} | dict.fromkeys(SHORTCUTS, "TopK")
"""Word without modifiers → page."""


def settings_of(page: str, rows: list[dict[str, Any]]) -> list[str]:
    """Names of a page's settings in a table, in its order."""
    names = dict.fromkeys(row["method"] for row in rows)
    return [name for name in names if NAMED.get(name.partition("+")[0], name.partition("-")[0]) == page]


RATES = (0.5, 0.25, 0.125)
KINDS = {"order": "which digits, in order?", "first": "what was heard first?", "count": "how many digits?"}


def row_of(result: dict[str, Any] | None, name: str, tuned: bool) -> dict[str, Any] | None:
    """Return the row at 0.5, or at the only rate at which it was run; None if there is none."""
    found = [row for row in (result or {"rows": []})["rows"] if (row["method"], row["fine_tuned"]) == (name, tuned)]
    return next((row for row in found if row["keep_rate"] == 0.5 or isinstance(row["keep_rate"], list)), None)


def classifiers(names: list[str]) -> str:
    results = {model: compared(model) for model in MODELS}
    rows = [
        ["unpruned", *(f"100 / {100 * r['unpruned']['score']:.1f}" if r else "–" for r in results.values()), "", ""]
    ]
    for tuned in (False, True):
        for name in names:
            found = [row_of(result, name, tuned) for result in results.values()]
            known = [row for row in found if row is not None]
            if not known:
                continue
            rows.append(
                [
                    name + (", fine-tuned" if tuned else ""),
                    *("–" if r is None else f"{cell(r['agreement'])} / {cell(r['score'])}" for r in found),
                    " / ".join(f"{100 / row['macs_ratio']:.0f}" for row in known),
                    " / ".join(faster(row, 16) for row in known),
                ]
            )
    header = ["agreement / accuracy, %", *MODELS.values(), "MACs, %", "faster, batch 16"]
    at = "At the work of keep rate 0.5 and at a quarter of all work" if "recommended" in names else "At keep rate 0.5"
    return f"{table(header, rows)}\n\n{at}, {ABOUT_CLASSIFIERS}"


def cell(value: dict[str, float]) -> str:
    return spread(value, 1, 100)


ABOUT_CLASSIFIERS = (
    "on clips that the models never heard: 80 of ESC-10 (± 4 points of accuracy), 300 spoken digits (± 1.2). "
    "Agreement is the share of clips that keep the unpruned model's top label. MACs and speed have one figure for "
    "each model. [All tables, and how they were made](../results.md#methods-compared)."
)
ABOUT_LISTENER = (
    "Right answers of the [listener](../audio-language-models.md#what-it-costs-the-listener) in %, with a half, a "
    "quarter and an eighth of the tokens. It answered on 300 scenes that it never heard, and was not trained with any "
    "method."
)


def listener(names: list[str]) -> str:
    rows_ = [row for row in read("listener")["rows"] if row["positions"] == "renumber"]
    rows = []
    for name in ("unpruned", *names):
        by = {row["keep_rate"]: row for row in rows_ if row["method"] == name}
        rates = (1.0,) if name == "unpruned" else RATES
        rows.append(
            [name, *(" / ".join(f"{100 * statistics.fmean(by[rate][kind]):.1f}" for rate in rates) for kind in KINDS)]
        )
    return table(["1/2, 1/4, 1/8 of the tokens", *KINDS.values()], rows) + "\n\n" + ABOUT_LISTENER


def figures(name: str) -> str:
    rows = [row for model in MODELS if (result := compared(model)) for row in result["rows"]]
    parts = [(classifiers, settings_of(name, rows)), (listener, settings_of(name, read("listener")["rows"]))]
    return "\n\n".join(table_of(names) for table_of, names in parts if names)


def main() -> None:
    check = "--check" in sys.argv[1:]
    stale = []
    for path in sorted(PAGES.glob("*.md")):
        text = path.read_text()
        made = BLOCK.sub(lambda found, name=path.stem: f"{found[1]}\n{figures(name)}\n\n{found[2]}", text)
        if made != text:
            stale.append(path.name)
            if not check:
                path.write_text(made)
    print(f"{'stale' if check else 'written'}: {', '.join(stale) or 'nothing'}")
    sys.exit(bool(check and stale))


if __name__ == "__main__":
    main()
