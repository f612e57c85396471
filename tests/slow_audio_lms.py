"""An audio-language model that forgets tokens, as plain as it can be: one prompt at a time, whole attention maps,
Python lists, no cache, no padding. The model's own pieces are run at their full length and left unpruned.

What each method chooses is said in `reference.py`; here is what it is given, and what the language model reads then.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from audioprune import Method, PaddingMerge, SegmentwiseTopK

from .audio_lms import EOS, FAMILIES, HEADS, PAD, WINDOW, Prompt, ask, by_three
from .reference import FORMS, Line, Seen


@dataclass(frozen=True)
class Tower:
    """pool: frames of the last block a token. room: frames of the log-mel, of those that attend to each other.
    packed: rooms stand behind each other, without padding. masked: nothing attends to padding. ragged: a token that
    is half padding counts."""

    pool: int
    room: int = WINDOW
    packed: bool = False
    masked: bool = True
    ragged: bool = False

    def frames(self, mel: int) -> int:
        """Of the last block, for so many of the log-mel."""
        return by_three(mel) if self.pool == 1 else math.ceil(mel / 2)

    def rooms(self, mel: int) -> list[int]:
        """Frames in each room of a clip."""
        return [self.frames(min(self.room, mel - start)) for start in range(0, mel, self.room)]

    def tokens(self, frames: int) -> int:
        return math.ceil(frames / self.pool) if self.ragged else frames // self.pool


TOWERS = {
    "qwen2_audio": Tower(2),
    "audio_flamingo3": Tower(2),
    "music_flamingo": Tower(2),
    "voxtral": Tower(4, masked=False, ragged=True),
    "glm_asr": Tower(4, masked=False),
    "qwen2_5_omni": Tower(2, room=16, packed=True),
    "qwen3_omni": Tower(1, room=200, packed=True),
    "qwen3_asr": Tower(1, room=200, packed=True),
}


THREE_AXES = ("qwen2_5_omni", "qwen3_omni")
"""Their positions are counted along three axes, by themselves; elsewhere `generate` counts them."""


@dataclass(frozen=True)
class Sound:
    """A clip: where its placeholders are in the prompt, and of each token that is no padding the attention that it
    received, its key, and the attention that it received in each head."""

    places: list[int]
    scores: list[float]
    keys: list[Tensor]
    heads: list[list[float]]


@dataclass(frozen=True)
class Reading:
    """What a language model reads: embeddings, and the position of each along one axis or three."""

    embeds: list[Tensor]
    positions: list[list[int]]


def listen(model: Any, name: str, prompt: Prompt) -> tuple[Reading, list[Sound]]:
    """An unpruned model's language model is about to read this, and its encoder heard these sounds."""
    tower, attention = TOWERS[name], model.model.audio_tower.layers[-1].self_attn
    reading, attended = _heard(model, name, prompt, attention)
    sounds = []
    if attended:
        args, kwargs = attended[0]
        frames = _Frames(attention, kwargs["hidden_states"] if "hidden_states" in kwargs else args[0], kwargs)
        place = 0
        for part in prompt:
            if isinstance(part, int):
                place += 1
                continue
            places = list(range(place, place + FAMILIES[name].tokens(int(part))))
            place += len(places)
            sounds.append(_sound(tower, frames, places, int(part)))
    return reading, sounds


def _heard(model: Any, name: str, prompt: Prompt, module: nn.Module) -> tuple[Reading, list[tuple[tuple, dict]]]:
    """What an unpruned model's language model is about to read, and the arguments of each call of a module."""
    called: list[tuple[tuple, dict]] = []
    read: list[dict] = []
    hooks = [
        module.register_forward_pre_hook(lambda m, args, kwargs: called.append((args, kwargs)), with_kwargs=True),
        model.model.language_model.register_forward_pre_hook(
            lambda m, _, kwargs: read.append(kwargs), with_kwargs=True
        ),
    ]
    model(**in_double(ask(name, [prompt])))
    for hook in hooks:
        hook.remove()
    embeds = list(read[0]["inputs_embeds"][0])
    given = read[0].get("position_ids")
    positions = [[i] for i in range(len(embeds))] if given is None else given[:, 0].T.tolist()
    return Reading(embeds, positions), called


