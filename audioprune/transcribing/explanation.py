"""What a pruned Whisper kept of one window of sound, and the words where they fell."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from ..audio.files import SAMPLE_RATE
from ..core.pruning import prune
from ..core.trace import trace
from ..methods import Method
from .differences import differences
from .options import Options
from .parts import WhisperParts
from .recognizer import Recognizer, Transcript, Word

CLOSE = 0.035
"""Share of the picture's width below which two words would overlap."""


@dataclass(frozen=True)
class Explanation:
    """A window of sound, pruned and not.

    waveform: (samples,) at 16 kHz. sizes: (tokens,), for each token that the decoder reads, in time, of how many
    positions it is. starts: (tokens,), where each has its place, in seconds. holder: (positions,), the token of each
    position, -1 where it was forgotten. window: seconds of all positions. transcript: of the pruned model, with the
    times of words; unpruned: of the model without pruning.
    """

    waveform: np.ndarray
    sizes: np.ndarray
    starts: np.ndarray
    holder: np.ndarray
    window: float
    transcript: Transcript
    unpruned: Transcript

    @property
    def words(self) -> list[Word]:
        return [word for segment in self.transcript.segments for word in segment.words]

    @property
    def differences(self) -> tuple[tuple[str, str], ...]:
        """Words that differ: unpruned, pruned."""
        return differences(self.unpruned.text, self.transcript.text).places


def options_for(parts: WhisperParts) -> Options:
    """Ask for the times of words, or of segments, where the model can tell them."""
    for timestamps in ("word", "segment"):
        with suppress(ValueError):
            return Options(timestamps=timestamps).for_model(parts)
    return Options()


def explain(recognizer: Recognizer, method: Method, waveform: np.ndarray) -> Explanation:
    """Transcribe a window of sound with a method and without it.

    recognizer: of an unpruned model; its options ask for the times of words. waveform: (samples,), no longer than the
    model's window.
    """
    (unpruned,) = recognizer.short([waveform])
    with prune(recognizer.model, method), trace(recognizer.model) as record:
        (pruned,) = recognizer.short([waveform])
    positions = recognizer.model.config.max_source_positions
    holder = record.holders[-1][0].cpu().numpy() if record.holders else np.arange(positions)
    kept = record.kept[-1][0].cpu().numpy() if record.kept else holder
    kept, held = kept[kept >= 0], np.flatnonzero(holder >= 0)
    # A fused token has no place of its own: it is shown at the first position that went into it.
    places = held[np.unique(holder[held], return_index=True)[1]]
    places[holder[kept]] = kept
    window = recognizer.parts.window_seconds
    sizes = np.bincount(holder[held])
    return Explanation(waveform, sizes, places * window / positions, holder, window, pruned, unpruned)


def figure(explanation: Explanation, *, title: str = "") -> Figure:
    """Draw the words over the waveform, and below them, for the sound and for the whole window, how many positions of
    20 ms each token stands for."""
    drawn = Figure(figsize=(12, 6.2), layout="constrained")
    FigureCanvasAgg(drawn)
    panels = drawn.subplots(3, 1, height_ratios=(3, 1, 1))
    seconds = len(explanation.waveform) / SAMPLE_RATE
    panels[0].plot(np.arange(len(explanation.waveform)) / SAMPLE_RATE, explanation.waveform, linewidth=0.4, color="0.4")
    panels[0].sharex(panels[1])
    panels[1].set_xlim(0, seconds)
    _write_words(panels[0], explanation.words, seconds, float(np.abs(explanation.waveform).max()))
    sizes = explanation.sizes[explanation.holder.clip(min=0)].astype(float)
    sizes[explanation.holder < 0] = np.nan
    norm = LogNorm(1, max(2, float(np.nanmax(sizes))))
    for axes in panels[1:]:
        extent = (0, explanation.window, 0, 1)
        strip = axes.imshow(sizes[None], aspect="auto", extent=extent, cmap="viridis", norm=norm, interpolation="none")
        axes.set_yticks([])
        axes.tick_params(labelsize=8)
    panels[1].set_xlim(0, seconds)
    panels[2].set_xlim(0, explanation.window)
    for start in explanation.starts:
        panels[2].axvline(start, ymin=0, ymax=0.25, color="0.4", linewidth=0.4)
    heard = int((explanation.starts < seconds).sum())
    panels[1].set_title(f"the sound: {round(len(sizes) * seconds / explanation.window)} positions of 20 ms in {heard} "
                        "tokens", fontsize=9, loc="left")  # fmt: skip
    panels[2].set_title(
        f"the whole window: {len(sizes)} positions in {len(explanation.sizes)} tokens; ticks: where each has its place",
        fontsize=9,
        loc="left",
    )
    panels[2].set_xlabel("time (s)")
    bar = drawn.colorbar(strip, ax=panels[1:], label="positions in a token")
    bar.ax.yaxis.set_major_formatter("{x:g}")
    bar.ax.yaxis.set_minor_formatter("")
    drawn.suptitle(title, fontsize=11, parse_math=False)
    return drawn


def _write_words(axes: Axes, words: Sequence[Word], seconds: float, loudest: float) -> None:
    """Write each word at its time; upright where they would run into each other."""
    top = max(loudest, 1e-3)
    middles = np.array([(word.start + word.end) / 2 for word in words])
    is_dense = len(words) > 1 and float(np.diff(middles).min(initial=seconds)) < 2 * CLOSE * seconds
    axes.set_ylim(-1.1 * top, (2.2 if is_dense else 1.5) * top)
    for word, middle in zip(words, middles, strict=True):
        axes.axvspan(word.start, word.end, facecolor="tab:blue", edgecolor="white", alpha=0.2, linewidth=1.5)
        axes.text(
            float(middle),
            1.15 * top,
            word.word,
            rotation=90 if is_dense else 0,
            horizontalalignment="center",
            verticalalignment="bottom",
            fontsize=8,
            parse_math=False,
            clip_on=True,
        )
    axes.set_title("waveform, and the words where they fell", fontsize=9, loc="left")
    axes.tick_params(labelsize=8)
