"""Shortening of one prompt with sounds. All its state belongs to one call."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ...core import ops
from ...core.stages import Stage
from ...core.tokens import NO_PATCH, Evidence, Grid, Place, Reducer, Reduction, Tokens
from ..observers import observers_of
from .encoder_padding import EncoderCall
from .prompts import Layout, find_runs
from .spans import PROMPT, AudioBatch, AudioSpan, in_time

if TYPE_CHECKING:
    from .attachment import PromptAttachment

PER_TOKEN = {"input_ids": 0, "labels": -100, "token_type_ids": 0, "mm_token_type_ids": 0}
"""Arguments with one value per token → their value in padding."""
PER_LAYER = "per_layer_inputs"
"""Inputs of Gemma's language model for each token, in addition to its embedding."""


@dataclass(frozen=True)
class PromptPass:
    """Record of one shortening for a trace: one row per clip, in the order of the prompts.

    bounds: (n, 2) for each clip, the seconds at which its tokens begin and end.
    """

    grid: Grid
    stages: dict[Place, Stage]
    bounds: list[Tensor]


@dataclass(frozen=True)
class EncodedPrompt:
    """A batch of prompts up to the language model. `call`: the arguments of its call; `clips`: the sounds, with what a
    method looks at."""

    call: dict[str, Any]
    clips: list[AudioSpan]


class _LanguageModelCall(Exception):  # noqa: N818
    """Raised at the call of the language model, with the arguments of the call."""

    def __init__(self, arguments: dict[str, Any]) -> None:
        super().__init__()
        self.arguments = arguments


class _ThreadState(threading.local):
    """The shortening that runs in this thread. A served model may run in many threads at once."""

    current: Shortening | None = None


_THREAD = _ThreadState()


def is_shortening(attachment: PromptAttachment) -> bool:
    """Whether this thread runs the model only up to its language model."""
    return _THREAD.current is not None and _THREAD.current.attachment is attachment


def stop_at_language_model(attachment: PromptAttachment, arguments: dict[str, Any]) -> None:
    """Stop the forward before the language model, if this thread is shortening a prompt.

    arguments: arguments of the language model; if they have no position ids, those of the prompt are used."""
    if is_shortening(attachment):
        assert _THREAD.current is not None
        raise _LanguageModelCall({"position_ids": _THREAD.current.inputs.get("position_ids"), **arguments})


