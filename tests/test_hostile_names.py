"""Names of sounds, folders, labels and models that are HTML, quotes or formulas: shown as they are, and never run."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import soundfile
import torch

import audioprune as ap
from audioprune.analysis import report
from audioprune.app.answer import compare
from audioprune.app.bars import bars
from audioprune.tagging.tagger import Tagger
from audioprune.training.pictures import loss_curve, reconstructions

from .conftest import tone
from .families import audiomae

SCRIPT = "<script>alert(1)</script>"
IMAGE = "<img src=x onerror=alert(1)>"
QUOTES = "\"' onload='alert(1)' x=\""
FORMULA = r"$\frac{$ and $x_$"
LABELS = (f"{IMAGE}{QUOTES}", f"{FORMULA}<svg onload=alert(1)>")
"""Names of folders too, so without a slash."""
SOUND = f"{IMAGE}{FORMULA}'.wav"


class Read(HTMLParser):
    """Tags, attributes and words of some HTML."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.words = ""
        self.sources: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.sources += [str(value) for name, value in attrs if name == "src"]

    def handle_data(self, data: str) -> None:
        self.words += data

    def check(self, *shown: str) -> None:
        """Nothing that can run is there, and all these names are, letter by letter."""
        assert not {"script", "svg", "iframe", "object", "embed"} & self.tags
        assert not [name for name in self.attributes if name.startswith("on")]
        assert all(source.startswith("data:image/") for source in self.sources)
        for name in shown:
            assert name in self.words


def test_the_checker_sees_what_runs() -> None:
    for text in (SCRIPT, IMAGE, f'<b title="{QUOTES}">', "<svg onload=alert(1)>"):
        with pytest.raises(AssertionError):
            Read(text).check()
    Read("<b>&lt;script&gt;</b>").check("<script>")


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    """A folder of sounds for each label, with names to match."""
    for label in LABELS:
        folder = tmp_path / f"sounds{QUOTES}" / label
        folder.mkdir(parents=True)
        for i in range(2):
            soundfile.write(folder / f"{i}{SOUND}", tone(0.4, hertz=300.0 + 200 * i), 16_000)
    return tmp_path / f"sounds{QUOTES}"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    names = dict(enumerate(sorted(LABELS)))
    made = audiomae(num_labels=2, id2label=names, label2id={name: i for i, name in names.items()})
    made.save_pretrained(tmp_path / f"model{IMAGE}")
    return tmp_path / f"model{IMAGE}"


def svg(path: Path) -> str:
    """The words of a drawing, in which nothing can run."""
    tree = ET.fromstring(path.read_bytes())
    names = {element.tag.rpartition("}")[2] for element in tree.iter()}
    assert not {"script", "foreignObject"} & names
    assert not [name for element in tree.iter() for name in element.attrib if name.lower().startswith("on")]
    return path.read_text()


def test_the_report_of_an_analysis(run, monkeypatch, labelled: Path, model: Path) -> None:
    monkeypatch.setattr(report, "draw", lambda *_: {})  # of numbers, which takes most of the time
    skipped = "tradeoff,ranking,perturbation,cluster_drop"
    words = ["--keep-rates", "0.5", "--bench-seconds", 0, "--pictures", 1, "--skip", skipped]
    code, _, err = run("analyze", "--model", model, "--data", labelled, "--out", "report", *words)
    assert code == 0, err
    page = Read(Path("report/report.html").read_text())
    page.check(str(model), labelled.name)
    assert sorted(Path("report/figures").iterdir())
    for path in Path("report/figures").glob("*.svg"):
        assert SCRIPT not in svg(path)


def test_pictures_of_a_comparison(run, labelled: Path, model: Path, tmp_path: Path) -> None:
    settings = tmp_path / f"{IMAGE}{FORMULA}.json"
    settings.write_text(json.dumps({"method": "TopK", "keep_rate": 0.5}))
    words = ["--keep-rates", "0.5", "--bench-seconds", 0, "--methods", f"topk,{settings}"]
    code, _, err = run("compare", "--model", model, "--data", labelled, *words, "--picture", "a.svg", "--out", "a.json")
    assert code == 0, err
    assert "<img" not in svg(Path("a.svg"))
    assert [row for row in json.loads(Path("a.json").read_text())["rows"] if IMAGE in row["method"]]


def test_the_picture_of_a_sound(run, labelled: Path, model: Path) -> None:
    sound = next(labelled.rglob("*.wav"))
    code, said, err = run("explain", sound, "--model", model, "--out", "a.svg")
    assert code == 0, err
    assert any(label in said for label in LABELS)
    svg(Path("a.svg"))


def test_pictures_of_a_training(tmp_path: Path) -> None:
    losses, clip = [1.0, 0.5], torch.rand(1, 20, 16)
    loss_curve(losses, tmp_path / "losses.png", FORMULA)
    reconstructions(clip, clip > 0.5, clip, [f"{SOUND}: {LABELS[1]}"], tmp_path / "drawn.png")
    assert len(list(tmp_path.iterdir())) == 2


@pytest.fixture
def shown(model: Path, labelled: Path) -> Callable[..., str]:
    pytest.importorskip("gradio", reason="pip install 'audioprune[app]'")
    from audioprune.app.messages import measurement, verdict
    from audioprune.app.pictures import picture, timeline_html

    tagger = Tagger(ap.load(model), ap.LogMel(128))
    sound = next(labelled.rglob("*.wav"))
    made = compare(tagger, sound, ap.TopK(0.5), seconds=0.01)
    made = replace(made, measured=f"{SCRIPT}{QUOTES}", notes=(SCRIPT,))

    def html() -> str:
        picture(made, 1)
        timeline_html(made)
        return verdict(made, f"{SCRIPT}{QUOTES}") + bars(made) + measurement(made)

    return html


def test_the_page(shown: Callable[[], str]) -> None:
    page = Read(shown())
    page.check(SCRIPT, SOUND)
    assert any(label in page.words for label in LABELS)
    assert page.tags <= {"div", "b", "span"}


def test_messages_of_the_page(shown: Callable[[], str], labelled: Path) -> None:
    from audioprune.app.messages import reason
    from audioprune.app.page import PageState, _failure
    from audioprune.app.pictures import figure_html

    said = reason(ValueError(f"{SCRIPT}{QUOTES}"), Path(SOUND), IMAGE)
    state = PageState(("", "", "", 0.5, ""), type("Before", (), {"name": f"{SCRIPT}{SOUND}"})())
    failed = Read("".join(_failure(said, state)))
    failed.check(SCRIPT, SOUND)
    assert failed.tags == {"b"}
    figure = Read(figure_html(b"", f"{QUOTES}{SCRIPT}"))
    figure.check(SCRIPT)
    assert figure.attributes == {"src", "alt"}


def test_transcripts_of_the_page() -> None:
    pytest.importorskip("gradio", reason="pip install 'audioprune[app]'")
    from audioprune.app.speech import transcripts

    row = {
        "path": f"/here/{SOUND}",
        "duration": 1.0,
        "text": f"one {SCRIPT} {IMAGE}",
        "unpruned": f"two {SCRIPT} {QUOTES}",
        "word_differences": 2,
        "unpruned_compute_seconds": 1.0,
        "compute_seconds": 1.0,
    }
    page = Read(transcripts(row, f"{SCRIPT}{QUOTES}", IMAGE))
    page.check(SCRIPT, SOUND, IMAGE)
    assert page.tags <= {"div", "p", "mark"}
