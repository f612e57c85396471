"""The command line: thin commands over the library."""

from __future__ import annotations

import os
import sys
import warnings

import typer
from rich.text import Text

from .analyze import analyze
from .app import app as page
from .ask import ask
from .bench import bench
from .calibrate import calibrate
from .compare import compare
from .console import err
from .convert import convert
from .demo import demo
from .eval_lm import eval_lm
from .explain import explain
from .export import export
from .tables import evaluate, sweep
from .tag import tag
from .training import pretrain, recipes, train

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

    - `audioprune demo` tags example clips at two keep rates and draws what was kept
    - `audioprune tag my-sounds/ --keep-rate 0.5` tags your own
    - `audioprune explain my-sounds/dog.wav` draws which patches of one sound were kept
    - `audioprune ask my-sounds/two.wav "how many digits ?"` asks a model that reads a quarter of it
    - `audioprune app` serves a page: record a sound, hear it with and without pruning
    - `audioprune bench --model MODEL` measures what pruning saves on this machine
    - `audioprune calibrate --model MODEL --clips FOLDER --max-disagreement 0.02` chooses the rate on your own sounds,
      without labels
    - `audioprune compare --model MODEL --data FOLDER` compares pruning methods on your labelled sounds
    - `audioprune export MODEL OUT.onnx --keep-rate 0.5` writes a pruned model for onnxruntime
    - `audioprune analyze --model MODEL --data FOLDER --out REPORT` reports which tokens are kept and why they matter
    - `audioprune eval-lm --model MODEL --data FOLDER --out OUT` tests an audio-language model on the papers' benchmarks
    - `audioprune train --recipe RECIPE --data FOLDER` fine-tunes with pruning; `audioprune recipes` lists recipes
    """,
)
for command in (
    tag,
    explain,
    ask,
    bench,
    calibrate,
    compare,
    analyze,
    convert,
    export,
    demo,
    recipes,
    train,
    pretrain,
    sweep,
):
    app.command()(command)
app.command("app")(page)
app.command("eval")(evaluate)
app.command("eval-lm")(eval_lm)


EXTRAS = {
    "train": ("accelerate", "pydantic", "yaml", "sklearn", "tensorboard"),
    "lm": ("pycocoevalcap",),
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "app": ("gradio",),
}
"""Extra to the modules that it installs."""

INTERRUPTED = 130
"""Exit code of a command that Ctrl-C ended."""


def main() -> None:
    """Run the command line; errors that a user can mend are one line on stderr and exit code 2."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    warnings.filterwarnings("ignore", category=FutureWarning)
    try:
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
        err.print(Text.assemble(("error:", "bold red"), f" {error}"), soft_wrap=True)
        sys.exit(2)
