"""What visitors may ask of the server: their uploads and what the page needs, and nothing else of this machine.

Gradio refuses most of it too. It would also fetch addresses that a visitor names, and run FFmpeg on uploads.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder
from starlette.responses import PlainTextResponse

REFUSAL = "Not allowed: this page reads what is uploaded to it, and no other files or addresses."
_FILES = re.compile(r"/gradio_api/file[=/](.*)", re.DOTALL)
_CLOSED = re.compile(r"/gradio_api/(proxy=|process_recording|custom_component/)")
"""Routes of Gradio that the page does not need: they fetch addresses, run FFmpeg and write to the terminal."""


class Gate:
    """ASGI middleware that refuses what no page asks for, with status 403."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and not _is_open(scope["path"]):
            await PlainTextResponse(f"{REFUSAL}\n", 403)(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def _is_open(route: str) -> bool:
    if file := _FILES.match(route):
        return is_upload(file[1])
    return not _CLOSED.match(route)


def is_upload(path: Any) -> bool:
    """Whether a path, with its links followed, is of a file in the folder of uploads."""
    try:
        place = Path(path).resolve()
        return place.is_file() and place.is_relative_to(Path(get_upload_folder()).resolve())
    except (OSError, TypeError, ValueError):  # too long, no text, a null byte
        return False


def guard(blocks: gr.Blocks) -> None:
    """Let a page refuse requests that name a file which was not uploaded, or an address, before it is looked at."""
    preprocess = blocks.preprocess_data

    async def guarded(function: Any, inputs: list[Any], *others: Any) -> Any:
        if not all(map(is_upload, _named_files(inputs))):
            raise gr.Error(REFUSAL, print_exception=False)
        return await preprocess(function, inputs, *others)

    blocks.preprocess_data = guarded  # type: ignore[assignment, method-assign]


def _named_files(value: Any) -> Iterator[Any]:
    """Paths of the files that the data of a request name."""
    if isinstance(value, dict):
        if value.keys() & {"path", "meta"}:
            yield value.get("path")
        value = list(value.values())
    if isinstance(value, list):
        for one in value:
            yield from _named_files(one)
