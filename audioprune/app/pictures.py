"""Pictures of a sound's spectrogram, with the patches that a stage kept."""

from __future__ import annotations

import base64
from html import escape
from io import BytesIO
from threading import Lock

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ..plots import _draw_tokens, _finish, _spectrogram
from ..tagging.timeline_figure import timeline_figure
from .answer import Comparison

_PEN = Lock()
"""Lock, because matplotlib can draw only one picture at a time."""


def timeline_picture(comparison: Comparison) -> bytes:
    """PNG of the labels of a long sound over time, with a mark on the window that the rest of the page is about."""
    assert comparison.timeline is not None
    with _PEN:
        figure = timeline_figure(comparison.timeline, comparison.label_names, marked=comparison.span)
        png = BytesIO()
        figure.savefig(png, dpi=110)
    return png.getvalue()


def timeline_html(comparison: Comparison) -> str:
    """That picture for the page; empty for a sound that fits one window."""
    if comparison.timeline is None:
        return ""
    return figure_html(
        timeline_picture(comparison), "What the pruned model hears over time. The marked window is the one below."
    )


def figure_html(png: bytes, caption: str) -> str:
    source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    return f'<figure><img src="{source}" alt="{escape(caption)}"><figcaption>{escape(caption)}</figcaption></figure>'


def picture(comparison: Comparison, stage: int) -> tuple[bytes, str]:
    """PNG and caption of a stage, counted from 1; 0 is the whole input.

    Dropped patches are veiled, and merged patches have the colour of their mean.
    """
    figure = Figure(figsize=(7.4, 2.9), layout="constrained")
    FigureCanvasAgg(figure)
    with _PEN:
        axes = figure.subplots()
        if stage == 0:
            _spectrogram(axes, comparison.log_mel)
            time, frequency = comparison.record.grid
            caption = f"The whole input: {time * frequency} patches, {time} in time × {frequency} in frequency"
            if frequency == 1:
                caption = f"The whole input: {time} positions in time"
        else:
            kept = _draw_tokens(axes, comparison.log_mel, comparison.record, stage - 1)
            place = comparison.record.place(stage - 1)
            caption = f"{place[0].upper()}{place[1:]}: {kept}"
        _finish(axes, comparison.log_mel, "", comparison.heard_seconds)
        axes.set_xlabel("time (s)", fontsize=8)
        png = BytesIO()
        figure.savefig(png, dpi=160)
    return png.getvalue(), caption
