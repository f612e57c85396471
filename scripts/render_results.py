"""Write the tables of README.md and docs/ from the JSON files under results/.

    python scripts/render_results.py [--check]

A table stands between `<!-- NAME -->` and `<!-- /NAME -->`. With --check nothing is written, and the exit code is 1
if a table differs from its JSON.
"""

from __future__ import annotations

import json
import re
import statistics
import sys
from pathlib import Path
from typing import Any

import contrast_tables
import decoder_tables
import encoder_tables
import page_sentences
import performance
import speech_tables
from audioprune.methods.names import FORMER

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results"


def read(name: str) -> dict[str, Any]:
    """Read a result, with today's words for its methods."""
    result = json.loads((RESULTS / f"{name}.json").read_text())
    for row in result.get("rows", ()):
        if isinstance(row, dict) and isinstance(row.get("method"), str):
            row["method"] = FORMER.get(row["method"], row["method"])
    return result


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


def overview() -> str:
    """Make the table of agreement and accuracy of the four models, for the methods that a reader should know first."""
    results = [found for model in MODELS if (found := compared(model)) is not None]
    full = [f"100 / {100 * result['unpruned']['score']:.1f}" for result in results]
    rows = [["unpruned", "100", *full, "1.00×"]]
    for method, rate, name in OVERVIEW:
        found = [pick(result, method, rate) for result in results]
        rows.append(
            [
                name,
                f"{statistics.fmean(100 / row['macs_ratio'] for row in found):.0f}",
                *(f"{100 * row['agreement']['mean']:.1f} / {100 * row['score']['mean']:.1f}" for row in found),
                f"{statistics.fmean(row['timing'][-1]['speed_up'] for row in found):.2f}×",
            ]
        )
    return table(["agreement / accuracy, %", "MACs, %", *MODELS.values(), "faster, batch 16"], rows)


OVERVIEW = (
    ("topk", 0.5, "TopK, the paper's"),
    ("evit", 0.5, "EViT"),
    ("random", 0.5, "random"),
    ("tome", 0.5, "ToMe, three blocks"),
    ("segmentwise+merge", 0.5, "8 segments × TopK, merged"),
    ("recommended", 0.5, "**recommended**"),
    ("recommended-quarter", None, "**recommended, a quarter**"),
)


def pick(result: dict[str, Any], method: str, rate: float | None) -> dict[str, Any]:
    """Return the row of a method without training. With rate None: the row at the rate at which it was run."""
    return next(
        row
        for row in result["rows"]
        if row["method"] == method and not row["fine_tuned"] and rate in (None, row["keep_rate"])
    )


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
    """Read what `audioprune eval` wrote about one recipe's models; None if they are not trained yet."""
    path = RESULTS / "fine-tuned" / f"{data}-{data.split('-')[0]}-{recipe}.json"
    return json.loads(path.read_text()) if path.exists() else None


def at(result: dict[str, Any] | None, rate: float) -> dict[str, Any] | None:
    rows = [row for row in result["rows"] if row["keep_rate"] == rate] if result else []
    return rows[0] if rows else None


def cell(row: dict[str, Any] | None) -> str:
    return "–" if row is None else spread(row, 1, 100)


def fine_tuned(data: str) -> str:
    """Make a row for each model: accuracy after fine-tuning at each keep rate, and without it at the lowest."""
    rows = []
    for name, recipe in FINE_TUNED:
        result = tuned(data, recipe)
        # An unpruned model ranks nothing: both AudioMAE rows start from one model.
        unpruned = tuned(data, "audiomae-topk") if recipe == "audiomae-cls" else result
        found = [at(unpruned, 1.0), *(at(result, rate) for rate in RATES[1:])]
        n = str(len(found[0]["scores"])) if found[0] else "0"
        without = cell(at(tuned(data, f"{recipe}-untuned"), 0.5))
        rows.append([name, n, *map(cell, found), difference(found[-1], found[0]), without])
    return table(["model", "n", *(f"{rate:g}" for rate in RATES), "0.5 less 1", "0.5, not fine-tuned"], rows)


def difference(row: dict[str, Any] | None, full: dict[str, Any] | None) -> str:
    """Return the difference between two rows of the same folds or seeds: mean ± standard deviation, in points."""
    if row is None or full is None:
        return "–"
    points = [100 * (score - full["scores"][name]) for name, score in row["scores"].items()]
    mean = round(statistics.fmean(points), 1)
    text = f"{mean:+.1f}".replace("-", "−") if mean else "0.0"
    return text + (f" ± {statistics.stdev(points):.1f}" if len(points) > 1 else "")


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


MODELS = {
    "audiomae-esc10": "AudioMAE, ESC-10",
    "ast-esc10": "AST, ESC-10",
    "audiomae-fsdd-digits": "AudioMAE, digits",
    "ast-fsdd-digits": "AST, digits",
}


