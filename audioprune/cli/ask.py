"""`audioprune ask`."""

from __future__ import annotations

import json
import math
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options as o
from .console import err, out

if TYPE_CHECKING:
    import numpy as np

    from ..lm.generate import GeneratedAnswer

KEEP_RATE = 0.25
LMModelOption = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        help='"listener" (shipped: spoken digits over ten everyday sounds), the folder of an audio-language model in '
        "transformers' format, or a hub id such as Qwen/Qwen2-Audio-7B-Instruct.",
    ),
]
LMMethodOption = Annotated[
    str,
    typer.Option(
        help="segmentwise (each moment keeps its share), topk, visionzip, evs, atome, fastadasp, divprune, dpp, "
        "random, uniform or pooling; NAME+merge merges what it drops instead of forgetting it; a JSON file."
    ),
]
LMDtypeOption = Annotated[str, typer.Option(help="float32, bfloat16 or float16; auto: as the model was saved.")]


def ask(
    clip: Annotated[Path, typer.Argument(readable=False, help="A sound file.")],
    question: Annotated[str, typer.Argument(help='What to ask of it, such as "how many digits ?".')],
    model: LMModelOption = "listener",
    method: LMMethodOption = "segmentwise",
    keep_rate: Annotated[
        float | None,
        typer.Option(
            help="Share of the audio tokens that the language model reads, in (0, 1]. [default: 0.25, or what a JSON "
            "file says]",
            show_default=False,
        ),
    ] = None,
    positions: Annotated[
        str, typer.Option(help='"renumber" closes the gaps that dropped tokens leave; "keep" keeps each at its time.')
    ] = "renumber",
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 64,
    compare: Annotated[bool, typer.Option("--compare", help="Ask the unpruned model too, before.")] = False,
    picture: Annotated[
        Path | None, typer.Option("--out", "-o", help="Also draw which moments were kept: .png, .svg or .pdf.")
    ] = None,
    device: o.DeviceOption = "auto",
    dtype: LMDtypeOption = "auto",
    as_json: o.JsonOption = False,
) -> None:
    """Ask an audio-language model about a sound, of which it reads only a part of the tokens.

    With the small model that ships with audioprune, and with one from the hub:

        audioprune ask my-sounds/talk.wav "how many digits ?"

        audioprune ask interview.wav "What is it about?" --model Qwen/Qwen2-Audio-7B-Instruct --keep-rate 0.25

    The answer is printed as it comes; after it, how many tokens of sound there were and how many were read, the time
    to the first token, and the memory. Scores do not depend on the question. Nothing is written without --out.
    """
    from ..core.pruning import prune
    from ..core.settings import describe, read_method
    from ..files import check_writable
    from ..lm.loading import unknown_words
    from ..lm.settings import method as named
    from ..models.sources import LISTENER
    from ..plots import check_suffix

    if not question.strip():
        raise ValueError('the question is empty; ask something, such as "how many digits ?"')
    if keep_rate is None and method.endswith(".json"):
        setting = read_method(method)
    else:
        setting = named(method, KEEP_RATE if keep_rate is None else keep_rate)
    if picture is not None:
        check_suffix(picture)
    check_writable(picture)
    loaded, processor = o.open_lm(model, device, dtype)
    waveform = heard(clip, processor)
    unknown = unknown_words(processor, question)
    if unknown:
        hint = "; write small letters, and spaces around , and ?" if model == LISTENER else ""
        err.print(
            f"note: {model} has no word for {', '.join(unknown)}: its answer may mean nothing{hint}", soft_wrap=True
        )

    def asked(title: str) -> GeneratedAnswer:
        if not as_json:
            err.print(title, soft_wrap=True)
        said = answered(
            clip,
            loaded,
            processor,
            waveform,
            question,
            max_new_tokens=max_new_tokens,
            say=(lambda text: None) if as_json else (lambda text: print(text, end="", flush=True)),
        )
        if not as_json:
            print()
            err.print(_cost(said), soft_wrap=True)
        return said

    rows: dict[str, Any] = {}
    if compare:
        # The first of a process is slow whatever it is.
        answered(clip, loaded, processor, waveform, question, max_new_tokens=1)
        rows["unpruned"] = asked("unpruned:").as_row()
    prune(loaded, setting, positions=positions)
    written = f"{setting}" if positions == "renumber" else f"{setting}, positions kept"
    pruned = asked(f"{written}:")
    note_cut(clip, waveform, processor, pruned)
    if as_json:
        asked_for: dict[str, Any] = {"clip": str(clip), "question": question, "model": model}
        asked_for |= {"setting": describe(setting) | {"positions": positions}}
        print(json.dumps({**asked_for, **pruned.as_row(), **rows}))
    if picture is not None:
        said = textwrap.shorten(f"{question} {pruned.text}", 110, placeholder=" …")
        draw(picture, clip, pruned, f"{clip.name} · {written}\n{said}")
        out.print(f"→ {picture}", soft_wrap=True) if not as_json else None


def heard(clip: Path, processor: Any) -> np.ndarray:
    """A clip's waveform at the processor's rate. Raises `AudioError` where it cannot be used."""
    from ..audio.files import load_audio
    from ..lm.loading import sampling_rate

    return load_audio(clip, sample_rate=sampling_rate(processor)).waveform


def answered(clip: Path, *given: Any, **options: Any) -> GeneratedAnswer:
    """As `answer`; an `AudioError` names the clip."""
    from ..audio.files import AudioError
    from ..lm.generate import answer

    try:
        return answer(*given, **options)
    except AudioError as error:
        raise AudioError(f"{clip}: {error}") from None


def note_cut(clip: Path, waveform: np.ndarray, processor: Any, said: GeneratedAnswer) -> None:
    """Say so where a model did not hear all of a clip."""
    from ..lm.loading import sampling_rate

    seconds = len(waveform) / sampling_rate(processor)
    if said.heard_seconds < seconds - 0.5:
        err.print(
            f"note: {clip} is {seconds:.1f} s long, of which the model hears the first {said.heard_seconds:.1f} s"
        )


def _cost(said: GeneratedAnswer) -> str:
    before, after = said.tokens
    tokens = f"{before} audio tokens" if before == after else f"{before} → {after} audio tokens"
    memory = "" if said.peak_bytes is None else f", {said.peak_bytes / 2**20:,.0f} MiB at most"
    return (
        f"  {tokens}, first token after {1000 * said.first_token_seconds:.0f} ms, "
        f"{said.new_tokens} tokens in {said.seconds:.2f} s{memory}"
    )


def draw(target: Path, clip: Path, said: GeneratedAnswer, title: str) -> None:
    """The moments that were kept, over waveform and spectrogram."""
    from ..audio.files import SAMPLE_RATE, load_audio
    from ..plots import moments_figure, save

    waveform = load_audio(clip).waveform
    heard = waveform[: math.ceil(said.heard_seconds * SAMPLE_RATE)]
    save(moments_figure(heard, said.record, title=title), target)
