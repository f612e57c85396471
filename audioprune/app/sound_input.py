"""The page's input of a sound: a recording, an upload, or the sound of a video."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.data_classes import FileData

from ..audio.extensions import FFMPEG


def sound_input(label: str, elem_id: str) -> gr.Audio:
    """Lay out an input of a sound, within a `gr.Blocks`. Its value is the path of an upload, or None.

    Browsers offer only files of sound for it. With the extra `media`, a button below it takes videos and the other
    formats that FFmpeg decodes.
    """
    # Gradio's share button would send the sound to the hub.
    sound = gr.Audio(
        sources=["upload", "microphone"], type="filepath", label=label, buttons=["download"], elem_id=elem_id
    )
    # Gradio would convert what a browser cannot play, with any FFmpeg that is installed and all of its formats.
    sound.postprocess = _as_it_is  # type: ignore[method-assign]
    if find_spec("av") is not None:
        video = gr.UploadButton(
            "Use the sound of a video", file_types=sorted(FFMPEG), size="sm", elem_id=f"{elem_id}-video"
        )
        video.upload(lambda path: path, video, sound, queue=False, show_progress="hidden", api_visibility="private")
    return sound


def _as_it_is(value: Any) -> FileData | None:
    return None if value is None else FileData(path=str(value), orig_name=Path(value).name)
