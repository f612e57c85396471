"""The report: a page that needs nothing beside it, and tables whose files, and page, hold the same numbers."""

from __future__ import annotations

import csv
import json
import math
import re
import shutil
import subprocess
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import audioprune as ap
from audioprune.analysis import reference
from audioprune.analysis.figures import CAPTIONS, FIGURES, draw
from audioprune.analysis.formatting import format_table, number
from audioprune.analysis.pictures import picture
from audioprune.analysis.question import Finding, Table
from audioprune.analysis.report import write
from audioprune.analysis.run_info import head
from audioprune.analysis.versus_paper import comparison_note, comparison_table

from .families import FAMILIES

RATES = (0.9, 0.5)
LAYERS = [0, 2]
DEPTH = 4
CLUSTERS = [f"C{i}" for i in range(1, 6)]


def spread(*shape: int, seed: int = 0, low: float = 0.2, high: float = 0.8) -> dict[str, Any]:
    """{mean, std, n}, nested lists of a shape, of made-up numbers; a last one that nobody knows."""
    rng = np.random.default_rng(seed)
    mean = rng.uniform(low, high, shape).tolist()
    std = rng.uniform(0.01, 0.1, shape).tolist()
    count = rng.integers(2, 24, shape).tolist()
    if shape:
        inner = [mean, std, count]
        for part, value in zip(inner, (None, None, 0), strict=True):
            while isinstance(part[-1], list):
                part = part[-1]
            part[-1] = value
    return {"mean": mean, "std": std, "n": count}


def estimate(mean: float | None, error: float | None = 0.03) -> dict[str, Any]:
    return {"mean": mean, "error": error}


def survey() -> dict[str, Any]:
    edges = np.linspace(-0.87, 1.38, 11)
    points = np.linspace(-0.8, 0.9, 50)
    return {
        "edges": edges.tolist(), "counts": [10] * 10, "shares": [0.1] * 10, "minimum": -0.87, "maximum": 1.38,
        "tau": float(edges[1]), "signal_share": 0.81, "clips": 24, "patches": 6144,
        "centers": [-0.8, -0.4, 0.0, 0.3, 0.6], "boundaries": [-0.6, -0.2, 0.1, 0.4], "cluster_shares": [0.2] * 5,
        "patch_centers": points.tolist(), "patch_counts": [3] * 50,
    }  # fmt: skip


def retained_signal() -> dict[str, Any]:
    names = ("a", "b", "kept", "random_a", "random_b", "excess")
    each = {name: spread(2, seed=i) for i, name in enumerate(names)}
    counts = {f"distribution_{name}": [[1] * 20, [0] * 20] for name in "ab"}
    rate = {"layers": LAYERS, **each, "input": spread(), **counts}
    return {"tau": -0.6, "edges": np.linspace(0, 1, 21).tolist(), "rates": {str(r): rate for r in RATES}}


def attention_ratio() -> dict[str, Any]:
    rate = {
        "layers": [0, 1, 2], "stages": LAYERS, "gamma": spread(2, 3, low=0.3, high=30),
        "Gamma": spread(2, 2, low=1, high=9), "pooled": [[1.2, 1.4], [0.9, None]],
        "more": spread(2), "growth": spread(2), "clips": 24,
    }  # fmt: skip
    return {"tau": -0.6, "rates": {str(r): rate for r in RATES}}


def norm_ratio() -> dict[str, Any]:
    rate = {"layers": list(range(DEPTH)), "ratio": spread(DEPTH, low=1, high=9), "change": spread()}
    return {"rates": {str(r): rate | {"relative": [1.0, 0.9, 1.1, None]} for r in (1.0, *RATES)}}


def rank_correlation() -> dict[str, Any]:
    rate = {"layers": list(range(DEPTH))} | {name: spread(2, DEPTH) for name in ("tau_b", "paper", "ties")}
    rate |= {"overall": spread(2), "more": spread()}
    return {"features": ["intensity", "variation"], "rates": {str(r): rate for r in (1.0, *RATES)}}


