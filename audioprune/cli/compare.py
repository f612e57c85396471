"""`audioprune compare`: methods side by side on one's own sounds."""

from __future__ import annotations

import json
import math
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from ..methods import names
from ..timing import Ratio, unsure_note
from . import options as o
from . import training_options as t
from . import window_options as w
from .console import compact_table, err, out, progress, resumable
from .long_sounds import parse_windows

FineTunedOption = Annotated[
    list[str] | None,
    typer.Option(
        "--fine-tuned",
        metavar="NAME=FOLDER",
        help="A model that was trained with pruning, at its own keep rate; agreement and KL are with the unpruned "
        "--model. Repeatable.",
    ),
]


def compare(
    data: t.DataOption,
    model: o.ModelOption = "esc10",
    data_name: t.DataNameOption = None,
    folds: Annotated[
        str | None, typer.Option(help="Folds to hear, with commas: those that the model was not trained on.")
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            help="Part to hear: test, validation, train or all. [default: test; all of a plain folder of classes]",
            show_default=False,
        ),
    ] = None,
    limit: t.LimitOption = None,
    methods: Annotated[
        str,
        typer.Option(
            help=f"With commas: {', '.join(names.compared())} (run at the cost of topk); all; JSON files; folders "
            "with a pruning.json."
        ),
    ] = "all",
    keep_rates: Annotated[str, typer.Option(help="Keep rates, with commas.")] = "0.9,0.7,0.5",
    macs: Annotated[
        str | None,
        typer.Option(
            help="Shares of the unpruned model's work, with commas, such as 0.5,0.25: each method runs at the greatest "
            "keep rate that leaves at most so much, in its own blocks, or in the first alone where those come too "
            "late. Takes the place of --keep-rates.",
            show_default=False,
        ),
    ] = None,
    correct: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Find what pruning adds to the logits of all clips alike, on so many clips that are not compared, "
            "without their labels, and show what is left of the errors without it. 16 are enough.",
            show_default=False,
        ),
    ] = None,
    fine_tuned: FineTunedOption = None,
    bench_seconds: Annotated[float, typer.Option(min=0, help="Seconds of timing a setting; 0 times nothing.")] = 1.0,
    batch_size: Annotated[
        str,
        typer.Option("--batch-size", "--batch-sizes", help="Clips per forward in the timing; several with commas."),
    ] = "16",
    window: w.WindowOption = "auto",
    hop: w.SpreadHopOption = None,
    pool: w.PoolOption = "mean",
    device: o.DeviceOption = "auto",
    cache: t.CacheOption = None,
    out_file: Annotated[Path | None, typer.Option("--out", "-o", help="JSON file to write.")] = None,
    picture: Annotated[Path | None, typer.Option(help="Picture to write: .png, .svg or .pdf.")] = None,
    as_json: o.JsonOption = False,
) -> None:
    """Compare methods on labelled sounds: accuracy, agreement with the unpruned model, MACs, latency.

    On a folder with a folder of sounds for each class, named as the model names them:

        audioprune compare --model esc10 --data my-sounds/ --keep-rates 0.7,0.5 --picture compare.png

    All at the same work, whatever keep rate that takes:

        audioprune compare --model esc10 --data my-sounds/ --macs 0.5,0.25

    On a fold that the model never heard, some methods and a model that was trained with pruning:

        audioprune compare --model esc10 --data ESC-50 --data-name esc10 --folds 5 --methods topk,tome,segmentwise+merge
        --fine-tuned topk=runs/fold5-rate0.5 --out compare.json

    What a constant repairs, found on 16 clips of the training part without their labels:

        audioprune compare --model probe/ --data ESC-10 --data-name esc10 --folds 5 --macs 0.25,0.125 --correct 16

    Agreement is the share of clips whose top label is the unpruned model's; KL is the mean KL(unpruned ‖ pruned) of the
    outputs, in nats. A clip longer than the model hears is heard in windows, and its answer is their mean. Random
    choices run with five seeds: mean ± standard deviation. A row with • costs least for its accuracy: no other is
    better in one and as good in the other. Nothing is written without --out or --picture.
    """
    from ..compare import comparison
    from ..compare import settings as c
    from ..compare.benchmark import machine
    from ..compare.row_log import RowLog
    from ..files import check_writable
    from ..plots import check_suffix

    chosen = c.parse_methods(t.words(methods))
    if not chosen:
        raise ValueError(f"--methods is {methods!r}; name one at least, or all")
    rates, shares = _rates(keep_rates), _shares(macs)
    sizes: list[int] = o.parse_numbers(batch_size, int, "--batch-size")
    if min(sizes) < 1:
        raise ValueError(f"--batch-size is {batch_size!r}; each must be at least 1")
    if split not in (None, "test", "validation", "train", "all"):
        raise ValueError(f"--split is {split!r}; it is test, validation, train or all")
    folders, windows = _folders(fine_tuned or []), parse_windows(window, hop, pool)
    if picture is not None:
        check_suffix(picture)
    check_writable(out_file, picture)
    loaded, front = o.open_model(model, device)
    table, store = t.open_data(data, data_name, None, cache, front.max_seconds)
    every = c.choose_clips(table, t.words(folds), split)
    rows = c.spaced(every, limit)
    further = None if correct is None else c.read_clips(c.others(table, every, correct), front, store, windows)
    labels = c.targets_of(loaded, table, rows)
    tuned = {name: c.open_fine_tuned(folder, loaded, rows, store, windows) for name, folder in folders.items()}
    clips = c.read_clips(rows, front, store, windows)
    if clips.recordings:
        err.print(f"{len(rows)} clips, some longer than the model's window: heard in {len(clips)} windows")
    passes = comparison.passes(chosen, rates, tuned, shares)
    state = None if out_file is None else out_file.with_name(f"{out_file.name}.partial.jsonl")
    with closing(RowLog.of(state, loaded, clips, labels, chosen, tuned, further)) as log:
        with progress("") as bar, resumable(state) if state else nullcontext():
            heard = bar.add_task("Hearing clips", total=passes * (len(clips) + len(further or ())))
            timing = bar.add_task("Timing settings", total=None, visible=False)

            def timed() -> None:
                bar.update(timing, advance=1, visible=True)

            result = {
                "command": t.command(),
                "model": model,
                "data": table.name,
                "folds": list(t.words(folds)),
                "split": split,
                "limit": limit,
                **({"correct": correct} if correct else {}),
                **({"windows": len(clips), "pool": pool} if clips.recordings else {}),
                "machine": machine(),
            } | comparison.compare(
                loaded,
                clips,
                labels,
                chosen,
                rates,
                fine_tuned=tuned,
                shares=shares,
                correct=further,
                bench_seconds=bench_seconds,
                batch_sizes=sizes,
                advance=lambda count: bar.advance(heard, count),
                timed=timed,
                log=log,
            )
        _show(result, out_file, picture, as_json)
        log.remove()


