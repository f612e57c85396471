"""One prompt with sounds, and how it becomes shorter. Everything that it needs meanwhile belongs to this one call."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ...core import ops
from ...core.tokens import NO_PATCH, Evidence, Grid, Reducer, Reduction, Stage, Tokens
from ..observers import observers_of
from .prompts import Layout, find_runs
from .spans import AudioBatch, AudioSpan

if TYPE_CHECKING:
    from .attachment import PromptAttachment

PER_TOKEN = {"input_ids": 0, "labels": -100, "token_type_ids": 0, "mm_token_type_ids": 0}
"""Arguments with one value a token, and what stands in padding."""
PER_LAYER = "per_layer_inputs"
"""What Gemma's language model reads of each token beside its embedding."""


@dataclass(frozen=True)
class PromptPass:
    """What one shortening did, as a trace reads it: one row a clip, in the order of the prompts.

    bounds: for each clip (n, 2), the seconds at which its tokens begin and end.
    """

    grid: Grid
    stages: dict[int, Stage]
    bounds: list[Tensor]


class _Reached(Exception):  # noqa: N818
    """The language model was called, with these arguments."""

    def __init__(self, arguments: dict[str, Any]) -> None:
        super().__init__()
        self.arguments = arguments


class _OfThread(threading.local):
    """A model that is served runs in many threads at once, and only one of them may be under way to the language
    model."""

    under_way: Shortening | None = None


_OF_THREAD = _OfThread()


def is_under_way(attachment: PromptAttachment) -> bool:
    """Whether this thread runs the model up to its language model, and no further."""
    return _OF_THREAD.under_way is not None and _OF_THREAD.under_way.attachment is attachment


def stop_at_language_model(attachment: PromptAttachment, arguments: dict[str, Any]) -> None:
    """Called where the language model would run. arguments: what it would be called with; without position ids they
    are the prompt's own."""
    if is_under_way(attachment):
        assert _OF_THREAD.under_way is not None
        raise _Reached({"position_ids": _OF_THREAD.under_way.given.get("position_ids"), **arguments})