def compared(model: str) -> dict[str, Any] | None:
    """Read what `audioprune compare` wrote; None if it has not run."""
    return read(f"compare-{model}") if (RESULTS / f"compare-{model}.json").exists() else None


def faster(row: dict[str, Any], batch: int) -> str:
    found = [timing["speed_up"] for timing in row["timing"] if timing["batch_size"] == batch]
    return f"{found[0]:.2f}×"


def untrained(model: str) -> str:
    """Make a row for each method that was not trained: three keep rates side by side, sorted by KL at the lowest."""
    result = compared(model)
    if result is None:
        return ""
    by: dict[str, dict[float, dict[str, Any]]] = {}
    for row in result["rows"]:
        if not row["fine_tuned"] and "refused" not in row and not isinstance(row["keep_rate"], list):
            by.setdefault(row["method"], {})[row["keep_rate"]] = row
    rates = (0.9, 0.7, 0.5)
    rows = [["unpruned", "100", f"{100 * result['unpruned']['score']:.1f}", "0", "100", "1.00×", "1.00×"]]
    for name, found in sorted(by.items(), key=lambda item: item[1][0.5]["kl"]["mean"]):
        last = found[0.5]
        rows.append(
            [
                name,
                " / ".join(spread(found[rate]["agreement"], 1, 100) for rate in rates),
                " / ".join(spread(found[rate]["score"], 1, 100) for rate in rates),
                spread(last["kl"], 4),
                f"{100 / last['macs_ratio']:.0f}",
                faster(last, 1),
                faster(last, 16),
            ]
        )
    header = [
        "at 0.9 / 0.7 / 0.5",
        "agreement, %",
        "accuracy, %",
        "KL at 0.5",
        "MACs at 0.5, %",
        "faster, 1",
        "faster, 16",
    ]
    return table(header, rows)


def trained(model: str) -> str:
    """Make a row for each model that was fine-tuned with a method."""
    result = compared(model)
    if result is None:
        return ""
    found = [row for row in result["rows"] if row["fine_tuned"]]
    rows = [["unpruned", "", f"{100 * result['unpruned']['score']:.1f}", "100", "100", "1.00×", "1.00×"]]
    for row in sorted(found, key=lambda row: -row["score"]["mean"]):
        rate = row["keep_rate"]
        rows.append(
            [
                row["method"],
                f"{rate[0]:g}, every block" if isinstance(rate, list) else f"{rate:g}",
                spread(row["score"], 1, 100),
                spread(row["agreement"], 1, 100),
                f"{100 / row['macs_ratio']:.0f}",
                faster(row, 1),
                faster(row, 16),
            ]
        )
    header = ["fine-tuned with", "keep rate", "accuracy, %", "agreement, %", "MACs, %", "faster, batch 1", "batch 16"]
    return table(header, rows)


def further() -> str:
    """Make the table for half and a quarter of the multiply-accumulates, on clips that no setting was chosen on."""
    rows = []
    for model, name in MODELS.items():
        result = compared(model)
        if result is None:
            continue
        rows.append([name, "unpruned", "100", "100", "0", f"{100 * result['unpruned']['score']:.1f}", "", ""])
        for row in result["rows"]:
            quarter = row["method"] == "recommended-quarter"
            if not quarter and (row["method"] not in ("topk", "recommended") or row["keep_rate"] != 0.5):
                continue
            if row["fine_tuned"] and not quarter:
                continue
            label = {"topk": "TopK (the paper)", "recommended": "recommended"}.get(row["method"], "recommended")
            rows.append(
                [
                    "",
                    label + (", fine-tuned" if row["fine_tuned"] else ""),
                    f"{100 / row['macs_ratio']:.1f}",
                    f"{100 * row['agreement']['mean']:.1f}",
                    f"{row['kl']['mean']:.4f}",
                    f"{100 * row['score']['mean']:.1f}",
                    faster(row, 1),
                    faster(row, 16),
                ]
            )
    header = ["model", "", "MACs, %", "agreement, %", "KL", "accuracy, %", "faster, batch 1", "batch 16"]
    return table(header, rows)


def searched(phase: str, target: str, part: str) -> dict[str, dict[str, Any]]:
    """Read the search for `recommended`: setting → model → row, for settings that every model could reach."""
    by: dict[str, dict[str, Any]] = {}
    for row in read(f"recommended-{phase}")["rows"]:
        if row["target"] == target and row["part"] == part:
            by.setdefault(row["name"], {})[row["model"]] = row
    return {name: rows for name, rows in by.items() if len(rows) == len(MODELS)}


def average(rows: dict[str, Any], figure: str) -> float:
    return sum(row[figure]["mean"] for row in rows.values()) / len(rows)


