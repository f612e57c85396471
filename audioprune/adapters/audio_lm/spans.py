"""The sounds of a batch of prompts: their placeholders, their length without padding, and their attention and keys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...core.tokens import Evidence, Place, Tokens
from .entries import AudioLMEntry
from .prompts import Run, find_runs
from .tap import TapRecord

PROMPT = Place(0)
"""Where the tokens of a prompt are reduced."""


@dataclass(frozen=True)
class AudioSpan:
    """One sound of a batch of prompts.

    Args:
        run: its placeholders.
        count: number of placeholders without padding; they come first.
        attention: (heads, count), attention received; None if not recorded.
        keys: (count, head_dim); None if not recorded.
    """

    run: Run
    count: int
    attention: Tensor | None = None
    keys: Tensor | None = None


class AudioBatch:
    """The rows of features in a batch, and the clips that they belong to.

    frames: (rows,), frames of the encoder's last block, without padding; None if its attention cannot be reached.
    voters: the same, but also without silence at the end of a clip, if this is how padding looks (`entry.trims`).

    Raises `ValueError` if features and placeholders do not fit together.
    """

    def __init__(self, model: Any, entry: AudioLMEntry, inputs: Mapping[str, Any], runs: list[Run]) -> None:
        self.entry, self.runs = entry, runs
        self.frames = None if entry.frames is None else entry.frames(model, inputs)
        if self.frames is None:
            _check_number(runs, len(inputs[entry.features]))
            return
        self.tokens = (self.frames // entry.pool).tolist()
        width = inputs[entry.features].shape[-1]
        # The encoder halves the number of log-mel frames.
        self.rows = _rows_of(runs, self.tokens, (width + 1) // 2 // entry.pool if entry.windows else None)
        self.voters = self._trimmed(inputs[entry.features]) if entry.trims else self.frames

    @property
    def real(self) -> Tensor | None:
        """Frames of the encoder's last block that are no padding, of whole tokens, (rows,); None if unknown."""
        return None if self.frames is None else _of_whole_tokens(self.voters, self.entry.pool)

    def clips(self, record: TapRecord | None, embeds: Tensor, blank: Tensor | None) -> list[AudioSpan]:
        """The clips, with their attention and keys if these were recorded.

        record: record of the encoder's last attention, or None. embeds: (batch, length, width), inputs of the language
        model. blank: (width,), embedding of padding inside a clip, or None.
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
            recorded = (None, None) if record is None else self._recorded(record, rows, real, sum(voters))
            clips.append(AudioSpan(run, sum(real), *recorded))
        return clips

    def _trimmed(self, features: Tensor) -> Tensor:
        assert self.frames is not None
        voters = self.frames.clone()
        for rows in self.rows:
            audible = _audible_frames(features[rows])  # the log-mel of each clip has its own floor
            last = max((i for i, frames in enumerate(audible) if frames > 0), default=None)
            if last is None:  # the clip is silent, so nothing is padding
                continue
            voters[rows[last]] = min(int(voters[rows[last]]), (int(audible[last]) + 1) // 2)
            voters[rows[last + 1 :]] = 0
        return voters

    def _recorded(self, record: TapRecord, rows: list[int], tokens: list[int], voters: int) -> tuple[Tensor, Tensor]:
        """Attention received, (heads, n), and keys, (n, head_dim), of a clip's tokens: means over the frames of each.

        Attention is the mean over the clip's queries (eq. 2a). Each query attends within its own window or chunk.

        Args:
            record: record of the encoder's last attention.
            rows: the clip's rows of features.
            tokens: number of tokens of each row.
            voters: number of the clip's queries.
        """
        pool = self.entry.pool
        attention, keys = [], []
        for (received, key), count in zip(self._rows_of_record(record, rows), tokens, strict=True):
            attention.append(
                received[:, : count * pool].unflatten(1, (count, pool)).mean(dim=2) if count else received[:, :0]
            )
            keys.append(key[: count * pool].unflatten(0, (count, pool)).mean(dim=1) if count else key[:0])
        return torch.cat(attention, dim=1) / max(1, voters), torch.cat(keys, dim=0)

    def _rows_of_record(self, record: TapRecord, rows: list[int]) -> list[tuple[Tensor, Tensor]]:
        """Attention received (heads, frames) and keys (frames, head_dim) of some rows of features."""
        assert self.frames is not None
        if not self.entry.packed:
            return [(record.received[0][i], record.keys[0][i]) for i in rows]
        received = torch.cat([call[0] for call in record.received], dim=1)
        keys = torch.cat([call[0] for call in record.keys], dim=0)
        ends = self.frames.cumsum(0).tolist()
        spans = [slice(ends[i] - int(self.frames[i]), ends[i]) for i in rows]
        return [(received[:, span], keys[span]) for span in spans]


def in_time(hidden: Tensor, place: Place = PROMPT, **more: Any) -> tuple[Tokens, Evidence]:
    """Inputs of a method for tokens that are moments of a clip.

    hidden: (rows, n, width). more: further fields of `Evidence`.
    """
    rows, n = hidden.shape[:2]
    time = torch.arange(n, device=hidden.device).expand(rows, -1)
    evidence = Evidence(
        layer=place.layer,
        after=place.after,
        turn=place.turn,
        depth=1,
        patch=time,
        column=time,
        columns=n,
        row=torch.zeros_like(time),
        patches=n,
        special=hidden[:, :0],
        default_segments=n,
        **more,
    )
    return Tokens(hidden, time), evidence


def real_frames(model: Any, entry: AudioLMEntry, inputs: Mapping[str, Any], audio_token: int) -> Tensor | None:
    """`AudioBatch.real` of a model's inputs. The prompt is read only if the inputs do not mark the padding.

    Beams repeat each sound, but `generate` does not keep the sounds of a prompt together: they need not fit it here.
    """
    if entry.trims:
        return AudioBatch(model, entry, inputs, find_runs(inputs["input_ids"], audio_token)).real
    return None if entry.frames is None else _of_whole_tokens(entry.frames(model, inputs), entry.pool)


def _of_whole_tokens(frames: Tensor, pool: int) -> Tensor:
    return -(-frames // pool) * pool


def _audible_frames(features: Tensor) -> Tensor:
    """Number of frames up to the last one above the floor, (rows,), of a clip's log-mel (rows, mels, frames)."""
    above = (features > features.amin()).any(dim=1)
    return (above * torch.arange(1, features.shape[2] + 1, device=features.device)).amax(dim=1)


