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
        spread(row["fold5_accuracy"], 1, 100) + " %",
    ]


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def find(result: dict[str, Any], method: str, rate: float) -> dict[str, Any]:
    return next(row for row in result["pruned"] if row["method"] == method and row["keep_rate"] == rate)


def overview() -> str:
    models = [read("esc10-audiomae"), read("esc10-ast")]
    full = ["unpruned"] + [
        cell for m in models for cell in ("100 %", "0", f"{100 * m['unpruned']['fold5_accuracy']:.1f} %")
    ]
    rows = [full]
    for method in SHORT:
        rows.append([method] + [cell for model in models for cell in cells(find(model, method, 0.5))])
    header = ["keep rate 0.5", "AudioMAE (mean): agreement", "KL", "fold 5", "AST (CLS): agreement", "KL", "fold 5"]
    return table(header, rows)


def every_method(name: str) -> str:
    result = read(name)
    rows = [
        [str(row["keep_rate"]), row["method"], f"{row['macs_ratio']:.2f}×", *cells(row)] for row in result["pruned"]
    ]
    full = f"{100 * result['unpruned']['fold5_accuracy']:.1f} %"
    rows.insert(0, ["1.0", "unpruned", "1×", "100 %", "0", full])
    return table(["keep rate", "method", "fewer MACs", "agreement", "KL (nats)", "fold-5 accuracy"], rows)


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


TABLES = {
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
