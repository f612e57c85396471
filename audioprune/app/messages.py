"""What the page says: verdicts, measurements, and what went wrong."""

from __future__ import annotations

import re
import traceback
from collections.abc import Sequence
from contextlib import suppress
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from ..models.sources import resolve
from .answer import Comparison

EXPECTED = (ValueError, TypeError, OSError, RuntimeError)
"""Errors of the library that the visitor can correct."""


def reason(error: Exception, path: Path, model: str) -> str:
    """Text of an error for the page, without folders that the visitor did not choose, and without option dashes."""
    if not isinstance(error, EXPECTED):
        traceback.print_exception(error)
        return "An unexpected error occurred; the terminal that serves this page shows the details."
    text = re.sub(r"Error opening b?'.*?': ", "", str(error)).replace(str(path), path.name)
    with suppress(OSError):  # a model that does not exist has no folder to hide
        text = text.replace(str(resolve(model)), model)
    return re.sub(r"--(?=[a-z])", "", text)


def message_box(lines: Sequence[str], kind: str) -> Any:
    """Message of some lines of HTML; hidden if there are no lines."""
    text = "".join(f"<div>{line}</div>" for line in lines)
    return gr.update(visible=bool(lines), value=f'<div class="ap-message {kind}" role="status">{text}</div>')


def verdict(comparison: Comparison, model: str) -> str:
    if comparison.agrees:
        kind, text = "ap-same", f"Both hear <b>{escape(comparison.pruned.top)}</b>"
    else:
        text = f"They differ: <b>{escape(comparison.unpruned.top)}</b> → <b>{escape(comparison.pruned.top)}</b>"
        kind = "ap-different"
    setting = escape(" · ".join((comparison.name, model, comparison.method)))
    return f'<div class="ap-verdict {kind}">{text}</div><div class="ap-setting">{setting}</div>'


def measurement(comparison: Comparison) -> str:
    return (
        f'<div class="ap-measured">Milliseconds: medians of forwards of this clip, taken in turn, on '
        f"{escape(comparison.measured)}. Fewer multiply-accumulates do not always take less time: short clips save "
        "less than the count suggests, and may even take longer.</div>"
    )
