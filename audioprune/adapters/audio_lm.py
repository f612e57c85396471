"""Audio-language models: tokens are dropped once, between the audio encoder and the language model.

The model is run at its full length up to the call of its language model, with the encoder's last attention under
watch. What that call would have read is shortened, and goes on as `inputs_embeds`.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..tokens import NO_PATCH, Evidence, Grid, Reducer, Reduction, Shape, Stage, Tokens
from .audio_lm_models import ENTRIES, REFUSED_LMS, AudioLMEntry
from .base import Adapter, UnsupportedModelError, register_adapter
from .generation import generate_shorter
from .prompts import Layout, Run, find_runs
from .token_pass import places_of
from .watching import Watch

LABEL_BLANK = -100
"""Label that no loss counts."""


@dataclass(frozen=True)
class Clip:
    """One sound of a batch of prompts: its placeholders, how many of them are no padding, and what the encoder said.

    attention: (heads, n), keys: (n, head_dim), None where nobody asked.
    """

    run: Run
    count: int
    attention: Tensor | None = None
    keys: Tensor | None = None


@dataclass(frozen=True)
class ListeningPass:
    """What one shortening did, as a trace reads it: one row a clip, in the order of the prompts."""

    grid: Grid
    stages: dict[int, Stage]
    bounds: list[Tensor]


class _Reached(Exception):  # noqa: N818
    """The language model was called, with these arguments."""

    def __init__(self, arguments: dict[str, Any]) -> None:
        super().__init__()
        self.arguments = arguments


@register_adapter
class AudioLMAdapter(Adapter):
    family = (
        "audio-language models (" + ", ".join(name.removesuffix("ForConditionalGeneration") for name in ENTRIES) + ")"
    )
    special = 0
    swaps: ClassVar = {}
    once = True

    def __init__(self, model: Any) -> None:
        self.encoder = model
        self.entry: AudioLMEntry = ENTRIES[type(model).__name__]
        self.layers = (model,)

    @classmethod
    def find(cls, model: nn.Module) -> list[Adapter]:
        names = {type(module).__name__ for module in model.modules()}
        for name in type(model).__mro__:
            if name.__name__ in REFUSED_LMS:
                raise UnsupportedModelError(f"{name.__name__} cannot be pruned: {REFUSED_LMS[name.__name__]}")
        if not names & ENTRIES.keys():
            return []
        return [cls(module) for module in model.modules() if type(module).__name__ in ENTRIES]

    @property
    def shape(self) -> Shape:
        config = self.encoder.config.get_text_config()
        return Shape(config.hidden_size, config.num_attention_heads, 1, 0, None)

    @property
    def watched(self) -> Any:
        """The encoder's last attention, None where it cannot be reached."""
        if self.entry.tower is None:
            return None
        return getattr(self.encoder.get_submodule(self.entry.tower).layers[-1], self.entry.attention)

    @property
    def audio_token(self) -> int:
        """The placeholder's id."""
        return int(self.encoder.config.audio_token_id)

    def check_method(self, needs: frozenset[str]) -> None:
        missing = needs - {"attention", "attention_heads", "keys"}
        if missing & {"cls", "cls_heads"}:
            raise ValueError(
                'this model\'s encoder has no CLS token whose attention could rank tokens; use score="attention"'
            )
        if missing:
            raise ValueError(
                f"{', '.join(sorted(missing))}: not to be had of an audio-language model's encoder outputs; "
                'use score="attention" or "random", or a method that compares tokens'
            )
        if needs & {"attention", "attention_heads"} and self.entry.tower is None:
            raise ValueError(
                f"{type(self.encoder).__name__}: the attention of its encoder cannot be reached, or its outputs are no "
                "frames of it; use a method that looks at the tokens themselves: EVS, AToMe, FastAdaSP, DivPrune, "
                'DPP(score="none"), AveragePooling, UniformStride, or score="random"'
            )

    def check_input(self, kwargs: dict[str, Any]) -> None:
        for name in ("pixel_values", "pixel_values_videos", "mm_encoder_outputs"):
            if kwargs.get(name) is not None:
                raise ValueError(
                    f"{name}: prompts that hold images or video beside sound are not served while the model is "
                    "pruned; remove() the handle, or ask without them"
                )
        mask = kwargs.get("attention_mask")
        if mask is not None and mask.ndim != 2:
            raise ValueError(f"attention_mask has shape {tuple(mask.shape)}; it is (batch, length) while pruned")
        cache = kwargs.get("past_key_values")
        if cache is not None and cache.get_seq_length() > 0:
            raise ValueError(
                "past_key_values: the cache of an earlier call is as long as its shortened prompt, and no longer fits "
                "the prompt with its sounds; give the whole conversation without the cache"
            )
        if kwargs.get("input_ids") is None:
            raise ValueError("input_ids are missing: they tell where the sounds are in the prompt")

    def patch_statistics(self, kwargs: dict[str, Any]) -> tuple[Tensor, Tensor]:
        raise NotImplementedError("check_method refuses what would ask for it")

    def attach(self, reducer: Reducer) -> Any:
        return Listening(self, reducer)


