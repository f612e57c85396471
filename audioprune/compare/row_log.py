"""The rows that a comparison has made so far, in a file that a run which was stopped goes on with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from .. import fingerprints
from ..core.settings import describe
from ..files import Row
from ..methods.names import NamedMethod
from ..state_file import StateFile
from .settings import FineTuned, ReadClips


class RowLog(StateFile):
    """Rows without timing: speed is measured in turn, at the end."""

    def __init__(self, path: Path | None = None, run: Row | None = None) -> None:
        self._rows: dict[str, Row] = {}
        super().__init__(path, run)

    @classmethod
    def of(
        cls,
        path: Path | None,
        model: PreTrainedModel,
        clips: ReadClips,
        labels: Tensor,
        methods: Mapping[str, NamedMethod],
        tuned: Mapping[str, FineTuned],
        correct: ReadClips | None = None,
    ) -> RowLog:
        """The log of a comparison of these methods and models on these clips; None as path keeps nothing."""
        if path is None:
            return cls()
        # A settings file may have changed under the same name.
        settings = json.dumps({name: _settings(one) for name, one in methods.items()}, default=str)
        heard = _heard(clips)
        if clips.recordings:
            heard += json.dumps([list(clips.recordings), clips.pool])
        front = json.dumps(clips.front.settings, default=str)
        run = {
            "model": fingerprints.of_weights(model),
            "dtype": str(model.dtype),
            "clips": fingerprints.of_parts([heard.encode(), front.encode()]),
            "labels": fingerprints.of_numbers([labels]),
            "methods": fingerprints.of_parts([settings.encode()]),
            "fine_tuned": {
                name: [fingerprints.of_weights(one.model), describe(one.method)] for name, one in tuned.items()
            },
        }
        if correct is not None:
            run["correct"] = fingerprints.of_parts([_heard(correct).encode()])
        return cls(path, run)

    def row(self, name: str, keep_rate: Any, share: float | None) -> Row | None:
        """The row of a method at a keep rate, or at a share of the work; None if it is still to be made."""
        return self._rows.get(_key(name, keep_rate, share))

    def note(self, row: Row) -> None:
        self._write(row)

    def _take(self, row: Row) -> None:
        self._rows[_key(row["method"], row["keep_rate"], row.get("macs_share"))] = row


def _settings(method: NamedMethod) -> list[Any]:
    """What a method is; a bias of its own came after version 0.1, whose runs go on."""
    return [method.kind.__name__, method.settings, *([] if method.bias is None else [method.bias])]


def _heard(clips: ReadClips) -> str:
    return json.dumps([[str(row.path.absolute()), row.start, row.end] for row in clips.rows])


def _key(name: str, keep_rate: Any, share: float | None) -> str:
    return json.dumps([name, ["macs", share] if share is not None else keep_rate])
