"""`audioprune transcribe`."""

from __future__ import annotations

import json
import os
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.text import Text

from .. import __version__
from ..methods import names
from . import options as o
from .console import err, out, progress
from .tag import ALWAYS_THERE, printable

if TYPE_CHECKING:
    from ..bulk.log import ResultLog
    from ..methods import Method
    from ..transcribing.outputs import Output
    from ..transcribing.parts import WhisperParts

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
    the same --out. A file that cannot be decoded, or is silent, gets a row with its error, stops nobody, and makes the
    exit code 1. Rows of .srt, .vtt and .txt are kept beside them, in a hidden .NAME.jsonl, or in _rows.jsonl of a
    folder. A file that is there already and was not written by this command is never replaced.
    """
    from ..bulk.asked import asked_for
    from ..bulk.sounds import find_clips
    from ..transcribing.outputs import choose_output, open_output, reopen_output

    if form is not None and result is None:
        raise ValueError("--format is for --out: give a folder for the files")
    output = None if result is None else choose_output(result, form)
    times = _times(timestamps, output)
    sounds = find_clips(sources)[0]
    if not sounds:
        raise FileNotFoundError(
            f"no sound files in {', '.join(map(str, sources))}; in folders they are found by their names (.wav, .mp3 …)"
        )
    words = {"keep_rate": keep_rate, "language": language, "task": task, "timestamps": times, "beams": beams}
    asked = asked_for(model, method, **words, dtype=dtype, compare=compare, version=__version__)
    with ExitStack() as stack:
        log = None
        if output is not None and device in ALWAYS_THERE:
            log = reopen_output(output, asked, sounds, sources)
        if log is not None:
            stack.enter_context(log)
            _finish_if_done(log, sounds, output)

        # Takes seconds to import, so it waits until there is something to do.
        from ..bulk.log import ResultLogError
        from ..bulk.run import run
        from ..core.settings import describe
        from ..files import check_same
        from ..transcribing.options import Options
        from ..transcribing.parts import WhisperParts
        from ..transcribing.recognizer import Recognizer
        from ..transcribing.transcriber import Transcriber

        wanted = Options(language, task, times, beams)
        o.quiet()
        place, kind = o.pick_device(device), o.parse_dtype(dtype)
        if threads is not None:
            import torch

            torch.set_num_threads(threads)
        parts = WhisperParts.read(model)
        options, chosen = wanted.for_model(parts), _choose(method, keep_rate, model, parts)
        if compare and chosen is None:
            raise ValueError("--compare is with a pruned model; give a --method")
        setting = {"model": model, **describe(chosen), **vars(options), "dtype": dtype, "compare": compare}
        if output is not None:
            if log is None:
                log = stack.enter_context(open_output(output, setting, sounds, sources, asked))
            check_same(output.path, log.setting, setting, ResultLogError)
            _finish_if_done(log, sounds, output)
        todo = len(sounds) if log is None else sum(not log.is_done(sound) for sound in sounds)
        before = len(sounds) - todo
        loaded = parts.load(place, kind)
        if pack:
            o.pack_on_cpu(loaded)
        recognizer = Recognizer(loaded, parts, options)
        err.print("Not pruned" if chosen is None else f"Pruned by {chosen}", soft_wrap=True)
        bar = stack.enter_context(progress("files"))
        task_id = bar.add_task("Transcribing", total=len(sounds), completed=before)
        totals = _Totals()

        def share(of_file: float) -> None:
            bar.update(task_id, completed=before + totals.files + of_file)

        def report(row: dict[str, Any]) -> None:
            totals.add(row)
            if as_json:
                print(json.dumps(row), flush=True)
            elif log is None:
                # Through the bar where both are on one screen, so that it moves out of the way.
                printer = bar.console if err.is_terminal and out.is_terminal else out
                for line in _lines(row, named=len(sounds) > 1):
                    printer.print(line, soft_wrap=True)
            share(0)

        transcriber = Transcriber(recognizer, chosen, compare, batch_size, progress=share)
        written, failures = run(transcriber, sounds, log, report)
    for line in totals.lines():
        err.print(line, soft_wrap=True)
    _finish(written, before, failures, output)


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


@dataclass
class _Totals:
    """Sums over the rows of this run."""

    files: int = 0
    good: int = 0
    seconds: float = 0.0
    computed: float = 0.0
    unpruned: list[float] = field(default_factory=list)
    same: int = 0
    differing: int = 0

    def add(self, row: dict[str, Any]) -> None:
        self.files += 1
        if "error" in row:
            return
        self.good += 1
        self.seconds += row["duration"]
        self.computed += row["compute_seconds"]
        if "unpruned" in row:
            self.unpruned.append(row["unpruned_compute_seconds"])
            self.same += not row["word_differences"]
            self.differing += row["word_differences"]

    def lines(self) -> list[str]:
        if not self.seconds:
            return []
        lines = [
            f"{files(self.good)}, {_length(self.seconds)} of sound, computed in {_length(self.computed)}: real-time "
            f"factor {self.computed / self.seconds:.3f}"
        ]
        if self.unpruned:
            ratio = sum(self.unpruned) / max(self.computed, 1e-9)
            faster = f"{ratio:.2f} times faster" if ratio >= 1 else f"{1 / ratio:.2f} times slower"
            lines.append(
                f"Pruned and unpruned: same words in {self.same} of {self.good}, {self.differing} words differ in all; "
                f"{faster} ({_length(sum(self.unpruned))} unpruned)"
            )
        return lines


def _length(seconds: float) -> str:
    """3.2 s, 4.0 min, 1.25 h."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.2f} h"


def _lines(row: dict[str, Any], named: bool) -> list[Text]:
    """What a terminal shows of a row. named: whether to say which file it is of."""
    if "error" in row:
        return [Text(printable(row["error"]), style="red")]
    name = f"{printable(os.path.relpath(row['path']))}  " if named else ""
    if "segments" in row:
        cues = row.get("words") or row["segments"]
        lines = [
            Text.assemble(
                name, (f"{cue['start']:8.2f} {cue['end']:8.2f}  ", "dim"), printable(cue.get("word") or cue["text"])
            )
            for cue in cues
        ]
    else:
        lines = [Text(name + printable(row["text"]))]
    for ours, theirs in row.get("differences", ()):
        lines.append(Text(printable(f"    unpruned: {ours or '–'}   pruned: {theirs or '–'}"), style="yellow"))
    return lines


def files(number: int) -> str:
    return f"{number} file" if number == 1 else f"{number} files"


def _finish_if_done(log: ResultLog, sounds: list[Path], output: Output | None) -> None:
    """Leave if every sound has a row."""
    if all(log.is_done(sound) for sound in sounds):
        _finish(0, len(sounds), log.failures(sounds), output)


def _finish(written: int, before: int, failures: int, output: Output | None) -> NoReturn:
    """Say what was done and leave, with exit code 1 where files failed."""
    where = "" if output is None else f" → {output.path}"
    earlier = f", {before} were done before" if before else ""
    err.print(f"{files(written)} done{earlier}{where}", soft_wrap=True)
    if failures:
        again = "" if output is None else f", and a row that is deleted from {output.journal} is tried again"
        err.print(f"{files(failures)} failed; each row has its error{again}", style="red", soft_wrap=True)
    raise typer.Exit(1 if failures else 0)
