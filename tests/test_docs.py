"""Check the pages: their Python runs, their commands exist, their links lead somewhere, every method has a page.

If a Python block cannot run here, the line before it says why: `<!-- not run: needs the hub -->`.
"""

from __future__ import annotations

import builtins
import importlib.util
import re
import shlex
import subprocess
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest
import typer
from PIL import Image

from audioprune.cli import app
from audioprune.methods import METHODS

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
WITH_LINKS = [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
IN_OTHER_TESTS = {"README.md": ("ap.trace(model)",)}
"""Blocks that tests/test_contributing.py runs, by what they hold."""
EXACT = ("index", "start", "prune", "choose-a-rate", "onnx", *METHODS, "recommended")
"""Pages whose comments after a print are what it prints."""
RUN = "docs/start.md"
"""Page whose commands run here, all of them on what ships."""

WRONG_ON_PURPOSE = "docs/bad-inputs.md"
"""Page of commands that are refused."""

FENCE = re.compile(r"^(?P<before>[^\n]*)\n+(?P<fence>```+)(?P<kind>\w*)[^\n]*\n(?P<text>.*?)^(?P=fence)", re.M | re.S)
COMMAND = typer.main.get_command(app)


class Block(NamedTuple):
    before: str
    text: str
    line: int


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path, kind: str) -> list[Block]:
    text = page.read_text()
    return [
        Block(found["before"], found["text"], text.count("\n", 0, found.start("text")) + 1)
        for found in FENCE.finditer("\n" + text)
        if found["kind"] == kind
    ]


def prose(page: Path) -> str:
    """A page without its blocks of code."""
    return FENCE.sub(lambda found: found["before"], "\n" + page.read_text())


def with_blocks(kind: str) -> list[Any]:
    return [pytest.param(page, id=named(page)) for page in PAGES if blocks(page, kind)]


# Python


@pytest.mark.usefixtures("counted_once")
@pytest.mark.parametrize("page", with_blocks("python"))
def test_python_blocks_run(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    namespace: dict[str, Any] = {"__name__": "example"}
    for block in blocks(page, "python"):
        elsewhere = any(mark in block.text for mark in IN_OTHER_TESTS.get(named(page), ()))
        if not elsewhere and not re.match(r"<!-- not run: \w.* -->$", block.before):
            said = execute(block, page, namespace)
            if page.stem in EXACT:
                check_comments(block, said)


def execute(block: Block, page: Path, namespace: dict[str, Any]) -> list[tuple[int, str]]:
    """Execute a block; what it printed, each with its line in the block."""
    printed: list[tuple[int, str]] = []

    def note(*values: Any, **_: Any) -> None:
        printed.append((sys._getframe(1).f_lineno, " ".join(map(str, values))))

    namespace["print"] = note
    try:
        exec(compile(block.text, f"{page.name}, block at line {block.line}", "exec"), namespace)
    finally:
        namespace["print"] = builtins.print
    return printed


def check_comments(block: Block, printed: list[tuple[int, str]]) -> None:
    lines = block.text.splitlines()
    for number, text in printed:
        _, _, comment = lines[number - 1].partition(")  # ")
        if comment:
            assert text.startswith(comment) or comment.startswith(text), f"printed {text!r}, the page says {comment!r}"


def test_the_marks_are_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "```python\na\n```\n\n<!-- not run: needs the hub -->\n```python\nb\n```\ntext\n\n```bash\nc\n```\n"
    )
    assert [(block.before, block.text) for block in blocks(page, "python")] == [
        ("", "a\n"),
        ("<!-- not run: needs the hub -->", "b\n"),
    ]
    assert blocks(page, "bash")[0].text == "c\n"
    with pytest.raises(AssertionError, match="the page says"):
        check_comments(Block("", "print(1 + 1)  # 3\n", 1), execute(Block("", "print(1 + 1)  # 3\n", 1), page, {}))


# Commands


def commands(text: str) -> Iterator[list[str]]:
    """The words of each line of a shell block that calls audioprune, without `audioprune`."""
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] == ["audioprune"]:
            yield words[1:]


def problem_of(words: list[str], whole: bool = True) -> str | None:
    """What the command line would say of these words before anything is opened; None where they are right.

    whole: whether everything that is needed must be there.
    """
    command = COMMAND.commands.get(words[0])  # type: ignore[attr-defined]
    if command is None:
        return f"no such command as {words[0]}"
    try:
        command.make_context(words[0], list(words[1:]))
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        said = error.format_message()
        return said if whole or not said.startswith("Missing") else None
    return None


@pytest.mark.parametrize("page", with_blocks("bash"))
def test_commands_exist(page: Path) -> None:
    for block in blocks(page, "bash"):
        for words in commands(block.text):
            assert problem_of(words) is None, shlex.join(words)