def _rates(keep_rates: str) -> list[float]:
    from ..methods import TopK

    numbers: list[float] = o.parse_numbers(keep_rates, float, "--keep-rates")
    for rate in numbers:
        TopK(rate)  # a rate that is none is a mistake, not something that a method refuses
    return sorted(set(numbers), reverse=True)


def _shares(macs: str | None) -> list[float]:
    numbers: list[float] = o.parse_numbers(macs, float, "--macs") if macs else []
    for share in numbers:
        if not 0 < share < 1:
            raise ValueError(f"--macs is {macs!r}; each is a share of the unpruned model's work, in (0, 1)")
    return sorted(set(numbers), reverse=True)


def _show(result: dict[str, Any], out_file: Path | None, picture: Path | None, as_json: bool) -> None:
    from ..compare.pareto_figure import pareto_figure
    from ..files import write_json
    from ..plots import save

    if out_file is not None:
        write_json(out_file, result)
    if picture is not None:
        title = f"{result['model']} on {result['clips']} clips of {result['data']}"
        save(pareto_figure(result, title=title), picture)
    if as_json:
        print(json.dumps(result))
    else:
        out.print(_table(result))
    for line in _refusals(result["rows"]):
        err.print(f"note: {line}", soft_wrap=True)
    for path in (out_file, picture):
        if path is not None:
            err.print(f"→ {path}", soft_wrap=True)


