"""Models of spectrogram patches, as plain as they can be: one clip, one token, one row of an attention map at a time.

With the package they share the model's own sub-modules. `slow_model` gives the slow form of any family; those of speech
are in slow_speech.py. Tokens are lists of vectors, special ones first.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import torch
from torch import Tensor

from .slow_speech import slow_speech


class SlowModel(Protocol):
    """special: leading tokens that are not patches. columns, rows: of the clip's patches, in time and frequency."""

    special: int
    depth: int
    columns: int
    rows: int

    def place(self, patch: int) -> tuple[int, int]:
        """Time column and frequency row of a patch."""

    def tokens(self) -> list[Tensor]:
        """As they enter the first block."""

    def statistic(self, name: str) -> list[float]:
        """`intensity` or `variation` of every patch."""

    def padding(self) -> list[bool]:
        """Of every patch, whether it is padding at the end of the clip."""

    def sinks(self) -> list[bool]:
        """Of every patch, whether it would be an attention sink in a clip without sound."""

    def attend(
        self, layer: int, tokens: list[Tensor], sizes: list[float]
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]]:
        """Tokens after a block's attention and its residual, one N×N map a head, each token's key (mean over heads)
        and each token's value (of all heads). sizes: of the tokens that are not special, how often each counts."""

    def feed(self, layer: int, tokens: list[Tensor]) -> list[Tensor]:
        """The rest of the block."""

    def read(self, tokens: list[Tensor], weights: list[float]) -> Tensor:
        """Logits. weights: of the tokens that are not special, how much each counts in a mean."""


def slow_model(model: Any, inputs: dict[str, Tensor]) -> SlowModel:
    """inputs: of one clip."""
    if model.base_model_prefix in ("audio_spectrogram_transformer", "audiomae"):
        return SlowSpectrogram(model, inputs["input_values"])
    return slow_speech(model, inputs)


class SlowSpectrogram:
    """AST, AST-MP and AudioMAE. clip: (1, frames, mels)."""

    def __init__(self, model: Any, clip: Tensor) -> None:
        self.model, self.clip = model, clip
        self.encoder = getattr(model, model.base_model_prefix)
        self.is_ast = model.base_model_prefix == "audio_spectrogram_transformer"
        self.special = 2 if self.is_ast else 1
        self.depth = len(self.encoder.layers)
        config = self.encoder.config
        steps = (config.time_stride, config.frequency_stride) if self.is_ast else (16, 16)
        self._times, self._frequencies = (range(0, n - 15, step) for n, step in zip(clip.shape[1:], steps))
        self.columns, self.rows = len(self._times), len(self._frequencies)

    def place(self, patch: int) -> tuple[int, int]:
        if self.is_ast:
            return patch % self.columns, patch // self.columns
        return patch // self.rows, patch % self.rows

    def tokens(self) -> list[Tensor]:
        return list(self.encoder.embeddings(self.clip)[0])

    def statistic(self, name: str) -> list[float]:
        found = []
        for patch in range(self.columns * self.rows):
            column, row = self.place(patch)
            t, f = self._times[column], self._frequencies[row]
            cells = self.clip[0, t : t + 16, f : f + 16]
            found.append(float(cells.mean() if name == "intensity" else cells.std(correction=0)))
        return found

    def padding(self):
        frames = self.clip[0].tolist()
        sound = max(t for t, frame in enumerate(frames) if frame != frames[-1])
        return [self._times[self.place(patch)[0]] > sound for patch in range(self.columns * self.rows)]

    def sinks(self):
        return [False] * (self.columns * self.rows)

    def attend(self, layer, tokens, sizes):
        block = self.encoder.layers[layer]
        attention, n, x = block.attention, len(tokens), torch.stack(tokens)
        normed = block.layernorm_before(x)
        heads, width = attention.num_attention_heads, attention.head_dim
        query, key, value = (p(normed) for p in (attention.q_proj, attention.k_proj, attention.v_proj))
        counts = torch.tensor([1.0] * self.special + sizes, dtype=x.dtype)
        outputs, maps = [], []
        for head in range(heads):
            part = slice(head * width, (head + 1) * width)
            rows = []
            for i in range(n):
                logits = key[:, part] @ query[i, part] / math.sqrt(width)
                weights = counts * torch.exp(logits - logits.max())
                rows.append(weights / weights.sum())
            maps.append(torch.stack(rows))
            outputs.append(maps[-1] @ value[:, part])
        keys = [sum(k[h * width : (h + 1) * width] for h in range(heads)) / heads for k in key]
        return list(attention.o_proj(torch.cat(outputs, dim=1)) + x), maps, keys, list(value)

    def feed(self, layer, tokens):
        block, x = self.encoder.layers[layer], torch.stack(tokens)
        return list(x + block.mlp(block.layernorm_after(x)))

    def read(self, tokens, weights):
        x = torch.stack(tokens)
        if self.is_ast:
            x = self.encoder.layernorm(x)
        if self.is_ast and getattr(self.model.config, "pooling", "cls") == "cls":
            pooled = (x[0] + x[1]) / 2
        else:
            counts = torch.tensor(weights, dtype=x.dtype)
            pooled = (x[self.special :] * counts[:, None]).sum(0) / counts.sum()
        return self.model.classifier((pooled if self.is_ast else self.model.fc_norm(pooled))[None])[0]
