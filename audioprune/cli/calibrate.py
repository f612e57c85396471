"""`audioprune calibrate`."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import Progress, TaskID
from rich.table import Table

from ..methods import names
from ..timing import Ratio, unsure_note
from . import options as o
from . import training_options as t
from . import window_options as w
from .calibrate_words import calibrate_words, check_words, words_table
from .console import compact_table, count, err, out, progress, resumable
from .long_sounds import parse_windows
from .tag import note_left_out

if TYPE_CHECKING:
    from ..audio.windowing import Windowing
    from ..calibration import Calibration, WordCalibration
    from ..calibration.sounds import CalibrationSounds

_SCORED = ", ".join(names.words(trained=False, but=("topk", "tome")))


def calibrate(
    clips: Annotated[
        list[Path],
        typer.Option("--clips", "-c", help="Sound files, and folders that are searched for them. Repeatable."),
    ],
    model: o.ModelOption = "esc10",
    max_disagreement: Annotated[
        float | None,
        typer.Option(help="Greatest share of clips that may get another top label, such as 0.02.", show_default=False),
    ] = None,
    speed_up: Annotated[
        float | None, typer.Option(help="How many times as fast as unpruned, such as 2.", show_default=False)
    ] = None,
    methods: Annotated[
        str,
        typer.Option(
            help="What to choose from, with commas: topk, topk+fuse, topk+merge (what becomes of dropped tokens), tome "
            f"(similar tokens are merged), {_SCORED}, whose scores and layers are searched; JSON "
            "files and folders with a pruning.json, whose keep rate is searched."
        ),
    ] = ",".join(names.SEARCHED),
    limit: Annotated[int, typer.Option(min=1, help="Clips to hear at most, drawn at random.")] = 2000,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Clips per forward, in which the speed-up is measured as well.")
    ] = 8,
    bench_seconds: Annotated[float, typer.Option(min=0.01, help="Seconds of timing a setting.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Of the clips that are kept from the search.")] = 0,
    window: w.WindowOption = "auto",
    hop: w.SpreadHopOption = None,
    pool: w.PoolOption = "mean",
    accept_estimate: Annotated[
        bool,
        typer.Option("--accept-estimate", help="Write a setting that keeps the limit by its estimate alone as well."),
    ] = False,
    pack: Annotated[bool, typer.Option("--pack/--no-pack", help=o.PACK_HELP)] = True,
    device: o.DeviceOption = "auto",
    dtype: o.DtypeOption = "float32",
    out_file: Annotated[Path, typer.Option("--out", "-o", help="Settings file to write.")] = Path("pruning.json"),
    force: Annotated[bool, typer.Option("--force", "--overwrite", help="Write over a file that is there.")] = False,
    report: Annotated[
        Path | None, typer.Option(help="JSON file to write with every setting that was heard.", show_default=False)
    ] = None,
    as_json: o.JsonOption = False,
) -> None:
    """Choose what to prune, and how much, on your own sounds: no labels are needed.

    The fastest setting whose top label is the unpruned model's on all but 2 % of the clips, shown with 95 % confidence:

        audioprune calibrate --model esc10 --clips my-sounds/ --max-disagreement 0.02

    Or what disagrees least at three times the speed:

        audioprune calibrate --model esc10 --clips my-sounds/ --speed-up 3 --out fast.json

    Part of the clips is searched on; the others, which the search never hears, show what is stated. To show 2 % takes
    199 clips, 5 % 79, 10 % 39, and more where some disagree. They should be sounds as the model will hear them, not
    those that it was trained on, and each its own recording. A recording longer than the model hears counts once, with
    the mean over its windows. What was written is for `--method` of every command:

        audioprune tag more-sounds/ --model esc10 --method pruning.json

    Of a Whisper with its decoder --max-disagreement is the share of its words that may change, and settings that merge
    more and more of the sound are tested in order; --methods, --speed-up and --seed have no part in it:

        audioprune calibrate --model openai/whisper-base --clips calls/ --max-disagreement 0.05

    Exit code 1 where no setting is shown to be as asked for; nothing is written then, unless by --accept-estimate.
    A run that is stopped goes on with the same command.
    """
    from ..calibration import Calibration
    from ..calibration.run import check_aim
    from ..files import check_writable, write_json
    from ..models.loading import is_transcriber

    check_aim(max_disagreement, speed_up, ("--max-disagreement", "--speed-up"))
    if out_file.suffix != ".json":
        raise ValueError(f"--out is {str(out_file)!r}; --method reads settings from files that end in .json")
    if out_file.exists() and not force:
        raise FileExistsError(f"{out_file}: exists; choose another --out, or pass --force to write over it")
    check_writable(out_file, report)
    windows = parse_windows(window, hop, pool)
    found, state = _draw(clips, limit, seed), out_file.with_name(f"{out_file.name}.partial.jsonl")
    if is_transcriber(model):
        most = check_words(max_disagreement)
        result: Calibration | WordCalibration
        result = calibrate_words(found, model, most, batch_size, device, dtype, state, pack=pack)
    else:
        aims = {"max_disagreement": max_disagreement, "speed_up": speed_up}
        how = {"methods": t.words(methods), "batch_size": batch_size, "bench_seconds": bench_seconds, "seed": seed}
        loaded, front = o.open_model(model, device, dtype)
        if pack:  # as `tag` does, since it changes what is gained
            o.pack_on_cpu(loaded)
        sounds = _read(found, front, windows)
        _note_few(len(sounds), max_disagreement)
        result = _calibrate(loaded, sounds, state, pool=pool, **aims, **how)
    is_written = result.method is not None and (result.shown or accept_estimate)
    whole = {"command": t.command(), "model": model, "packed": pack, **result.as_dict()}
    if report is not None:
        write_json(report, whole)
    if is_written:
        result.save(out_file, model=model, packed=pack)
    if as_json:
        print(json.dumps(whole))
    else:
        out.print(_table(result, model) if isinstance(result, Calibration) else words_table(result, model))
        for sentence in result.sentences:
            out.print(sentence, soft_wrap=True)
    for path in ((out_file,) if is_written else ()) + (() if report is None else (report,)):
        err.print(f"→ {path}", soft_wrap=True)
    if not is_written:
        hint = "; --accept-estimate writes the setting above all the same" if result.method is not None else ""
        err.print(f"{out_file} was not written{hint}", soft_wrap=True)
        raise typer.Exit(1)


def _calibrate(model: Any, sounds: CalibrationSounds, state: Path, **asked: Any) -> Calibration:
    """Calibrate a classifier, with a bar for each part. state: the file of what was heard so far."""
    from ..calibration import Calibration
    from ..calibration import calibrate as choose

    with progress("") as bar, resumable(state):
        stages = _Stages(bar)
        result = choose(model, sounds.features, recordings=sounds.recordings, stage=stages, state=state, **asked)
        stages.finish()
    assert isinstance(result, Calibration)
    return result


def _note_few(clips: int, limit: float | None) -> None:
    """Say that there are too few clips to show the limit."""
    from ..calibration.report import least_clips

    if limit is not None and least_clips(limit) > clips:
        err.print(
            f"note: {least_clips(limit)} clips are needed to show {100 * limit:g} %, even if all agree that are "
            f"tested; there are {clips}. What is found is an estimate",
            soft_wrap=True,
        )


def _draw(clips: list[Path], limit: int, seed: int) -> list[Path]:
    """The sound files; at most `limit` of them, drawn at random."""
    from ..bulk.sounds import find_clips

    found, passed = find_clips(clips)
    if not found:
        raise FileNotFoundError(
            f"no sound files in {', '.join(map(str, clips))}; in folders they are found by their names (.wav, .mp3 …)"
        )
    note_left_out(passed)
    if len(found) <= limit:
        return found
    err.print(f"{limit} of {count(len(found))} are heard, drawn at random (--limit)")
    return sorted(random.Random(seed).sample(found, limit))


class _Stages:
    """A bar for each part of the work, and one for all of it. What ends early had less to do than it might."""

    def __init__(self, bar: Progress) -> None:
        self._bar, self._done = bar, 0
        self._task: TaskID | None = None
        self._whole: TaskID | None = None

    def __call__(self, name: str, steps: int) -> Callable[[int], Any]:
        from ..calibration.calibrator import WHOLE

        if name == WHOLE:
            self._whole = whole = self._bar.add_task(name, total=steps)
            return lambda steps: self._bar.advance(whole, steps)
        self.end()
        self._done, self._task = 0, self._bar.add_task(name, total=steps)
        return self._advance

    def _advance(self, steps: int) -> None:
        self._done += steps
        if self._task is not None:
            self._bar.update(self._task, completed=self._done)

    def end(self) -> None:
        if self._task is not None:
            self._bar.update(self._task, total=self._done, completed=self._done)

    def finish(self) -> None:
        self.end()
        if self._whole is not None:
            heard = self._bar.tasks[self._whole].completed
            self._bar.update(self._whole, total=heard)


def _read(paths: list[Path], front: Any, windows: Windowing | None) -> CalibrationSounds:
    from ..calibration.sounds import read_sounds

    with progress("clips") as bar:
        task = bar.add_task("Reading clips", total=len(paths))
        sounds = read_sounds(paths, front, lambda: bar.advance(task), windows)
    for error in sounds.failed[:5]:
        err.print(error, style="red", soft_wrap=True)
    if len(sounds.failed) > 5:
        err.print(f"… and {len(sounds.failed) - 5} more", style="red")
    left_out = {"cannot be decoded": len(sounds.failed), "silent": len(sounds.silent), "copies": len(sounds.copies)}
    for why, clips in left_out.items():
        if clips:
            err.print(f"{count(clips)} left out: {why}")
    if sounds.cut:
        err.print(f"{count(len(sounds.cut))} longer than the model's window: the first {front.max_seconds:.2f} s heard")
    if sounds.long:
        err.print(
            f"{count(len(sounds.long))} longer than the model's window: heard over the whole length, "
            f"{len(sounds.recordings)} windows in all"
        )
    if not len(sounds):
        raise ValueError(
            f"none of {count(len(paths))} can be used: {len(sounds.failed)} cannot be decoded, {len(sounds.silent)} "
            "are silent"
        )
    return sounds


def _table(result: Calibration, model: str) -> Table:
    measured = [row for row in result.rows if "speed_up" in row]
    table = compact_table(
        f"{model}: {len(result.rows)} of {result.about['settings']} settings were heard; up for the choice:",
        f"other top label: of {result.about['searching']} clips of the search, and of "
        f"{result.about['confirming']} others; faster: in batches of {result.about['batch_size']}; •: chosen",
        unsure_note([Ratio.of(row) for row in measured]),
    )
    table.add_column("setting", overflow="fold")
    for column in ("fewer", "faster", "search", "test", "bound, %", "KL", ""):
        table.add_column(column, justify="right")
    for row in measured:
        test = row.get("confirmed")
        table.add_row(
            row["name"],
            f"{row['macs_ratio']:.2f}×",
            str(Ratio.of(row)),
            str(row["searched"]["disagreements"]),
            "–" if test is None else str(test["disagreements"]),
            "–" if test is None else f"{100 * row['bound']:.1f}",
            _kl(row["searched"] if test is None else test),
            "•" if row is result.chosen else "",
        )
    return table


def _kl(counts: dict[str, Any]) -> str:
    return "∞" if counts["kl"] is None else f"{counts['kl']:.2g}"
