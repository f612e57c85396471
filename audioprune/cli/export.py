"""`audioprune export`."""

from __future__ import annotations

import json
import shlex
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from ..timing import Ratio, take_turns, unsure_note
from . import options as o
from .console import compact_table, err, out, progress
from .demo import CLIPS

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from ..audio.front_end import FrontEnd
    from ..onnx.agreement import Exported


def export(
    source: Annotated[
        str, typer.Argument(metavar="MODEL", help="esc10 (shipped), a folder, a weight file, or a hub id.")
    ],
    destination: Annotated[Path, typer.Argument(metavar="OUT.onnx", help="File to write.")],
    method: o.DefaultMethodOption = None,
    keep_rate: o.KeepRateOption = None,
    score: o.ScoreOption = None,
    segments: o.SegmentsOption = None,
    dropped: o.DroppedOption = None,
    layers: o.LayersOption = None,
    clip_seconds: Annotated[
        float | None,
        typer.Option(min=0.01, help="For a model over waveforms: seconds of every clip.", show_default=False),
    ] = None,
    opset: Annotated[
        int, typer.Option(min=18, help="Version of ONNX's operators; from 23 on attention is one of them.")
    ] = 18,
    overwrite: Annotated[bool, typer.Option("--overwrite", "--force", help="Write over a file that is there.")] = False,
    timed: Annotated[bool, typer.Option("--time/--no-time", help="Measure PyTorch and onnxruntime in turn.")] = True,
    compare: Annotated[bool, typer.Option(help="Measure the unpruned model in onnxruntime too.")] = False,
    batch_sizes: Annotated[str, typer.Option(help="Clips per forward to measure, with commas.")] = "1,4",
    seconds: Annotated[
        float, typer.Option("--seconds", "--bench-seconds", min=0.05, help="Seconds to measure each cell for.")
    ] = 1.0,
    as_json: o.JsonOption = False,
) -> None:
    """Write a pruned classifier as an ONNX file, for onnxruntime and other runtimes; at --keep-rate 1.0 unpruned.

    Its answers are compared with PyTorch's before it is put in place, and both are timed in turn. The labels, the
    setting and what makes the spectrogram are in the file's metadata.

        audioprune export esc10 esc10.onnx --keep-rate 0.5 --compare
    """
    from ..audio.features import LogMel
    from ..audio.files import SAMPLE_RATE
    from ..compare.benchmark import machine
    from ..core.pruning import prune
    from ..core.settings import describe
    from ..onnx.export import STEPS, check_exportable, check_target, export_onnx, import_packages

    if compare and not timed:
        raise ValueError("--compare measures the unpruned model, and --no-time measures nothing; leave one of them out")
    target = check_target(destination, overwrite)
    import_packages()
    chosen = o.choose_method(method, keep_rate, score, segments, dropped, layers, source)
    sizes: list[int] = o.parse_numbers(batch_sizes, int, "--batch-sizes")
    if min(sizes) < 1:
        raise ValueError(f"--batch-sizes is {batch_sizes!r}; each must be at least 1")
    model, front = _open(source)
    if clip_seconds is not None and front.shape is not None:
        raise ValueError(
            f"--clip-seconds is {clip_seconds:g}, but {source} hears {front.max_seconds:.4g} s at once, whatever the "
            "clip; leave it out"
        )
    samples = None if clip_seconds is None else round(SAMPLE_RATE * clip_seconds)
    check_exportable(model).clip_shape(samples)
    settings = chosen.for_model(model, clip_seconds or o.TYPICAL_SECONDS)
    if chosen.fits_work and not settings.static:
        settings = chosen.method  # which merges no padding: how much of it there is, no graph can look at
    described = front if isinstance(front, LogMel) else None
    clips = _examples(front, samples)
    write = partial(export_onnx, model, samples=samples, front=described, clips=clips, opset=opset)
    rows: list[dict[str, Any]] = []
    with progress("steps") as bar, prune(model, settings) as handle, TemporaryDirectory() as folder:
        cells = len(sizes) * (2 + compare) if timed else 0
        task = bar.add_task("Writing and checking", total=STEPS * (1 + compare) + cells)
        advance = partial(bar.advance, task)
        found = write(target, overwrite=overwrite, advance=advance)
        files = {"onnx": found.path}
        if compare:
            handle.keep_rate = 1.0
            files["unpruned_onnx"] = Path(folder) / "unpruned.onnx"
            write(files["unpruned_onnx"], advance=advance)
            handle.keep_rate = settings.keep_rate
        if timed:
            rows = _measure(model, found, files, sizes, seconds, advance)
    if as_json:
        command = shlex.join(["audioprune", *sys.argv[1:]])
        facts = {**asdict(found), "path": str(found.path), "model": source, "setting": describe(settings)}
        print(json.dumps({"command": command, **facts, "times": rows, "machine": machine()}))
        return
    out.print(f"{type(model).__name__}, {settings} → {found.path} ({found.size / 2**20:.1f} MiB)", soft_wrap=True)
    out.print(_checked(found), soft_wrap=True)
    if rows:
        out.print(_table(rows))
        err.print(f"{machine()['processor']}, threads: {machine()['threads']}", style="dim")


