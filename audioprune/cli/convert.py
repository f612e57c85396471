"""`audioprune convert`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from . import options as o
from .console import out, progress


def convert(
    source: Annotated[str, typer.Argument(metavar="SRC", help="Weight file, folder, or hub id.")],
    destination: Annotated[Path, typer.Argument(metavar="DST", help="Folder to write.")],
    pooling: Annotated[str | None, typer.Option(help='Of an AST: "cls" or "mean".')] = None,
    num_labels: Annotated[int | None, typer.Option(min=1, help="Labels of a new head, for a pre-trained file.")] = None,
    num_attention_heads: Annotated[
        int | None, typer.Option(min=1, help="Not in a weight file. [default: width / 64]", show_default=False)
    ] = None,
    max_length: Annotated[
        int | None, typer.Option(min=16, help="Frames of 10 ms, where fewer than the file's.")
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="Data set whose mean and std the front end uses: esc50, speech-commands, …")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", "--force", help="Write into a folder that has something in it.")
    ] = False,
    as_json: o.JsonOption = False,
) -> None:
    """Write an authors' weight file as a folder in transformers' format: safetensors, config, and front end.

        audioprune convert finetuned.pth my-audiomae/ --preset esc50

    Into the folder go config.json, model.safetensors and preprocessor_config.json; it is then a --model of every
    command.
    """
    from ..audio.features import PRESETS
    from ..disk import named_if_full
    from ..files import check_writable
    from ..models.loading import load, load_extractor

    if destination.is_file():
        raise FileExistsError(f"{destination}: is a file; DST is the folder to write")
    if destination.exists() and any(destination.iterdir()) and not overwrite:
        raise FileExistsError(f"{destination}: exists and is not empty; pass --overwrite to write into it")
    if preset is not None and preset not in PRESETS:
        raise ValueError(f"--preset is {preset!r}; there are {', '.join(PRESETS)}")
    check_writable(destination / "config.json")
    o.quiet()
    given = {"num_labels": num_labels, "num_attention_heads": num_attention_heads, "max_length": max_length}
    with progress("steps", brief=True) as bar:
        task = bar.add_task("Reading and writing", total=2)
        model = load(source, pooling=pooling, **{key: value for key, value in given.items() if value is not None})
        extractor = load_extractor(source, model)
        bar.advance(task)
        if preset is not None:
            extractor.mean, extractor.std = PRESETS[preset].mean, PRESETS[preset].std
        with named_if_full(destination):
            model.save_pretrained(destination)
            extractor.save_pretrained(destination)
        bar.advance(task)
    parameters = sum(p.numel() for p in model.parameters())
    if as_json:
        print(json.dumps({"path": str(destination), "model": type(model).__name__, "parameters": parameters}))
    else:
        out.print(f"{type(model).__name__}, {parameters / 1e6:.1f} M parameters → {destination}", soft_wrap=True)