def where_to_reduce() -> str:
    kinds = ("tome-hidden", "tome", "topk-merged", "segments-merged")
    found = {target: searched("schedules", target, "chosen on") for target in ("half", "quarter")}
    places = list(dict.fromkeys(name.split(" @ ")[1] for name in found["half"]))
    rows = []
    for place in places:
        line = [place]
        for target in ("half", "quarter"):
            for kind in kinds:
                row = found[target].get(f"{kind} @ {place}")
                line.append("–" if row is None else f"{100 * average(row, 'agreement'):.1f}")
        rows.append(line)
    header = ["0-based blocks", *(f"{target}: {kind}" for target in ("half", "quarter") for kind in kinds)]
    return table(header, rows)


def four_blocks() -> str:
    """Similar tokens merged at some places, on the clips to choose on and on the others."""
    parts = {"chosen on": "clips to choose on", "reported on": "other clips"}
    found = {(target, part): searched("places", target, part) for target in ("half", "quarter") for part in parts}
    places = dict.fromkeys(name for rows in found.values() for name in rows)
    rows = []
    for name in places:
        line = [name.split(" @ ")[1]]
        for by in found.values():
            row = by.get(name)
            line.append("–" if row is None else f"{100 * average(row, 'agreement'):.1f} / {average(row, 'kl'):.4f}")
        rows.append(line)
    return table(["0-based blocks", *(f"{target}: {parts[part]}" for target, part in found)], rows)


def what_to_choose() -> str:
    found = {target: searched("choices", target, "reported on") for target in ("half", "quarter")}
    names = sorted(found["quarter"], key=lambda name: -average(found["quarter"][name], "agreement"))
    rows = []
    for name in names:
        line = [name]
        for target in ("half", "quarter"):
            rows_ = found[target].get(name)
            if rows_ is None:
                line += ["–", "–", "–"]
                continue
            loss = [row["accuracy"]["mean"] - row["unpruned_accuracy"] for row in rows_.values()]
            kl = f"{average(rows_, 'kl'):.4f}"
            line += [f"{100 * average(rows_, 'agreement'):.1f}", kl, f"{100 * min(loss):+.1f}"]
        rows.append(line)
    header = [
        "in every block",
        *(f"{t}: {f}" for t in ("half", "quarter") for f in ("agreement, %", "KL", "worst loss")),
    ]
    return table(header, rows)


def calibrated() -> str:
    rows = []
    for row in read("calibrate-esc10")["rows"]:
        asked = row["asked"]
        line = [
            f"{row['model']}, {row['calibrated_on']}",
            f"{100 * asked['max_disagreement']:.0f} %" if "max_disagreement" in asked else f"{asked['speed_up']:g}×",
        ]
        if row["setting"] is None:
            rows.append([*line, "none found", *["–"] * 4])
            continue
        check = row["check"]
        accuracy = f"{100 * check['unpruned_accuracy']:.1f} → {100 * check['accuracy']:.1f}"
        setting = f"`{row['setting']}`{'' if row['shown'] else ' (estimate)'}"
        percents = [f"{100 * row['bound']:.1f}", f"{100 * check['disagreement']:.1f}"]
        rows.append([*line, setting, f"{row['speed_up']:.2f}×", *percents, accuracy])
    header = ["model, calibrated on", "asked", "chosen", "faster", "bound, %", "on the others, %", "accuracy there, %"]
    return table(header, rows)


def bulk() -> str:
    rows = []
    for run in read("bulk-tagging")["runs"]:
        killed, first = run.get("killed"), run.get("seconds_before_first_row")
        when = "" if killed is None else f"{killed['rows_written']} rows, {killed['at_seconds']:.0f} s"
        rows.append([run["run"], f"{run['seconds']:.0f}", "" if first is None else f"{first:.1f}", when])
    return table(["run", "seconds", "before the first row", "killed at"], rows)


def five_minutes() -> str:
    found = read("five-minutes")
    rows = [[name, f"`{row['command']}`", f"{row['seconds']:.0f} s"] for name, row in found["rows"].items()]
    about = (
        f"Measured from a clean clone on two cores of an AMD EPYC. my-sounds held {found['sounds']} clips of five "
        "seconds that the model was not trained on. Most of the first row's time is pip, with a package index nearby."
    )
    return table(["", "command", "took"], rows) + f"\n\n{about}"


def every_family() -> str:
    """What the commands took with a classifier of sound itself and one of Whisper's kind."""
    found = read("every-family")["rows"]
    took = {(row["name"], row["family"]): f"{row['seconds']:.0f} s" for row in found if row["exit_code"] == 0}
    names = {row["name"]: row["command"].replace(row["family"].upper(), "MODEL") for row in found}
    rows = [
        [f"`{command}`", *(took.get((name, family), "failed") for family in ("wav2vec2", "whisper"))]
        for name, command in names.items()
    ]
    return table(["command", "Wav2Vec2, base size", "Whisper, tiny size"], rows)