def mean_variation() -> dict[str, Any]:
    counts = np.random.default_rng(0).poisson(1, (3, 40, 40)).tolist()
    pruned = {
        "layers": LAYERS, "histograms": counts, "kept": spread(2, 5), "random": [0.5, 0.25], "louder": spread(2),
        "shift": spread(2, 2),
    }  # fmt: skip
    rates = {"1.0": {"layers": [], "histograms": counts[:1]}} | {str(r): pruned for r in RATES}
    edges = {f"{name}_edges": np.linspace(-1, 1, 41).tolist() for name in ("intensity", "variation")}
    return edges | {"clusters": CLUSTERS, "rates": rates}


def tradeoff() -> dict[str, Any]:
    rates = [
        {
            "keep_rate": r, "score": estimate(0.9 * r), "agreement": estimate(r, None), "change": estimate(-0.1),
            "macs": int(1e9 * r), "macs_share": r, "clips_per_second": 100 / r, "speed_up": 1 / r,
        }
        for r in (1.0, *RATES)
    ]  # fmt: skip
    return {"metric": "accuracy", "clips": 24, "batch_size": 16, "rates": rates}


def ranking() -> dict[str, Any]:
    names = ("attention", "cls", "intensity", "variation", "random")
    scores = {name: {"score": estimate(0.5), "agreement": estimate(0.8, None)} for name in names}
    rates = [{"keep_rate": r, "scores": scores} for r in RATES]
    return {"metric": "accuracy", "clips": 24, "score": "attention", "seeds": 5, "rates": rates}


def perturbation() -> dict[str, Any]:
    tests = {name: {"score": estimate(0.7), "agreement": estimate(0.8)} for name in ("baseline", "I", "II", "III")}
    for name in ("I", "II", "III"):
        tests[name] |= {"change": estimate(-0.1), "agreement_change": estimate(-0.2), "swapped": 0.3}
    rates = [{"keep_rate": r, "tests": tests, "III_minus_II": estimate(0.0)} for r in RATES]
    return {"tau": -0.6, "metric": "accuracy", "clips": 24, "rates": rates}


def cluster_drop() -> dict[str, Any]:
    blocks = [0, 2]
    removed = [
        {
            "clusters": name, "side": side, "count": 1, "share": 0.2,
            "blocks": [{"block": b, "score": estimate(0.6), "change": estimate(-0.1)} for b in blocks],
        }
        for side, name in (("quiet", "C1"), ("loud", "C5"))
    ]  # fmt: skip
    return {
        "boundaries": [0.0], "blocks": blocks, "metric": "accuracy", "clips": 24,
        "unpruned": {"score": estimate(0.7)}, "removed": removed,
    }  # fmt: skip


VALUES = {
    made.__name__: made
    for made in (
        survey, retained_signal, attention_ratio, norm_ratio, rank_correlation, mean_variation, tradeoff, ranking,
        perturbation, cluster_drop,
    )
}  # fmt: skip
NASTY = '<script>alert("x")</script> & <b>.wav'
ABOUT = {
    "command": f"audioprune analyze --data '{NASTY}'", "models": {"1": NASTY, "0.5": "b"}, "data": "esc10",
    "clips": 1234, "folds": ["5"], "keep_rates": [1.0, 0.9], "score": "attention", "tau": -0.645, "tau_given": False,
    "boundaries": [-0.6, 0.1], "machine": {"processor": "made up", "threads": 1}, "tuned": True, "mood": "fair",
}  # fmt: skip


def asked(name: str) -> Any:
    return SimpleNamespace(name=name, title=f"Title of {name}?", how=f"How to read {name}.")


def table(name: str) -> Table:
    rows = ((0.9, 1, 0.7391234, 0.241, None, 5120), (0.5, 2, None, None, 0.25, 3), (NASTY, 3, 1 / 3, None, math.pi, 0))
    return Table(f"{name}_made_up", f"Of {NASTY}.", ("keep rate", "stage", "γ", "γ ±", "score, %", "count"), rows)


