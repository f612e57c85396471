"""`audioprune transcribe`."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .. import __version__
from ..methods import names
from . import options as o
from .console import err, progress
from .tag import ALWAYS_THERE, note_left_out
from .transcribe_report import Totals, finish, finish_if_done, show

if TYPE_CHECKING:
    from ..bulk.log import ResultLog
    from ..methods import Method
    from ..transcribing.outputs import Output
    from ..transcribing.parts import WhisperParts
    from ..transcribing.transcriber import Transcriber

UNPRUNED = ("none", "unpruned")
"""Words for no method."""


def transcribe(
    sources: Annotated[
        list[Path],
        typer.Argument(
            readable=False,  # one that may not be read is a row with its error, as within a folder
            help="Sound files of any length, and folders that are searched for sound files.",
        ),
    ],
    model: Annotated[
        str,
        typer.Option(
            "--model",
            "-m",
            help="A Whisper with its decoder: a folder in transformers' format, or a hub id such as "
            "openai/whisper-large-v3-turbo or distil-whisper/distil-large-v3.",
        ),
    ] = "openai/whisper-base",
    method: Annotated[
        str | None,
        typer.Option(
            help=f'How the encoder is pruned: "{names.RECOMMENDED}" (what measured best without training), "none" (not '
            "at all), another word such as tome or padding, a JSON file, or a folder with a pruning.json. [default: "
            "that of a --model that was saved with its pruning, else recommended]",
            show_default=False,
        ),
    ] = None,
    keep_rate: Annotated[
        str | None,
        typer.Option(
            help="Share of tokens that stays at each pruned layer, in (0, 1]; several with commas are one a layer. "
            "With recommended, neighbours in time are merged too. [default: the method's own; recommended then merges "
            "padding alone, so what becomes faster is clips that do not fill 30 s]",
            show_default=False,
        ),
    ] = None,
    language: Annotated[
        str | None,
        typer.Option(
            help="Of the speech: a code such as de, or a name such as german. [default: found out for each file]",
            show_default=False,
        ),
    ] = None,
    task: Annotated[str, typer.Option(help='"transcribe", or "translate" into English.')] = "transcribe",
    timestamps: Annotated[
        str | None,
        typer.Option(
            help='"none", "segment" (when each phrase is spoken), or "word" (each word too; in .srt and .vtt a cue is '
            "then a word). [default: segment for .srt and .vtt, else none]",
            show_default=False,
        ),
    ] = None,
    beams: Annotated[int, typer.Option(min=1, help="Beams of the search; 1 is greedy, and fastest.")] = 1,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Files up to 30 s per forward pass; longer ones are heard one by one.")
    ] = 8,
    compare: Annotated[
        bool, typer.Option("--compare", help="Transcribe without pruning too, and tell which words differ.")
    ] = False,
    device: o.DeviceOption = "auto",
    dtype: o.DtypeOption = "float32",
    pack: Annotated[bool, typer.Option("--pack/--no-pack", help=o.PACK_HELP)] = True,
    threads: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="CPU threads of the model; give fewer where others use the machine too. [default: one a core]",
            show_default=False,
        ),
    ] = None,
    result: Annotated[
        str | None,
        typer.Option(
            "--out",
            "-o",
            help="A file: .jsonl (a row for each sound, with everything that is known), .srt or .vtt (subtitles of "
            "one sound), .txt (the text of one sound; of several a line each: path, tab, text). Or a folder, with "
            "--format: a file for each sound. Run again to finish what is missing.",
        ),
    ] = None,
    form: Annotated[
        str | None,
        typer.Option("--format", help="What each sound gets in a folder: srt, vtt or txt.", show_default=False),
    ] = None,
    as_json: o.JsonOption = False,
) -> None:
    """Write down what is said in sounds of any length, with a Whisper whose encoder is pruned.

        audioprune transcribe talk.mp3 --out talk.srt

        audioprune transcribe lectures/ --out subtitles/ --format srt --language en

        audioprune transcribe calls/ --model openai/whisper-large-v3-turbo --compare --out calls.jsonl

    Each result is written as it comes: a run that is killed goes on where it stopped when it is started again with
    the same --out. Of a long recording, no more than ten minutes are heard again. A file that cannot be decoded, or is
    silent, gets a row with its error, stops nobody, and makes the exit code 1. Rows of .srt, .vtt and .txt are kept
    beside them, in a hidden .NAME.jsonl, or in _rows.jsonl of a folder. A file that is there already and was not
    written by this command is never replaced.
    """
    from ..bulk.asked import asked_for
    from ..bulk.sounds import find_clips
    from ..transcribing.outputs import choose_output, open_output, reopen_output

    if form is not None and result is None:
        raise ValueError("--format is for --out: give a folder for the files")
    output = None if result is None else choose_output(result, form)
    times = _times(timestamps, output)
    sounds, left_out = find_clips(sources)
    if not sounds:
        raise FileNotFoundError(
            f"no sound files in {', '.join(map(str, sources))}; in folders they are found by their names (.wav, .mp3 …)"
        )
    note_left_out(left_out)
    words = {"keep_rate": keep_rate, "language": language, "task": task, "timestamps": times, "beams": beams}
    asked = asked_for(model, method, **words, dtype=dtype, compare=compare, version=__version__)
    with ExitStack() as stack:
        log = None
        if output is not None and device in ALWAYS_THERE:
            log = reopen_output(output, asked, sounds, sources)
        if log is not None:
            stack.enter_context(log)
            finish_if_done(log, sounds, output)

        # Takes seconds to import, so it waits until there is something to do.
        from ..bulk.log import ResultLogError
        from ..core.settings import describe
        from ..files import check_same
        from ..transcribing.options import Options
        from ..transcribing.parts import WhisperParts
        from ..transcribing.pieces import PieceLog
        from ..transcribing.recognizer import Recognizer
        from ..transcribing.transcriber import Transcriber

        wanted = Options(language, task, times, beams)
        o.quiet()
        place, kind = o.pick_device(device), o.parse_dtype(dtype)
        _set_threads(threads)
        parts = WhisperParts.read(model)
        options, chosen = wanted.for_model(parts), _choose(method, keep_rate, model, parts)
        if compare and chosen is None:
            raise ValueError("--compare is with a pruned model; give a --method")
        setting = {"model": model, **describe(chosen), **vars(options), "dtype": dtype, "compare": compare}
        if output is not None:
            if log is None:
                log = stack.enter_context(open_output(output, setting, sounds, sources, asked))
            check_same(output.path, log.setting, setting, ResultLogError)
            finish_if_done(log, sounds, output)
        loaded = parts.load(place, kind, quick=True)
        if pack:
            o.pack_on_cpu(loaded)
        transcriber = Transcriber(Recognizer(loaded, parts, options), chosen, compare, batch_size)
        if output is not None:
            transcriber.pieces = PieceLog(output.pieces, {"setting": setting, "version": __version__})
            stack.callback(transcriber.pieces.close)
        err.print("Not pruned" if chosen is None else f"Pruned by {chosen}", soft_wrap=True)
        done, before, failures = _transcribe(transcriber, sounds, log, as_json)
        transcriber.pieces.remove()
    finish(done, before, failures, output)


def _transcribe(
    transcriber: Transcriber, sounds: list[Path], log: ResultLog | None, as_json: bool
) -> tuple[int, int, int]:
    """Transcribe what has no row yet, and show it. How many files have a text now, had one before, and failed."""
    from ..bulk.run import run

    todo = len(sounds) if log is None else sum(not log.is_done(sound) for sound in sounds)
    before, totals = len(sounds) - todo, Totals()
    with progress("files") as bar:
        task = bar.add_task("Transcribing", total=len(sounds), completed=before)

        def share(of_file: float) -> None:
            bar.update(task, completed=before + totals.files + of_file)

        def report(row: dict[str, Any]) -> None:
            totals.add(row)
            if as_json:
                print(json.dumps(row), flush=True)
            elif log is None:
                show(row, bar, named=len(sounds) > 1)
            share(0)

        transcriber.progress = share
        _, failures = run(transcriber, sounds, log, report)
    for line in totals.lines():
        err.print(line, soft_wrap=True)
    return totals.good, len(sounds) - totals.good - failures, failures


def _set_threads(threads: int | None) -> None:
    if threads is not None:
        import torch

        torch.set_num_threads(threads)


def _times(timestamps: str | None, output: Output | None) -> str:
    needed = output is not None and output.needs_times
    if needed and timestamps == "none":
        raise ValueError("subtitles have times; leave out --timestamps none, or write .txt or .jsonl")
    return timestamps or ("segment" if needed else "none")


def _choose(method: str | None, keep_rate: str | None, model: str, parts: WhisperParts) -> Method | None:
    """The method; None for no pruning. Its settings follow from the model's shape, so no weights are read for them."""
    if method is not None and method.lower() in UNPRUNED:
        if keep_rate is not None:
            raise ValueError(f"--method {method} prunes nothing, so it takes no --keep-rate")
        return None
    name = method or o.saved_pruning(model) or names.RECOMMENDED
    if name.lower() == names.RECOMMENDED and keep_rate is not None:
        from ..core.recommend import decoded_at

        return decoded_at(o.parse_rates(keep_rate))
    return o.choose_method(name, keep_rate).for_model(parts.skeleton())