class Shortening:
    """Shortens a model's inputs to fewer audio tokens.

    The result has `inputs_embeds`, and equally short `input_ids`, masks, position ids and labels, but no features of
    the sounds.

    The model runs at its full length up to the call of its language model, while the encoder's last attention is
    recorded. The inputs of that call are reduced.
    """

    def __init__(self, attachment: PromptAttachment, reducer: Reducer, inputs: dict[str, Any]) -> None:
        self.attachment, self.reducer, self.inputs = attachment, reducer, inputs
        self.adapter = attachment.adapter

    @torch.compiler.disable
    def run(self, encoded: EncodedPrompt | None = None) -> dict[str, Any]:
        """The shorter inputs. Not part of a compiled graph, because the number of tokens depends on the prompt.

        encoded: what `encode` returned for these inputs, with a method that looks at no less."""
        inputs, entry = self.inputs, self.adapter.entry
        self.adapter.check_input(inputs)
        encoded = self.encode() if encoded is None else encoded
        call = encoded.call
        embeds, stays = self._reduce(call["inputs_embeds"], encoded.clips)
        layout = Layout(stays, inputs.get("attention_mask"))
        shorter = {k: v for k, v in inputs.items() if k not in (entry.features, *entry.about)}
        shorter["inputs_embeds"] = layout.take(embeds)
        per_token = {name: inputs[name] for name in PER_TOKEN if inputs.get(name) is not None}
        shorter |= {name: layout.take(values, PER_TOKEN[name]) for name, values in per_token.items()}
        if call.get(PER_LAYER) is not None:
            shorter[PER_LAYER] = layout.take(call[PER_LAYER])
        shorter |= self._masks(call, layout)
        return shorter

    def _masks(self, call: Mapping[str, Any], layout: Layout) -> dict[str, Tensor]:
        """Attention mask and position ids, if the model would not compute the right ones itself."""
        masks, mask = {}, self.inputs.get("attention_mask")
        if mask is not None or layout.filler.any():
            masks["attention_mask"] = layout.mask.to(torch.long if mask is None else mask.dtype)
        renumber, original = self.adapter.positions == "renumber", call.get("position_ids")
        if original is None and not renumber:
            whole = torch.ones_like(self.inputs["input_ids"]) if mask is None else mask
            original = (whole.long().cumsum(dim=1) - 1).clamp_min(0)
        if original is not None:
            masks["position_ids"] = layout.positions(original, renumber)
            # Without a mask, transformers treats gaps in positions as borders between packed sequences.
            masks.setdefault("attention_mask", layout.mask)
        return masks

    @torch.compiler.disable
    def encode(self) -> EncodedPrompt:
        """Run the model up to its language model."""
        adapter, entry = self.adapter, self.adapter.entry
        tap = self.attachment.tap if self.reducer.needs(PROMPT) else None
        runs = find_runs(self.inputs["input_ids"], adapter.audio_token)
        sounds = AudioBatch(adapter.encoder, entry, self.inputs, runs)
        skipped = self.attachment.encoder_call(self.reducer, sounds.real)
        if tap is None:
            call = self._language_model_call(skipped)
            return EncodedPrompt(call, sounds.clips(None, call["inputs_embeds"], adapter.blank))
        with tap.recording(None if entry.packed else sounds.voters, entry.masked) as record:
            call = self._language_model_call(skipped)
        return EncodedPrompt(call, sounds.clips(record, call["inputs_embeds"], adapter.blank))

    def _language_model_call(self, encoder_call: EncoderCall | None) -> dict[str, Any]:
        """Arguments with which the language model would be called. encoder_call: the padding that is skipped."""
        before, _THREAD.current = _THREAD.current, self
        padding = self.attachment.padding
        try:
            with nullcontext() if padding is None else padding.skipped(encoder_call):
                self.attachment.own_forward(**self.inputs)
        except _LanguageModelCall as call:
            return call.arguments
        finally:
            _THREAD.current = before
        raise RuntimeError(f"{type(self.adapter.encoder).__name__} never called its language model")

    def _reduce(self, embeds: Tensor, clips: list[AudioSpan]) -> tuple[Tensor, Tensor]:
        """Let the method reduce the clips; clips of the same length are reduced together.

        Returns the embeddings, with merged tokens, and a mask (batch, length) of the positions that stay."""
        stays = torch.ones(embeds.shape[:2], dtype=torch.bool, device=embeds.device)
        reductions: dict[int, tuple[Reduction, int]] = {}
        for n in sorted({clip.count for clip in clips}):
            group = [i for i, clip in enumerate(clips) if clip.count == n]
            members = [clips[i] for i in group]
            place = torch.tensor([clip.run.start for clip in members])[:, None] + torch.arange(n)
            row = torch.tensor([clip.run.row for clip in members])[:, None]
            place, row = place.to(embeds.device), row.to(embeds.device)
            reduction = self.reducer.reduce(*self._method_inputs(embeds[row, place], members))
            for clip in members:
                stays[clip.run.row, clip.run.start : clip.run.start + clip.run.count] = False
            kept = place.gather(1, reduction.kept)
            stays[row, kept] = True
            embeds = embeds.index_put((row.expand_as(kept), kept), reduction.tokens.hidden.to(embeds.dtype))
            reductions |= {i: (reduction, member) for member, i in enumerate(group)}
        observers = observers_of(self.attachment) if clips else []
        if observers:
            record = self._record(clips, [reductions[i] for i in range(len(clips))])
            for observer in observers:
                observer(record)
        return embeds, stays

    def _method_inputs(self, hidden: Tensor, clips: Sequence[AudioSpan]) -> tuple[Tokens, Evidence]:
        """Inputs of the method for clips of the same length. hidden: (clips, n, width)."""
        heads = _stack([clip.attention for clip in clips], hidden.device)
        keys = _stack([clip.keys for clip in clips], hidden.device)
        needs = self.reducer.needs(PROMPT)
        return in_time(
            hidden,
            training=self.adapter.encoder.training,
            attention=heads.mean(dim=1) if heads is not None and "attention" in needs else None,
            attention_heads=heads if "attention_heads" in needs else None,
            # If the attention cannot be reached, tokens are compared by their embeddings.
            keys=(hidden.detach() if keys is None else keys) if "keys" in needs else None,
        )

    def _record(self, clips: list[AudioSpan], reductions: list[tuple[Reduction, int]]) -> PromptPass:
        destination = None
        if any(reduction.destination is not None for reduction, _ in reductions):
            destination = _pad([_destination(reduction)[member] for reduction, member in reductions], -1)
        device = reductions[0][0].kept.device
        stage = Stage(
            kept=_pad([reduction.kept[member] for reduction, member in reductions], NO_PATCH),
            scores=_pad([reduction.scores[member] for reduction, member in reductions], 0),
            candidates=_pad([torch.arange(clip.count, device=device) for clip in clips], NO_PATCH),
            destination=destination,
        )
        grid = Grid(max(clip.count for clip in clips), 1, frequency_major=False)
        model, bounds = self.adapter.encoder, self.adapter.entry.bounds
        assert bounds is not None
        return PromptPass(grid, {PROMPT: stage}, [bounds(model, clip.count) for clip in clips])


def _destination(reduction: Reduction) -> Tensor:
    if reduction.destination is not None:
        return reduction.destination
    return ops.places_of(reduction.kept, reduction.scores.shape[1])


def _stack(values: list[Tensor | None], device: torch.device) -> Tensor | None:
    present = [value.to(device) for value in values if value is not None]
    return torch.stack(present) if present else None


def _pad(rows: list[Tensor], blank: float) -> Tensor:
    return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=blank)
