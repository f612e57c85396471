"""`audioprune tag`."""

from __future__ import annotations

import json
import os
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.text import Text

from . import options as o
from .console import err, out, progress


def tag(
    sources: Annotated[list[Path], typer.Argument(help="Sound files, and folders that are searched for them.")],
    model: o.ModelOption = "esc10",
    method: o.DefaultMethodOption = None,
    keep_rate: o.KeepRateOption = None,
    score: o.ScoreOption = None,
    segments: o.SegmentsOption = None,
    dropped: o.DroppedOption = None,
    layers: o.LayersOption = None,
    top: Annotated[int, typer.Option(min=1, help="Labels reported per clip.")] = 3,
    batch_size: Annotated[int, typer.Option(min=1, help="Clips per forward pass.")] = 8,
    device: o.DeviceOption = "auto",
    dtype: o.DtypeOption = "float32",
    pack: Annotated[bool, typer.Option("--pack/--no-pack", help=o.PACK_HELP)] = True,
    result_file: Annotated[
        Path | None,
        typer.Option("--out", help="Append results to this JSON Lines file. Run again to finish what is missing."),
    ] = None,
    as_json: o.JsonOption = False,
) -> None:
    """Tag sounds with a pruned model.

    Each result is written as it comes: a run that is killed goes on where it stopped when it is started again with
    the same --out. A file that cannot be decoded gets a line with its error, stops nobody, and makes the exit code 1.
    Of a recording longer than the model hears (5 s for esc10, 10 s for most) the beginning is tagged.

        audioprune tag sounds/ --out results.jsonl
    """
    from ..pruning import describe, prune
    from ..tagging import ResultLog, Tagger, find_clips, run

    clips, passed = find_clips(sources)
    if not clips:
        raise FileNotFoundError(f"no sound files in {', '.join(map(str, sources))}")
    if passed:
        names = ", ".join(p.name for p in passed[:3]) + (" …" if len(passed) > 3 else "")
        err.print(f"Passing over {len(passed)} files that are no sounds by their names: {names}")
    settings = o.build_method(method, keep_rate, score, segments, dropped, layers, model)
    setting = {"model": model, **describe(settings), "top": top, "dtype": dtype}
    with ExitStack() as stack:
        log = None if result_file is None else stack.enter_context(ResultLog(result_file, setting))
        todo = len(clips) if log is None else sum(not log.is_done(clip) for clip in clips)
        if log is not None and not todo:
            _finish(0, len(clips), log.failures(clips), result_file)
        loaded, front = o.open_model(model, device, dtype)
        settings = o.fitted(settings, loaded)
        prune(loaded, settings)
        if pack:
            o.pack_on_cpu(loaded)
        err.print(f"Pruned by {settings}", soft_wrap=True)
        tagger = Tagger(loaded, front, top=top, batch_size=batch_size)
        truncated = 0
        bar = stack.enter_context(progress("clips"))
        task = bar.add_task("Tagging", total=len(clips), completed=len(clips) - todo)

        def report(row: dict[str, Any]) -> None:
            nonlocal truncated
            truncated += row.get("seconds", 0) > row.get("heard_seconds", 0) + 0.01
            if as_json:
                print(json.dumps(row), flush=True)
            elif log is None:
                # Through the bar where both are on one screen, so that it moves out of the way.
                (bar.console if err.is_terminal and out.is_terminal else out).print(_line(row), soft_wrap=True)
            bar.advance(task)

        written, failures = run(tagger, clips, log, report)
    if truncated:
        seconds = f"{front.max_seconds:.2f} s"
        err.print(f"{count(truncated)} longer than the model's window: the first {seconds} heard of each")
    _finish(written, len(clips) - todo, failures, result_file)


def _line(row: dict[str, Any]) -> Text:
    if "error" in row:
        return Text(_printable(row["error"]), style="red")
    labels = ", ".join(f"{item['label']} {item['score']:.2f}" for item in row["labels"])
    return Text.assemble(_printable(os.path.relpath(row["path"])), "  ", (labels, "bold"))


def count(clips: int) -> str:
    return f"{clips} clip" if clips == 1 else f"{clips} clips"


def _printable(text: str) -> str:
    return text.encode(errors="replace").decode()


def _finish(written: int, before: int, failures: int, result_file: Path | None) -> NoReturn:
    """Say what was done and leave, with exit code 1 where clips failed."""
    where = "" if result_file is None else f" → {result_file}"
    earlier = f", {before} were done before" if before else ""
    err.print(f"{count(written)} done{earlier}{where}")
    if failures:
        err.print(
            f"{count(failures)} failed; each row has its error, and a row that is deleted is tried again", style="red"
        )
    raise typer.Exit(1 if failures else 0)
