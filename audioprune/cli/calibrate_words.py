"""`audioprune calibrate` for a Whisper with its decoder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from . import options as o
from .console import compact_table, count, err, progress, resumable

if TYPE_CHECKING:
    from ..calibration import WordCalibration


def check_words(limit: float | None) -> float:
    """The limit of words that may change. Raises `ValueError` if there is none."""
    if limit is None:
        raise ValueError("Whisper is calibrated by the words that may change: give --max-disagreement, such as 0.05")
    return limit


def calibrate_words(
    clips: Sequence[Path],
    model: str,
    limit: float,
    batch_size: int,
    device: str,
    dtype: str,
    state: Path,
    *,
    pack: bool,
) -> WordCalibration:
    """Calibrate a Whisper on the first window of each clip, with a bar. limit: the share of words that may change.
    state: the file of what was heard so far."""
    from ..calibration.words import LADDER
    from ..calibration.words import calibrate_words as choose
    from ..transcribing.parts import WhisperParts
    from ..transcribing.speech_model import SpeechModel

    o.quiet()
    parts = WhisperParts.read(model)
    waveforms = _read(clips, parts.window_seconds)
    loaded = parts.load(o.pick_device(device), o.parse_dtype(dtype))
    if pack:
        o.pack_on_cpu(loaded)
    speech_model = SpeechModel(loaded, parts.extractor, parts.tokenizer, language=None)
    with progress("clips") as bar, resumable(state):
        task = bar.add_task("Transcribing at most", total=(1 + len(LADDER)) * len(waveforms))
        return choose(
            speech_model,
            waveforms,
            max_word_error=limit,
            batch_size=batch_size,
            advance=lambda heard: bar.advance(task, heard),
            state=state,
        )


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
        cut += sound.is_cut
        if not sound.is_silent:
            waveforms.append(sound.waveform)
    if silent:
        err.print(f"{count(silent)} left out: silent")
    if cut:
        err.print(f"{count(cut)} longer than the model's window: the first {window:g} s heard")
    if not waveforms:
        raise ValueError(f"none of {count(len(clips))} can be used")
    return waveforms


def words_table(result: WordCalibration, model: str) -> Table:
    table = compact_table(
        f"{model}: settings in the order in which they were tested",
        "words: changed, in % of a clip's; bound: upper 95 %; same: clips; tokens: leave the encoder",
    )
    table.add_column("setting", overflow="fold")
    for column in ("words, %", "bound, %", "same", "tokens", ""):
        table.add_column(column, justify="right")
    for row in result.rows:
        table.add_row(
            row["name"],
            f"{100 * row['word_error']:.2f}",
            f"{100 * row['bound']:.2f}",
            str(row["same"]),
            f"{row['tokens']:.0f}",
            "passed" if row["passed"] else "failed",
        )
    return table
