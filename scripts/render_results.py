"""Write the tables of README.md and docs/results.md from the JSON files under results/.

    python scripts/render_results.py [--check]

A table stands between `<!-- NAME -->` and `<!-- /NAME -->`. With --check nothing is written, and the exit code is 1
where a table does not say what its JSON says.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results"
SHORT = (
    "TopK, discarded (the paper)",
    "random, discarded",
    "CLS attention, fused (EViT)",
    "TopK, merged",
    "random, merged",
    "8 segments × TopK, merged",
)


def read(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / f"{name}.json").read_text())


def spread(value: dict[str, float], digits: int, scale: float = 1.0) -> str:
    text = f"{value['mean'] * scale:.{digits}f}"
    return text + (f" ± {value['std'] * scale:.{digits}f}" if "std" in value else "")


def cells(row: dict[str, Any]) -> list[str]:
    return [
        spread(row["agreement"], 1, 100) + " %",
        spread(row["kl"], 4),
        spread(row["test_accuracy"], 1, 100) + " %",
    ]


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def find(result: dict[str, Any], method: str, rate: float) -> dict[str, Any]:
    return next(row for row in result["pruned"] if row["method"] == method and row["keep_rate"] == rate)


def overview() -> str:
    models = [read("esc10-audiomae"), read("esc10-ast")]
    full = ["unpruned"] + [
        cell for m in models for cell in ("100 %", "0", f"{100 * m['unpruned']['test_accuracy']:.1f} %")
    ]
    rows = [full]
    for method in SHORT:
        rows.append([method] + [cell for model in models for cell in cells(find(model, method, 0.5))])
    header = ["keep rate 0.5", "AudioMAE (mean): agreement", "KL", "accuracy", "AST (CLS): agreement", "KL", "accuracy"]
    return table(header, rows)


def every_method(name: str) -> str:
    result = read(name)
    rows = [
        [str(row["keep_rate"]), row["method"], f"{row['macs_ratio']:.2f}×", *cells(row)] for row in result["pruned"]
    ]
    full = f"{100 * result['unpruned']['test_accuracy']:.1f} %"
    rows.insert(0, ["1.0", "unpruned", "1×", "100 %", "0", full])
    return table(["keep rate", "method", "fewer MACs", "agreement", "KL (nats)", "accuracy"], rows)


def bench(name: str) -> str:
    rows = [
        [
            str(row["batch_size"]),
            f"{row['keep_rate']:g}",
            f"{row['macs'] / 1e9:.2f}",
            f"{row['macs_ratio']:.2f}×",
            f"{row['latency_ms']:.1f}",
            f"{row['clips_per_second']:.1f}",
            f"{row['speed_up']:.2f}×",
        ]
        for row in read(name)["rows"]
    ]
    return table(["batch", "keep rate", "GMACs", "fewer", "ms a batch", "clips/s", "faster"], rows)


RATES = (1.0, 0.9, 0.7, 0.5)
FINE_TUNED = (
    ("AudioMAE, attention received", "audiomae-topk"),
    ("AudioMAE, CLS attention", "audiomae-cls"),
    ("AST-CLS, CLS attention", "ast-topk"),
    ("AST-MP, attention received", "ast-mp-topk"),
)


def tuned(data: str, recipe: str) -> dict[str, Any] | None:
    """What `audioprune eval` wrote of one recipe's models, None where they are not trained yet."""
    path = RESULTS / "fine-tuned" / f"{data}-{data.split('-')[0]}-{recipe}.json"
    return json.loads(path.read_text()) if path.exists() else None


def at(result: dict[str, Any] | None, rate: float) -> dict[str, Any] | None:
    rows = [row for row in result["rows"] if row["keep_rate"] == rate] if result else []
    return rows[0] if rows else None


def cell(row: dict[str, Any] | None) -> str:
    return "–" if row is None else spread(row, 1, 100)


def fine_tuned(data: str) -> str:
    """A row for each model: accuracy after fine-tuning at each keep rate, and without it at the lowest."""
    rows = []
    for name, recipe in FINE_TUNED:
        result = tuned(data, recipe)
        # Unpruned there is nothing to rank: both AudioMAE rows start from one model.
        unpruned = tuned(data, "audiomae-topk") if recipe == "audiomae-cls" else result
        found = [at(unpruned, 1.0), *(at(result, rate) for rate in RATES[1:])]
        n = str(len(found[0]["scores"])) if found[0] else "0"
        rows.append([name, n, *map(cell, found), cell(at(tuned(data, f"{recipe}-untuned"), 0.5))])
    return table(["model", "n", *(f"{rate:g}" for rate in RATES), "0.5, not fine-tuned"], rows)


def costs() -> str:
    rows = []
    for data, recipe, name in (
        ("esc10", "audiomae-topk", "AudioMAE, 256 tokens"),
        ("esc10", "ast-topk", "AST, 256 tokens"),
        ("fsdd-digits", "audiomae-topk", "AudioMAE, 64 tokens"),
        ("fsdd-digits", "ast-topk", "AST, 64 tokens"),
    ):
        result = tuned(data, recipe)
        if result is None:
            continue
        first = result["rows"][0]
        for row in result["rows"]:
            faster = row["clips_per_second"] / first["clips_per_second"]
            macs = [f"{row['macs'] / 1e6:.0f}", f"{first['macs'] / row['macs']:.2f}×"]
            rows.append([name, f"{row['keep_rate']:g}", *macs, f"{row['clips_per_second']:.0f}", f"{faster:.2f}×"])
    return table(["model", "keep rate", "MMACs", "fewer", "clips/s", "faster"], rows)


TABLES = {
    "fine-tuned-esc10": lambda: fine_tuned("esc10"),
    "fine-tuned-fsdd-digits": lambda: fine_tuned("fsdd-digits"),
    "fine-tuned-fsdd-speakers": lambda: fine_tuned("fsdd-speakers"),
    "fine-tuned-costs": costs,
    "overview": overview,
    "esc10-audiomae": lambda: every_method("esc10-audiomae"),
    "esc10-ast": lambda: every_method("esc10-ast"),
    "bench-esc10": lambda: bench("bench-esc10"),
    "bench-esc10-merged": lambda: bench("bench-esc10-merged"),
}


def render(text: str) -> str:
    for name, make in TABLES.items():
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        text = pattern.sub(lambda found, make=make: f"{found[1]}{make()}\n{found[2]}", text)
    return text


def main() -> None:
    check = "--check" in sys.argv[1:]
    stale = []
    for path in (ROOT / "README.md", ROOT / "docs" / "results.md"):
        text = path.read_text()
        if render(text) != text:
            stale.append(path.name)
            if not check:
                path.write_text(render(text))
    print(f"{'stale' if check else 'written'}: {', '.join(stale) or 'nothing'}")
    sys.exit(bool(check and stale))


if __name__ == "__main__":
    main()