def listen_merged(model: Any, name: str, prompt: Prompt, method: PaddingMerge) -> tuple[Reading, list[list[float]]]:
    """As `listen`, if the padding of the encoder is merged before its first block, row by row: what is read, and the
    attention that each token of each room received, over the voters of its room."""
    tower, layers = TOWERS[name], model.model.audio_tower.layers
    _, called = _heard(model, name, prompt, layers[0])
    if not called:
        return listen(model, name, prompt)[0], []
    args, kwargs = called[0]
    entering = args[0] if args else kwargs["hidden_states"]
    rooms = [frames for part in prompt if isinstance(part, str) for frames in tower.rooms(int(part))]
    outputs, scores = [], []
    for hidden, voters in zip(entering, rooms, strict=True):
        whole = math.ceil(voters / tower.pool) * tower.pool
        merged, holder = _merged(list(hidden), whole, method)
        rotary = kwargs.get("position_embeddings")
        if rotary is not None:
            rotary = tuple(part[:, merged.patches] for part in rotary)
        mask = torch.tensor(merged.sizes, dtype=torch.float64).log()[None, None, None]
        x = torch.stack(merged.tokens)[None]
        for layer in layers:
            attended: list[Tensor] = []
            hook = layer.self_attn.register_forward_pre_hook(
                lambda m, a, k, to=attended: to.append(k["hidden_states"]), with_kwargs=True
            )
            x = layer(x, attention_mask=mask, **({} if rotary is None else {"position_embeddings": rotary}))
            hook.remove()
        outputs.append(torch.stack([x[0, merged.patches.index(i)] for i in holder]))
        frames = _Frames(layers[-1].self_attn, attended[0], {"position_embeddings": rotary})
        query, key = frames.take(0, packed=False)
        received = [0.0] * len(merged)
        for head in range(HEADS):
            for row in attention_map(query[head], key[head], len(merged), merged.sizes)[:voters]:
                received = [total + share for total, share in zip(received, row, strict=True)]
        scores.append(
            [
                sum(received[token * tower.pool : (token + 1) * tower.pool]) / (tower.pool * HEADS)
                for token in range(tower.tokens(voters))
            ]
        )
    hook = layers[-1].register_forward_hook(lambda m, a, output: torch.stack(outputs))
    reading, _ = _heard(model, name, prompt, layers[0])
    hook.remove()
    return reading, scores


def _merged(frames: list[Tensor], real: int, method: PaddingMerge) -> tuple[Line, list[int]]:
    """The frames that stay, and the frame that holds each."""
    line = Line(frames, list(range(len(frames))), [1.0] * len(frames))
    seen = Seen(_Padded(len(frames), real=real), 0, None, [], [], [])
    kept, left = FORMS[PaddingMerge](method, method.keep_rate, line, seen)
    holder, ends = [], [sum(left.sizes[: i + 1]) for i in range(len(kept))]
    for i in range(len(frames)):  # runs are neighbours, so their sizes tell which frames they hold
        holder.append(kept[next(at for at, end in enumerate(ends) if i < end)])
    return left, holder


def in_double(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: x.double() if x.is_floating_point() else x for key, x in inputs.items()}


def exactly(name: str, asked: Sequence[Prompt], side: str = "left") -> dict[str, Tensor]:
    """In float64 and, since what rotates queries and keys is in float32 all the same, at the same positions."""
    inputs = in_double(ask(name, asked, side))
    if name not in THREE_AXES:
        inputs["position_ids"] = (inputs["attention_mask"].cumsum(dim=1) - 1).clamp_min(0)
    return inputs


class _Frames:
    """Queries and keys of the last block's frames, (heads, frames, dim), to be taken room by room."""

    def __init__(self, attention: Any, hidden: Tensor, kwargs: dict[str, Any]) -> None:
        self.attention, self.hidden, self.rotary = attention, hidden, kwargs.get("position_embeddings")
        self.next = 0

    def take(self, frames: int, packed: bool) -> tuple[Tensor, Tensor]:
        """The next room: the next frames of those that are packed, or the next row, with its padding."""
        start = self.next
        self.next += frames if packed else 1
        x = self.hidden[start : start + frames] if packed else self.hidden[start]
        query, key = self._heads(self.attention.q_proj(x)), self._heads(self.attention.k_proj(x))
        return query / math.sqrt(query.shape[2]), key

    def _heads(self, x: Tensor) -> Tensor:
        heads = x.unflatten(-1, (HEADS, -1)).transpose(0, 1)
        if self.rotary is None:
            return heads
        cos, sin = self.rotary[0][0], self.rotary[1][0]
        half = cos.shape[-1] // 2
        one, other, rest = heads[..., :half], heads[..., half : 2 * half], heads[..., 2 * half :]
        cos, sin = cos[:, :half], sin[:, :half]
        return torch.cat((one * cos - other * sin, other * cos + one * sin, rest), dim=-1)


