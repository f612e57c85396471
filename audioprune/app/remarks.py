"""Remarks about a sound that a visitor should know when reading the prediction."""

from __future__ import annotations

from ..audio.files import SAMPLE_RATE, Clip
from ..tagging.timeline import Timeline


def remarks(clip: Clip, window: float, timeline: Timeline | None = None) -> tuple[str, ...]:
    """Sentences on a sound's length, loudness and format.

    window: length of the model's input in seconds. timeline: what was heard of a sound that is longer.
    """
    own = [_silence(clip), _length(clip, window)] if timeline is None else [_windows(timeline)]
    sentences = [*own, *_format(clip)]
    return tuple(sentence for sentence in sentences if sentence)


def _silence(clip: Clip) -> str:
    if not clip.is_silent:
        return ""
    part = "The part that was heard" if clip.is_cut else "This sound"
    return f"{part} is silent: the model still has to name a label, and its answer means nothing."


def _length(clip: Clip, window: float) -> str:
    if clip.is_cut:
        return (
            f"Heard: the first {clip.heard_seconds:.1f} s of {clip.seconds:.1f} s, which is all that the model takes."
        )
    if clip.heard_seconds < window / 2:
        return f"Only {clip.heard_seconds:.2f} s of sound; the rest of the model's {window:.1f} s is padding."
    return ""


def _windows(timeline: Timeline) -> str:
    if timeline.is_silent:
        return "This sound is silent: the model still has to name a label, and its answer means nothing."
    silent = int(timeline.silent.sum())
    quiet = f" ({silent} of them silent, which do not count)" if silent else ""
    start, end = timeline.clearest()
    return (
        f"Heard whole: {timeline.spans[-1, 1]:.1f} s in {len(timeline)} windows{quiet}. The labels are the "
        f"{timeline.pool} over them. Patches, tokens and times are of the window from {start:.1f} s to {end:.1f} s, in "
        "which the label is clearest."
    )


def _format(clip: Clip) -> list[str]:
    channels, rate = clip.channels or 1, clip.file_rate or SAMPLE_RATE
    sentences = [f"{channels} channels; the model gets their mean."] if channels > 1 else []
    if rate < SAMPLE_RATE:
        sentences.append(
            f"Sampled at {rate / 1000:g} kHz: the sound has nothing above {rate / 2000:g} kHz, "
            f"but the model was trained with {SAMPLE_RATE / 1000:g} kHz."
        )
    return sentences
