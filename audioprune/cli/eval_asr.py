"""`audioprune eval-asr`: pruning methods on speech with transcripts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from . import options as o
from . import training_options as t
from .console import compact_table, err, out, progress

DEFAULT = ("recommended", "cut+128", "cut")
METHODS_HELP = (
    "What to compare with the unpruned model: a word such as padding, atome or recommended, a JSON file, a folder with "
    'a pruning.json, or JSON such as {"method": "AToMe", "keep_rate": 0.9}; cut and cut+128 are baselines that cut the '
    f"window to the clip and so many tokens. Repeatable. [default: {', '.join(DEFAULT)}]"
)


def eval_asr(
    manifest: Annotated[
        Path,
        typer.Option(
            help="CSV file with a column for the sound (path, file, audio …, relative to it) and one for what is said "
            "(text, transcript, sentence …)."
        ),
    ],
    out_folder: Annotated[
        Path,
        typer.Option("--out", "-o", help="Folder for rows, table and picture. Run again to finish what is missing."),
    ],
    model: Annotated[
        str, typer.Option("--model", "-m", help="A Whisper: a folder in transformers' format, or a hub id.")
    ] = "openai/whisper-base",
    methods: Annotated[
        list[str] | None,
        typer.Option(
            "--method",
            help=METHODS_HELP,
            show_default=False,
        ),
    ] = None,
    keep_rates: Annotated[
        list[str] | None,
        typer.Option(
            "--keep-rate",
            help="Keep rate of each method that is named by a word and has none of its own, as padding has; with "
            "commas, one a layer. Repeatable. [default: 0.7]",
            show_default=False,
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="Take only so many clips, at even distances. [default: all]", show_default=False),
    ] = None,
    language: Annotated[
        str, typer.Option(help='Language of the clips, such as en or german; "auto" lets the model detect it.')
    ] = "en",
    beams: Annotated[int, typer.Option(min=1, help="Beams of the search; 1 is greedy.")] = 1,
    threads: Annotated[int, typer.Option(min=1, help="Threads of PyTorch.")] = 2,
    batch_size: Annotated[int, typer.Option(min=1, help="Clips per transcription.")] = 1,
    repeats: Annotated[
        int, typer.Option(min=1, help="Timed transcriptions of each clip; 1 takes words and seconds from one run.")
    ] = 3,
    device: o.DeviceOption = "cpu",
    dtype: o.DtypeOption = "float32",
    as_json: o.JsonOption = False,
) -> None:
    """Compare pruning methods on Whisper: word errors, runaway transcripts, tokens, seconds.

        audioprune eval-asr --manifest speech/manifest.csv --model openai/whisper-base --out runs/speech

    Methods with settings, on a few clips:

        audioprune eval-asr --manifest speech/manifest.csv --method padding --method mine.json --limit 20 --out runs/few

    On each clip all methods take turns, so the ratios are of the same minutes. A clip's row is written as soon as all
    have finished it: a run that is stopped continues when it is started again. A sound that cannot be decoded is left
    out and makes the exit code 1. The result is in the folder, as eval-asr.json, eval-asr.md and eval-asr.png. It needs
    jiwer: pip install 'audioprune[eval-asr]'.
    """
    from ..files import check_writable
    from ..transcribing.contenders import contenders, parse_contender
    from ..transcribing.evaluation import Evaluation
    from ..transcribing.evaluation_report import NAME
    from ..transcribing.manifest import read_manifest
    from ..transcribing.speech_model import open_speech_model
    from ..transcribing.word_errors import require

    require()
    check_writable(out_folder / f"{NAME}.json")
    utterances = read_manifest(manifest, limit)
    chosen = [parse_contender(word) for word in methods or DEFAULT]
    rates = [o.parse_rates(text) for text in keep_rates or ()]
    o.quiet()
    spoken = None if language == "auto" else language
    with progress("", brief=True) as bar:
        bar.add_task(f"Loading {model}", total=None)
        speech_model = open_speech_model(model, o.pick_device(device), o.parse_dtype(dtype), spoken, beams)
    compared = contenders(chosen, rates, speech_model.model)
    # By name, since a folder may be moved as a whole; the weights are looked at as well.
    name = Path(model).resolve().name if Path(model).exists() else model
    evaluation = Evaluation(
        speech_model, utterances, compared, name, out_folder, threads, batch_size, repeats, command=t.command()
    )
    err.print(f"{len(utterances):,} clips, {', '.join(one.name for one in compared)}", soft_wrap=True)
    with progress("clips") as bar:
        task = bar.add_task("Transcribing", total=len(utterances))
        result = evaluation.run(
            lambda count: bar.advance(task, count),
            lambda line: err.print(f"left out {line}", soft_wrap=True),
        )
    _show(result, as_json)
    err.print(f"→ {out_folder / f'{NAME}.json'}, {NAME}.md, {NAME}.png", soft_wrap=True)
    if result["failed"]:
        raise typer.Exit(1)


def _show(result: dict[str, Any], as_json: bool) -> None:
    from ..transcribing.evaluation_report import captions, refusals, tables

    if as_json:
        print(json.dumps(result))
    else:
        out.print(result["model"])
        for header, *rows in tables(result):
            shown = compact_table()
            for i, column in enumerate(header):
                shown.add_column(column, justify="right" if i else "left", overflow="fold")
            for cells in rows:
                shown.add_row(*cells)
            out.print(shown)
        for line in captions(result):
            err.print(line, soft_wrap=True)
    for line in refusals(result):
        err.print(f"note: left out {line}", soft_wrap=True)