class Page(HTMLParser):
    """What a page loads and links, its anchors and tables, and whether its tags match."""

    VOID = ("meta", "img", "link", "br")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loaded: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.words: list[str] = []
        self.tags: set[str] = set()
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attributes: Any) -> None:
        found = dict(attributes)
        self.tags.add(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        self.loaded += [found[name] for name in ("src", "srcset", "data") if name in found]
        if tag == "a":
            # A table is in the page; beside it lies the same as a file.
            self.links.append(f"tables/{found['download']}" if "download" in found else found["href"])
        elif "href" in found:
            self.loaded.append(found["href"])
        self.ids += [found["id"]] if "id" in found else []
        if tag == "table":
            self.rows: list[list[str]] = []
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        if tag == "table":
            self.tables[self.links[-1]] = self.rows

    def handle_data(self, data: str) -> None:
        self.words.append(data)
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> tuple[Path, Page]:
    """A report of all chapters, one with nothing but a note, and pictures."""
    out = tmp_path_factory.mktemp("report")
    chapters = [
        (asked(name), Finding((f"It is -1.5 & {NASTY}.",), (table(name),), json.loads(json.dumps(made()))))
        for name, made in VALUES.items()
    ]
    chapters.append((asked("nothing"), Finding(note=f"There is nothing in {NASTY}.")))
    model = FAMILIES["audiomae"]().eval()
    clip = torch.randn(1, 128, 128, generator=torch.Generator().manual_seed(7))
    drawn = picture(model, clip, ap.TopK(0.5, layers=(1,)), "a $ title", [NASTY])
    path = write(out, chapters, ABOUT, [(NASTY, drawn)] * 2)
    assert path == out / "report.html"
    return out, Page(path.read_text())


def test_every_question_has_its_figures() -> None:
    from audioprune.analysis.attention_ratio import AttentionRatio
    from audioprune.analysis.cluster_drop import ClusterDrop
    from audioprune.analysis.correlation import RankCorrelation
    from audioprune.analysis.heat import MeanVariation
    from audioprune.analysis.norms import NormRatio
    from audioprune.analysis.perturbation import Perturbation
    from audioprune.analysis.ranking import Ranking
    from audioprune.analysis.signal import RetainedSignal
    from audioprune.analysis.survey import Survey
    from audioprune.analysis.tradeoff import Tradeoff

    observed = (Survey, RetainedSignal, AttentionRatio, NormRatio, RankCorrelation, MeanVariation)
    assert (
        {one.name for one in (*observed, Tradeoff, Ranking, Perturbation, ClusterDrop)} == set(FIGURES) == set(VALUES)
    )
    figures = [name for question, made in VALUES.items() for name in draw(question, made())]
    assert sorted(figures) == sorted(CAPTIONS)
    assert draw("survey", {}) == draw("another", {"a": 1}) == {}


@pytest.mark.parametrize("name", VALUES)
def test_figures_have_named_axes_and_900_pixels(name: str) -> None:
    for figure in draw(name, VALUES[name]()).values():  # that they can be drawn shows the report
        assert figure.get_size_inches()[0] * 100 == 900
        panels = [axes for axes in figure.axes if axes.get_title(loc="left")]
        assert panels
        assert any(axes.get_xlabel() for axes in panels) or name == "retained_signal"
        assert any(axes.get_ylabel() for axes in panels)


def unknown(values: Any) -> Any:
    """The same with every mean, spread and error unknown."""
    if isinstance(values, dict):
        return {
            key: emptied(of) if key in ("mean", "std", "error", "relative", "n") else unknown(of)
            for key, of in values.items()
        }
    return [unknown(of) for of in values] if isinstance(values, list) else values


def emptied(values: Any) -> Any:
    return [emptied(of) for of in values] if isinstance(values, list) else None


def one_rate(values: dict[str, Any]) -> dict[str, Any]:
    """The same at the lowest keep rate only."""
    rates = values.get("rates")
    if isinstance(rates, dict):
        return values | {"rates": dict(list(rates.items())[-1:])}
    return values | ({"rates": rates[-1:]} if rates else {})


@pytest.mark.parametrize("name", VALUES)
def test_what_is_unknown_is_left_open(name: str) -> None:
    """Of silence, of one clip, of one keep rate."""
    for values in (unknown(VALUES[name]()), one_rate(VALUES[name]()), unknown(one_rate(VALUES[name]()))):
        for figure in draw(name, values).values():
            figure.draw_without_rendering()
        comparison_table(name, Finding(values=values), "esc10")


def test_a_survey_of_silence() -> None:
    values = survey() | {"patch_centers": [-0.8], "patch_counts": [64], "centers": [-0.8], "boundaries": []}
    for figure in draw("survey", values | {"cluster_shares": [1.0], "signal_share": 0.0}).values():
        figure.canvas.draw()


def test_the_page_is_whole_and_loads_nothing(written) -> None:
    out, page = written
    assert page.loaded
    assert all(source.startswith("data:image/") for source in page.loaded)
    assert not page.tags & {"script", "link", "iframe", "object", "embed"}
    text = (out / "report.html").read_text()
    style = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    external = {link for link in page.links if "://" in link}
    assert external == {reference.LINK}
    for link in page.links:
        if link.startswith("#"):
            assert link[1:] in page.ids
        elif link not in external:
            assert (out / link).is_file()
    assert {f"#{name}" for name in (*VALUES, "nothing", "pictures")} <= set(page.links)
    assert len(page.ids) == len(set(page.ids))
    assert (out / "report.html").stat().st_size < 3_000_000


def test_every_figure_has_its_files(written) -> None:
    out, page = written
    pictures = sorted((out / "figures").glob("picture-*.png"))
    assert len(pictures) == 2
    assert len(page.loaded) == len(CAPTIONS) + 2
    for name in (*CAPTIONS, *(path.stem for path in pictures)):
        assert (out / f"figures/{name}.png").read_bytes()[:4] == b"\x89PNG"
        assert (out / f"figures/{name}.png").stat().st_size > 8000
        assert "<svg" in (out / f"figures/{name}.svg").read_text()[:2000]
    assert not list(out.rglob("*.part"))


def test_files_and_page_hold_the_same_numbers(written) -> None:
    out, page = written
    names = [Path(link).stem for link in page.tables]
    assert set(names) >= {f"{name}_made_up" for name in VALUES}
    assert sum("_and_paper" in name for name in names) == 6
    for name in names:
        content = json.loads((out / f"tables/{name}.json").read_text())
        with open(out / f"tables/{name}.csv", newline="") as file:
            header, *rows = csv.reader(file)
        assert header == content["columns"]
        assert rows == [["" if cell is None else str(cell) for cell in row] for row in content["rows"]]
        again = format_table(Table(name, content["caption"], tuple(header), tuple(map(tuple, content["rows"]))))
        assert page.tables[f"tables/{name}.csv"] == [list(again.columns), *map(list, again.rows)]


def test_cells(written) -> None:
    _, page = written
    found = page.tables["tables/survey_made_up.csv"]
    assert found[0] == ["keep rate", "stage", "γ", "score, %", "count"]
    assert found[1] == ["0.9", "1", "0.739 ± 0.241", "–", "5,120"]
    assert found[2] == ["0.5", "2", "–", "0.2", "3"]
    assert found[3] == [NASTY, "3", "0.333", "3.1", "0"]


def test_whatever_is_called_whatever_is_text(written) -> None:
    _, page = written
    words = " ".join(page.words)
    assert "script" not in page.tags
    for piece in (f"It is −1.5 & {NASTY}.", f"There is nothing in {NASTY}.", NASTY, f"Of {NASTY}."):
        assert piece in words
    assert "How to read nothing." not in words, "there is no figure to read"


def test_shares_are_shown_in_percent_with_their_spread() -> None:
    columns = ("keep rate", "A", "A ±", "random A", "clips")
    assert format_table(Table("retained_signal", "", columns, ((0.9, 0.7391, 0.2413, 0.744, 24),))) == format_table(
        Table("other", "", ("keep rate", "A, %", "A, % ±", "random A, %", "clips"), ((0.9, 73.91, 24.13, 74.4, 24),))
    )
    beside_score = Table("t", "", ("by", "accuracy, % at 0.9", "± at 0.9"), (("cls", 83.33, 7.61),))
    assert format_table(beside_score).rows == (("cls", "83.3 ± 7.6"),)
    by_row = Table("t", "", ("test", "keep rate 0.9"), (("Test I: swapped, %", 12.34), ("baseline: score", 12.34)))
    assert format_table(by_row).rows == (("Test I: swapped, %", "12.3"), ("baseline: score", "12.34"))


@given(st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text()))
def test_whatever_a_cell_holds_is_shown(value: Any) -> None:
    for text in (number(value), number(value, 100.0, 1), format_table(Table("t", "", ("a",), ((value,),))).rows[0][0]):
        assert isinstance(text, str)
        assert "nan" not in text or isinstance(value, str)
        if value is None or (isinstance(value, float) and not math.isfinite(value)):
            assert text == "–"


