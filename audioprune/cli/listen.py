"""`audioprune listen`."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from . import options as o
from .console import err, out

if TYPE_CHECKING:
    import numpy as np

    from ..tagging.stream import Answer, Stream

FORMATS = {"s16le": "<i2", "s32le": "<i4", "f32le": "<f4", "u8": "u1"}
"""Names of ffmpeg for raw samples."""
HEADERS = {b"RIFF": "WAV", b"fLaC": "FLAC", b"OggS": "OGG", b"ID3\x03": "MP3", b"ID3\x04": "MP3"}
READ = 8192
"""Bytes that are read of a pipe at once."""
BLOCKS = 10
"""Blocks of a microphone in a second."""


def listen(
    model: o.ModelOption = "esc10",
    method: o.DefaultMethodOption = None,
    keep_rate: o.KeepRateOption = None,
    score: o.ScoreOption = None,
    segments: o.SegmentsOption = None,
    dropped: o.DroppedOption = None,
    layers: o.LayersOption = None,
    hop: Annotated[float, typer.Option(min=0.05, help="Seconds between answers.")] = 0.5,
    window: Annotated[
        float | None,
        typer.Option(
            help="Seconds that are heard at once. [default: what the model hears; 10 if it takes any length]",
            show_default=False,
        ),
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Labels of an answer.")] = 3,
    rate: Annotated[int, typer.Option(min=1000, help="Sampling rate of the samples in hertz.")] = 16_000,
    form: Annotated[
        str, typer.Option("--format", help=f"Raw samples of the pipe: {', '.join(FORMATS)}, as ffmpeg calls them.")
    ] = "s16le",
    channels: Annotated[
        int, typer.Option(min=1, max=8, help="Channels of the samples; the model gets their mean.")
    ] = 1,
    mic: Annotated[
        bool, typer.Option("--mic", help="Listen to the microphone, though there is a pipe; needs the extra mic.")
    ] = False,
    seconds: Annotated[
        float | None, typer.Option(min=0, help="Stop after so many seconds of sound.", show_default=False)
    ] = None,
    device: o.DeviceOption = "auto",
    dtype: o.DtypeOption = "float32",
    pack: Annotated[bool, typer.Option("--pack/--no-pack", help=o.PACK_HELP)] = True,
    as_json: o.JsonOption = False,
) -> None:
    """Label a sound while it goes on: raw samples from a pipe, or the microphone.

    Every half second a line: the moment, the labels of the last seconds (5 s for esc10), and how long the answer took.

        audioprune listen --rate 44100 --seconds 60

    Without a pipe this is the microphone. Anything that ffmpeg reads, and radio on the net, comes through a pipe:

        ffmpeg -i talk.mp4 -f s16le -ac 1 -ar 16000 - | audioprune listen --json

    The first answers are of what was heard so far, padded. At the start pruned and unpruned answers are timed in turn.
    From a pipe every answer is given, however late; from the microphone, answers that would come too late are skipped,
    and the next line says how many. Ctrl-C, or the end of the pipe, stops it.
    """
    if form not in FORMATS:
        raise ValueError(f"--format is {form!r}; there are {', '.join(FORMATS)}")
    from_pipe = not mic and not sys.stdin.isatty()
    if not from_pipe:
        check_microphone()  # now, not after the model was loaded
    from ..core.pruning import prune
    from ..tagging.stream import Stream

    chosen = o.choose_method(method, keep_rate, score, segments, dropped, layers, model)
    loaded, front = o.open_model(model, device, dtype)
    settings = chosen.for_model(loaded, front.max_seconds)
    if pack:
        o.pack_on_cpu(loaded)
    stream = Stream(loaded, front, hop=hop, sampling_rate=rate, window=window, top=top)
    _say_latency(loaded, front, settings, stream.window)
    prune(loaded, settings)
    err.print(f"Pruned by {settings}", soft_wrap=True)
    blocks = pipe_blocks(sys.stdin.buffer, FORMATS[form], channels) if from_pipe else mic_blocks(rate, channels)
    report = _Report(hop, as_json)
    try:
        _run(stream, blocks, seconds, report, latest=not from_pipe)
    finally:
        report.say(stream.seconds)
    if not report.times:
        raise ValueError(
            f"no answer: only {max(stream.seconds, report.heard):.2f} s of sound came; is the pipe empty, or the "
            "microphone off?"
        )


def _run(stream: Stream, blocks: Iterator[np.ndarray], seconds: float | None, report: _Report, latest: bool) -> None:
    left = None if seconds is None else round(seconds * stream.sampling_rate)
    for block in blocks:
        part = block if left is None else block[:left]
        for answer in stream.feed(part, latest=latest):
            report(answer)
        left = None if left is None else left - len(part)
        if left == 0:
            break
    report.heard = stream.seconds
    for answer in stream.finish():
        report(answer)


class _Report:
    """Prints answers, and says at the end how long they took."""

    def __init__(self, hop: float, as_json: bool) -> None:
        self._hop, self._as_json, self._is_late = hop, as_json, False
        self.times: list[float] = []
        self.heard = 0.0
        self.skipped = 0

    def __call__(self, answer: Answer) -> None:
        self.times.append(answer.compute_seconds)
        self.skipped += answer.skipped
        if self._as_json:
            print(json.dumps(answer.as_row()), flush=True)
        else:
            labels = "silent" if answer.silent else ", ".join(f"{label} {score:.2f}" for label, score in answer.labels)
            skipped = f"  ({answer.skipped} answers skipped)" if answer.skipped else ""
            line = (f"{answer.end:8.1f} s  ", (labels, "bold"), f"  {1000 * answer.compute_seconds:.0f} ms{skipped}")
            out.print(Text.assemble(*line), soft_wrap=True)
            out.file.flush()
        if answer.compute_seconds > self._hop and not self._is_late:
            self._is_late = True
            err.print(
                f"note: an answer took {answer.compute_seconds:.2f} s, more than --hop {self._hop:g}: a live sound "
                "gets ahead of the answers; take a greater --hop, or a lower --keep-rate",
                soft_wrap=True,
            )

    def say(self, heard: float) -> None:
        if not self.times:
            return
        late = sum(took > self._hop for took in self.times)
        err.print(
            f"{len(self.times)} answers to {max(heard, self.heard):.1f} s of sound, each in "
            f"{1000 * statistics.median(self.times):.0f} ms (median), {late} later than the next was due, "
            f"{self.skipped} skipped",
            soft_wrap=True,
        )


def _say_latency(model: Any, front: Any, settings: Any, window: float) -> None:
    """Time an answer pruned and unpruned, in turn."""
    import numpy as np

    from ..audio.files import SAMPLE_RATE
    from ..compare.benchmark import in_turn
    from ..timing import Ratio, unsure_note

    noise = np.random.default_rng(0).standard_normal(round(window * SAMPLE_RATE)).astype(np.float32) * 0.1
    front.to(model.device)
    inputs = front([noise]).to(model.dtype)
    unpruned, pruned = in_turn([(model, None, inputs), (model, settings, inputs)], 0.3)
    ratio = Ratio.between(unpruned, pruned)
    full, fast = (1000 * statistics.median(each) for each in (unpruned, pruned))
    err.print(f"An answer takes the model {fast:.1f} ms pruned, {full:.1f} ms unpruned ({ratio})")
    if note := unsure_note([ratio]):
        err.print(note, soft_wrap=True)


def pipe_blocks(pipe: Any, dtype: str, channels: int) -> Iterator[np.ndarray]:
    """Blocks of raw samples, (samples,) or (samples, channels). Raises `ValueError` for a file with a header."""
    import numpy as np

    size, held, is_first = np.dtype(dtype).itemsize * channels, b"", True
    while part := pipe.read1(READ):
        held += part
        if is_first and len(held) >= 4:
            if (kind := HEADERS.get(held[:4])) is not None:
                raise ValueError(
                    f"the pipe brings a {kind} file, but raw samples are expected; tag the file (audioprune tag FILE), "
                    "or convert it: ffmpeg -i FILE -f s16le -ac 1 -ar 16000 - | audioprune listen"
                )
            is_first = False
        whole = len(held) // size * size
        block, held = np.frombuffer(held[:whole], dtype), held[whole:]
        yield block if channels == 1 else block.reshape(-1, channels)
    if held:
        err.print(f"note: {len(held)} bytes at the end are no whole sample; check --format and --channels")


def check_microphone() -> None:
    """Raise `ModuleNotFoundError` without sounddevice, and `OSError` without the library that it needs."""
    try:
        import sounddevice  # noqa: F401
    except OSError as error:
        raise OSError(
            f"sounddevice cannot be used here ({error}); install PortAudio (such as libportaudio2 of Debian), or send "
            "the sound through a pipe, see --help"
        ) from error


def mic_blocks(rate: int, channels: int) -> Iterator[np.ndarray]:
    """What the microphone heard since the last block. Raises `OSError` if there is none."""
    import queue

    import numpy as np
    import sounddevice

    heard: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def keep(block: np.ndarray, frames: int, moment: Any, status: Any) -> None:
        heard.put(block.copy())

    settings = {"samplerate": rate, "channels": channels, "dtype": "float32", "blocksize": rate // BLOCKS}
    try:
        source = sounddevice.InputStream(callback=keep, **settings)
    except sounddevice.PortAudioError as error:
        raise OSError(f"no microphone can be opened ({error}); send the sound through a pipe, see --help") from error
    with source:
        while True:
            blocks = [heard.get()]
            while not heard.empty():
                blocks.append(heard.get())
            yield np.concatenate(blocks)
