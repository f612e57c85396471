"""Options of how sounds are heard that are longer than a model hears at once."""

from __future__ import annotations

from typing import Annotated

import typer

WindowOption = Annotated[
    str,
    typer.Option(
        help="How a sound that is longer than the model hears at once is heard: auto (the whole of it, in windows as "
        "long as the model hears, or of 10 s if it takes any length), a number of seconds (shorter windows, which are "
        "padded), or first (its beginning alone).",
    ),
]
HopOption = Annotated[
    float | None,
    typer.Option(
        help="Seconds from the start of a window to the next. The last window ends where the sound ends. [default: "
        "half a window]",
        show_default=False,
    ),
]
SpreadHopOption = Annotated[
    float | None,
    typer.Option(
        help="Seconds from the start of a window of a long sound to the next. [default: at most 12 windows of a sound, "
        "at even distances from its beginning to its end]",
        show_default=False,
    ),
]
PoolOption = Annotated[
    str,
    typer.Option(
        help="How the windows' answers become that of the whole sound: mean, or max (of each label's probability)."
    ),
]