def numbers_of(found: Table, column: str) -> Iterator[Any]:
    return (row[found.columns.index(column)] for row in found.rows)


def test_the_papers_numbers_are_those_of_the_data_or_the_nearest() -> None:
    names = {"esc50": "ESC-50", "speech-commands": "SPC-2", "voxceleb1": "VoxCeleb-1", "audioset": "AS-20K"}
    for name, own in (names | {"AudioSet-20K": "AS-20K", "esc10": None, "fsdd-digits": None}).items():
        assert reference.paper_set(name) == own
    assert reference.nearest("esc10") == ("ESC-50", "SPC-2")
    assert reference.nearest("fsdd-digits") == ("SPC-2", "ESC-50")
    assert "no numbers for esc10" in comparison_note("esc10")
    assert "those of ESC-50" in comparison_note("esc50")
    answer = Finding(values=retained_signal())
    own, nearest = (comparison_table("retained_signal", answer, data) for data in ("esc50", "esc10"))
    assert own is not None
    assert nearest is not None
    assert own.columns == ("keep rate", "stage", "A ours, %", "A ESC-50, %", "B ours, %", "B ESC-50, %")
    assert list(numbers_of(own, "A ESC-50, %")) == [74.9, 74.8, 41.6, 41.5]
    assert list(numbers_of(nearest, "B SPC-2, %")) == [90.7, 82.8, 50.0, 25.0]
    assert "Table 2" in own.caption
    assert "nearest" in nearest.caption
    by_cls = comparison_table("retained_signal", answer, "speech-commands", "cls")
    assert by_cls is not None
    assert "Table 5" in by_cls.caption
    assert list(numbers_of(by_cls, "B AST SPC-2, %")) == [99.0, 93.5, 73.3, 38.3]
    assert comparison_table("retained_signal", answer, "voxceleb1", "cls") is None
    assert comparison_table("norm_ratio", Finding(values=norm_ratio()), "esc50") is None
    assert comparison_table("survey", Finding(note="nothing"), "esc50") is None
    assert comparison_table("perturbation", Finding(values=perturbation()), "voxceleb1") is None
    costs = comparison_table("tradeoff", Finding(values=tradeoff()), "speech-commands")
    assert costs is not None
    assert list(numbers_of(costs, "SPC-2: MACs, %")) == pytest.approx([100, 87.88, 50.09], abs=0.01)


