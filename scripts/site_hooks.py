"""Hooks for MkDocs: add files of the repository that pages link to, and lay docstrings out for Markdown."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

import griffe
from mkdocs.structure.files import File, Files

from audioprune.methods.names import TABLE

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
OUTSIDE = "repository"
"""Folder of the site for files that are outside docs/ in the repository."""
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)\s#]+)")


METHOD_PAGE = """# {kind}

::: audioprune.methods.{module}.{kind}

In commands its word is `{word}`.
"""
"""The page of a method for which nobody has written one."""


def on_config(config: Any) -> Any:
    """List every method in the navigation, in the order of the table."""
    methods = next(section["Methods"] for section in config["nav"] if "Methods" in section)
    methods += [{entry.kind: f"methods/{entry.kind}.md"} for entry in TABLE]
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add a page for each method that has none, and the files of the repository that pages link to."""
    for entry in TABLE:
        name = f"methods/{entry.kind}.md"
        if files.get_file_from_path(name) is None:
            content = METHOD_PAGE.format(**entry._asdict())
            files.append(File.generated(config, name, content=content))
    return _with_linked(files, config)


def _with_linked(files: Files, config: Any) -> Files:
    """Add the files of the repository that pages link to, and the files that these link to."""
    written = (file for file in files if file.src_uri.endswith(".md") and file.abs_src_path is not None)
    sources = {file.src_uri: Path(str(file.abs_src_path)) for file in written}
    while sources:
        uri, path = sources.popitem()
        for target in _targets(uri, path.read_text()):
            if target.startswith(f"{OUTSIDE}/") and files.get_file_from_path(target) is None:
                source = ROOT / target.removeprefix(f"{OUTSIDE}/")
                if source.is_file():
                    files.append(File.generated(config, target, abs_src_path=str(source)))
                    if target.endswith(".md"):
                        sources[target] = source
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Change links that leave docs/ so that they lead to these files on the site. Other links stay as they are."""

    def moved(match: re.Match[str]) -> str:
        target = _on_site(page.file.src_uri, match[1])
        return match[1] if target is None else posixpath.relpath(target, posixpath.dirname(page.file.src_uri) or ".")

    return LINK.sub(moved, markdown)


def _targets(uri: str, markdown: str) -> list[str]:
    return [target for link in LINK.findall(markdown) if (target := _on_site(uri, link)) is not None]


def _on_site(uri: str, link: str) -> str | None:
    """Return the name on the site of what a page links to; None if the link needs no change."""
    if uri.startswith(f"{OUTSIDE}/"):  # a file of the repository: its links start at its own folder
        here = posixpath.dirname(uri.removeprefix(f"{OUTSIDE}/"))
        target = posixpath.normpath(posixpath.join(here, link))
        return target.removeprefix("docs/") if target.startswith("docs/") else f"{OUTSIDE}/{target}"
    target = posixpath.normpath(posixpath.join("docs", posixpath.dirname(uri), link))
    return None if target.startswith("docs/") else f"{OUTSIDE}/{target}"


class Docstrings(griffe.Extension):
    """Lay docstrings out for Markdown: turn lines of the form `name: what it is` into a list.

    Google's sections for such names stay as they are.
    """

    def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = "\n\n".join(map(listed, obj.docstring.value.split("\n\n")))


ENTRY = re.compile(r"^([a-z_][\w\[\]]*(?:, [a-z_][\w\[\]]*)*): (?=\S)", re.M)


def listed(paragraph: str) -> str:
    """Turn a paragraph of `name: what it is` lines into a list; return any other paragraph as it is."""
    if paragraph.startswith((" ", "\t")) or not ENTRY.match(paragraph):
        return paragraph
    lines = [line if ENTRY.match(line) else f"  {line.strip()}" for line in paragraph.splitlines()]
    return "\n".join(ENTRY.sub(lambda m: f"- **{m[1]}**: ", line) for line in lines)
