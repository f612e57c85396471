"""What a calibration has heard so far, in a file that a run which was stopped goes on with."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

from ..core.settings import describe
from ..files import Earlier, Row
from ..methods import Method
from ..state_file import StateFile

Texts = tuple[list[str], list[float]]
"""Of a batch: the transcript of each clip, and the tokens that left the encoder for it."""
Outcomes = dict[int, tuple[bool, float]]
"""Place of a clip → whether the top label is another one, and the KL in nats."""


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