@pytest.mark.parametrize(
    "page", [pytest.param(page, id=named(page)) for page in PAGES if named(page) != WRONG_ON_PURPOSE]
)
def test_commands_within_sentences_exist(page: Path) -> None:
    for span in re.findall(r"(?<!`)`(audioprune [^`]+)`(?!`)", prose(page)):
        words = [word for word in shlex.split(span)[1:] if word != "…"]
        if words and words[0] in COMMAND.commands:  # type: ignore[attr-defined]
            assert problem_of(words, whole=False) is None, span
        else:
            assert not words or not re.match(r"[a-z]", words[0]), f"no such command: {span}"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("tog sounds/", "no such command"),
        ("tag sounds/ --keeprate 0.5", "No such option"),
        ("tag --keep-rate 0.5", "Missing"),
        ("tag sounds/ --top three", "valid integer"),
        ("explain a.wav b.wav", "unexpected extra argument"),
        ("tag sounds/ --keep-rate 0.5 --out a.jsonl", None),
    ],
)
def test_wrong_commands_are_found(line: str, said: str | None) -> None:
    problem = problem_of(line.split())
    assert problem is None if said is None else said in str(problem)


@pytest.mark.usefixtures("counted_once")
def test_the_first_commands_run(run, tmp_path: Path) -> None:
    (tmp_path / "audioprune").symlink_to(ROOT / "audioprune")
    lines = [words for block in blocks(ROOT / RUN, "bash") for words in commands(block.text)]
    assert len(lines) >= 3
    for words in lines:
        code, out, err = run(*words)
        assert code == 0, (words, out, err)
        assert out


# Links


def slugs(page: Path) -> set[str]:
    """Anchors of a page: its headings as GitHub and as the site name them, and the objects of its reference."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.+)$", prose(page), re.M):
        text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").strip().lower()
        github = re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
        ascii_ = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
        site = re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", ascii_).strip())
        if github == site:  # others would lead somewhere in one place only
            found.add(site)
    return found | set(re.findall(r"^::: (\S+)", page.read_text(), re.M))


@pytest.mark.parametrize("page", [pytest.param(page, id=named(page)) for page in WITH_LINKS])
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        parts = urlsplit(link)
        if parts.scheme:
            assert parts.scheme == "https", link
            assert re.fullmatch(r"[a-z0-9-]+(\.[a-z0-9-]+)+", parts.netloc), link
            continue
        target = page if not parts.path else (page.parent / parts.path).resolve()
        assert target.exists(), link
        assert target.is_relative_to(ROOT), link
        if parts.fragment:
            assert target.suffix == ".md", link
            assert parts.fragment in slugs(target), link


# Methods


PAGES_OF_METHODS = sorted(page.stem for page in (DOCS / "methods").glob("*.md"))


def test_every_page_is_that_of_a_method() -> None:
    assert set(PAGES_OF_METHODS) <= {"recommended", *METHODS}


@pytest.mark.parametrize("name", PAGES_OF_METHODS)
def test_the_page_of_a_method(name: str) -> None:
    page = DOCS / "methods" / f"{name}.md"
    text = page.read_text()
    assert f"](methods/{name}.md)" in (DOCS / "methods.md").read_text()
    assert text.startswith(f"# {name}\n")
    assert "\n**Source.** " in text
    for heading in ("## Formula", "## In code", "## When to use it", "## Reference"):
        assert heading in text
    if name in METHODS:
        assert f"::: audioprune.{name}\n" in text
        for number in re.findall(r"arXiv (\d{4}\.\d{5})", METHODS[name].__doc__ or ""):
            assert f"arxiv.org/abs/{number}" in text, number


@pytest.mark.parametrize("name", PAGES_OF_METHODS)
def test_the_picture_of_a_method(name: str) -> None:
    path = DOCS / "methods" / f"{name}.png"
    assert path.stat().st_size < 60_000
    with Image.open(path) as picture:
        assert picture.size == (900, 470)
    assert f"]({name}.png)" in (DOCS / "methods" / f"{name}.md").read_text()


def test_pages_of_methods_say_what_their_json_says() -> None:
    command = [sys.executable, str(ROOT / "scripts" / "method_pages.py"), "--check"]
    assert subprocess.run(command, capture_output=True, text=True).stdout == "stale: nothing\n"


# The site


@pytest.mark.skipif(importlib.util.find_spec("mkdocs") is None, reason="mkdocs comes with the extra docs")
def test_the_site_builds_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    built = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert built.returncode == 0, built.stdout + built.stderr
    pages = [page for page in tmp_path.rglob("*.html") if page.parent.name != "analysis"]
    assert len(pages) > 40
    for page in pages:
        text = page.read_text()
        assert not re.findall(r"<(?:script|img|iframe|source)[^>]*\bsrc=\"?(?:https?:)?//[^\"> ]*", text), page
        loaded = re.findall(r"<link[^>]*>", text)
        assert not [link for link in loaded if re.search(r"href=\"?(?:https?:)?//", link)], page
