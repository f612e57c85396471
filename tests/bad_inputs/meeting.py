"""What comes of each case, on the command line."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shlex
import socket
import tempfile
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from huggingface_hub import constants

import audioprune as ap
from audioprune import cli

from .cases import CASES, Case
from .files import build


@dataclass(frozen=True)
class Outcome:
    """What a command left: exit code, message, everything that it printed, and what became of the files.

    lost: files whose earlier content is not there any more.
    """

    code: int
    said: str
    printed: str
    stays: str
    lost: tuple[str, ...]


@contextlib.contextmanager
def stage() -> Iterator[Path]:
    """A folder with all files, in which cases are tried, and a port that is in use."""
    with tempfile.TemporaryDirectory() as place, contextlib.ExitStack() as stack:
        folder = Path(place, "stage").resolve()
        folder.mkdir()
        stack.enter_context(contextlib.chdir(folder))
        stack.enter_context(patch.dict(os.environ, {"XDG_CACHE_HOME": str(folder.parent / "cache")}))
        stack.enter_context(patch.object(constants, "HF_HUB_OFFLINE", True))  # the same said on every machine
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            build()
        yield folder


def meet(case: Case, port: int) -> Outcome:
    """Try a case on the command line, in this process, and put everything back."""
    before = {path: path.read_bytes() for path in _files()}
    code, out, err = _main(shlex.split(case.words.replace("{port}", str(port))))
    after = {path: path.read_bytes() for path in _files()}
    added = sorted(after.keys() - before.keys())
    grown = [path for path in before if path in after and after[path] != before[path]]
    lost = [path for path in before if not after.get(path, b"").startswith(_whole_lines(before[path]))]
    rows = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    rows += [row for path in grown if path not in lost for row in _new_rows(before[path], after[path])]
    for path in added:
        path.unlink()
    for path in (*grown, *lost):
        path.write_bytes(before[path])
    said = _message(err) or "; ".join(map(_row, rows)) or _after_the_bar(err)
    stays = _stays(case, before, after, added, grown)
    return Outcome(code, portable(said, port), out + err, stays, tuple(map(str, lost)))


def _files() -> list[Path]:
    return [path for path in Path().rglob("*") if path.is_file()]


def _main(words: list[str]) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command; 99 and a traceback for what nobody caught."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.ExitStack() as stack:
        stack.enter_context(patch("sys.argv", ["audioprune", *words]))
        stack.enter_context(patch.dict(os.environ, {"COLUMNS": "1000"}))
        for console in (cli.console.err, cli.console.out):
            stack.enter_context(patch.object(console, "_width", 1000))
        stack.enter_context(contextlib.redirect_stdout(out))
        stack.enter_context(contextlib.redirect_stderr(err))
        try:
            cli.main()
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        except Exception:
            traceback.print_exc()
            code = 99
    return code, out.getvalue(), err.getvalue()


def _message(err: str) -> str:
    """What was said of a mistake: ours after "error:", or that of the parser, which has a box around it."""
    if "error: " in err:
        return err[err.index("error: ") :].removeprefix("error: ").strip()
    return "\n".join(line.strip("│ ") for line in err.splitlines() if line.startswith("│"))


def _after_the_bar(err: str) -> str:
    return "\n".join(line.strip() for line in err.splitlines() if "━" not in line and not line.startswith("Pruned by"))


def _row(row: dict[str, Any]) -> str:
    if "error" in row:
        return row["error"]
    return f"{row['labels'][0]['label']}; {row['heard_seconds']:.2f} of {row['seconds']:.2f} s heard"


def _whole_lines(content: bytes) -> bytes:
    """Without what a kill left of a last line of results."""
    return content[: content.rindex(b"\n") + 1] if content.startswith(b'{"path": ') else content


def _new_rows(before: bytes, after: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in after.removeprefix(_whole_lines(before)).splitlines()]


def _stays(
    case: Case, before: dict[Path, bytes], after: dict[Path, bytes], added: list[Path], grown: list[Path]
) -> str:
    found = [f"`{path}` is written" for path in added]
    for path in grown:
        torn = _whole_lines(before[path]) != before[path]
        rows = len(_new_rows(before[path], after[path]))
        cut = "the torn row cut off, " if torn else ""
        found.append(f"`{path}`: earlier rows, {cut}{rows} new")
    named = shlex.split(case.words)[2:]
    kept = [path for path in before if str(path) in named and path not in grown]
    outputs = [path for path in kept if path.suffix in (".jsonl", ".json", ".png", ".onnx") and _is_output(case, path)]
    found += [f"`{path}` as it was" for path in outputs]
    return "; ".join(found) or "nothing is written"


def _is_output(case: Case, path: Path) -> bool:
    words = shlex.split(case.words)
    before = words[words.index(str(path)) - 1]
    return before in ("--out", "--picture") or words[0] == "export"


def portable(said: str, port: int | str) -> str:
    """Without this machine's folders and numbers."""
    said = said.replace(f"{Path.cwd()}/", "").replace(f"{Path(ap.__file__).parents[1]}/", "")
    return said.replace(str(port), "7860").encode(errors="replace").decode()


def everything() -> dict[str, list[tuple[Case, Outcome]]]:
    """Every case that can be tried here with what came of it. In the stage."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        return {group: [(case, meet(case, port)) for case in cases if case.is_met] for group, cases in CASES.items()}