class Shortening:
    """A model's inputs, with fewer audio tokens: `inputs_embeds` beside equally short `input_ids`, masks, position ids
    and labels, and none of the sounds' features.

    The model is run at its full length up to the call of its language model, with the encoder's last attention under
    watch. What that call would have read is reduced.
    """

    def __init__(self, attachment: PromptAttachment, reducer: Reducer, given: dict[str, Any]) -> None:
        self.attachment, self.reducer, self.given = attachment, reducer, given
        self.adapter = attachment.adapter

    @torch.compiler.disable
    def run(self) -> dict[str, Any]:
        """The shorter inputs. It is no part of a graph: how many tokens there are is read from the prompt."""
        given, entry = self.given, self.adapter.entry
        self.adapter.check_input(given)
        reading, clips = self._listen()
        embeds, stays = self._reduce(reading["inputs_embeds"], clips)
        layout = Layout(stays, given.get("attention_mask"))
        shorter = {k: v for k, v in given.items() if k not in (entry.features, *entry.about)}
        shorter["inputs_embeds"] = layout.take(embeds)
        per_token = {name: given[name] for name in PER_TOKEN if given.get(name) is not None}
        shorter |= {name: layout.take(values, PER_TOKEN[name]) for name, values in per_token.items()}
        if reading.get(PER_LAYER) is not None:
            shorter[PER_LAYER] = layout.take(reading[PER_LAYER])
        shorter |= self._masks(reading, layout)
        return shorter

    def _masks(self, reading: Mapping[str, Any], layout: Layout) -> dict[str, Tensor]:
        """Attention mask and position ids, where the model does not count these itself as they should be."""
        found, mask = {}, self.given.get("attention_mask")
        if mask is not None or layout.filler.any():
            found["attention_mask"] = layout.mask.to(torch.long if mask is None else mask.dtype)
        renumber, original = self.adapter.positions == "renumber", reading.get("position_ids")
        if original is None and not renumber:
            whole = torch.ones_like(self.given["input_ids"]) if mask is None else mask
            original = (whole.long().cumsum(dim=1) - 1).clamp_min(0)
        if original is not None:
            found["position_ids"] = layout.positions(original, renumber)
            # Without a mask transformers takes gaps in positions for borders between packed sequences.
            found.setdefault("attention_mask", layout.mask)
        return found

    def _listen(self) -> tuple[dict[str, Any], list[AudioSpan]]:
        """Run the model up to its language model. Returns what that would read, and the clips."""
        adapter, entry = self.adapter, self.adapter.entry
        watch = self.attachment.watch if self.reducer.needs(0) else None
        runs = find_runs(self.given["input_ids"], adapter.audio_token)
        sounds = AudioBatch(adapter.encoder, entry, self.given, runs)
        if watch is None:
            reading = self._reach()
            return reading, sounds.clips(None, reading["inputs_embeds"], adapter.blank)
        with watch.notes(None if entry.packed else sounds.voters, entry.masked) as notes:
            reading = self._reach()
        return reading, sounds.clips(notes, reading["inputs_embeds"], adapter.blank)

    def _reach(self) -> dict[str, Any]:
        """What the language model would be called with."""
        before, _OF_THREAD.under_way = _OF_THREAD.under_way, self
        try:
            self.attachment.own_forward(**self.given)
        except _Reached as reached:
            return reached.arguments
        finally:
            _OF_THREAD.under_way = before
        raise RuntimeError(f"{type(self.adapter.encoder).__name__} never called its language model")

    def _reduce(self, embeds: Tensor, clips: list[AudioSpan]) -> tuple[Tensor, Tensor]:
        """Let the method reduce the clips, those of one length together. Returns embeddings with what was merged, and
        (batch, length) booleans, the positions that stay."""
        stays = torch.ones(embeds.shape[:2], dtype=torch.bool, device=embeds.device)
        of_clip: dict[int, tuple[Reduction, int]] = {}
        for n in sorted({clip.count for clip in clips}):
            group = [i for i, clip in enumerate(clips) if clip.count == n]
            members = [clips[i] for i in group]
            place = torch.tensor([clip.run.start for clip in members])[:, None] + torch.arange(n)
            row = torch.tensor([clip.run.row for clip in members])[:, None]
            place, row = place.to(embeds.device), row.to(embeds.device)
            reduction = self.reducer.reduce(*self._question(embeds[row, place], members))
            for clip in members:
                stays[clip.run.row, clip.run.start : clip.run.start + clip.run.count] = False
            kept = place.gather(1, reduction.kept)
            stays[row, kept] = True
            embeds = embeds.index_put((row.expand_as(kept), kept), reduction.tokens.hidden.to(embeds.dtype))
            of_clip |= {i: (reduction, member) for member, i in enumerate(group)}
        observers = observers_of(self.attachment) if clips else []
        if observers:
            made = self._record(clips, [of_clip[i] for i in range(len(clips))])
            for observer in observers:
                observer(made)
        return embeds, stays

    def _question(self, hidden: Tensor, clips: Sequence[AudioSpan]) -> tuple[Tokens, Evidence]:
        """Some clips of one length as a method is given them. hidden: (clips, n, width)."""
        batch, n = hidden.shape[:2]
        time = torch.arange(n, device=hidden.device).expand(batch, -1)
        heads = _stacked([clip.attention for clip in clips], hidden.device)
        keys = _stacked([clip.keys for clip in clips], hidden.device)
        needs = self.reducer.needs(0)
        evidence = Evidence(
            layer=0,
            depth=1,
            patch=time,
            column=time,
            columns=n,
            row=torch.zeros_like(time),
            patches=n,
            special=hidden[:, :0],
            default_segments=n,
            training=self.adapter.encoder.training,
            attention=heads.mean(dim=1) if heads is not None and "attention" in needs else None,
            attention_heads=heads if "attention_heads" in needs else None,
            # Where no attention is reached, tokens are compared by what the language model reads of them.
            keys=(hidden.detach() if keys is None else keys) if "keys" in needs else None,
        )
        return Tokens(hidden, time), evidence

    def _record(self, clips: list[AudioSpan], reductions: list[tuple[Reduction, int]]) -> PromptPass:
        destination = None
        if any(reduction.destination is not None for reduction, _ in reductions):
            destination = _padded([_destination(reduction)[member] for reduction, member in reductions], -1)
        device = reductions[0][0].kept.device
        stage = Stage(
            kept=_padded([reduction.kept[member] for reduction, member in reductions], NO_PATCH),
            scores=_padded([reduction.scores[member] for reduction, member in reductions], 0),
            candidates=_padded([torch.arange(clip.count, device=device) for clip in clips], NO_PATCH),
            destination=destination,
        )
        grid = Grid(max(clip.count for clip in clips), 1, frequency_major=False)
        model, bounds = self.adapter.encoder, self.adapter.entry.bounds
        assert bounds is not None
        return PromptPass(grid, {0: stage}, [bounds(model, clip.count) for clip in clips])


def _destination(reduction: Reduction) -> Tensor:
    if reduction.destination is not None:
        return reduction.destination
    return ops.places_of(reduction.kept, reduction.scores.shape[1])


def _stacked(values: list[Tensor | None], device: torch.device) -> Tensor | None:
    found = [value.to(device) for value in values if value is not None]
    return torch.stack(found) if found else None


def _padded(rows: list[Tensor], blank: float) -> Tensor:
    return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=blank)
