"""Tables of Whisper's encoders with a linear head for `render_results.py`, from results/encoders-*.json.

    python scripts/encoder_tables.py OUT.json COMPARE.json …

keeps the results of `audioprune compare`, one of each fold or seed, in one file: a line for each row. Each row is of
`--macs`, or of a settings file whose keep rates such a run found: NAME-half.json, NAME-quarter.json, NAME-eighth.json.
"""

from __future__ import annotations

import json
import re
import statistics
import sys
from pathlib import Path
from typing import Any

from audioprune.files import write_text
from audioprune.methods.names import RECOMMENDED
from keep_speech_result import as_json

RESULTS = Path(__file__).parents[1] / "results"
SHARES = {0.5: "half", 0.25: "a quarter", 0.125: "an eighth"}
MODELS = {"tiny.en": "Whisper tiny.en", "base": "Whisper base"}
NAMES = {
    "recommended": "**recommended**",
    "padding": "padding, once",
    "tome-every-block": "ToMe, hidden states, every block",
    "atome-every-block": "A-ToMe, hidden states, every block",
    "topk-merge": "topk+merge",
}


def read(data: str, model: str) -> list[dict[str, Any]] | None:
    """The comparisons of each fold or seed; None if there are none yet."""
    path = RESULTS / f"encoders-{data}-{model}.json"
    return list(json.loads(path.read_text())["runs"].values()) if path.exists() else None


def name_of(row: dict[str, Any]) -> str:
    """A row's method, without the seed of its settings file."""
    found = re.fullmatch(r"random-(discard|merge)-\d", row["method"])
    return {"discard": "random", "merge": "random+merge"}[found[1]] if found else row["method"]


def mean(values: list[float], digits: int = 1, scale: float = 100.0, sign: str = "") -> str:
    spread = f" ± {scale * statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    centre = round(scale * statistics.fmean(values), digits) + 0.0  # no -0.0
    return f"{centre:{sign}.{digits}f}{spread}"


def found(runs: list[dict[str, Any]], name: str, share: float) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """The row of a method at a share of the work in each run, and what the run says of the unpruned model."""
    return [
        (row, run["unpruned"])
        for run in runs
        for row in run["rows"]
        if name_of(row) == name and row["macs_share"] == share and "refused" not in row
    ]


def cells(runs: list[dict[str, Any]], name: str, share: float, n: int) -> list[str]:
    """Agreement, and accuracy less the unpruned model's, each as mean ± standard deviation over folds or seeds.

    n: folds of the line; fewer are told."""
    rows = found(runs, name, share)
    if not rows:
        return ["–", "–"]
    loss = [row["score"]["mean"] - unpruned["score"] for row, unpruned in rows]
    first = rows[-1][0]["setting"]
    early = "¹" if isinstance(first, dict) and first.get("layers") == [0] and first["method"] != "PaddingMerge" else ""
    fewer = f" ({len(rows)})" if len(rows) < n else ""
    return [mean([row["agreement"]["mean"] for row, _ in rows]) + early + fewer, mean(loss, sign="+")]


def every_method(data: str, model: str) -> tuple[list[str], list[list[str]]]:
    """Header and rows of one model: the methods by their agreement at half of the work."""
    runs = read(data, model) or []
    names = list(dict.fromkeys(name_of(row) for run in runs for row in run["rows"]))
    known = [name for name in names if any(found(runs, name, share) for share in SHARES)]

    def best(name: str) -> list[float]:
        rows = [found(runs, name, share) for share in SHARES]
        return [-statistics.fmean(row["agreement"]["mean"] for row, _ in some) if some else 0.0 for some in rows]

    rows = []
    for name in sorted(known, key=best):
        n = max(len(found(runs, name, share)) for share in SHARES)
        figures = (cell for share in SHARES for cell in cells(runs, name, share, n))
        rows.append([NAMES.get(name, name), str(n), *figures])
    header = [f"{share}: {figure}" for share in SHARES.values() for figure in ("agreement, %", "accuracy, points")]
    return ["", "n", *header], rows


OVERVIEW = ("topk", "visionzip", "segmentwise+merge", "tome-every-block", "atome-every-block", "recommended")
"""What a reader should know first."""


def overview() -> tuple[list[str], list[list[str]]]:
    """Header and rows for all models: agreement / change of accuracy at each share of the work, on ESC-10."""
    known = {model: runs for model in MODELS if (runs := read("esc10", model)) is not None}
    rows = []
    for name in OVERVIEW:
        row = [NAMES.get(name, name)]
        for runs in known.values():
            row += [" / ".join(_means(found(runs, name, share))) or "–" for share in SHARES]
        rows.append(row)
    best = ["**recommended**, bias corrected"]
    for model in known:
        runs = corrected_runs(f"esc10-{model}")
        best += [" / ".join(_means([_as_corrected(*one) for one in runs[RECOMMENDED, share]])) for share in SHARES]
    rows.append(best)
    return ["", *(f"{MODELS[model]}, {share}" for model in known for share in SHARES.values())], rows


