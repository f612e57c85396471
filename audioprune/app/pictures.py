"""The spectrogram of a sound, and what a stage kept of it."""

from __future__ import annotations

from io import BytesIO
from threading import Lock

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ..plots import _draw_tokens, _finish, _spectrogram
from .answer import Answer

_PEN = Lock()
"""matplotlib draws one picture at a time."""


def picture(answer: Answer, stage: int) -> tuple[bytes, str]:
    """PNG and caption of a stage, counted from 1; 0 is the whole input.

    What was forgotten is veiled, and merged patches have the colour of their mean.
    """
    figure = Figure(figsize=(7.4, 2.9), layout="constrained")
    FigureCanvasAgg(figure)
    with _PEN:
        axes = figure.subplots()
        if stage == 0:
            _spectrogram(axes, answer.log_mel)
            time, frequency = answer.record.grid
            said = f"The whole input: {time * frequency} patches, {time} in time × {frequency} in frequency"
        else:
            kept = _draw_tokens(axes, answer.log_mel, answer.record, stage - 1)
            place = answer.record.place(stage - 1)
            said = f"{place[0].upper()}{place[1:]}: {kept}"
        _finish(axes, answer.log_mel, "", answer.heard_seconds)
        axes.set_xlabel("time (s)", fontsize=8)
        png = BytesIO()
        figure.savefig(png, dpi=160)
    return png.getvalue(), said
