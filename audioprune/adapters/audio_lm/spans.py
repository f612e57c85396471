"""The sounds of a batch of prompts: their placeholders, their length without padding, and what the encoder said."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .entries import AudioLMEntry
from .prompts import Run
from .tap import TapRecord


@dataclass(frozen=True)
class AudioSpan:
    """One sound of a batch of prompts.

    run: its placeholders; the first `count` of them are no padding. attention: (heads, count), keys: (count, head_dim),
    None where nobody asked.
    """

    run: Run
    count: int
    attention: Tensor | None = None
    keys: Tensor | None = None


class AudioBatch:
    """The features of a batch, row by row, and the clips that they belong to.

    frames: (rows,), of the encoder's last block, padding aside, None where its attention cannot be reached. voters:
    the same without the silence at the end of a clip that is padding which nothing else tells of (`entry.trims`).

    Raises `ValueError` where features and placeholders do not fit together.
    """

    def __init__(self, model: Any, entry: AudioLMEntry, given: Mapping[str, Any], runs: list[Run]) -> None:
        self.entry, self.runs = entry, runs
        self.frames = None if entry.frames is None else entry.frames(model, given)
        if self.frames is None:
            _check_number(runs, len(given[entry.features]))
            return
        self.tokens = (self.frames // entry.pool).tolist()
        width = given[entry.features].shape[-1]
        # The encoder halves the log-mel's frames.
        self.rows = _rows_of(runs, self.tokens, (width + 1) // 2 // entry.pool if entry.windows else None)
        self.voters = self._trimmed(given[entry.features]) if entry.trims else self.frames

    def clips(self, notes: TapRecord | None, embeds: Tensor, blank: Tensor | None) -> list[AudioSpan]:
        """Each clip, with what the encoder said of it where it was watched.

        embeds: (batch, length, width), what the language model would read; blank: (width,), what it reads of a
        clip's padding, None where there is none.
        """
        if self.frames is None:
            return [
                AudioSpan(run, _unpadded(embeds[run.row, run.start : run.start + run.count], blank))
                for run in self.runs
            ]
        clips = []
        for run, rows in zip(self.runs, self.rows, strict=True):
            voters = [int(self.voters[i]) for i in rows]
            real = [-(-n // self.entry.pool) for n in voters] if self.entry.trims else [self.tokens[i] for i in rows]
            said = (None, None) if notes is None else self._said(notes, rows, real, sum(voters))
            clips.append(AudioSpan(run, sum(real), *said))
        return clips

    def _trimmed(self, features: Tensor) -> Tensor:
        assert self.frames is not None
        voters = self.frames.clone()
        for rows in self.rows:
            heard = _heard(features[rows])  # each clip's log-mel has a floor of its own
            last = max((i for i, frames in enumerate(heard) if frames > 0), default=None)
            if last is None:  # nothing but silence: all of it is the clip
                continue
            voters[rows[last]] = min(int(voters[rows[last]]), (int(heard[last]) + 1) // 2)
            voters[rows[last + 1 :]] = 0
        return voters

    def _said(self, notes: TapRecord, rows: list[int], tokens: list[int], voters: int) -> tuple[Tensor, Tensor]:
        """Attention received, (heads, n), and keys, (n, head_dim), of a clip's tokens: the mean over the frames of
        each. Attention is a mean over the clip's queries (eq. 2a), each of which attended within its own window or
        chunk."""
        pool = self.entry.pool
        attention, keys = [], []
        for (received, key), count in zip(self._of_rows(notes, rows), tokens, strict=True):
            attention.append(
                received[:, : count * pool].unflatten(1, (count, pool)).mean(dim=2) if count else received[:, :0]
            )
            keys.append(key[: count * pool].unflatten(0, (count, pool)).mean(dim=1) if count else key[:0])
        return torch.cat(attention, dim=1) / max(1, voters), torch.cat(keys, dim=0)

    def _of_rows(self, notes: TapRecord, rows: list[int]) -> list[tuple[Tensor, Tensor]]:
        """(heads, frames) and (frames, head_dim) of some rows of features."""
        assert self.frames is not None
        if not self.entry.packed:
            return [(notes.received[0][i], notes.keys[0][i]) for i in rows]
        received = torch.cat([call[0] for call in notes.received], dim=1)
        keys = torch.cat([call[0] for call in notes.keys], dim=0)
        ends = self.frames.cumsum(0).tolist()
        spans = [slice(ends[i] - int(self.frames[i]), ends[i]) for i in rows]
        return [(received[:, span], keys[span]) for span in spans]


def _heard(features: Tensor) -> Tensor:
    """(rows,), frames of each row of a clip's log-mel (rows, mels, frames) up to the last that is above the floor."""
    above = (features > features.amin()).any(dim=1)
    return (above * torch.arange(1, features.shape[2] + 1, device=features.device)).amax(dim=1)


def _unpadded(embeds: Tensor, blank: Tensor | None) -> int:
    """How many of a clip's embeddings (n, width) there are before those that are all `blank`; all, where all are."""
    if blank is None:
        return len(embeds)
    real = (embeds != blank.to(embeds)).any(dim=1).nonzero()
    return int(real[-1]) + 1 if len(real) else len(embeds)


def _rows_of(runs: list[Run], tokens: list[int], full: int | None) -> list[list[int]]:
    """The rows of features that each clip has: one, or as many as it has windows.

    tokens: of each row; rows without any have no placeholders. full: tokens of a whole window, None where rows are
    clips. Of a clip, all windows but the last are whole.
    """
    waiting = [i for i, count in enumerate(tokens) if count]
    if full is None:
        _check_number(runs, len(waiting))
    owned = []
    for run in runs:
        rows: list[int] = []
        while waiting and sum(tokens[i] for i in rows) < run.count:
            if rows and (full is None or tokens[rows[-1]] < full):
                raise ValueError(_mismatch(f"{run.count} placeholders in a row hold more than one clip"))
            rows.append(waiting.pop(0))
        made = sum(tokens[i] for i in rows)
        if made != run.count:
            raise ValueError(_mismatch(f"{run.count} placeholders for features that make {made} tokens"))
        owned.append(rows)
    if waiting:
        raise ValueError(_mismatch(f"features of {len(waiting)} sounds have no placeholders in the prompts"))
    return owned


def _check_number(runs: list[Run], sounds: int) -> None:
    if len(runs) != sounds:
        raise ValueError(_mismatch(f"{len(runs)} clips in the prompts, but features of {sounds}"))


def _mismatch(what: str) -> str:
    return (
        f"prompt and sounds do not fit together: {what}. Either the features come from another processor than the "
        "prompt, or clips follow one another without a token between them; put text or the model's own begin and end "
        "tokens between two clips"
    )
