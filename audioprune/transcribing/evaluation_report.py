"""The table and the picture of an evaluation on speech."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.ticker import LogFormatter
from matplotlib.transforms import BboxBase

from ..files import Row, write_json, write_text
from ..plots import save

NAME = "eval-asr"
"""Name of the files that an evaluation writes, without suffix."""
POINT, HIGHEST = 5.0, 30
"""Pixels around a point that stay free, and steps of 4 points by which a name is raised at most."""


def write(out: Path, result: Row) -> None:
    """Write the result as JSON, as a table in Markdown, and as a picture."""
    write_json(out / f"{NAME}.json", result)
    write_text(out / f"{NAME}.md", markdown(result) + "\n")
    if drawable(result):
        save(figure(result), out / f"{NAME}.png")


def tables(result: Row) -> list[list[list[str]]]:
    """Two tables, of words and of speed; the first row of each is its header. Refused rows are left out; see
    `refusals` for those."""
    words = ["method", "error", "change", "to unpruned", "same", "runaways"]
    speed = ["method", "tokens", "encoder", "faster", "whole", "faster", "real time"]
    rows = drawable(result)
    return [[words, *map(_word_cells, rows)], [speed, *map(_speed_cells, rows)]]


def _word_cells(row: Row) -> list[str]:
    change = row["change"]
    return [
        row["method"],
        f"{100 * row['word_error_rate']:.1f}",
        f"{100 * change['mean']:+.1f} ({100 * change['low']:+.1f} to {100 * change['high']:+.1f})",
        f"{100 * row['error_to_unpruned']:.1f}",
        str(row["same"]),
        str(row["runaways"]),
    ]


def _speed_cells(row: Row) -> list[str]:
    times = [cell for part in ("encoder", "whole") for cell in _time_cells(row[part])]
    return [row["method"], f"{row['tokens']:.0f}", *times, f"{row['real_time_factor']:.3f}"]


def _time_cells(part: Row) -> list[str]:
    return [f"{1000 * part['seconds']:.0f}", f"{part['faster']['mean']:.2f}× ±{part['faster']['std']:.2f}"]


def drawable(result: Row) -> list[Row]:
    """Rows with figures: of methods that were not refused, if there is a clip."""
    return [row for row in result["rows"] if row.get("clips")]


def refusals(result: Row) -> list[str]:
    """Lines with the reason for each refused method."""
    return [f"{row['method']}: {row['refused']}" for row in result["rows"] if "refused" in row]


def captions(result: Row) -> list[str]:
    """Notes on a table, one line each."""
    shared = "" if result["batch_size"] == 1 else f", {result['batch_size']} clips at a time"
    search = "greedy" if result["beams"] == 1 else f"{result['beams']} beams"
    notes = [
        f"{result['clips']:,} clips, {result['seconds']:,.0f} s; {search}, {result['dtype']} on {result['device']}, "
        f"{_threads(result)}{shared}",
        "error: wrong words in % of the transcripts' after Whisper's normalization; change: to unpruned, with its 95 % "
        "interval",
        "to unpruned: the same error against the unpruned model's own transcripts; same: transcripts equal to those, "
        "word for word; runaways: more than twice their words + 5",
        f"tokens: leave the encoder, mean; encoder, whole: ms of a clip, median of at most {result['repeats']} "
        "timed, all methods in turn; faster: than unpruned on the same clip, mean ± standard deviation over clips; "
        "real time: seconds of work by seconds of sound",
    ]
    if any(row["setting"]["method"] == "cut" for row in result["rows"]):
        notes.append("cut: the window ends soon after the clip (audio_ctx), a baseline; not a method to use")
    if result["failed"]:
        notes.append(f"left out because they could not be decoded: {len(result['failed'])} of the clips")
    return notes


def _threads(result: Row) -> str:
    return f"{result['threads']} thread" + "s" * (result["threads"] > 1)


def markdown(result: Row) -> str:
    """The tables in Markdown, with their notes below."""
    lines = [line for rows in tables(result) for line in (*_markdown_table(rows), "")]
    notes = [*captions(result), *(f"left out {line}" for line in refusals(result))]
    return "\n".join([f"**{result['model']}**", "", *lines, *(f"- {note}" for note in notes)])


def _markdown_table(rows: Sequence[Sequence[str]]) -> list[str]:
    header, *rest = rows
    rule = ["---", *["---:"] * (len(header) - 1)]
    return [f"| {' | '.join(cells)} |" for cells in (header, rule, *rest)]


def figure(result: Row) -> Figure:
    """Draw the word error rate against the encoder's measured seconds, each method with its name; runaways in red."""
    rows = drawable(result)
    drawn = Figure(figsize=(8.5, 5.5), layout="constrained")
    FigureCanvasAgg(drawn)
    axes = drawn.subplots()
    slowest = max(row["encoder"]["seconds"] for row in rows)
    names = []
    for place, row in enumerate(rows):
        x, y = 1000 * row["encoder"]["seconds"], 100 * row["word_error_rate"]
        axes.plot(x, y, marker="o", markersize=8, linestyle="none", color=colormaps["tab10"](place % 10), zorder=3)
        label = row["method"]
        if row["runaways"]:
            axes.plot(x, y, marker="o", markersize=15, color="tab:red", markerfacecolor="none", markeredgewidth=1.8)
            label += f"\n{row['runaways']} runaway" + "s" * (row["runaways"] > 1)
        is_right = row["encoder"]["seconds"] > 0.6 * slowest
        names.append(
            axes.annotate(
                label,
                (x, y),
                xytext=(-9 if is_right else 9, 7),
                horizontalalignment="right" if is_right else "left",
                textcoords="offset points",
                fontsize=9,
                parse_math=False,
            )
        )
    axes.axhline(100 * rows[0]["word_error_rate"], color="black", linestyle="--", linewidth=1, zorder=0)
    axes.set_xlim(0, 1100 * slowest)
    _scale_errors(axes, [100 * row["word_error_rate"] for row in rows])
    axes.set_xlabel(f"encoder (ms a clip, median, {_threads(result)})")
    axes.set_ylabel("word error rate (%)")
    axes.grid(color="0.92")
    axes.set_axisbelow(True)
    title = f"{result['model']} on {result['clips']} clips; dashed: unpruned, red rings: runaway transcripts"
    axes.set_title(title, fontsize=10, loc="left", parse_math=False)
    drawn.draw_without_rendering()  # it places the axes
    _raise_names(axes, names)
    return drawn


def _raise_names(axes: Axes, names: Sequence[Annotation]) -> None:
    """Raise each name until it covers no point and no other name: methods of like error and time are close together."""
    points = [axes.transData.transform(name.xy) for name in names]
    placed: list[BboxBase] = []
    for name in sorted(names, key=lambda name: name.xy):
        for _ in range(HIGHEST):
            box = name.get_window_extent()
            if not box.count_overlaps(placed) and not box.padded(POINT).count_contains(points):
                break
            name.xyann = (name.xyann[0], name.xyann[1] + 4)
        placed.append(box)


def _scale_errors(axes: Axes, errors: Sequence[float]) -> None:
    """Use a logarithmic axis if one method fails so badly that the others would be one point."""
    low, high = min(errors), max(errors)
    if low > 0 and high > 4 * low:
        axes.set_yscale("log")
        axes.set_ylim(0.8 * low, 1.5 * high)
        for lines in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
            lines(LogFormatter())
    else:
        axes.set_ylim(0, 1.2 * high or 1)
