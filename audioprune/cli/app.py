"""`audioprune app`."""

from __future__ import annotations

import atexit
import dataclasses
import os
from functools import cache
from typing import TYPE_CHECKING, Annotated

import typer

from ..methods import names
from . import options as o
from . import window_options as w
from .console import INTERRUPTED, err, out, progress
from .long_sounds import parse_windows

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ..app.speech import SpeechStudio
    from ..app.studio import Choice
    from ..methods import Method
    from ..tagging.tagger import Tagger

EMBEDDED = "esc10"
RATES = (0.1, 0.5)
"""The least that methods take: those that merge pairs cannot go under a half, and the page's slider begins at 0.1."""


def app(
    model: o.ModelOption = EMBEDDED,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 lets in whoever reaches this machine.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 7860,
    whisper: Annotated[
        str | None,
        typer.Option(
            help="A Whisper with its decoder, a folder or a hub id such as openai/whisper-base: the page then has a "
            "tab for speech, with both transcripts and both times.",
            show_default=False,
        ),
    ] = None,
    window: w.WindowOption = "auto",
    hop: w.HopOption = None,
    pool: w.PoolOption = "mean",
    device: o.DeviceOption = "auto",
    dtype: o.DtypeOption = "float32",
    browser: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in a browser.")] = False,
) -> None:
    """A page in the browser: record or upload a sound, and see what a model hears with and without pruning.

    Labels side by side, the spectrogram with what each stage kept, and tokens, multiply-accumulates and milliseconds
    as bars. A sound that is longer than the model hears is heard whole, and its labels are drawn over time. It works
    without a network, and keeps nothing. Audio-language models have `audioprune ask` instead.

        audioprune app --open

        audioprune app --whisper openai/whisper-base
    """
    from ..app.server import upload_folder

    with upload_folder():
        with progress("", brief=True) as bar:
            bar.add_task("Starting", total=None)
            from ..app.page import page
            from ..app.server import free_port, is_local, serve
            from ..app.studio import Studio
            from ..tagging.tagger import Tagger

        def open_model(source: str) -> Tagger:
            loaded, front = o.open_model(source, device, dtype)
            return Tagger(loaded, front, windows=windows)

        windows = parse_windows(window, hop, pool)
        port = free_port(host, port)
        studio = Studio(open_model, build)
        studio.open(model)
        speech = None if whisper is None else _speech(whisper, device, dtype)

        def ready(address: str) -> None:
            out.print(address, soft_wrap=True)
            if not is_local(host):
                err.print("Whoever reaches this machine can use the page; models are those that were named here.")
            err.print("Ctrl-C stops it.")

        def end() -> None:
            has_ended = [studio.end(), speech is None or speech.end()]
            if not all(has_ended):  # Python aborts if it ends while PyTorch computes
                atexit.register(os._exit, INTERRUPTED)

        models = list(dict.fromkeys([model, EMBEDDED]))
        # Loading a model reads files: only who sits at this machine may name others.
        blocks = page(studio, models, choices(), any_model=is_local(host), speech=speech)
        serve(blocks, host=host, port=port, ready=ready, end=end, browser=browser)


def _speech(whisper: str, device: str, dtype: str) -> SpeechStudio:
    """A Whisper with what is recommended for it."""
    from ..app.speech import SpeechStudio
    from ..core.recommend import decoded_at
    from ..transcribing.options import Options
    from ..transcribing.parts import WhisperParts
    from ..transcribing.recognizer import Recognizer
    from ..transcribing.transcriber import Transcriber

    parts = WhisperParts.read(whisper)
    with progress("", brief=True) as bar:
        bar.add_task(f"Loading {whisper}", total=None)
        loaded = parts.load(o.pick_device(device), o.parse_dtype(dtype), quick=True)
    o.pack_on_cpu(loaded)
    transcriber = Transcriber(Recognizer(loaded, parts, Options()), decoded_at(None), compare=True)
    return SpeechStudio(whisper, transcriber)


def build(name: str, keep_rate: float, score: str | None, model: PreTrainedModel) -> Method:
    """A method from the page's words; the recommended one, where its rate was left alone, fitted to the model."""
    is_untouched = name == names.RECOMMENDED and keep_rate == choices()[0].keep_rate
    return o.choose_method(name, None if is_untouched else str(keep_rate), score).for_model(model)


@cache
def choices() -> tuple[Choice, ...]:
    """The methods that need no training, the recommended one first."""
    return tuple(_choice(name) for name in names.words(trained=False))


def _choice(name: str) -> Choice:
    from ..app.studio import Choice

    method = o.build_method(name)
    rate = method.keep_rate
    assert isinstance(rate, float)
    return Choice(
        name=name,
        title=name if name == names.RECOMMENDED else type(method).__name__,
        keep_rate=rate,
        least=next(least for least in RATES if _takes(name, least)),
        scored=any(field.name == "score" for field in dataclasses.fields(method)),
    )


def _takes(name: str, keep_rate: float) -> bool:
    try:
        o.build_method(name, str(keep_rate))
    except ValueError:
        return False
    return True
