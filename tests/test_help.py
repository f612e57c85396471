"""What `--help` teaches: examples that parse, every option described, the same names for the same things."""

from __future__ import annotations

import inspect
import re
import shlex
from collections.abc import Iterator
from typing import Any

import pytest
import typer

from audioprune import __version__, cli

ROOT: Any = typer.main.get_command(cli.app)
COMMANDS = dict(sorted(ROOT.commands.items()))


def examples(text: str) -> Iterator[list[str]]:
    """The commands in a help: paragraphs that are indented and begin with the program's name."""
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(text)):
        if paragraph.startswith("    audioprune "):
            yield shlex.split(" ".join(paragraph.split("\n")))[1:]


def options(command: Any) -> list[Any]:
    return [parameter for parameter in command.params if parameter.param_type_name == "option"]


def names(command: Any) -> set[str]:
    return {name for option in options(command) for name in (*option.opts, *option.secondary_opts)}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_an_example_that_parses(name: str) -> None:
    command = COMMANDS[name]
    found = [words for words in examples(command.callback.__doc__) if words[0] == name]
    assert found, f"{name} has no example"
    for first, *words in examples(command.callback.__doc__):
        COMMANDS[first].make_context(first, words)


@pytest.mark.parametrize("name", COMMANDS)
def test_examples_are_shown_as_they_are(run, monkeypatch, name: str) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    code, out, _ = run(name, "--help")
    assert code == 0
    shown = " ".join(out.split())
    for words in examples(COMMANDS[name].callback.__doc__):
        assert f"audioprune {words[0]} {words[1] if len(words) > 1 else ''}".strip() in shown


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_and_argument_is_described(name: str) -> None:
    for parameter in COMMANDS[name].params:
        text = parameter.help
        assert text, f"{name} {parameter.name} has no help"
        assert text.rstrip("]").endswith((".", "…", ")", '"')) or text.endswith("]"), (
            f"{name} {parameter.name}: {text!r}"
        )
        is_number = parameter.param_type_name == "option" and "seconds" in parameter.name
        assert not is_number or "second" in text.lower(), f"{name} {parameter.name} tells no unit"


@pytest.mark.parametrize("name", COMMANDS)
def test_the_same_is_called_the_same(name: str) -> None:
    found = names(COMMANDS[name])
    assert "--json" in found or name == "app", "which prints no results"
    assert ("--force" in found) == ("--overwrite" in found)
    if "--out" in found:
        assert "-o" in found
    if "--model" in found:
        assert "-m" in found
    if "--data" in found:
        assert "-d" in found


def test_the_first_page_is_the_way_in(run) -> None:
    code, out, _ = run("--help")
    assert code == 0
    path = ["audioprune demo", "audioprune tag", "audioprune explain", "audioprune calibrate", "audioprune app"]
    places = [out.index(word) for word in path]
    assert places == sorted(places)
    assert places[-1] < min(out.index(panel) for panel in cli.PANELS)
    for panel in cli.PANELS:
        assert panel in out
    for words in re.findall(r"`audioprune ([^`]+)`", cli.app.info.help):
        first, *rest = shlex.split(words)
        if first in COMMANDS:
            COMMANDS[first].make_context(first, rest)


def test_every_command_is_in_a_panel() -> None:
    assert {name for commands in cli.PANELS.values() for name in commands} == set(COMMANDS)


def test_the_version(run) -> None:
    assert run("--version")[:2] == (0, f"audioprune {__version__}\n")


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (("tagg",), "tag"),
        (("calibrat",), "calibrate"),
        (("tag", "a.wav", "--keeprate", "1"), "--keep-rate"),
        (("bench", "--batchsizes", "1"), "--batch-sizes"),
    ],
)
def test_what_was_misspelt_is_guessed(run, monkeypatch, words: tuple[str, ...], meant: str) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    code, out, err = run(*words)
    assert code == 2
    assert re.search(rf"(Did you mean|Possible options).*{meant}", out + err)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(28, "No space left on device", "a.jsonl"), "a.jsonl: the disk is full; make room and run the same"),
        (OSError(28, "No space left on device"), "the output: the disk is full"),
        (PermissionError(13, "Permission denied", "a"), "a: permission denied; choose a place that you may use"),
        (FileExistsError("a: exists; choose another"), "error: a: exists; choose another"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB."), "out of memory; take a smaller --batch-size"),
    ],
)
def test_what_the_system_refuses_comes_with_a_remedy(run, monkeypatch, error: Exception, said: str) -> None:
    def refused(*_: object) -> None:
        raise error

    monkeypatch.setattr("audioprune.models.loading.load", refused)
    code, _, err = run("bench")
    assert code == 2
    assert said in err
    assert "Traceback" not in err
