"""Measure what scoring adds to one block: its time beside a plain block, and its memory for longer clips."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

import audioprune as ap
from audioprune.adapters.blocks.token_pass import TokenPass
from audioprune.attention.pieces import attend_and_score
from audioprune.core.cost import peak_memory
from audioprune.models.audiomae import AudioMAEConfig, AudioMAEForAudioClassification

from .turns import Contender, race, ratio

KEEPS_ALL = 0.9999
"""Keep rate that rounds to all tokens: everything is scored and sorted, and nothing is dropped."""
LENGTHS = (512, 1024, 2048, 4096)
HEADS, HEAD_DIM = 12, 64


def measure(rounds: int, advance: Callable[[], None], frames: int = 1024, batch: int = 4) -> dict[str, Any]:
    """Time a ViT-Base's block: plain with SDPA, scored, and scored by the map of all pairs."""
    torch.manual_seed(0)
    # There are two models, so that the plain block is transformers' own while the other is pruned.
    plain, scored, eager = (_blocks(frames, name) for name in ("sdpa", "sdpa", "eager"))
    hidden = torch.randn(batch, frames // 2 + 1, scored.audiomae.config.hidden_size)
    contenders = {
        "plain": Contender(lambda: plain.audiomae.layers[0](hidden)),
        "scored": Contender(_scoring(scored, hidden)),
        "scored by the map": Contender(_scoring(eager, hidden)),
    }
    race(contenders, rounds, advance)
    return {
        "tokens": frames // 2,
        "batch_size": batch,
        "dtype": "float32",
        "latency_ms": {name: 1000 * one.median for name, one in contenders.items()},
        "scored_over_plain": ratio(contenders["scored"], contenders["plain"]),
        "map_over_plain": ratio(contenders["scored by the map"], contenders["plain"]),
        "peak_bytes": memory(),
    }


def _blocks(frames: int, attention: str) -> AudioMAEForAudioClassification:
    config = AudioMAEConfig(max_length=frames, num_hidden_layers=1, attn_implementation=attention)
    return AudioMAEForAudioClassification(config).eval()


def _scoring(model: AudioMAEForAudioClassification, hidden: Tensor) -> Callable[[], Any]:
    handle = ap.prune(model, ap.TopK(KEEPS_ALL, layers=(0,)))
    attachment = handle.attachment

    def run() -> Tensor:
        token_pass = TokenPass(handle.adapter, attachment.reducer, attachment.eager, {})
        out = model.audiomae.layers[0](hidden, token_pass=token_pass)
        assert 0 in token_pass.stages
        return out

    return run


@torch.inference_mode()
def memory() -> dict[str, dict[str, int]]:
    """Measure the peak of extra bytes in attention over N tokens of one clip: in pieces, and by the map."""
    found: dict[str, dict[str, int]] = {}
    for n in LENGTHS:
        query, key, value = (torch.randn(1, HEADS, n, HEAD_DIM) for _ in range(3))

        def by_the_map(query: Tensor = query, key: Tensor = key, value: Tensor = value) -> Any:
            weights = (query @ key.transpose(2, 3) * HEAD_DIM**-0.5).softmax(-1)
            return weights @ value, weights.mean(dim=2)

        def in_pieces(query: Tensor = query, key: Tensor = key, value: Tensor = value) -> Any:
            return attend_and_score(query, key, value, HEAD_DIM**-0.5, None, 0)

        for name, run in (("pieces", in_pieces), ("map", by_the_map)):
            give_back()
            before, after = peak_memory(lambda: None), peak_memory(run)
            if before is not None and after is not None:
                found.setdefault(name, {})[str(n)] = after - before
    return found


def give_back() -> None:
    """Return freed memory to the system if the C library can: growth is not seen if freed memory is used again."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