class Listening:
    """What was changed in an audio-language model, and how to change it back.

    A hook shortens what `forward` is given; an attribute of the instance does so for `generate`. Neither the class
    nor `forward` itself is touched.
    """

    def __init__(self, adapter: AudioLMAdapter, reducer: Reducer) -> None:
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
            return self._generate(None, generation_config, *args, **kwargs)
        model = self.adapter.encoder
        with torch.no_grad():
            shorter = self.shorten(kwargs)
        return generate_shorter(model, self._generate, generation_config, args, shorter, kwargs["input_ids"])

    def _begin(self, model: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]] | None:
        if args:
            kwargs = {**dict(zip(inspect.signature(model.forward).parameters, args, strict=False)), **kwargs}
        return ((), self.shorten(kwargs)) if self._listens(kwargs) else None

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
        mask = given.get("attention_mask")
        layout = Layout(stays, mask)
        entry = self.adapter.entry
        shorter = {k: v for k, v in given.items() if k not in (entry.features, *entry.about)}
        shorter["inputs_embeds"] = layout.take(embeds)
        for name, blank in (("input_ids", self._pad_token), ("labels", LABEL_BLANK), ("token_type_ids", 0)):
            if given.get(name) is not None:
                shorter[name] = layout.take(given[name], blank)
        if mask is not None or layout.filler.any():
            shorter["attention_mask"] = layout.mask.to(torch.long if mask is None else mask.dtype)
        positions = self._positions(given, reading, layout)
        if positions is not None:
            shorter["position_ids"] = positions
        return shorter

    @property
    def _pad_token(self) -> int:
        found = self.adapter.encoder.config.get_text_config().pad_token_id
        return 0 if found is None else int(found)

    def _positions(self, given: Mapping[str, Any], reading: Mapping[str, Any], layout: Layout) -> Tensor | None:
        """Position ids of what is left; None where the model counts them itself as they should be."""
        original, renumber = reading.get("position_ids"), self.adapter.positions == "renumber"
        if original is None:
            if renumber:
                return None
            mask = given.get("attention_mask")
            mask = torch.ones_like(given["input_ids"]) if mask is None else mask
            original = (mask.long().cumsum(dim=1) - 1).clamp_min(0)
        return layout.positions(original, renumber)

    def _listen(self, given: dict[str, Any]) -> tuple[dict[str, Any], list[Clip]]:
        """Run the model up to its language model. Returns what that would read, and the clips."""
        runs = find_runs(given["input_ids"], self.adapter.audio_token)
        lengths = self._row_frames(given)
        if self._watch is not None and self.reducer.needs(0):
            assert lengths is not None
            self._watch.look(
                None if self.adapter.entry.packed else self._voters(given, lengths), self.adapter.entry.masked
            )
        try:
            reading = self._reach(given)
        finally:
            if self._watch is not None:
                self._watch.close()
        if reading["inputs_embeds"].shape[1] != given["input_ids"].shape[1]:
            raise ValueError(
                "the prompt has one placeholder for a whole clip: this processor does not expand them, and what the "
                "model makes of it cannot be shortened; use the processor of the installed transformers"
            )
        return reading, self._clips(runs, given, lengths)

    def _reach(self, given: dict[str, Any]) -> dict[str, Any]:
        def stop(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
            raise _Reached(kwargs)

        model = self.adapter.encoder
        language_model = model.get_submodule(self.adapter.entry.language_model)
        hook = language_model.register_forward_pre_hook(stop, with_kwargs=True, prepend=True)
        try:
            model.forward(**given)
        except _Reached as reached:
            return reached.arguments
        finally:
            hook.remove()
        raise RuntimeError(f"{type(model).__name__} never called its language model")

    def _row_frames(self, given: Mapping[str, Any]) -> Tensor | None:
        """(rows,), frames of the last block that each row of features has, None where attention is not reached."""
        frames = self.adapter.entry.frames
        return None if frames is None else frames(self.adapter.encoder, given)

    def _voters(self, given: Mapping[str, Any], lengths: Tensor) -> Tensor:
        """As `lengths`, without the silence at a clip's end where that is padding which nothing else tells."""
        entry = self.adapter.entry
        if not entry.trims:
            return lengths
        runs = find_runs(given["input_ids"], self.adapter.audio_token)
        heard = _heard(given[entry.features])
        voters = lengths.clone()
        for _, rows in _rows_of(runs, (lengths // entry.pool).tolist()):
            last = max((i for i in rows if heard[i] > 0), default=None)
            if last is None:  # nothing but silence: all of it is the clip
                continue
            voters[last] = min(int(lengths[last]), (int(heard[last]) + 1) // 2)
            voters[last + 1 : rows[-1] + 1] = 0
        return voters

    def _clips(self, runs: list[Run], given: Mapping[str, Any], lengths: Tensor | None) -> list[Clip]:
        """Each clip with what the encoder said of it."""
        entry = self.adapter.entry
        if lengths is None:
            sounds = len(given[entry.features])
            if len(runs) != sounds:
                raise ValueError(_mismatch(f"{len(runs)} clips in the prompts, but features of {sounds}"))
            return [Clip(run, run.count) for run in runs]
        tokens = (lengths // entry.pool).tolist()
        owned = _rows_of(runs, tokens, entry.windows)
        voters = self._voters(given, lengths)
        clips = []
        for run, rows in owned:
            real = [-(-int(voters[i]) // entry.pool) if entry.trims else tokens[i] for i in rows]
            clips.append(Clip(run, sum(real), *self._said(rows, lengths, real, int(voters[rows].sum()))))
        return clips

    def _said(
        self, rows: list[int], lengths: Tensor, tokens: list[int], voters: int
    ) -> tuple[Tensor | None, Tensor | None]:
        """Attention received, (heads, n), and keys, (n, head_dim), of a clip's tokens: the mean over the frames of
        each. Attention is a mean over the clip's queries (eq. 2a), of which each attended within its own window or
        chunk."""
        watch, entry = self._watch, self.adapter.entry
        if watch is None or not self.reducer.needs(0):
            return None, None
        if entry.packed:
            ends = lengths.cumsum(0)
            received = torch.cat([call[0] for call in watch.received], dim=1)
            keys = torch.cat([call[0] for call in watch.keys], dim=0)
            parts = [(received[:, ends[i] - lengths[i] : ends[i]], keys[ends[i] - lengths[i] : ends[i]]) for i in rows]
        else:
            parts = [(watch.received[0][i], watch.keys[0][i]) for i in rows]
        pooled = [
            (
                part[:, : count * entry.pool].unflatten(1, (count, entry.pool)).mean(dim=2),
                key[: count * entry.pool].unflatten(0, (count, entry.pool)).mean(dim=1),
            )
            for (part, key), count in zip(parts, tokens, strict=True)
            if count
        ]
        attention = torch.cat([part for part, _ in pooled], dim=1) / max(1, voters)
        return attention, torch.cat([key for _, key in pooled], dim=0)

    def _reduce(self, embeds: Tensor, clips: list[Clip]) -> tuple[Tensor, Tensor]:
        """Let the method reduce the clips, those of one length together. Returns embeddings with what was merged, and
        (batch, length) booleans, the positions that stay."""
        stays = torch.ones(embeds.shape[:2], dtype=torch.bool, device=embeds.device)
        lengths = sorted({clip.count for clip in clips})
        results: dict[int, tuple[Reduction, int]] = {}
        rows, columns, values = [], [], []
        for n in lengths:
            group = [i for i, clip in enumerate(clips) if clip.count == n]
            places = torch.stack([clips[i].run.start + torch.arange(n) for i in group]).to(embeds.device)
            row = torch.tensor([clips[i].run.row for i in group], device=embeds.device)[:, None]
            reduction = self.reducer.reduce(*self._question(embeds[row, places], [clips[i] for i in group]))
            for member, i in enumerate(group):
                run = clips[i].run
                stays[run.row, run.start : run.start + run.count] = False
                results[i] = (reduction, member)
            kept = places.gather(1, reduction.kept)
            stays[row, kept] = True
            rows.append(row.expand_as(kept).flatten())
            columns.append(kept.flatten())
            values.append(reduction.tokens.hidden.flatten(0, 1))
        if clips:
            index = (torch.cat(rows), torch.cat(columns))
            embeds = embeds.index_put(index, torch.cat(values).to(embeds.dtype))
            self._record(clips, results)
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

    def _record(self, clips: list[Clip], results: Mapping[int, tuple[Reduction, int]]) -> None:
        if not self.sinks:
            return
        n = max(clip.count for clip in clips)
        of = [results[i] for i in range(len(clips))]
        kept = _padded([reduction.kept[member] for reduction, member in of], NO_PATCH)
        scores = _padded([reduction.scores[member] for reduction, member in of], 0)
        destination = None
        if any(reduction.destination is not None for reduction, _ in of):
            destination = _padded(
                [places_of(r.kept, r.scores.shape[1])[m] if r.destination is None else r.destination[m] for r, m in of],
                -1,
            )
        candidates = _padded([torch.arange(clip.count, device=kept.device) for clip in clips], NO_PATCH)
        stage = Stage(kept, scores, candidates, destination)
        bounds = self.adapter.entry.bounds
        assert bounds is not None
        spans = [bounds(self.adapter.encoder, clip.count) for clip in clips]
        made = ListeningPass(Grid(n, 1, frequency_major=False), {0: stage}, spans)
        for sink in self.sinks:
            sink(made)


def _stacked(values: list[Tensor | None], device: torch.device) -> Tensor | None:
    found = [value.to(device) for value in values if value is not None]
    return torch.stack(found) if found else None


def _padded(rows: list[Tensor], blank: float) -> Tensor:
    return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=blank)


def _heard(features: Tensor) -> Tensor:
    """(rows,), frames of each row of a log-mel (rows, mels, frames) up to the last that is above the floor."""
    floor = features.amin()
    above = (features > floor).any(dim=1)
    frames = torch.arange(1, features.shape[2] + 1, device=features.device)
    return (above * frames).amax(dim=1)


def _rows_of(runs: list[Run], tokens: list[int], windows: bool = True) -> list[tuple[Run, list[int]]]:
    """The rows of features that each clip of the prompts has. Raises `ValueError` where they do not fit together."""
    owned, row, full = [], 0, max(tokens, default=0)
    if not windows and len(runs) != len(tokens):
        raise ValueError(_mismatch(f"{len(runs)} clips in the prompts, but features of {len(tokens)}"))
    for run in runs:
        rows: list[int] = []
        while row < len(tokens) and sum(tokens[i] for i in rows) < run.count:
            if rows and tokens[rows[-1]] < full:
                raise ValueError(_mismatch(f"{run.count} placeholders hold the ends of two clips"))
            rows.append(row)
            row += 1
        if sum(tokens[i] for i in rows) != run.count:
            raise ValueError(
                _mismatch(f"{run.count} placeholders for features that make {sum(tokens[i] for i in rows)} tokens")
            )
        owned.append((run, rows))
    if row != len(tokens):
        raise ValueError(_mismatch(f"features of {len(tokens) - row} more sounds than the prompts have placeholders"))
    return owned


def _mismatch(what: str) -> str:
    return (
        f"prompt and sounds do not fit together: {what}. Either the features come from another processor than the "
        "prompt, or clips follow one another without a token between them; put text or the model's own begin and end "
        "tokens between two clips"
    )