PAGES = (
    "app.md",
    "analysis.md",
    "results.md",
    "performance.md",
    "choose-a-rate.md",
    "bulk.md",
    "command-line.md",
    "whisper.md",
    "whisper-measured.md",
    "methods/PaddingMerge.md",
    "methods/recommended.md",
    "audio-language-models.md",
)
TABLES = {
    "calibrate": calibrated,
    "bulk": bulk,
    "page-load": lambda: page_sentences.sentences(read("page-load")),
    "five-minutes": five_minutes,
    "every-family": every_family,
    "fine-tuned-esc10": lambda: fine_tuned("esc10"),
    "fine-tuned-fsdd-digits": lambda: fine_tuned("fsdd-digits"),
    "fine-tuned-fsdd-speakers": lambda: fine_tuned("fsdd-speakers"),
    "fine-tuned-costs": costs,
    "overview": overview,
    "encoders-overview": lambda: table(*encoder_tables.overview()),
    **{
        f"encoders-{data}-{model}": lambda data=data, model=model: table(*encoder_tables.every_method(data, model))
        for data in ("esc10", "commands")
        for model in encoder_tables.MODELS
    },
    "encoders-speed-tiny.en": lambda: table(*encoder_tables.speed("tiny.en")),
    "encoder-padding": lambda: table(*performance.encoder_padding()),
    "contrast": lambda: table(*contrast_tables.contrast()),
    "encoders-corrected": lambda: table(*encoder_tables.corrected()),
    "padded-search": lambda: table(*encoder_tables.padded(corrected=False)),
    "padded-search-corrected": lambda: table(*encoder_tables.padded(corrected=True)),
    "calibrate-encoders": lambda: table(*encoder_tables.calibrated()),
    "encoders-heads": lambda: table(*encoder_tables.heads()),
    "esc10-audiomae": lambda: every_method("esc10-audiomae"),
    "esc10-ast": lambda: every_method("esc10-ast"),
    "further": further,
    "where-to-reduce": where_to_reduce,
    "four-blocks": four_blocks,
    "what-to-choose": what_to_choose,
    **{f"compare-{model}": lambda model=model: untrained(model) for model in MODELS},
    **{f"compare-{model}-tuned": lambda model=model: trained(model) for model in MODELS},
    "bench-esc10": lambda: bench("bench-esc10"),
    "bench-esc10-merged": lambda: bench("bench-esc10-merged"),
    **{
        f"performance-{dtype}": lambda dtype=dtype: table(
            ["tokens × batch", "MACs, fewer", "0.5", "0.5, packed", "unpruned, of the limit", "packed, of its limit"],
            performance.speed_ups(dtype),
        )
        for dtype in ("float32", "bfloat16")
    },
    **{
        f"authors-{dtype}": lambda dtype=dtype: table(
            ["tokens × batch", "1.0", *performance.RATES, *(f"{rate}, packed" for rate in ("1.0", *performance.RATES))],
            performance.against_authors(dtype),
        )
        for dtype in ("float32", "bfloat16")
    },
    "contenders": lambda: table(
        ["contender", "GMACs", "ms", "over ours unpruned"], performance.contenders("float32", 512, 4)
    ),
    "packed-checks": lambda: table(
        ["tokens × batch", "keep rate", "packed", "packed, frozen", "the check costs"], performance.checks()
    ),
    **{f"whisper-{name}": lambda name=name: table(*speech_tables.speech(name)) for name in speech_tables.SETS},
    "whisper-decoder": lambda: table(*decoder_tables.errors()),
    "whisper-summary": lambda: table(*speech_tables.summary()),
    "whisper-profile": lambda: table(*speech_tables.profile()),
    "whisper-stand-ins": lambda: table(*speech_tables.stand_ins()),
    **{f"whisper-peers-{name}": lambda name=name: table(*speech_tables.peers(name)) for name in ("tiny.en", "base")},
    "recommended-speed": lambda: table(*performance.recommended()),
    "quarters": lambda: table(["", "tokens × batch", "plain", "packed"], performance.quarters()),
}


def render(text: str) -> str:
    for name, make in TABLES.items():
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        text = pattern.sub(lambda found, make=make: f"{found[1]}{make()}\n{found[2]}", text)
    return text


def main() -> None:
    check = "--check" in sys.argv[1:]
    stale = []
    for path in (ROOT / "README.md", *(ROOT / "docs" / name for name in PAGES)):
        text = path.read_text()
        if render(text) != text:
            stale.append(path.name)
            if not check:
                path.write_text(render(text))
    print(f"{'stale' if check else 'written'}: {', '.join(stale) or 'nothing'}")
    sys.exit(bool(check and stale))


if __name__ == "__main__":
    main()