CORRECTED = {
    "esc10-tiny.en": "tiny.en, ESC-10",
    "esc10-base": "base, ESC-10",
    "commands-tiny.en": "tiny.en, commands",
    "digits-tiny.en": "tiny.en, digits",
    "speakers-tiny.en": "tiny.en, speakers",
}
"""Name of a run without its fold or seed → what the table calls it."""
WORK = {"half": 0.5, "quarter": 0.25, "eighth": 0.125}
"""End of a settings file's name → the share of the work that its keep rates were found for."""


def corrected_runs(group: str) -> dict[tuple[str, float], list[tuple[dict[str, Any], dict[str, Any]]]]:
    """Method and share of the work → its row in each fold or seed, and what the run says of the unpruned model."""
    rows: dict[tuple[str, float], list[tuple[dict[str, Any], dict[str, Any]]]] = {}
    path = RESULTS / "encoders-corrected.json"
    known = json.loads(path.read_text())["runs"] if path.exists() else {}
    for key, run in known.items():
        for row in run["rows"] if key.rpartition("-")[0] == group else ():
            name, _, work = row["method"].rpartition("-")
            rows.setdefault((name, WORK[work]), []).append((row, run["unpruned"]))
    return rows


def corrected() -> tuple[list[str], list[list[str]]]:
    """Header and rows: agreement without → with the bias corrected, and the accuracy with it less the unpruned
    model's, over folds or seeds."""
    rows = []
    for group, title in CORRECTED.items():
        runs = corrected_runs(group)
        names = sorted(sorted({name for name, _ in runs}), key=lambda name: -_after(runs, name))
        for i, name in enumerate(names):
            n = max(len(some) for (other, _), some in runs.items() if other == name)
            cells = [cell for share in SHARES for cell in _corrected_cells(runs.get((name, share), []), n)]
            rows.append([title if i == 0 else "", NAMES.get(name, name), str(n), *cells])
    header = [f"{share}: {figure}" for share in SHARES.values() for figure in ("agreement, %", "accuracy, points")]
    return ["", "", "n", *header], rows


def _after(runs: dict[tuple[str, float], list[Any]], name: str) -> float:
    """Mean corrected agreement at the greatest share that was run."""
    some = next(runs[name, share] for share in SHARES if (name, share) in runs)
    return statistics.fmean(row["corrected"]["agreement"]["mean"] for row, _ in some)


def _corrected_cells(some: list[tuple[dict[str, Any], dict[str, Any]]], n: int) -> list[str]:
    """n: folds of the line; fewer are told."""
    if not some:
        return ["–", "–"]
    before = statistics.fmean(row["agreement"]["mean"] for row, _ in some)
    after = [row["corrected"]["agreement"]["mean"] for row, _ in some]
    loss = [row["corrected"]["score"]["mean"] - unpruned["score"] for row, unpruned in some]
    fewer = f" ({len(some)})" if len(some) < n else ""
    return [f"{mean([before])} → {mean(after)}{fewer}", mean(loss, sign="+")]


