"""`audioprune bench`."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from ..methods import names
from ..timing import Ratio, unsure_note
from . import options as o
from .console import compact_table, err, out, progress

if TYPE_CHECKING:
    from ..methods import Method


def bench(
    model: o.ModelOption = "esc10",
    method: Annotated[
        str | None,
        typer.Option(
            help=f"{o.METHOD_HELP} [default: that of a --model that was saved with its pruning, else topk]",
            show_default=False,
        ),
    ] = None,
    keep_rates: Annotated[
        str | None,
        typer.Option(
            help="Keep rates to compare; 1.0, the unpruned model, is added. [default: 1.0,0.7,0.5; for recommended, "
            "which works in every block, 1.0,0.95,0.88,0.73; of a model that was saved with its pruning, its own]",
            show_default=False,
        ),
    ] = None,
    batch_sizes: Annotated[
        str, typer.Option("--batch-sizes", "--batch-size", help="Clips per forward, with commas.")
    ] = "1,4",
    score: o.ScoreOption = None,
    segments: o.SegmentsOption = None,
    dropped: o.DroppedOption = None,
    layers: o.LayersOption = None,
    clip_seconds: Annotated[
        float,
        typer.Option(
            min=0.1,
            help="Seconds of the sound, for a model that takes any length: one over waveforms, an audio-language model "
            "or a Whisper with its decoder.",
        ),
    ] = o.TYPICAL_SECONDS,
    seconds: Annotated[
        float, typer.Option("--seconds", "--bench-seconds", min=0.05, help="Seconds to measure each cell for.")
    ] = 2.0,
    device: o.DeviceOption = "auto",
    dtype: o.DtypeOption = "float32",
    pack: Annotated[bool, typer.Option("--pack/--no-pack", help=o.PACK_HELP)] = False,
    as_json: o.JsonOption = False,
) -> None:
    """Measure what pruning saves on this machine: MACs, latency, clips per second, memory, and ratios.

    Of an audio-language model the prefill is measured: the time from a prompt with a sound in it to the first token. Of
    a Whisper with its decoder: the encoder, the first token, and a whole transcript of as many tokens for all settings;
    by default of what is recommended.

    Settings take turns within one run and medians are reported, so that a machine that slows down slows them all. Each
    ratio has its 95 % interval; one that is too wide to trust gets a question mark. The input is noise. Nothing is
    written; --json prints the rows.

        audioprune bench --model MODEL --keep-rates 1.0,0.7,0.5 --batch-sizes 1,4,16

        audioprune bench --model listener --method segmentwise --keep-rates 0.5,0.25
    """
    from ..compare.benchmark import machine
    from ..core.settings import describe
    from ..models.loading import is_language_model, is_transcriber

    methods = _methods(model, method, keep_rates, (score, segments, dropped, layers))
    unique = [one.keep_rate for one in methods]
    sizes: list[int] = o.parse_numbers(batch_sizes, int, "--batch-sizes")
    if min(sizes) < 1:
        raise ValueError(f"--batch-sizes is {batch_sizes!r}; each must be at least 1")
    transcribes = is_transcriber(model)
    if is_language_model(model):
        measured = _prefill(model, device, dtype, pack, clip_seconds)
    elif transcribes:
        measured = _transcription(model, device, dtype, pack, clip_seconds)
    else:
        measured = _forward(model, device, dtype, pack, clip_seconds)
    rows: list[dict[str, Any]] = []
    with progress("settings") as bar:
        task = bar.add_task("Measuring", total=len(sizes) * len(methods))
        for size in sizes:
            rows += measured(methods, size, seconds, lambda: bar.advance(task))
    setting = describe(methods[0]) | {"keep_rate": unique}
    if as_json:
        command = shlex.join(["audioprune", *sys.argv[1:]])
        found = {
            "command": command,
            "model": model,
            "setting": setting,
            "dtype": dtype,
            "packed": pack,
            "machine": machine(),
        }
        print(json.dumps({**found, "rows": rows}))
        return
    words = [
        f"{key}={value}" for key, value in setting.items() if value is not None and key not in ("keep_rate", "seed")
    ]
    title = f"{model}, {dtype}{', packed' * pack}, {', '.join(words)}"
    if transcribes:
        out.print(_transcription_table(rows, f"{title}, {clip_seconds:g} s of sound"))
    else:
        out.print(_table(rows, title))
    err.print(machine()["processor"])


def _methods(model: str, method: str | None, keep_rates: str | None, choices: tuple[Any, ...]) -> list[Method]:
    """What is measured, the unpruned model first."""
    from ..core.recommend import decoded_at
    from ..models.loading import is_transcriber

    given = [choice for choice in (method, keep_rates, *choices) if choice is not None]
    if not given and o.saved_pruning(model) is not None:
        saved = o.build_method(None, model=model)
        return [saved.with_keep_rate(1.0), saved]
    if not given and is_transcriber(model):
        best = decoded_at(None)
        return [best.with_keep_rate(1.0), best]
    if keep_rates is None:
        keep_rates = "1.0,0.95,0.88,0.73" if method == names.RECOMMENDED else "1.0,0.7,0.5"
    rates = o.parse_rates(keep_rates, "--keep-rates")
    unique = sorted({1.0, *(rates if isinstance(rates, list) else [rates])}, reverse=True)
    return [o.build_method(method or "topk", str(rate), *choices) for rate in unique]


def _forward(
    model: str, device: str, dtype: str, pack: bool, clip_seconds: float
) -> Callable[..., list[dict[str, Any]]]:
    """What measures a classifier's forward."""
    from ..audio.files import SAMPLE_RATE
    from ..compare.benchmark import measure

    loaded, _ = o.open_model(model, device, dtype)
    if pack:
        o.pack_on_cpu(loaded)
    return partial(measure, loaded, samples=round(SAMPLE_RATE * clip_seconds))