def _unpadded(embeds: Tensor, blank: Tensor | None) -> int:
    """Number of a clip's embeddings (n, width) before the `blank` ones at the end; n if all are blank."""
    if blank is None:
        return len(embeds)
    real = (embeds != blank.to(embeds)).any(dim=1).nonzero()
    return int(real[-1]) + 1 if len(real) else len(embeds)


def _rows_of(runs: list[Run], tokens: list[int], full: int | None) -> list[list[int]]:
    """Rows of features of each clip: one, or one for each window.

    tokens: number of tokens of each row; rows without tokens have no placeholders. full: tokens of a whole window, or
    None if rows are clips. All windows of a clip are whole, except the last.
    """
    remaining = [i for i, count in enumerate(tokens) if count]
    if full is None:
        _check_number(runs, len(remaining))
    rows_by_run = []
    for run in runs:
        rows: list[int] = []
        while remaining and sum(tokens[i] for i in rows) < run.count:
            if rows and (full is None or tokens[rows[-1]] < full):
                raise ValueError(_mismatch(f"{run.count} consecutive placeholders contain more than one clip"))
            rows.append(remaining.pop(0))
        count = sum(tokens[i] for i in rows)
        if count != run.count:
            raise ValueError(_mismatch(f"{run.count} placeholders for features that give {count} tokens"))
        rows_by_run.append(rows)
    if remaining:
        raise ValueError(_mismatch(f"features of {len(remaining)} sounds have no placeholders in the prompts"))
    return rows_by_run


def _check_number(runs: list[Run], sounds: int) -> None:
    if len(runs) != sounds:
        raise ValueError(_mismatch(f"{len(runs)} clips in the prompts, but features of {sounds}"))


def _mismatch(what: str) -> str:
    return (
        f"prompt and sounds do not fit together: {what}. Either the features and the prompt come from different "
        "processors, or there is no token between two clips; put text or the model's begin and end tokens between two "
        "clips"
    )
