"""The command line: thin commands over the library."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from typing import Annotated

import typer
from rich.text import Text

from .analyze import analyze
from .app import app as page
from .ask import ask
from .bench import bench
from .calibrate import calibrate
from .compare import compare
from .console import INTERRUPTED, err, own_threads, own_warnings
from .convert import convert
from .demo import demo
from .doctor import doctor
from .eval_asr import eval_asr
from .eval_lm import eval_lm
from .explain import explain
from .export import export
from .listen import listen
from .tables import evaluate, sweep
from .tag import tag
from .training import pretrain, recipes, train
from .transcribe import transcribe

EXPECTED = (ValueError, TypeError, OSError, RuntimeError)
"""What the library raises where the caller can mend it; with AUDIOPRUNE_DEBUG set the traceback is shown too."""

app = typer.Typer(
    name="audioprune",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="""Let audio transformers forget the tokens that don't matter.

    Five minutes, with the small model that ships with it:

    1. `audioprune demo` tags example clips, pruned and not, and draws what was kept
    2. `audioprune tag my-sounds/ --out results.jsonl` tags your own
    3. `audioprune explain my-sounds/dog.wav` draws which patches of one sound were kept
    4. `audioprune calibrate --clips my-sounds/ --max-disagreement 0.1` chooses on your own sounds, without labels, how
       much to prune; every command takes what it writes: `--method pruning.json`
    5. `audioprune app --open` serves a page: record a sound, hear it with and without pruning

    Then, on sounds with labels:

    - `audioprune compare --data my-labelled-sounds/` compares methods
    - `audioprune analyze --data my-labelled-sounds/ --out report/` tells which tokens are kept, and why they matter
    - `audioprune train --recipe esc10-audiomae --data my-labelled-sounds/ --out run/` trains with pruning

    With a model of your own, give `--model`: a folder, a weight file, or a hub id. `audioprune COMMAND --help` has an
    example of each command.

    Exit codes: 0 all well, 1 some clips failed, 2 a mistake that the message tells how to mend, 130 stopped by Ctrl-C.
    """,
)

PANELS: dict[str, dict[str, Callable[..., None]]] = {
    "Start here": {"demo": demo, "tag": tag, "explain": explain, "listen": listen, "doctor": doctor},
    "Speech": {"transcribe": transcribe, "eval-asr": eval_asr},
    "Choose": {"calibrate": calibrate, "bench": bench, "compare": compare},
    "Serve and export": {"app": page, "export": export, "convert": convert},
    "Audio-language models": {"ask": ask, "eval-lm": eval_lm},
    "Train and analyse": {
        "recipes": recipes,
        "train": train,
        "pretrain": pretrain,
        "sweep": sweep,
        "eval": evaluate,
        "analyze": analyze,
    },
}
"""Every command by what it is for, in the order of `--help`."""
for panel, commands in PANELS.items():
    for name, command in commands.items():
        app.command(name, rich_help_panel=panel)(command)


def _print_version(asked: bool) -> None:
    if asked:
        from .. import __version__

        print(f"audioprune {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """What the commands have in common."""


EXTRAS = {
    "media": ("av",),
    "train": ("accelerate", "jinja2", "pydantic", "yaml", "sklearn", "tensorboard"),
    "eval-lm": ("pycocoevalcap",),
    "eval-asr": ("jiwer",),
    "export": ("onnx", "onnxscript", "onnxruntime"),
    "app": ("gradio",),
    "ray": ("ray", "pyarrow"),
    "mic": ("sounddevice",),
}
"""Extra to the modules that it installs."""
NEEDED_BY = {
    "train": ("train", "pretrain", "sweep", "eval", "recipes", "analyze"),
    "eval-lm": ("eval-lm (CIDEr)",),
    "eval-asr": ("eval-asr", "calibrate of a Whisper"),
    "export": ("export",),
    "app": ("app",),
    "ray": ("tag of Parquet files", "tag --engine ray"),
    "media": ("tag of M4A, WMA, WebM … and of videos",),
    "mic": ("listen --mic",),
}
"""Extra to the commands that need it; all others need none."""

REMEDIES: dict[int, str] = {
    errno.EEXIST: "is a file where a folder is needed; choose another path",
    errno.ENOTDIR: "is a file where a folder is needed; choose another path",
    errno.EISDIR: "is a folder; name a file",
    errno.ENOENT: "no such file or folder; see to its name and folder",
    errno.EACCES: "permission denied; choose a place that you may use, or change its rights",
    errno.EPERM: "permission denied; choose a place that you may use, or change its rights",
    errno.EROFS: "cannot be written to; choose another path",
    errno.ENOSPC: "the disk is full; make room and run the same command again",
    errno.EDQUOT: "your share of the disk is full; make room and run the same command again",
    errno.EFBIG: "files may not grow so large here (ulimit -f); raise that and run the same command again",
}
"""What the system refuses, and what to do about it."""


def main() -> None:
    """Run the command line; errors that a user can mend are one line on stderr and exit code 2."""
    if not err.is_terminal:
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        with own_warnings(), own_threads(REMEDIES):
            app()
    except SystemExit as stop:  # how the parser ends, with its own messages for what was typed wrong
        if stop.code == INTERRUPTED:
            err.print("Stopped. What was written stays.")
        raise
    except KeyboardInterrupt:
        err.print("Stopped. What was written stays.")
        sys.exit(INTERRUPTED)
    except ModuleNotFoundError as error:
        extra = next((name for name, modules in EXTRAS.items() if error.name in modules), None)
        if os.environ.get("AUDIOPRUNE_DEBUG") or extra is None:
            raise
        err.print(
            Text.assemble(("error:", "bold red"), f" this needs {error.name}: pip install 'audioprune[{extra}]'"),
            soft_wrap=True,
        )
        sys.exit(2)
    except Exception as error:
        if os.environ.get("AUDIOPRUNE_DEBUG") or not isinstance(error, EXPECTED):
            raise
        err.print(Text.assemble(("error:", "bold red"), f" {_said(error)}"), soft_wrap=True)
        sys.exit(2)


def _said(error: Exception) -> str:
    """What an error says; of the system's own errors and of a full memory, with what to do about it."""
    if isinstance(error, OSError) and error.errno in REMEDIES:
        place = "the output" if error.filename is None else os.fsdecode(error.filename)
        return f"{place}: {REMEDIES[error.errno]}"
    text = str(error)
    if "out of memory" in text or "can't allocate memory" in text:
        return f"{text.splitlines()[0].split('. ')[0]}; take a smaller --batch-size, or --dtype bfloat16"
    return text
