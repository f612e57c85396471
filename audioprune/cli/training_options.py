"""Options and helpers of the commands that read data sets and train."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options as o
from .console import err, progress

if TYPE_CHECKING:
    from ..data import ClipTable, SoundCache
    from ..training.recipe import Recipe

RecipeOption = Annotated[
    str, typer.Option("--recipe", "-r", help="Name of a recipe (`audioprune recipes` lists them), or a .yaml file.")
]
DataOption = Annotated[
    Path,
    typer.Option(
        "--data",
        "-d",
        help="Folder of the data set: ESC-10/50, Speech Commands, VoxCeleb-1, AudioSet, FSDD, or one folder a class.",
    ),
]
DataNameOption = Annotated[
    str | None,
    typer.Option(
        "--data-name",
        help="Which data set it is, where its layout does not tell: esc10, esc50, speech-commands, voxceleb1, "
        "audioset, fsdd-digits, fsdd-speakers, manifest or folders. [default: the recipe's, or by layout]",
        show_default=False,
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="Change a setting of the recipe: lr=1e-4, epochs=10, augment.mixup=0.5. Repeatable."),
]
FoldOption = Annotated[
    str | None, typer.Option(help="Fold to hold out for testing, where the data set has folds.", show_default=False)
]
HoldOutOption = Annotated[
    str | None, typer.Option(help="Further folds to leave alone, with commas.", show_default=False)
]
InitOption = Annotated[
    str | None,
    typer.Option(help="Weights to start from: folder, weight file or hub id. [default: the recipe's]"),
]
CacheOption = Annotated[
    Path | None,
    typer.Option(
        help="Folder for decoded sounds. [default: $XDG_CACHE_HOME/audioprune or ~/.cache/audioprune]",
        show_default=False,
    ),
]
OutOption = Annotated[Path, typer.Option("--out", "-o", help="Folder for the model, its checkpoints and result.json.")]
LimitOption = Annotated[int | None, typer.Option(min=1, help="Hear so many clips, at even distances. [default: all]")]


def open_data(
    data: Path, name: str | None, recipe: Recipe | None, cache: Path | None, seconds: float = 0.0
) -> tuple[ClipTable, SoundCache]:
    """The clip table, and its sounds decoded. seconds: what the model hears at once, if that is more than 10 s."""
    from ..audio.features import LogMel
    from ..data import SoundCache, read

    o.quiet()
    table = read(data, name or (recipe.data if recipe else None))
    for line in (*table.warnings, *table.skipped):
        err.print(f"note: {line}")
    frames = recipe.frames if recipe else 1024
    store = SoundCache(cache or cache_folder(), max(seconds, LogMel(frames).max_seconds))
    with progress("clips") as bar:
        task = bar.add_task(f"Reading {table.name}", total=len(table))
        store.prepare(table.rows, lambda: bar.advance(task))
    return table, store


def cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "audioprune"


def words(text: str | None) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip()) if text else ()


def command() -> str:
    return shlex.join(["audioprune", *sys.argv[1:]])


def ticking(update: Any) -> tuple[Any, ...]:
    from ..training.finetune import ticker

    return (ticker(update),)


@contextmanager
def step_bar(name: str) -> Iterator[Callable[[], tuple[Any, ...]]]:
    with progress("steps") as bar:
        task = bar.add_task(name, total=None)
        yield lambda: ticking(lambda done, total: bar.update(task, completed=done, total=total))
