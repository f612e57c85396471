"""`audioprune tag`."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.text import Text

from .. import __version__
from . import options as o
from . import window_options as w
from .console import count, err, out, progress
from .long_sounds import Notes, Pictures, parse_windows, stretch_lines, watch_windows

if TYPE_CHECKING:
    from ..audio.windowing import Windowing
    from ..bulk.log import Log
    from ..bulk.sounds import Sound
    from ..methods import Method

OF_THE_RUN = ("model", "top", "dtype", "windows")
"""Settings of a run that are not its method's."""
ALWAYS_THERE = ("auto", "cpu")
"""Devices that every machine has. Whether another is there, only PyTorch knows."""


def tag(
    sources: Annotated[
        list[Path],
        typer.Argument(
            readable=False,  # one that may not be read is a row with its error, as within a folder
            help="Sound files, Parquet files with a column path, bytes or audio, and folders that are searched for "
            "sound files, or where there are none for Parquet files.",
        ),
    ],
    model: o.ModelOption = "esc10",
    method: o.DefaultMethodOption = None,
    keep_rate: o.KeepRateOption = None,
    score: o.ScoreOption = None,
    segments: o.SegmentsOption = None,
    dropped: o.DroppedOption = None,
    layers: o.LayersOption = None,
    speed_up: o.SpeedUpOption = None,
    top: Annotated[int, typer.Option(min=1, help="Labels reported per clip.")] = 3,
    batch_size: Annotated[int, typer.Option(min=1, help="Clips per forward pass.")] = 8,
    device: o.DeviceOption = "auto",
    dtype: o.DtypeOption = "float32",
    pack: Annotated[bool, typer.Option("--pack/--no-pack", help=o.PACK_HELP)] = True,
    window: w.WindowOption = "auto",
    hop: w.HopOption = None,
    pool: w.PoolOption = "mean",
    result_file: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="Append results to this JSON Lines file (.jsonl), table (.csv) or folder of Parquet files (.parquet). "
            "Run again to finish what is missing.",
        ),
    ] = None,
    picture: Annotated[
        Path | None,
        typer.Option(
            help="Draw the labels of long sounds over time, under their waveforms: a .png, .svg or .pdf for one sound, "
            "or a folder in which each long sound gets NAME-labels.png.",
            show_default=False,
        ),
    ] = None,
    engine: Annotated[
        str,
        typer.Option(
            help='"local" (this process) or "ray" (several processes, on this machine or a cluster; rows come in any '
            "order). The rows are the same."
        ),
    ] = "local",
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Processes of --engine ray. [default: 2; on a cluster one for each of its CPUs or GPUs]",
            show_default=False,
        ),
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(
            help='Ray cluster for --engine ray, such as "auto" (the one that this machine is part of) or head:6379. '
            "[default: RAY_ADDRESS where that is set, else Ray is started on this machine and stopped afterwards]",
            show_default=False,
        ),
    ] = None,
    as_json: o.JsonOption = False,
) -> None:
    """Tag sounds with a pruned model.

    Each result is written as it comes: a run that is killed goes on where it stopped when it is started again with
    the same --out, by either engine. A file that cannot be decoded gets a line with its error, stops nobody, and makes
    the exit code 1.

        audioprune tag sounds/ --out results.jsonl

    Half as fast again as unpruned, by time measured on this machine:

        audioprune tag sounds/ --speed-up 1.5

    A recording longer than the model hears (5 s for esc10, 10 s for most) is heard whole, in windows that overlap by
    half, and read from disk meanwhile, so that hours take no more memory. Its labels are the mean over its windows;
    JSON, CSV and Parquet have start, end and labels of each window, and a picture shows them:

        audioprune tag street.flac --hop 1 --picture street.png --out street.csv
    """
    _check_engine(engine, workers, address)
    windows = parse_windows(window, hop, pool)
    draw = None if picture is None else Pictures(picture, sources, engine)
    words: dict[str, Any] = {
        "keep_rate": keep_rate,
        "score": score,
        "segments": segments,
        "dropped": dropped,
        "layers": layers,
    }
    if speed_up is not None:
        if method is not None or any(value is not None for value in words.values()):
            raise ValueError("--speed-up chooses the method by time: leave out --method and its options")
        words["speed_up"] = speed_up
    from ..bulk.asked import asked_for
    from ..tagging.bulk import begun_setting, find_sounds, open_log, reopen_log

    clips, passed = find_sounds(sources, result_file)
    if not clips:
        raise FileNotFoundError(
            f"no sound files in {', '.join(map(str, sources))}; in folders they are found by their names (.wav, .mp3 …)"
        )
    note_left_out(passed)
    asked = asked_for(
        model, method, **words, top=top, dtype=dtype, version=__version__, window=window, hop=hop, pool=pool
    )
    place = device if engine == "local" else "cpu"
    with ExitStack() as stack:
        log = None if result_file is None or place not in ALWAYS_THERE else reopen_log(result_file, asked)
        if log is not None:
            stack.enter_context(log)
            _finish_if_done(log, clips, result_file)

        # Takes seconds to import, so it waits until there is something to do.
        from ..bulk.log import ResultLogError
        from ..core.pruning import prune
        from ..core.settings import describe
        from ..files import check_same, check_writable
        from ..tagging.tagger import Tagger

        if result_file is not None and not result_file.exists():
            check_writable(result_file)
        chosen = o.choose_method(method, keep_rate, score, segments, dropped, layers, model)
        loaded, front = o.open_model(model, place, dtype)
        if pack and engine == "local":  # now, since what is measured must be what runs
            o.pack_on_cpu(loaded)
        if speed_up is None:
            begun = None if result_file is None else begun_setting(result_file)
            earlier = None if begun is None else chosen.as_begun(loaded, begun, front.max_seconds)
            settings = earlier or chosen.for_model(loaded, front.max_seconds)
        else:
            settings = _begun_with(log) or o.chosen_by_time(loaded, speed_up, batch_size)
        setting = {"model": model, **describe(settings), "top": top, "dtype": dtype}
        if windows is not None:
            windows = windows.of(front)
            setting["windows"] = windows.as_dict()
        if result_file is not None:
            if log is None:
                log = stack.enter_context(open_log(result_file, setting, asked))
            check_same(result_file, log.setting, setting, ResultLogError)
            _finish_if_done(log, clips, result_file)
        work = o.work_left(loaded, settings)
        prune(loaded, settings)
        err.print(f"Pruned by {settings}: {work}", soft_wrap=True)
        tagger: Any = Tagger(loaded, front, top=top, batch_size=batch_size, windows=windows)
        if engine == "ray":
            from ..tagging.bulk_ray import RayTagger

            tagger = stack.enter_context(RayTagger(tagger, workers, address, device, packed=pack))
            err.print(f"On Ray: {tagger.workers} workers, {tagger.device}")
        written, before, failures = _tag(tagger, clips, log, windows, draw, as_json)
    _finish(written, before, failures, result_file)