def _as_corrected(row: dict[str, Any], unpruned: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    return row["corrected"], unpruned


def _means(rows: list[tuple[dict[str, Any], dict[str, Any]]]) -> list[str]:
    if not rows:
        return []
    loss = [row["score"]["mean"] - unpruned["score"] for row, unpruned in rows]
    return [
        mean([statistics.fmean(row["agreement"]["mean"] for row, _ in rows)]),
        mean([statistics.fmean(loss)], sign="+"),
    ]


def speed(model: str) -> tuple[list[str], list[list[str]]]:
    """Header and rows: how much faster each setting is, by its multiply-accumulates and measured."""
    result = json.loads((RESULTS / f"encoders-speed-{model}.json").read_text())
    rows = []
    for row in sorted(
        (row for row in result["rows"] if "refused" not in row), key=lambda row: (-row["macs_share"], row["macs_ratio"])
    ):
        times = [f"{time['speed_up']:.2f}×" for time in row["timing"]]
        name = name_of(row)
        rows.append([SHARES[row["macs_share"]], NAMES.get(name, name), f"{row['macs_ratio']:.2f}×", *times])
    sizes = [f"faster, batch {time['batch_size']}" for time in result["unpruned"]["timing"]]
    return ["work", "", "MACs, fewer", *sizes], rows


def heads() -> tuple[list[str], list[list[str]]]:
    """Header and rows: accuracy of heads that were trained on the pruned encoder, over the folds of ESC-10."""
    known = json.loads((RESULTS / "encoders-heads.json").read_text())["rows"]
    unpruned = {(row["model"], row["fold"]): row["accuracy"] for row in known if row["method"] is None}
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in known:
        groups.setdefault((row["model"], json.dumps(row["method"])), []).append(row)
    rows = []
    for (model, _), some in groups.items():
        change = [row["accuracy"] - unpruned[model, row["fold"]] for row in some]
        work = mean([statistics.fmean(row["work"] for row in some)])
        accuracy = mean([row["accuracy"] for row in some])
        if some[0]["method"] is None:
            rows.append([MODELS[model], "unpruned", work, accuracy, ""])
        else:
            rate = some[0]["method"]["method"][0]["keep_rate"]
            rows.append(["", f"recommended, keep rate {rate:g}", work, accuracy, mean(change, sign="+")])
    return ["", "", "MACs, %", "accuracy, %", "change within a fold, points"], rows


def calibrated() -> tuple[list[str], list[list[str]]]:
    """Header and rows: what `calibrate` states of a head on tiny.en, and what its setting does with other clips."""
    first = json.loads((RESULTS / "calibrate-esc10-tiny.en.json").read_text())
    found = json.loads((RESULTS / "calibrate-encoders-tiny.en.json").read_text())["rows"]
    subjects = {"ESC-10, 80 clips": {**first["calibration"], "check": first["check"]}, **found}
    rows = []
    for title, row in subjects.items():
        confirmed, check = row["confirmed"], row["check"]
        tested = f"{confirmed['disagreements']} of {confirmed['clips']}"
        if check is None:
            rows.append([title, "not shown", "–", tested, f"{100 * row['bound']:.1f}", "–", "–"])
            continue
        (there,) = check["rows"]
        others = f"{round((1 - there['agreement']['mean']) * check['clips'])} of {check['clips']}"
        accuracy = f"{100 * check['unpruned']['score']:.1f} → {100 * there['score']['mean']:.1f}"
        fewer = f"{row['macs_ratio']:.2f}×"
        rows.append([title, _chosen(row), fewer, tested, f"{100 * row['bound']:.1f}", others, accuracy])
    header = [
        "clips",
        "chosen",
        "MACs, fewer",
        "tested: other label",
        "bound, %",
        "others: other label",
        "accuracy there, %",
    ]
    return header, rows


def _chosen(row: dict[str, Any]) -> str:
    """A calibration's setting. Of the methods it chose from, only `recommended` is several."""
    parts = row["setting"]["method"]
    if isinstance(parts, list):
        return f"`recommended`, keep rate {parts[0]['keep_rate']:g}"
    return f"`{row['sentences'][0].split(': ')[0]}`"


def padded(corrected: bool) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the search for encoders that pad: KL at half / a quarter / an eighth of the work, on the clips
    that settings were compared on and on those that their figures are reported on."""
    known = json.loads((RESULTS / "recommended-padded.json").read_text())["rows"]
    columns = list(dict.fromkeys((row["model"], row["part"]) for row in known))
    folds = {"chosen on": "fold 4", "reported on": "fold 5"}
    rows = []
    for name in dict.fromkeys(row["name"] for row in known):
        cells = []
        for column in columns:
            some = [row for row in known if row["name"] == name and (row["model"], row["part"]) == column]
            shown = [(row["corrected"] if corrected else row) if "refused" not in row else None for row in some]
            cells.append(" / ".join("–" if row is None else f"{row['kl']:.3f}" for row in shown))
        rows.append([name.replace(" (recommended)", ", **recommended**"), *cells])
    return ["", *(f"{model}, {folds[part]}" for model, part in columns)], rows


def keep(out: Path, results: list[Path]) -> None:
    """Write the comparisons of several folds or seeds into one file, those of one fold together."""
    runs: dict[str, dict[str, Any]] = {}
    for path in results:
        result = json.loads(path.read_text())
        key = Path(result["model"]).name
        result["command"] = re.sub(r"[^\s,=]*/", "", result["command"])  # names without folders
        result["model"] = key
        for row in result["rows"]:
            row.pop("front", None)
            if "macs_share" not in row and "corrected" not in row:
                row["method"], _, work = row["method"].rpartition("-")
                row["macs_share"] = WORK[work]
        if key in runs:
            new = {(name_of(row), row["macs_share"]) for row in result["rows"] if "refused" not in row}
            rows = [row for row in runs[key]["rows"] if (name_of(row), row["macs_share"]) not in new]
            runs[key]["rows"] = [*rows, *result["rows"]]
            runs[key]["command"] += "; " + result["command"]
        else:
            runs[key] = result
    write_text(out, as_json({"runs": runs}) + "\n")


if __name__ == "__main__":
    keep(Path(sys.argv[1]), [Path(path) for path in sys.argv[2:]])
