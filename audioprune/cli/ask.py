"""`audioprune ask`."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options as o
from .console import err, out

if TYPE_CHECKING:
    import numpy as np

    from ..lm.answering import Answer

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
    clip: Annotated[Path, typer.Argument(help="A sound file.")],
    question: Annotated[str, typer.Argument(help='What to ask of it, such as "how many digits ?".')],
    model: LMModelOption = "listener",
    method: LMMethodOption = "segmentwise",
    keep_rate: Annotated[
        float, typer.Option(help="Share of the audio tokens that the language model reads, in (0, 1].")
    ] = 0.25,
    positions: Annotated[
        str, typer.Option(help='"renumber" closes the gaps that dropped tokens leave; "keep" keeps each at its time.')
    ] = "renumber",
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 64,
    compare: Annotated[bool, typer.Option("--compare", help="Ask the unpruned model too, before.")] = False,
    picture: Annotated[
        Path | None, typer.Option("--out", help="Also draw which moments were kept: .png, .svg or .pdf.")
    ] = None,
    device: o.DeviceOption = "auto",
    dtype: LMDtypeOption = "auto",
    as_json: o.JsonOption = False,
) -> None:
    """Ask an audio-language model about a sound, of which it reads only a part of the tokens.

    The answer is printed as it comes; after it, how many tokens of sound there were and how many were read, the time
    to the first token, and the memory. Scores do not depend on the question.

        audioprune ask interview.wav "What is it about?" --model Qwen/Qwen2-Audio-7B-Instruct --keep-rate 0.25
    """
    from ..lm.answering import answer
    from ..lm.loading import load_lm
    from ..lm.settings import method as named
    from ..plots import check_suffix
    from ..pruning import prune

    setting = named(method, keep_rate)
    if picture is not None:
        check_suffix(picture)
    o.quiet()
    loaded, processor = load_lm(model, o.pick_device(device), dtype)
    waveform = heard(clip, processor)

    def asked(title: str) -> Answer:
        if not as_json:
            err.print(title, soft_wrap=True)
        said = answer(
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
        answer(loaded, processor, waveform, question, max_new_tokens=1)
        rows["unpruned"] = asked("unpruned:").as_row()
    prune(loaded, setting, positions=positions)
    pruned = asked(f"{setting}:")
    if as_json:
        print(json.dumps({"clip": str(clip), "question": question, "model": model, **pruned.as_row(), **rows}))
    if picture is not None:
        said = textwrap.shorten(f"{question} {pruned.text}", 110, placeholder=" …")
        draw(picture, clip, pruned, f"{clip.name} · {setting}\n{said}")
        out.print(f"→ {picture}", soft_wrap=True) if not as_json else None


def heard(clip: Path, processor: Any) -> np.ndarray:
    """A clip's waveform at the processor's rate. Raises `AudioError` where it cannot be used."""
    from ..audio import load_audio
    from ..lm.loading import sampling_rate

    return load_audio(clip, sample_rate=sampling_rate(processor)).waveform


def _cost(said: Answer) -> str:
    before, after = said.tokens
    tokens = f"{before} audio tokens" if before == after else f"{before} → {after} audio tokens"
    memory = "" if said.peak_bytes is None else f", {said.peak_bytes / 2**20:,.0f} MiB at most"
    return (
        f"  {tokens}, first token after {1000 * said.first_token_seconds:.0f} ms, "
        f"{said.new_tokens} tokens in {said.seconds:.2f} s{memory}"
    )


def draw(target: Path, clip: Path, said: Answer, title: str) -> None:
    """The moments that were kept, over waveform and spectrogram."""
    from ..audio import load_audio
    from ..plots import moments_figure, save

    save(moments_figure(load_audio(clip).waveform, said.record, title=title), target)
