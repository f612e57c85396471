"""`audioprune calibrate` for a Whisper with its decoder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from . import options as o
from . import training_options as t
from .console import err, out, progress
from .tag import count


def calibrate_whisper(
    clips: Sequence[Path],
    model: str,
    max_word_error: float,
    *,
    batch_size: int,
    device: str,
    dtype: str,
    pack: bool,
    out_file: Path,
    report: Path | None,
    accept_estimate: bool,
    as_json: bool,
) -> None:
    """Find how much of the sound may be merged, show it, and write the setting."""
    from ..calibration.words import LADDER, calibrate_words
    from ..files import write_json
    from ..transcribing.parts import WhisperParts
    from ..transcribing.speech_model import SpeechModel

    o.quiet()
    parts = WhisperParts.read(model)
    waveforms = _read(clips, parts.window_seconds)
    loaded = parts.load(o.pick_device(device), o.parse_dtype(dtype))
    if pack:
        o.pack_on_cpu(loaded)
    speech_model = SpeechModel(loaded, parts.extractor, parts.tokenizer, language=None)
    with progress("clips") as bar:
        task = bar.add_task("Transcribing at most", total=(1 + len(LADDER)) * len(waveforms))
        result = calibrate_words(
            speech_model,
            waveforms,
            max_word_error=max_word_error,
            batch_size=batch_size,
            advance=lambda heard: bar.advance(task, heard),
        )
    whole = {"command": t.command(), "model": model, "packed": pack, **result.as_dict()}
    if report is not None:
        write_json(report, whole)
    is_written = result.method is not None and (result.shown or accept_estimate)
    if is_written:
        result.save(out_file, model=model, packed=pack)
    if as_json:
        print(json.dumps(whole))
    else:
        out.print(_table(result.rows, model))
        for sentence in result.sentences:
            out.print(sentence, soft_wrap=True)
    for path in ((out_file,) if is_written else ()) + (() if report is None else (report,)):
        err.print(f"→ {path}", soft_wrap=True)
    if not is_written:
        hint = "; --accept-estimate writes the setting above all the same" if result.method is not None else ""
        err.print(f"{out_file} was not written{hint}", soft_wrap=True)
        raise typer.Exit(1)


def _read(clips: Sequence[Path], window: float) -> list[Any]:
    """Waveforms of the clips that can be used, the first window of each."""
    from ..audio.files import AudioError, load_audio

    waveforms, cut, silent = [], 0, 0
    for clip in clips:
        try:
            sound = load_audio(clip, max_seconds=window)
        except AudioError as error:
            err.print(str(error), style="red", soft_wrap=True)
            continue
        silent += sound.is_silent
        cut += sound.seconds > sound.heard_seconds + 0.01
        if not sound.is_silent:
            waveforms.append(sound.waveform)
    if silent:
        err.print(f"{count(silent)} left out: silent")
    if cut:
        err.print(f"{count(cut)} longer than the model's window: the first {window:g} s heard")
    if not waveforms:
        raise ValueError(f"none of {count(len(clips))} can be used")
    return waveforms


def _table(rows: Sequence[dict[str, Any]], model: str) -> Table:
    table = Table(
        title=f"{model}: settings in the order in which they were tested",
        title_justify="left",
        caption="words: changed, in % of a clip's; bound: upper 95 %; same: clips; tokens: leave the encoder",
        caption_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    table.add_column("setting", overflow="fold")
    for column in ("words, %", "bound, %", "same", "tokens", "encoder", ""):
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(
            row["name"],
            f"{100 * row['word_error']:.2f}",
            f"{100 * row['bound']:.2f}",
            str(row["same"]),
            f"{row['tokens']:.0f}",
            f"{row['encoder_faster']:.2f}×",
            "passed" if row["passed"] else "failed",
        )
    return table
