"""`audioprune explain`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..methods import names
from . import options as o
from .console import out, progress
from .explain_words import explain_words

if TYPE_CHECKING:
    from ..core.trace import Trace
    from ..methods import Method
    from ..tagging.tagger import Tagger


def explain(
    clip: Annotated[Path, typer.Argument(readable=False, help="A sound file.")],
    model: o.ModelOption = "esc10",
    method: o.DefaultMethodOption = None,
    keep_rate: o.KeepRateOption = None,
    score: o.ScoreOption = None,
    segments: o.SegmentsOption = None,
    dropped: o.DroppedOption = None,
    layers: o.LayersOption = None,
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

    Of an audio-language model: the moments that its language model reads, over waveform and spectrogram. Of a Whisper
    with its decoder: the words where they fell, and how much of the sound and of the padding is in each token.

        audioprune explain my-sounds/dog.wav --method topk --keep-rate 0.5 --out dog.png

        audioprune explain talk.wav --model openai/whisper-base

    Written is the picture alone, over one of that name that is there.
    """
    from ..core.pruning import prune
    from ..models.loading import is_language_model, is_transcriber
    from ..plots import check_suffix
    from ..tagging.tagger import Tagger

    chosen = o.choose_method(method, keep_rate, score, segments, dropped, layers, model)
    target = check_suffix(picture or Path(f"{clip.stem}-kept.png"))
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
    with progress("steps", brief=True) as bar:
        task = bar.add_task("Drawing", total=3)
        loaded, front = o.open_model(model, device, dtype)
        bar.advance(task)
        tagger = Tagger(loaded, front, top=1)
        full = draw_label(tagger, clip)
        bar.advance(task)
        settings = chosen.for_model(loaded)
        prune(loaded, settings)
        label, record = draw(tagger, clip, target, f"{clip.name} · {settings}\nunpruned: {full}")
        bar.advance(task)
    if as_json:
        print(json.dumps({"picture": str(target), "label": label, "unpruned": full, **as_rows(record)}))
        return
    out.print(f"{clip}: {label} (unpruned: {full})", soft_wrap=True)
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


def as_rows(record: Trace) -> dict[str, Any]:
    """A trace of one clip for JSON."""
    stages = [
        {"layer": layer, "kept": record.kept[i][0].tolist(), "sources": record.sources(i)}
        for i, layer in enumerate(record.layers)
    ]
    return {"grid": list(record.grid), "stages": stages}
