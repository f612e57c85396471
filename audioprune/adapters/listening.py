"""What is changed in an audio-language model while it is pruned: a hook, a `generate`, and a watch."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..tokens import NO_PATCH, Evidence, Grid, Reducer, Reduction, Stage, Tokens
from .clips import Clip, Sounds
from .generation import generate_shorter, taking_embeddings
from .prompts import Layout, find_runs
from .token_pass import places_of
from .watching import Watch

PER_TOKEN = {"input_ids": 0, "labels": -100, "token_type_ids": 0, "mm_token_type_ids": 0}
"""Arguments with one value a token, and what stands in padding."""
PER_LAYER = "per_layer_inputs"
"""What Gemma's language model reads of each token beside its embedding."""


@dataclass(frozen=True)
class ListeningPass:
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


class Listening:
    """What was changed in an audio-language model, and how to change it back.

    A hook shortens what `forward` is given; an attribute of the instance does so for `generate`. Neither the class
    nor `forward` itself is touched.
    """

    def __init__(self, adapter: Any, reducer: Reducer) -> None:
        self.adapter, self.reducer = adapter, reducer
        self.sinks: list[Any] = []
        self._watch = None if adapter.watched is None else Watch(adapter.watched)
        self._hook = adapter.encoder.register_forward_pre_hook(self._begin, with_kwargs=True)
        self._generate = adapter.encoder.generate
        adapter.encoder.generate = self.generate

    def detach(self) -> None:
        """Take hook, watch and `generate` off again."""
        self._hook.remove()
        if self._watch is not None:
            self._watch.remove()
        del self.adapter.encoder.generate

    def generate(self, inputs: Tensor | None = None, generation_config: Any = None, *args: Any, **kwargs: Any) -> Any:
        """The model's own `generate`, on a shortened prompt; what it returns begins with the prompt as it was given."""
        if inputs is not None:
            kwargs["input_ids"] = inputs
        if not self._listens(kwargs):
            if self.reducer.prunes(0):
                self.adapter.check_cache(kwargs)
            with taking_embeddings(self.adapter.encoder):  # of a prompt that was shortened before
                return self._generate(None, generation_config, *args, **kwargs)
        with torch.no_grad():
            shorter = self.shorten(kwargs)
        model = self.adapter.encoder
        return generate_shorter(model, self._generate, generation_config, args, shorter, kwargs["input_ids"])

    def _begin(self, model: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        if args:
            kwargs = {**dict(zip(inspect.signature(model.forward).parameters, args, strict=False)), **kwargs}
        if self._listens(kwargs):
            kwargs = self.shorten(kwargs)
        if kwargs.get("inputs_embeds") is not None:
            # Some models take either the one or the other.
            kwargs = {name: value for name, value in kwargs.items() if name != "input_ids"}
        elif kwargs.get("past_key_values") is not None:
            # `generate` hands on what belonged to the prompt; tokens after it have their own.
            kwargs = {name: value for name, value in kwargs.items() if name != PER_LAYER}
        return (), kwargs

    def _listens(self, kwargs: Mapping[str, Any]) -> bool:
        """Whether there is something to shorten: a keep rate below 1, and sounds."""
        return self.reducer.prunes(0) and kwargs.get(self.adapter.entry.features) is not None

    def shorten(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """A model's inputs, with fewer audio tokens: `inputs_embeds` beside equally short `input_ids`, masks, position
        ids and labels, and none of the sounds' features."""
        given = dict(inputs)
        if not self._listens(given):
            return given
        self.adapter.check_input(given)
        reading, clips = self._listen(given)
        embeds, stays = self._reduce(reading["inputs_embeds"], clips)
        layout = Layout(stays, given.get("attention_mask"))
        entry = self.adapter.entry
        shorter = {k: v for k, v in given.items() if k not in (entry.features, *entry.about)}
        shorter["inputs_embeds"] = layout.take(embeds)
        per_token = {name: given[name] for name in PER_TOKEN if given.get(name) is not None}
        shorter |= {name: layout.take(values, PER_TOKEN[name]) for name, values in per_token.items()}
        if reading.get(PER_LAYER) is not None:
            shorter[PER_LAYER] = layout.take(reading[PER_LAYER])
        shorter |= self._masks(given, reading, layout)
        return shorter

    def _masks(self, given: Mapping[str, Any], reading: Mapping[str, Any], layout: Layout) -> dict[str, Tensor]:
        """Attention mask and position ids, where the model does not count these itself as they should be."""
        found, mask = {}, given.get("attention_mask")
        if mask is not None or layout.filler.any():
            found["attention_mask"] = layout.mask.to(torch.long if mask is None else mask.dtype)
        renumber, original = self.adapter.positions == "renumber", reading.get("position_ids")
        if original is None and not renumber:
            whole = torch.ones_like(given["input_ids"]) if mask is None else mask
            original = (whole.long().cumsum(dim=1) - 1).clamp_min(0)
        if original is not None:
            found["position_ids"] = layout.positions(original, renumber)
            # Without a mask transformers takes gaps in positions for borders between packed sequences.
            found.setdefault("attention_mask", layout.mask)
        return found

    def _listen(self, given: dict[str, Any]) -> tuple[dict[str, Any], list[Clip]]:
        """Run the model up to its language model. Returns what that would read, and the clips."""
        adapter, watch = self.adapter, self._watch if self.reducer.needs(0) else None
        sounds = Sounds(adapter.encoder, adapter.entry, given, find_runs(given["input_ids"], adapter.audio_token))
        if watch is not None:
            watch.look(None if adapter.entry.packed else sounds.voters, adapter.entry.masked)
        try:
            reading = self._reach(given)
        finally:
            if watch is not None:
                watch.close()
        return reading, sounds.clips(watch, reading["inputs_embeds"], adapter.blank)

    def _reach(self, given: dict[str, Any]) -> dict[str, Any]:
        """What the language model would be called with."""

        def called(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
            raise _Reached(kwargs)

        def merged(module: nn.Module, args: tuple, output: Tensor) -> None:
            raise _Reached({"inputs_embeds": output, "position_ids": given.get("position_ids")})

        model, entry = self.adapter.encoder, self.adapter.entry
        if entry.merger is not None:
            hook = model.get_submodule(entry.merger).register_forward_hook(merged)
        else:
            language_model = model.get_submodule(entry.language_model)
            hook = language_model.register_forward_pre_hook(called, with_kwargs=True, prepend=True)
        try:
            model.forward(**given)
        except _Reached as reached:
            return reached.arguments
        finally:
            hook.remove()
        raise RuntimeError(f"{type(model).__name__} never called its language model")

    def _reduce(self, embeds: Tensor, clips: list[Clip]) -> tuple[Tensor, Tensor]:
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
        if self.sinks and clips:
            made = self._record(clips, [of_clip[i] for i in range(len(clips))])
            for sink in self.sinks:
                sink(made)
        return embeds, stays

    def _question(self, hidden: Tensor, clips: Sequence[Clip]) -> tuple[Tokens, Evidence]:
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

    def _record(self, clips: list[Clip], reductions: list[tuple[Reduction, int]]) -> ListeningPass:
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
        return ListeningPass(grid, {0: stage}, [bounds(model, clip.count) for clip in clips])


def _destination(reduction: Reduction) -> Tensor:
    if reduction.destination is not None:
        return reduction.destination
    return places_of(reduction.kept, reduction.scores.shape[1])


def _stacked(values: list[Tensor | None], device: torch.device) -> Tensor | None:
    found = [value.to(device) for value in values if value is not None]
    return torch.stack(found) if found else None


def _padded(rows: list[Tensor], blank: float) -> Tensor:
    return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=blank)