def test_rates_and_stages_that_the_paper_has_not_are_left_open() -> None:
    values = retained_signal()
    values["rates"] = {"0.3": values["rates"]["0.9"]}
    found = comparison_table("retained_signal", Finding(values=values), "esc50")
    assert found is not None
    assert list(numbers_of(found, "A ESC-50, %")) == [None, None]


def test_the_reference_is_as_printed() -> None:
    for table_of in (reference.A, reference.B, reference.GAMMA_SIGNAL, reference.GAMMA_BACKGROUND):
        assert set(table_of) == set(reference.SETS)
        assert all(len(rows) == 3 and all(len(row) == 3 for row in rows) for rows in table_of.values())
    for by_rate in (reference.SCORES, reference.GMACS, reference.CLIPS_PER_SECOND):
        assert all(len(row) == len(reference.RATES) for row in by_rate.values())
    # A · tokens = B · signal: the tables agree with each other, and with the shares of Fig. 4.
    for name in reference.SETS:
        shares = [100 * a / b for a, b in zip(reference.A[name][0], reference.B[name][0], strict=True)]
        assert np.ptp(shares) < 4
        assert abs(np.mean(shares) - reference.SIGNAL_SHARE[name]) < 5


def test_the_head_tells_what_is_known() -> None:
    told = dict(head(ABOUT))
    assert told["Model"] == f"{NASTY} at 1, b at 0.5"
    assert told["Fine-tuned"] == "for each keep rate"
    assert told["Sounds"] == "esc10, 1,234 clips, fold 5"
    assert told["Threshold τ"].startswith("−0.65, from the histogram")
    assert told["Mood"] == "fair"
    assert "torch" in told["Versions"]
    assert set(dict(head({}))) == {"Versions"}


