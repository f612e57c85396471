"""The report of an analysis: one self-contained page, and the figures and tables as files."""

from __future__ import annotations

import base64
import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from ..files import write_bytes, write_json, write_text
from . import reference
from .figures import CAPTIONS, draw
from .formatting import TextTable, format_table
from .question import Finding, Table
from .run_info import head
from .versus_paper import comparison_note, comparison_table

REPORT = "report.html"
TEMPLATES = Path(__file__).parent / "templates"
LONG = 15
"""Tables with more rows are folded."""
DPI = 160
"""Dots per inch of PNG files."""
SIZES = ((90, 128), (90, 48), (75, 32), (60, 16), (50, 8))
"""Dots per inch and number of colours of a picture in the page; the first that fits is used."""
PICTURE_BYTES, PICTURES_BYTES = 200_000, 1_000_000
"""Largest size of one picture, and of all, in the page. Base64 then makes them a third longer."""
SVG_MOST = 150_000
"""Number of bytes from which a figure goes into the page as PNG."""


@dataclass(frozen=True)
class _Image:
    """An image of the page.

    Args:
        src: a data URI.
        alt: text for readers who cannot see it.
        caption: text below it.
        width: in CSS pixels.
        height: in CSS pixels.
    """

    src: str
    alt: str
    caption: str
    width: int
    height: int


@dataclass(frozen=True)
class _PageTable:
    caption: str
    shown: TextTable
    file: str
    data: str
    long: bool


@dataclass(frozen=True)
class _Chapter:
    anchor: str
    title: str
    how: str
    images: tuple[_Image, ...]
    found: tuple[str, ...]
    note: str | None
    tables: tuple[_PageTable, ...]


PICTURES_HOW = (
    "Left: a clip, as the model's input. Then: the patches left after each stage; dropped patches are veiled."
)


