"""`audioprune explain`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..methods import names
from . import options as o
from . import window_options as w
from .console import out, progress
from .explain_words import explain_words
from .long_sounds import parse_windows, stretch_lines, watch_windows

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure

    from ..core.trace import Trace
    from ..methods import Method
    from ..tagging.tagger import Tagger
    from ..tagging.timeline import Timeline


def explain(
    clip: Annotated[Path, typer.Argument(readable=False, help="A sound file.")],
    model: o.ModelOption = "esc10",
    method: o.DefaultMethodOption = None,
    keep_rate: o.KeepRateOption = None,
    score: o.ScoreOption = None,
    segments: o.SegmentsOption = None,
    dropped: o.DroppedOption = None,
    layers: o.LayersOption = None,
    window: w.WindowOption = "auto",
    hop: w.HopOption = None,
    pool: w.PoolOption = "mean",
    at: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Start in seconds of the window of a long sound whose patches are drawn. [default: where the sound's "
            "label is most probable]",
            show_default=False,
        ),
    ] = None,
    device: o.DeviceOption = "auto",
    dtype: o.DtypeOption = "float32",
    picture: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="Picture to write: .png, .svg or .pdf. [default: CLIP-kept.png here]",
            show_default=False,
        ),
    ] = None,
    as_json: o.JsonOption = False,
) -> None:
    """Draw what was kept of a sound: its spectrogram, and after each stage the patches that stayed and the scores.

    Of a sound longer than the model hears: its labels over time under its waveform, and below them the patches of one
    window, which is marked. Of an audio-language model: the moments that its language model reads, over waveform and
    spectrogram. Of a Whisper with its decoder: the words where they fell, and how much of the sound and of the padding
    is in each token.

        audioprune explain my-sounds/dog.wav --method topk --keep-rate 0.5 --out dog.png

        audioprune explain street.flac --hop 1 --at 60

        audioprune explain talk.wav --model openai/whisper-base

    Written is the picture alone, over one of that name that is there.
    """
    from ..audio.files import load_audio
    from ..core.pruning import prune
    from ..files import check_writable
    from ..models.loading import is_language_model, is_transcriber
    from ..plots import check_suffix
    from ..tagging.tagger import Tagger

    chosen = o.choose_method(method, keep_rate, score, segments, dropped, layers, model)
    target = check_suffix(picture or Path(f"{clip.stem}-kept.png"))
    check_writable(target)
    windows = parse_windows(window, hop, pool)
    if is_language_model(model):
        given = any(choice is not None for choice in (keep_rate, score, segments, dropped, layers))
        if method is None and (given or o.saved_pruning(model) is None):
            chosen = o.choose_method("segmentwise", keep_rate or "0.25", score, segments, dropped, layers)
        _explain_moments(clip, model, chosen.method, target, device, dtype, as_json)
        return
    if is_transcriber(model):
        given = any(choice is not None for choice in (method, keep_rate, score, segments, dropped, layers))
        if not given and o.saved_pruning(model) is None:
            chosen = o.choose_method(names.RECOMMENDED)
        explain_words(clip, model, chosen, target, device, dtype, as_json)
        return
    with progress("", brief=True) as bar:
        task = bar.add_task("Drawing", total=3)
        loaded, front = o.open_model(model, device, dtype)
        bar.advance(task)
        tagger = Tagger(loaded, front, top=3, windows=windows)
        watch_windows(tagger, bar)
        sound = load_audio(clip, max_seconds=tagger.seconds)
        settings = chosen.for_model(loaded)
        title = f"{clip.name} · {settings}"
        if tagger.is_long(sound):
            found, record = explain_long(tagger, clip, sound.seconds, settings, at, target, title)
        else:
            if at:
                raise ValueError(f"--at is {at:g}, but {clip} fits one window of {tagger.seconds:.4g} s; leave it out")
            full = draw_label(tagger, clip)
            bar.advance(task)
            prune(loaded, settings)
            label, record = draw(tagger, clip, target, f"{title}\nunpruned: {full}")
            found = {"label": label, "unpruned": full}
        bar.update(task, completed=3)
    if as_json:
        print(json.dumps({"picture": str(target), **found, **as_rows(record)}))
        return
    out.print(f"{clip}: {found['label']} (unpruned: {found['unpruned']})", soft_wrap=True)
    for line in stretch_lines(found):
        out.print(line, soft_wrap=True)
    if "explained" in found:
        out.print(f"  the window from {found['explained']['start']:g} s to {found['explained']['end']:g} s:")
    for stage, kept in enumerate(record.kept):
        patches = int((record.holders[stage] >= 0).sum())
        merged = f", {patches} patches in them" if patches > (kept >= 0).sum() else ""
        out.print(f"  {record.place(stage)}: {int((kept >= 0).sum())} tokens kept{merged}")
    out.print(f"→ {target}", soft_wrap=True)


def _explain_moments(
    clip: Path, model: str, method: Method, target: Path, device: str, dtype: str, as_json: bool
) -> None:
    """As `explain`, of an audio-language model. Scores do not depend on what is asked."""
    from ..core.pruning import prune
    from .ask import answered, heard, note_cut
    from .ask import draw as draw_moments

    loaded, processor = o.open_lm(model, device, dtype)
    prune(loaded, method)
    waveform = heard(clip, processor)
    said = answered(clip, loaded, processor, waveform, "what was heard ?", max_new_tokens=1)
    note_cut(clip, waveform, processor, said)
    before, after = said.tokens
    draw_moments(target, clip, said, f"{clip.name} · {method}")
    if as_json:
        row = said.as_row()
        print(
            json.dumps(
                {
                    "picture": str(target),
                    **{name: row.get(name) for name in ("tokens", "kept", "kept_seconds", "sources", "heard_seconds")},
                }
            )
        )
        return
    out.print(f"{clip}: {after} of {before} audio tokens kept", soft_wrap=True)
    out.print(f"→ {target}", soft_wrap=True)


def draw_label(tagger: Tagger, clip: Path) -> str:
    """The top label of a clip with its probability. Raises `AudioError` where the clip cannot be used."""
    from ..audio.files import AudioError

    row = next(iter(tagger([clip])))
    if "error" in row:
        raise AudioError(row["error"])
    return f"{row['labels'][0]['label']} {row['labels'][0]['score']:.2f}"


def draw(tagger: Tagger, clip: Path, target: Path, title: str) -> tuple[str, Trace]:
    """Run a pruned model on a clip and write the picture. Returns its label and the trace."""
    from ..audio.files import load_audio
    from ..core.trace import trace
    from ..plots import explain_figure, save

    sound = load_audio(clip, max_seconds=tagger.front.max_seconds)
    with trace(tagger.model) as record:
        label = draw_label(tagger, clip)
    log_mel = tagger.front.picture(sound.waveform)
    figure = explain_figure(log_mel, record, title=f"{title} · pruned: {label}", clip_seconds=sound.heard_seconds)
    save(figure, target)
    return label, record


def explain_long(
    tagger: Tagger, clip: Path, seconds: float, settings: Method, at: float | None, target: Path, title: str
) -> tuple[dict[str, Any], Trace]:
    """Hear a long sound unpruned and pruned, and draw its labels over time and what was kept of one window.

    at: start of that window in seconds; None for the clearest. Returns the row of the sound, with the labels of both
    models and the window, and the trace of the window.
    """
    from ..audio.files import load_audio
    from ..core.pruning import prune
    from ..core.trace import trace
    from ..plots import save

    def label_of(timeline: Timeline) -> str:
        top = timeline.pooled().max(0)
        return f"{tagger.name_of(int(top.indices))} {float(top.values):.2f}"

    start = None if at is None else min(at, max(seconds - tagger.seconds, 0.0))
    full = label_of(tagger.timeline(clip, seconds))
    prune(tagger.model, settings)
    timeline = tagger.timeline(clip, seconds)
    start = timeline.clearest()[0] if start is None else start
    sound = load_audio(clip, max_seconds=tagger.seconds, start_seconds=start)
    with trace(tagger.model) as record:
        tagger.probabilities([sound.waveform])
    log_mel = tagger.front.picture(sound.waveform)
    names = [tagger.name_of(i) for i in range(timeline.probabilities.shape[1])]
    span = (start, start + sound.heard_seconds)
    save(long_figure(timeline, names, log_mel, record, span, title=f"{title} · unpruned: {full}"), target)
    row = tagger.timeline_row(clip, seconds, timeline)
    explained = {"start": round(span[0], 3), "end": round(span[1], 3)}
    return {"label": label_of(timeline), "unpruned": full, **row, "explained": explained}, record


def long_figure(
    timeline: Timeline,
    names: Sequence[str],
    log_mel: np.ndarray,
    record: Trace,
    span: tuple[float, float],
    *,
    title: str,
) -> Figure:
    """Labels over time, with a mark on a window, and below it what each stage kept of that window."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from ..plots import draw_stages, height_of
    from ..tagging import timeline_figure as over_time

    heights = (over_time.height_of(names), height_of(record))
    figure = Figure(figsize=(11, 0.9 + sum(heights)), layout="constrained")
    FigureCanvasAgg(figure)
    halves: Any = figure.subfigures(2, 1, height_ratios=heights)
    upper, lower = halves
    over_time.draw_timeline(upper, timeline, names, marked=span)
    lower.suptitle(f"{span[0]:.2f} s to {span[1]:.2f} s, the window that is marked", fontsize=10)
    draw_stages(lower, log_mel, record, span[1] - span[0])
    figure.suptitle(title, fontsize=11, parse_math=False)
    return figure


def as_rows(record: Trace) -> dict[str, Any]:
    """A trace of one clip for JSON."""
    stages = [
        {"layer": layer, "kept": record.kept[i][0].tolist(), "sources": record.sources(i)}
        for i, layer in enumerate(record.layers)
    ]
    return {"grid": list(record.grid), "stages": stages}
