"""The page's tab for speech: both transcripts of a sound, and both times."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from difflib import SequenceMatcher
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from ..audio.files import AudioError
from ..files import Row
from ..transcribing.differences import words_of
from ..transcribing.transcriber import Transcriber
from .messages import message_box, reason
from .sound_input import sound_input
from .turn import Turn

HINT = "Record some speech or upload a sound: what Whisper writes with and without pruning appears here."


class SpeechStudio:
    """A Whisper that transcribes one sound at a time, pruned and not, since pruning changes the model.

    name: of the model, for the page. transcriber: compares with the unpruned model.
    """

    def __init__(self, name: str, transcriber: Transcriber) -> None:
        self.name, self._transcriber, self._turn = name, transcriber, Turn()
        self.end = self._turn.end

    @property
    def method(self) -> str:
        return str(self._transcriber.method)

    def __call__(self, path: Path, progress: Callable[[float], Any] = lambda share: None) -> Row:
        """The row of a sound, as `Transcriber` gives it.

        progress: called with the share of a long sound that was heard, first with pruning and then without.

        Raises `AudioError` if it cannot be transcribed, and `InterruptedError` after `end`.
        """

        def heard(share: float) -> None:
            self._turn.check()
            progress(share)

        with self._turn:
            self._transcriber.progress = heard
            row = next(iter(self._transcriber([path])))
        if "error" in row:
            raise AudioError(row["error"])
        return row


def speech_tab(studio: SpeechStudio) -> None:
    """Lay the tab out, within a `gr.Blocks`."""
    with gr.Row(elem_classes="ap-main"):
        with gr.Column(scale=4, min_width=320):
            sound = sound_input("Speech", "speech")
            run = gr.Button("Transcribe again", variant="primary", elem_id="transcribe")
        with gr.Column(scale=8, min_width=420):
            message = gr.HTML(elem_id="speech-message", visible=False)
            result = gr.HTML(f'<div class="ap-hint">{HINT}</div>', elem_id="transcripts")

    def update(path: str | None, bar: Any = gr.Progress()) -> dict[Any, Any]:  # noqa: B008
        if path is None:
            return {message: gr.update(visible=False)}
        try:
            row = studio(Path(path), lambda share: bar(share, desc="Hearing long speech"))
        except Exception as error:
            return {message: message_box([f"<b>{escape(reason(error, Path(path), studio.name))}</b>"], "ap-error")}
        return {message: gr.update(visible=False), result: transcripts(row, studio.name, studio.method)}

    turn: dict[str, Any] = {"trigger_mode": "always_last", "concurrency_limit": 1, "concurrency_id": "speech"}
    turn |= {"show_progress": "full", "show_progress_on": [result], "api_visibility": "private"}
    gr.on([sound.change, run.click], update, sound, [message, result], **turn)


def transcripts(row: Row, model: str, method: str) -> str:
    """Both transcripts as HTML, with marks on the words that differ, and both times."""
    unpruned, pruned = marked(row["unpruned"], row["text"])
    count, slow, fast = row["word_differences"], row["unpruned_compute_seconds"], row["compute_seconds"]
    if count:
        kind, verdict = "ap-different", f"{count} {'word differs' if count == 1 else 'words differ'}"
    else:
        kind, verdict = "ap-same", "The same words"
    ratio = slow / max(fast, 1e-3)
    faster = f"about {ratio:.1f} times faster" if ratio >= 1 else f"about {1 / ratio:.1f} times slower"
    parts = [("Without pruning", unpruned, slow, ""), ("With pruning", pruned, fast, f", {faster}")]
    boxes = "".join(
        f'<div class="ap-transcript"><div class="ap-title">{title}: {seconds:.2f} s{more}</div>'
        f"<p>{text or '<i>no words</i>'}</p></div>"
        for title, text, seconds, more in parts
    )
    setting = escape(" · ".join((Path(row["path"]).name, model, method)))
    length = (
        f"{row['duration']:.1f} s of sound. Seconds are of one run each, after a warm-up, on this "
        "machine: a single run is no sure measure."
    )
    return (
        f'<div class="ap-verdict {kind}">{verdict}</div><div class="ap-setting">{setting}</div>'
        f'<div class="ap-transcripts">{boxes}</div><div class="ap-measured">{length}</div>'
    )


def marked(text: str, other: str) -> tuple[str, str]:
    """Both texts as HTML, each with marks on its words that the other does not have there."""
    left, right = text.split(), other.split()
    own, theirs = [" ".join(words_of(word)) for word in left], [" ".join(words_of(word)) for word in right]
    differs = [[False] * len(left), [False] * len(right)]
    for kind, a, b, c, d in SequenceMatcher(None, own, theirs, autojunk=False).get_opcodes():
        if kind != "equal":
            differs[0][a:b], differs[1][c:d] = [True] * (b - a), [True] * (d - c)
    return _html(left, differs[0]), _html(right, differs[1])


def _html(words: Sequence[str], marks: Sequence[bool]) -> str:
    shown = (f"<mark>{escape(word)}</mark>" if mark else escape(word) for word, mark in zip(words, marks, strict=True))
    return " ".join(shown)