def _prefill(
    model: str, device: str, dtype: str, pack: bool, clip_seconds: float
) -> Callable[..., list[dict[str, Any]]]:
    """What measures an audio-language model's time to the first token."""
    from ..lm.prefill import measure_prefill

    loaded, processor = o.open_lm(model, device, dtype)
    if pack:
        o.pack_on_cpu(loaded)

    def measured(methods: Sequence[Method], size: int, seconds: float, advance: Callable[[], Any]) -> Any:
        return measure_prefill(loaded, processor, methods, clip_seconds, "what was heard ?", size, seconds, advance)

    return measured


def _transcription(
    model: str, device: str, dtype: str, pack: bool, clip_seconds: float
) -> Callable[..., list[dict[str, Any]]]:
    """What measures a Whisper's transcription of one window."""
    from ..transcribing.benchmark import measure_transcription
    from ..transcribing.parts import WhisperParts

    o.quiet()
    parts = WhisperParts.read(model)
    loaded = parts.load(o.pick_device(device), o.parse_dtype(dtype))
    if pack:
        o.pack_on_cpu(loaded)

    def measured(methods: Sequence[Method], size: int, seconds: float, advance: Callable[[], Any]) -> Any:
        return measure_transcription(loaded, parts, methods, clip_seconds, size, seconds, advance)

    return measured


def _transcription_table(rows: list[dict[str, Any]], title: str) -> Table:
    ratios = [Ratio.of(row, name) for row in rows for name in ("speed_up", "encoder_speed_up")]
    table = compact_table(
        title,
        f"encoder, first token, whole ({rows[0]['new_tokens']} tokens of text): ms of a batch",
        "faster: than unpruned",
        unsure_note(ratios),
    )
    for column in ("batch", "keep", "tokens", "encoder", "faster", "first", "whole", "faster", "real time"):
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(
            str(row["batch_size"]),
            _rate(row["keep_rate"]),
            f"{row['tokens'][0]}→{row['tokens'][-1]}",
            f"{row['encoder_ms']:.0f}",
            str(Ratio.of(row, "encoder_speed_up")),
            f"{row['first_token_ms']:.0f}",
            f"{row['latency_ms']:.0f}",
            str(Ratio.of(row)),
            f"{row['real_time_factor']:.3f}",
        )
    return table


def _table(rows: list[dict[str, Any]], title: str) -> Table:
    note = unsure_note([Ratio.of(row) for row in rows])
    table = compact_table(title, "ms: of a batch; fewer, faster: than unpruned", note)
    for column in ("batch", "keep", "tokens", "GMACs", "fewer", "ms", "clips/s", "faster", "peak MiB"):
        table.add_column(column, justify="right")
    for row in rows:
        memory = "–" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 2**20:.0f}"
        table.add_row(
            str(row["batch_size"]),
            _rate(row["keep_rate"]),
            f"{row['tokens'][0]}→{row['tokens'][-1]}",
            f"{row['macs'] / 1e9:.2f}",
            f"{row['macs_ratio']:.2f}×",
            f"{row['latency_ms']:.1f}",
            f"{row['clips_per_second']:.1f}",
            str(Ratio.of(row)),
            memory,
        )
    return table


def _rate(rate: Any) -> str:
    return ",".join(f"{one:g}" for one in rate) if isinstance(rate, list | tuple) else f"{rate:g}"
