"""What commands say and draw of sounds that are longer than a model hears at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from rich.progress import Progress
from rich.text import Text

from .console import count, err

if TYPE_CHECKING:
    from ..audio.windowing import Windowing
    from ..bulk.sounds import Sound
    from ..tagging.tagger import Tagger
    from ..tagging.timeline import Timeline

SHOWN_STRETCHES = 20
"""Stretches of one label that are printed of a sound."""


def parse_windows(window: str, hop: float | None, pool: str) -> Windowing | None:
    """The windows that `--window`, `--hop` and `--pool` ask for; None for the first window alone."""
    from ..audio.windowing import Windowing

    return Windowing.parse(window, hop, pool)


def watch_windows(tagger: Tagger, bar: Progress, draw: Pictures | None = None) -> None:
    """Give the windows of each long sound a line of their own under a bar, and draw what was heard in them."""
    task = bar.add_task("Hearing windows", total=None, visible=False)

    def advance(done: int, total: int) -> None:
        bar.update(task, completed=done, total=total, visible=done < total)

    def heard(sound: Path | Sound, timeline: Timeline) -> None:
        if draw is not None:
            draw(sound, timeline, [tagger.name_of(i) for i in range(timeline.probabilities.shape[1])])

    tagger.progress, tagger.heard = advance, heard


class Pictures:
    """Where pictures of long sounds go: a file for one sound, or a folder for many."""

    def __init__(self, path: Path, sources: Sequence[Path], engine: str = "local") -> None:
        from ..files import check_writable
        from ..plots import check_suffix

        if engine != "local":
            raise ValueError("--picture is for --engine local, which hears the windows of a sound in this process")
        self.path, self.made = path, list[Path]()
        self._is_file = bool(path.suffix) and not path.is_dir()
        if self._is_file:
            check_suffix(path)
            if len(sources) > 1 or sources[0].is_dir():
                raise ValueError(f"--picture is {str(path)!r}, one picture, but there are many sounds; give a folder")
        elif path.exists() and not path.is_dir():
            raise FileExistsError(f"{path}: is a file; give --picture a folder, or a name that ends in .png")
        check_writable(path if self._is_file else path / "any.png")

    def __call__(self, sound: Path | Sound, timeline: Timeline, names: Sequence[str]) -> None:
        from ..plots import save
        from ..tagging.timeline_figure import timeline_figure

        target = self.path if self._is_file else self._within(sound)
        save(timeline_figure(timeline, names, title=Path(str(sound)).name), target)
        self.made.append(target)

    def say(self) -> None:
        for path in self.made[:3]:
            err.print(f"→ {path}", soft_wrap=True)
        if len(self.made) > 3:
            err.print(f"→ {len(self.made) - 3} more pictures in {self.path}", soft_wrap=True)
        if not self.made:
            err.print(
                "No picture: no sound was longer than a window (audioprune explain draws what was kept of one)",
                soft_wrap=True,
            )

    def _within(self, sound: Path | Sound) -> Path:
        """A name in the folder that no other sound of this run has."""
        stem, number = Path(str(sound)).stem, 1
        while (found := self.path / f"{stem}-labels{'' if number == 1 else f'-{number}'}.png") in self.made:
            number += 1
        return found


class Notes:
    """Counts what is said at the end of a run."""

    def __init__(self, windows: Windowing | None) -> None:
        self._windows = windows
        self._cut = self._silent = self._long = self._heard = 0
        self._first = self._macs = 0.0

    def add(self, row: dict[str, Any]) -> None:
        from ..audio.files import is_cut

        self._silent += row.get("silent", False)
        if "error" not in row and is_cut(row["seconds"], row["heard_seconds"]):
            self._cut += 1
            self._first = max(self._first, row.get("heard_seconds", 0))
        if "windows" in row:
            self._long += 1
            self._heard += len(row["windows"])
            self._macs += len(row["windows"]) * row["macs_per_window"]

    def say(self) -> None:
        if self._cut:
            err.print(f"{count(self._cut)} longer than the model's window: the first {self._first:.2f} s heard of each")
        if self._long:
            assert self._windows is not None
            cut = self._windows.as_dict()
            windows = "1 window" if self._heard == 1 else f"{self._heard} windows"
            err.print(
                f"{count(self._long)} longer than {cut['window_seconds']:.4g} s: heard whole in {windows}, one every "
                f"{cut['hop_seconds']:.4g} s; the labels are the {cut['pool']} over them. "
                f"{self._macs / self._heard / 1e9:.3g} GMACs a window, {self._macs / 1e9:.4g} in all",
                soft_wrap=True,
            )
        if self._silent:
            err.print(
                f"{count(self._silent)} silent: the model has to name something all the same, and it means nothing"
            )


def stretch_lines(row: dict[str, Any]) -> Iterator[Text]:
    """Of the row of a long sound a line for each stretch of time with one label."""
    from ..tagging.timeline_figure import clock

    stretches = stretches_of(row.get("windows", ()))
    for start, end, label, score in stretches[:SHOWN_STRETCHES]:
        text = "silent" if label is None else f"{label} {score:.2f}"
        yield Text(f"  {clock(start):>8} – {clock(end):<8} {text}")
    if len(stretches) > SHOWN_STRETCHES:
        yield Text(f"  … {len(stretches) - SHOWN_STRETCHES} more stretches; --json, --out or --picture for all of them")


def stretches_of(windows: Sequence[dict[str, Any]]) -> list[tuple[float, float, str | None, float]]:
    """Stretches of time with one top label: start, end, label (None for silence), its mean probability."""
    import numpy as np

    from ..audio.windows import bounds

    if not windows:
        return []
    moments = bounds(np.array([(one["start"], one["end"]) for one in windows])).tolist()
    tops = [None if one.get("silent") else one["labels"][0]["label"] for one in windows]
    found: list[tuple[float, float, str | None, float]] = []
    for label, group in groupby(range(len(windows)), key=tops.__getitem__):
        places = list(group)
        score = fmean(windows[i]["labels"][0]["score"] for i in places)
        found.append((moments[places[0]], moments[places[-1] + 1], label, score))
    return found