def _begun_with(log: Log | None) -> Method | None:
    """The setting of a run that goes on: measured again it could be another one."""
    from ..core.settings import parse_settings

    if log is None:
        return None
    return parse_settings(json.dumps({k: v for k, v in log.setting.items() if k not in OF_THE_RUN}))


def _tag(
    tagger: Any,
    clips: Sequence[Path | Sound],
    log: Log | None,
    windows: Windowing | None,
    draw: Pictures | None,
    as_json: bool,
) -> tuple[int, int, int]:
    """Tag what has no row yet, and show it. How many clips have labels now, had them before, and failed."""
    from ..bulk.run import run

    todo = len(clips) if log is None else sum(not log.is_done(clip) for clip in clips)
    notes = Notes(windows)
    done = 0
    with progress("") as bar:
        task = bar.add_task("Tagging clips", total=len(clips), completed=len(clips) - todo)
        if hasattr(tagger, "timeline"):  # not on Ray, whose workers hear elsewhere
            watch_windows(tagger, bar, draw)

        def report(row: dict[str, Any]) -> None:
            nonlocal done
            done += "error" not in row
            notes.add(row)
            if as_json:
                print(json.dumps(row), flush=True)
            elif log is None:
                # Through the bar where both are on one screen, so that it moves out of the way.
                screen = bar.console if err.is_terminal and out.is_terminal else out
                for line in (_line(row), *stretch_lines(row)):
                    screen.print(line, soft_wrap=True)
            bar.advance(task)

        _, failures = run(tagger, clips, log, report)
    notes.say()
    if draw is not None:
        draw.say()
    return done, len(clips) - done - failures, failures


def _check_engine(engine: str, workers: int | None, address: str | None) -> None:
    """Raise `ValueError` for an engine that is none, and `ModuleNotFoundError` where it is not installed."""
    if engine == "ray":
        import ray
        import ray.data  # noqa: F401  (now, not after the model was loaded)
    elif engine != "local":
        raise ValueError(f"--engine is {engine!r}; there are local and ray")
    elif workers is not None or address is not None:
        raise ValueError("--workers and --address are for --engine ray")


def _line(row: dict[str, Any]) -> Text:
    if "error" in row:
        return Text(printable(row["error"]), style="red")
    labels = ", ".join(f"{item['label']} {item['score']:.2f}" for item in row["labels"])
    return Text.assemble(printable(os.path.relpath(row["path"])), "  ", (labels, "bold"))


def note_left_out(paths: Sequence[Path]) -> None:
    """Say which files of folders are left out."""
    if paths:
        names = ", ".join(printable(path.name) for path in paths[:3]) + (" …" if len(paths) > 3 else "")
        err.print(
            f"Passing over {len(paths)} files that are hidden, or no sounds by their names: {names}", soft_wrap=True
        )


def printable(text: str) -> str:
    """For a terminal, one line of valid Unicode: names of files may be neither."""
    return "⏎".join(text.encode(errors="replace").decode().splitlines())


def _finish_if_done(log: Log, clips: Sequence[Path | Sound], result_file: Path | None) -> None:
    """Leave if every clip has a row."""
    if all(log.is_done(clip) for clip in clips):
        failures = log.failures(clips)
        _finish(0, len(clips) - failures, failures, result_file)


def _finish(done: int, before: int, failures: int, result_file: Path | None) -> NoReturn:
    """Say what was done and leave, with exit code 1 where clips failed.

    done: clips with labels of this run. before: clips with labels of earlier runs. failures: all clips with errors.
    """
    where = "" if result_file is None else f" → {result_file}"
    earlier = f", {before} were done before" if before else ""
    err.print(f"{count(done)} done{earlier}{where}")
    if failures:
        again = ", and a row that is deleted is tried again" if result_file and result_file.suffix == ".jsonl" else ""
        err.print(f"{count(failures)} failed; each row has its error{again}", style="red")
    raise typer.Exit(1 if failures else 0)