def write(
    out: Path,
    chapters: Sequence[tuple[Any, Finding]],
    about: Mapping[str, Any],
    pictures: Sequence[tuple[str, Figure]] = (),
) -> Path:
    """Write OUT/report.html, OUT/figures/*.png and *.svg, and OUT/tables/*.csv and *.json.

    Args:
        out: folder to write to.
        chapters: each question and its finding.
        about: facts about the run: `command`, `models`, `data_name` or `data`, `clips` and more; see `head`.
        pictures: name and figure of each picture of pruned clips.

    Returns the page's path.
    """
    data = str(about.get("data_name") or about.get("data") or "these sounds")
    score = str(about.get("score") or "attention")
    most = min(PICTURE_BYTES, PICTURES_BYTES // max(1, len(pictures)))
    context = {
        "title": f"What pruning keeps: {data}",
        "head": head(about),
        "chapters": [_chapter(out, question, answer, data, score) for question, answer in chapters],
        "pictures": [
            (name, _picture(out, f"picture-{i}-{name}", figure, most)) for i, (name, figure) in enumerate(pictures, 1)
        ],
        "pictures_how": about.get("pictures_how") or PICTURES_HOW,
        "paper_note": comparison_note(data),
        "paper": {"source": reference.SOURCE, "link": reference.LINK},
    }
    write_text(out / REPORT, _render(context))
    return out / REPORT


def _render(context: dict[str, Any]) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    # Names of clips, labels and folders may contain any text, so everything is escaped.
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2").render(context)


def _chapter(out: Path, question: Any, answer: Finding, data: str, score: str) -> _Chapter:
    figures = draw(question.name, answer.values)
    images = tuple(_figure(out, name, figure) for name, figure in figures.items())
    paper = comparison_table(question.name, answer, data, score)
    tables = (*filter(None, [paper]), *answer.tables)
    return _Chapter(
        _slug(question.name),
        question.title,
        question.how,
        images,
        tuple(map(_typeset, answer.found)),
        answer.note and _typeset(answer.note),
        tuple(_table(out, table) for table in tables),
    )


def _figure(out: Path, name: str, figure: Figure) -> _Image:
    svg, png = _save(out, name, figure)
    slim = _slim(svg)
    caption = CAPTIONS.get(name, "")
    if len(slim) >= SVG_MOST:
        return _image(figure, _few_colours(png, SVG_MOST), "png", caption)
    return _image(figure, slim, "svg+xml", caption)


def _picture(out: Path, name: str, figure: Figure, most: int) -> _Image:
    _, png = _save(out, name, figure)
    return _image(figure, _few_colours(png, most), "png", "", "a spectrogram, and what is left of it after each stage")


def _save(out: Path, name: str, figure: Figure) -> tuple[bytes, bytes]:
    """Write a figure as SVG and PNG, and return both contents."""
    svg, png = _bytes(figure, "svg"), _bytes(figure, "png")
    for suffix, content in (("svg", svg), ("png", png)):
        write_bytes(out / "figures" / f"{_slug(name)}.{suffix}", content)
    return svg, png


def _few_colours(png: bytes, most: int) -> bytes:
    """Reduce resolution and colours of a PNG until it has at most `most` bytes, or as few as possible."""
    from PIL import Image

    whole = Image.open(io.BytesIO(png)).convert("RGB")
    for dpi, colours in SIZES:
        buffer = io.BytesIO()
        scaled = whole.resize([side * dpi // DPI for side in whole.size], Image.Resampling.LANCZOS)
        scaled.quantize(colours, dither=Image.Dither.NONE).save(buffer, "png", optimize=True)
        if len(buffer.getvalue()) <= most:
            break
    return buffer.getvalue()


def _image(figure: Figure, content: bytes, kind: str, caption: str, alt: str = "") -> _Image:
    width, height = (round(100 * inches) for inches in figure.get_size_inches())
    return _Image(
        f"data:image/{kind};base64,{base64.b64encode(content).decode()}", alt or caption, caption, width, height
    )


def _bytes(figure: Figure, suffix: str) -> bytes:
    """A figure as bytes. The same figure gives the same bytes: no date, no random names."""
    buffer = io.BytesIO()
    with rc_context({"svg.hashsalt": "audioprune"}):
        figure.savefig(buffer, format=suffix, dpi=DPI, metadata={"Date": None} if suffix == "svg" else None)
    # The layout is done. Doing it again for the next file would take half of the time.
    figure.set_layout_engine("none")
    return buffer.getvalue()


def _slim(svg: bytes) -> bytes:
    """Shorten an SVG: paths to a hundredth of a point, nothing between the tags."""
    text = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>", "", svg.decode(), flags=re.DOTALL)
    text = re.sub(r' d="[^"]*"', lambda path: re.sub(r"(\.\d\d)\d+", r"\1", path[0]), text)
    return re.sub(r">\s+<", "><", text).encode()


def _table(out: Path, table: Table) -> _PageTable:
    """Write a table as files with all digits, and return it as shown in the page."""
    name = _slug(table.name)
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([table.columns, *table.rows])
    write_text(out / "tables" / f"{name}.csv", buffer.getvalue())
    content = {"name": table.name, "caption": table.caption, "columns": table.columns, "rows": table.rows}
    write_json(out / "tables" / f"{name}.json", content, ensure_ascii=False)
    # Also inside the page, so that the page is complete without the other files.
    data = "data:text/csv;charset=utf-8;base64," + base64.b64encode(buffer.getvalue().encode()).decode()
    return _PageTable(table.caption, format_table(table), f"{name}.csv", data, len(table.rows) > LONG)


def _typeset(sentence: str) -> str:
    """The sentence with the same minus signs as in the figures and tables."""
    return re.sub(r"(?<![\w.-])-(?=\d)", "−", sentence)


def _slug(name: str) -> str:
    """Name that is safe for a file and an anchor."""
    return re.sub(r"[^\w.-]+", "-", name).strip("-.") or "unnamed"