def _open(source: str) -> tuple[PreTrainedModel, FrontEnd]:
    """A classifier on the CPU, and its front end."""
    from ..models.loading import is_language_model

    if is_language_model(source):
        raise ValueError(
            f"{source}: an audio-language model, which answers by running again and again, with a prompt whose length "
            "depends on the sound; one graph holds no such thing, and classifiers alone can be exported"
        )
    return o.open_model(source, "cpu")


def _examples(front: FrontEnd, samples: int | None) -> Tensor:
    """The shipped clips as the model hears them, (batch, …); repeated or cut to so many samples if the length is fixed
    by the file alone."""
    import numpy as np

    from ..audio.files import load_audio

    clips = [load_audio(clip, max_seconds=front.max_seconds).waveform for clip in sorted(CLIPS.glob("*.ogg"))]
    return front(clips if samples is None else [np.resize(clip, samples) for clip in clips])


def _checked(found: Exported) -> str:
    ties = ""
    if found.ties:
        ties = f"; of {found.ties} PyTorch's own answer hangs on the last digit of two scores, and they are left out"
    return (
        f"onnxruntime and PyTorch differ by {found.difference:.1e} of the greatest logit on {found.clips} clips{ties}"
    )


def _measure(
    model: PreTrainedModel,
    found: Exported,
    files: dict[str, Path],
    sizes: list[int],
    seconds: float,
    advance: Callable[[], Any],
) -> list[dict[str, Any]]:
    """A row for each batch size: median milliseconds of the pruned model in PyTorch, and of the files; how much faster
    the file is than PyTorch, and than the unpruned file."""
    from ..onnx.agreement import noise
    from ..onnx.export import open_session

    sessions = {name: open_session(path) for name, path in files.items()}
    rows = []
    for size in sizes:
        batch = noise(size, found.shape)
        calls = {"torch": partial(_forward, model, {found.input: batch})}
        calls |= {name: partial(session.run, None, {found.input: batch.numpy()}) for name, session in sessions.items()}
        times = take_turns([partial(_clocked, call) for call in calls.values()], seconds, advance)
        medians = {f"{name}_ms": 1000 * statistics.median(t) for name, t in zip(calls, times, strict=True)}
        row = {"batch_size": size, **medians, "runs": len(times[0])}
        taken = dict(zip(calls, times, strict=True))
        row |= Ratio.between(taken["torch"], taken["onnx"]).as_dict("faster")
        if "unpruned_onnx" in taken:
            row |= Ratio.between(taken["unpruned_onnx"], taken["onnx"]).as_dict("saved")
        rows.append(row)
    return rows


def _forward(model: PreTrainedModel, inputs: dict[str, Tensor]) -> None:
    import torch

    with torch.inference_mode():
        model(**inputs)


def _clocked(call: Callable[[], Any]) -> float:
    """Seconds that a call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _table(rows: list[dict[str, Any]]) -> Table:
    compared = "unpruned_onnx_ms" in rows[0]
    ratios = [Ratio.of(row, name) for row in rows for name in (("faster", "saved") if compared else ("faster",))]
    table = compact_table(
        "Milliseconds of a batch", "faster: than PyTorch, than the unpruned file", unsure_note(ratios)
    )
    unpruned = ("unpruned file", "faster") if compared else ()
    for column in ("batch", "PyTorch", "onnxruntime", "faster", *unpruned):
        table.add_column(column, justify="right")
    for row in rows:
        cells = [str(row["batch_size"]), f"{row['torch_ms']:.1f}", f"{row['onnx_ms']:.1f}"]
        cells.append(str(Ratio.of(row, "faster")))
        if compared:
            cells += [f"{row['unpruned_onnx_ms']:.1f}", str(Ratio.of(row, "saved"))]
        table.add_row(*cells)
    return table