def _sound(tower: Tower, frames: _Frames, places: list[int], mel: int) -> Sound:
    heads: list[list[float]] = [[] for _ in range(HEADS)]
    keys: list[Tensor] = []
    rooms = tower.rooms(mel)
    for voters in rooms:
        query, key = frames.take(voters, tower.packed)
        n = key.shape[1]
        for head in range(HEADS):
            received = [0.0] * n
            for row in attention_map(query[head], key[head], voters if tower.masked else n)[:voters]:
                received = [total + share for total, share in zip(received, row, strict=True)]
            for token in range(tower.tokens(voters)):
                own = range(token * tower.pool, (token + 1) * tower.pool)
                heads[head].append(sum(received[i] for i in own) / (tower.pool * sum(rooms)))
        for token in range(tower.tokens(voters)):
            own = range(token * tower.pool, (token + 1) * tower.pool)
            keys.append(sum(key[head, i] for head in range(HEADS) for i in own) / (HEADS * tower.pool))
    scores = [sum(each) / HEADS for each in zip(*heads, strict=True)]
    return Sound(places, scores, keys, heads)


def attention_map(query: Tensor, key: Tensor, heard: int, sizes: Sequence[float] = ()) -> list[list[float]]:
    """One head's N × N map, a row for each query; the keys after the first `heard` are masked. sizes: how often each
    key counts."""
    rows = []
    bias = torch.tensor(sizes or [1.0] * len(key), dtype=key.dtype).log()
    for logits in (query @ key.T + bias).tolist():
        powers = [math.exp(logit - max(logits[:heard])) for logit in logits[:heard]]
        rows.append([power / sum(powers) for power in powers] + [0.0] * (len(logits) - heard))
    return rows


@dataclass(frozen=True)
class _Moments:
    """What `reference.Seen` knows of a model: tokens are moments of a clip, and there is a single stage."""

    columns: int
    special: int = 0
    depth: int = 1

    def place(self, patch: int) -> tuple[int, int]:
        return patch, 0


@dataclass(frozen=True)
class _Padded(_Moments):
    """The frames of one row, the first `real` of which are no padding."""

    real: int = 0

    def padding(self) -> list[bool]:
        return [i >= self.real for i in range(self.columns)]

    def sinks(self) -> list[bool]:
        return [False] * self.columns


def reduce(method: Method, sound: Sound, embeds: Sequence[Tensor]) -> tuple[list[int], list[Tensor]]:
    """Which tokens of a clip stay, by their numbers in it, and what becomes of them."""
    n, rate = len(sound.scores), method.schedule(1)[0]
    if isinstance(method, SegmentwiseTopK) and method.segments is None:
        method = dataclasses.replace(method, segments=math.ceil(rate * n))
    seen = Seen(_Moments(n), 0, None, [[head] * n for head in sound.heads], sound.keys, [])
    form = next(form for kind, form in FORMS.items() if isinstance(method, kind))
    line = Line([embeds[place] for place in sound.places[:n]], list(range(n)), [1.0] * n)
    kept, left = form(method, rate, line, seen)
    return kept, left.tokens


def shortened(reading: Reading, sounds: list[Sound], method: Method, positions: str) -> tuple[Reading, list[list[int]]]:
    """What is left to read, and which tokens of each clip stay."""
    stay = dict(enumerate(reading.embeds))
    chosen = []
    for sound in sounds:
        kept, tokens = reduce(method, sound, reading.embeds)
        chosen.append(kept)
        for place in sound.places:
            del stay[place]
        stay |= {sound.places[i]: token for i, token in zip(kept, tokens, strict=True)}
    places = sorted(stay)
    numbers = []
    for i, place in enumerate(places):
        gone = place - i if positions == "renumber" else 0
        numbers.append([axis - gone for axis in reading.positions[place]])
    return Reading([stay[place] for place in places], numbers), chosen


def logits(model: Any, reading: Reading) -> Tensor:
    """(length, words)."""
    embeds, positions = torch.stack(reading.embeds)[None], torch.tensor(reading.positions).T[:, None]
    read = model.model.language_model(
        inputs_embeds=embeds,
        attention_mask=torch.ones(1, embeds.shape[1], dtype=torch.long),
        position_ids=positions[0] if len(positions) == 1 else positions,
        use_cache=False,
    )
    return model.lm_head(read.last_hidden_state)[0]


def answer(model: Any, reading: Reading, steps: int) -> list[int]:
    """The likeliest word, so many times, everything computed anew each time."""
    words: list[int] = []
    while len(words) < steps and EOS not in words:
        words.append(int(logits(model, reading)[-1].argmax()))
        embed = model.get_input_embeddings()(torch.tensor(words[-1]))
        reading = Reading([*reading.embeds, embed], [*reading.positions, [axis + 1 for axis in reading.positions[-1]]])
    return words + [PAD] * (steps - len(words))
