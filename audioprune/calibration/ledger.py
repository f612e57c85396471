"""What a calibration has heard so far, in a file that a run which was stopped goes on with."""

from __future__ import annotations

import json
import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from ..core.settings import describe
from ..files import Earlier, Row, differences, write_text
from ..methods import Method

Texts = tuple[list[str], list[float]]
"""Of a batch: the transcript of each clip, and the tokens that left the encoder for it."""
Outcomes = dict[int, tuple[bool, float]]
"""Place of a clip → whether the top label is another one, and the KL in nats."""


class StateFile(ABC):
    """JSON Lines: first what the run is, then a row for each thing that was done.

    path: None keeps nothing. run: what must be the same for the rows to be of use. `other`: what the file was begun
    with instead; it is then begun anew, with a warning. A last line that a kill has torn is done again.
    """

    def __init__(self, path: Path | None = None, run: Row | None = None, earlier: Earlier | None = None) -> None:
        self.path = path
        self.other: list[str] = []
        self._file: TextIO | None = None
        if path is None:
            return
        rows = _complete_lines(path)
        if rows:
            self.other = _other(json.loads(rows[0]), run or {}, earlier)
        if self.other:
            warnings.warn(f"{path}: begun with {', '.join(self.other)}, and now begun anew", stacklevel=5)
        if not rows or self.other:
            rows = [json.dumps({"run": run}, sort_keys=True)]
        for row in rows[1:]:
            self._take(json.loads(row))
        write_text(path, "".join(f"{row}\n" for row in rows))
        self._file = open(path, "a")  # noqa: SIM115  (closed by `close` and `remove`)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def remove(self) -> None:
        """At the end of a run there is nothing to go on with."""
        self.close()
        if self.path is not None:
            self.path.unlink(missing_ok=True)

    def _write(self, row: Row) -> None:
        text = json.dumps(row)
        self._take(json.loads(text))
        if self._file is not None:
            self._file.write(text + "\n")
            self._file.flush()

    @abstractmethod
    def _take(self, row: Row) -> None:
        """Remember a row."""


class Ledger(StateFile):
    """What each setting made of some clips, and what was timed."""

    def __init__(self, path: Path | None = None, run: Row | None = None, earlier: Earlier | None = None) -> None:
        self._outcomes: dict[str, Outcomes] = {}
        self.times: dict[str, float] = {}
        super().__init__(path, run, earlier)

    def outcomes(self, method: Method) -> Outcomes:
        return self._outcomes.get(_key(method), {})

    def note(self, method: Method, places: Sequence[int], apart: Sequence[bool], kl: Sequence[float]) -> None:
        # JSON knows no infinity.
        shown = [value if math.isfinite(value) else None for value in kl]
        self._write({"setting": describe(method), "clips": list(places), "apart": list(map(int, apart)), "kl": shown})

    def note_times(self, times: dict[str, float]) -> None:
        self._write({"times": times})

    def _take(self, row: Row) -> None:
        if "times" in row:
            self.times |= row["times"]
            return
        known = self._outcomes.setdefault(json.dumps(row["setting"], sort_keys=True), {})
        for place, apart, kl in zip(row["clips"], row["apart"], row["kl"], strict=True):
            known[place] = bool(apart), math.inf if kl is None else kl


class TranscriptLedger(StateFile):
    """What a Whisper wrote under each setting, batch by batch; None is the unpruned model."""

    def __init__(self, path: Path | None = None, run: Row | None = None) -> None:
        self._texts: dict[tuple[str, int], Texts] = {}
        super().__init__(path, run)

    def texts(self, method: Method | None, batch: int) -> Texts | None:
        """Transcripts of the clips of a batch and their tokens; None if they are still to be made."""
        return self._texts.get((_key(method), batch))

    def note(self, method: Method | None, batch: int, texts: Texts) -> None:
        setting = None if method is None else describe(method)
        self._write({"setting": setting, "batch": batch, "texts": texts[0], "tokens": texts[1]})

    def _take(self, row: Row) -> None:
        self._texts[json.dumps(row["setting"], sort_keys=True), row["batch"]] = row["texts"], row["tokens"]


def _key(method: Method | None) -> str:
    return json.dumps(None if method is None else describe(method), sort_keys=True)


def _other(head: Any, run: Row, earlier: Earlier | None) -> list[str]:
    """What the first line of a file says of another run."""
    begun = head.get("run") if isinstance(head, dict) else None
    if not isinstance(begun, dict):
        return ["something else"]
    return differences(begun, run, earlier=earlier)


def _complete_lines(path: Path) -> list[str]:
    """The lines of JSON up to the first that is none."""
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError):
        return []
    found = []
    for line in text.splitlines(keepends=True):
        try:
            json.loads(line)
        except ValueError:
            break
        if not line.endswith("\n"):
            break
        found.append(line.rstrip("\n"))
    return found