def _folders(given: list[str]) -> dict[str, str]:
    """NAME=FOLDER → name to folder. Raises `ValueError` where it is no such thing."""
    from ..core.settings import SETTINGS, read_method

    found: dict[str, str] = {}
    for text in given:
        name, _, folder = text.partition("=")
        if not name or not folder:
            raise ValueError(f"--fine-tuned is {text!r}; give NAME=FOLDER, the folder of a training")
        if name in found:
            raise ValueError(f"--fine-tuned names {name!r} twice; give each model a name of its own")
        read_method(Path(folder) / SETTINGS)  # said at once, and not after the data set was read
        found[name] = folder
    return found


def _refusals(rows: list[dict[str, Any]]) -> list[str]:
    """A line for each reason, with the settings that it holds for."""
    reasons: dict[str, list[str]] = {}
    for row in rows:
        if "refused" in row:
            share = row.get("macs_share")
            where = _rate(row["keep_rate"]) if share is None else f"{100 * share:g} % of the work"
            reasons.setdefault(row["refused"], []).append(f"{row['method']} at {where}")
    return [f"left out {', '.join(where)}: {reason}" for reason, where in reasons.items()]


def _rate(rate: Any) -> str:
    return ",".join(f"{one:g}" for one in rate) if isinstance(rate, list) else f"{rate:g}"


def _mean_rate(row: dict[str, Any]) -> float:
    rate = row["keep_rate"]
    return sum(rate) / len(rate) if isinstance(rate, list) else rate


def _percent(figure: dict[str, float]) -> str:
    return " ±".join(f"{100 * value:.1f}" for value in figure.values())


def _table(result: dict[str, Any]) -> Table:
    unpruned, clips = result["unpruned"], result["clips"]
    is_map = result["metric"] == "map"
    rows = [row for row in result["rows"] if "refused" not in row]
    scores = [unpruned["score"], *(row["score"]["mean"] for row in rows)]
    error = 100 * math.sqrt(max(score * (1 - score) for score in scores) / clips)
    unit, size = ("GMACs", 1e9) if unpruned["macs"] > 1e9 else ("MMACs", 1e6)
    caption = f"{clips} clips" + ("" if is_map else f": accuracy ± {error:.1f} at most (standard error)")
    table = compact_table(
        f"{result['model']} on {result['data']}",
        f"{caption}; unpruned: {unpruned['macs'] / size:.4g} {unit} a clip; •: best for its MACs",
        unsure_note([Ratio.of(time) for row in rows for time in row.get("timing", [])]),
    )
    table.add_column("method", overflow="fold")
    timed = [f"{column} ({time['batch_size']})" for time in unpruned.get("timing", []) for column in ("ms", "faster")]
    corrected = ["corrected: acc., %", "agree, %"] if result.get("correct") else []
    known = ("keep", "mAP, %" if is_map else "acc., %", "agree, %", "KL, nats", *corrected, "MACs, %", *timed, "")
    for column in known:
        table.add_column(column, justify="right")
    first = ["unpruned", "–", score := f"{100 * unpruned['score']:.1f}", "100.0", "0"]
    first += [*([score, "100.0"] if corrected else []), "100.0"]
    table.add_row(*first, *_times(unpruned), "")
    rows.sort(key=lambda row: (-_mean_rate(row), -row["agreement"]["mean"], row["kl"]["mean"]))
    for row in rows:
        table.add_row(
            row["method"] + (" (fine-tuned)" if row["fine_tuned"] else ""),
            _rate(row["keep_rate"]),
            _percent(row["score"]),
            _percent(row["agreement"]),
            f"{row['kl']['mean']:.2g}",
            *(_corrected(row) if corrected else []),
            f"{100 / row['macs_ratio']:.1f}",
            *_times(row),
            "•" if row["front"] else "",
        )
    return table


def _corrected(row: dict[str, Any]) -> list[str]:
    return [_percent(row["corrected"][one]) if "corrected" in row else "–" for one in ("score", "agreement")]


def _times(row: dict[str, Any]) -> list[str]:
    """Of each batch size the milliseconds, and how much faster that is."""
    timing = row.get("timing", [])
    return [cell for time in timing for cell in (f"{time['latency_ms']:.1f}", str(Ratio.of(time)))]