def test_a_report_of_nothing(tmp_path) -> None:
    page = Page(write(tmp_path, [], {}).read_text())
    assert not page.loaded
    assert not page.tables


@pytest.mark.parametrize("labels", [(), ("dog",), ("dog", "cat")])
def test_pictures_have_a_row_a_clip_and_a_column_a_stage(labels: tuple[str, ...]) -> None:
    model = FAMILIES["ast-overlapping"]().eval()
    clips = torch.randn(2, 128, 128, generator=torch.Generator().manual_seed(7))
    method = ap.TopK(0.5)
    figure = picture(model, clips, method, "a $ title", labels)
    figure.canvas.draw()
    assert ap.handle(model) is None, "the model is as before"
    stages = len(method.schedule(DEPTH))
    assert len(figure.axes) == 2 * (1 + stages)
    said = [note.get_text() for axes in figure.axes for note in axes.texts]
    assert len(said) == 2
    for i, line in enumerate(said):
        assert line.startswith(f"{labels[i]} · unpruned: " if i < len(labels) else "unpruned: ")
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    with torch.no_grad(), ap.prune(model, method) as handle:
        counts = handle.tokens
    assert sum(title.endswith("of 144 patches kept") for title in titles) == 2 * stages
    assert any(f"{counts[-1]} of 144" in title for title in titles)


def test_one_clip_and_merged_tokens() -> None:
    model = FAMILIES["audiomae"]().eval()
    figure = picture(model, torch.randn(128, 128), ap.TopK(0.5, dropped="merge"), labels=["x"])
    assert any(" patches in " in axes.get_title(loc="left") for axes in figure.axes)


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_a_browser_shows_it(written, tmp_path) -> None:
    out, _ = written
    shot = tmp_path / "shot.png"
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1000,1400"]
    command += [f"--screenshot={shot}", (out / "report.html").as_uri()]
    subprocess.run(command, check=True, timeout=60, capture_output=True)
    assert shot.stat().st_size > 20_000


def test_the_template_goes_with_the_package() -> None:
    settings = (Path(__file__).parents[1] / "pyproject.toml").read_text()
    assert re.search(r'audioprune = \[.*"analysis/templates/\*"', settings)
