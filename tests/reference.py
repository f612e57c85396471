"""A pruned forward pass written as plainly as it can be: one clip, one token, one row of the attention map at a time.

It follows the papers' formulas. With the package it shares the model's own sub-modules, the settings' schedule of
rates, and the hash behind the random score, which has tests of its own.
"""

from __future__ import annotations

import math
from fractions import Fraction

import torch
from torch import Tensor

from audioprune import TopK
from audioprune.ops import pseudo_random


def pruned_forward(model, spectrogram: Tensor, method: TopK) -> tuple[Tensor, list[list[list[int]]]]:
    """Logits (batch, labels) and the patches kept, [stage][clip] → ascending list; −1 for a fused token."""
    clips = [_forward_clip(model, clip[None], method) for clip in spectrogram]
    stages = [[clip[1][stage] for clip in clips] for stage in range(len(clips[0][1]))]
    return torch.stack([clip[0] for clip in clips]), stages


def _forward_clip(model, clip: Tensor, method: TopK) -> tuple[Tensor, list[list[int]]]:
    encoder = getattr(model, model.base_model_prefix)
    is_ast = model.base_model_prefix == "audio_spectrogram_transformer"
    special = 2 if is_ast else 1
    x = encoder.embeddings(clip)[0]
    patches, grid = _patches(clip[0], encoder.config, is_ast)
    alive = list(range(len(patches)))
    sizes = [1.0] * len(alive)
    rates = method.schedule(len(encoder.layers))
    kept_per_stage = []
    for number, layer in enumerate(encoder.layers):
        residual, (context, maps, keys) = x, _attention(layer, x, sizes, special)
        x = context + residual
        if number in rates:
            head = list(x[:special])
            tokens = list(x[special:])
            scores = _scores(method, maps, special, alive, patches, number)
            keep = _choose(method, rates[number], scores, alive, grid)
            kept_per_stage.append([alive[i] for i in keep])
            tokens, alive, sizes = _drop(method, keep, tokens, alive, sizes, scores, keys[special:])
            x = torch.stack(head + tokens)
        x = x + layer.mlp(layer.layernorm_after(x))
    if is_ast:
        x = encoder.layernorm(x)
    if is_ast and getattr(model.config, "pooling", "cls") == "cls":
        pooled = (x[0] + x[1]) / 2
    else:
        weights = torch.tensor(sizes, dtype=x.dtype)
        pooled = (x[special:] * weights[:, None]).sum(0) / weights.sum()
    head = (lambda p: p) if is_ast else model.fc_norm
    kept_per_stage = [sorted(k for k in kept if k >= 0) + [k for k in kept if k < 0] for kept in kept_per_stage]
    return model.classifier(head(pooled)[None])[0], kept_per_stage


def _patches(clip: Tensor, config, is_ast: bool) -> tuple[list[Tensor], list[int]]:
    """Each patch's cells in the model's order, and each patch's time column; the last entry is the column count."""
    time_step = config.time_stride if is_ast else 16
    frequency_step = config.frequency_stride if is_ast else 16
    times = range(0, clip.shape[0] - 15, time_step)
    frequencies = range(0, clip.shape[1] - 15, frequency_step)
    if is_ast:
        places = [(t, f) for f in frequencies for t in times]
    else:
        places = [(t, f) for t in times for f in frequencies]
    cells = [clip[t : t + 16, f : f + 16] for t, f in places]
    return cells, [t // time_step for t, _ in places] + [len(times)]


def _attention(layer, x: Tensor, sizes: list[float], special: int) -> tuple[Tensor, list[Tensor], Tensor]:
    """Output of the attention, one N×N map a head, and the mean key of each token."""
    attention, n = layer.attention, len(x)
    normed = layer.layernorm_before(x)
    heads, width = attention.num_attention_heads, attention.head_dim
    query, key, value = (p(normed) for p in (attention.q_proj, attention.k_proj, attention.v_proj))
    outputs, maps = [], []
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        rows = []
        for i in range(n):
            logits = torch.stack([query[i, part] @ key[j, part] / math.sqrt(width) for j in range(n)])
            weights = torch.tensor([1.0] * special + sizes, dtype=x.dtype) * torch.exp(logits - logits.max())
            rows.append(weights / weights.sum())
        maps.append(torch.stack(rows))
        outputs.append(maps[-1] @ value[:, part])
    mean_key = torch.stack([key[:, h * width : (h + 1) * width] for h in range(heads)]).mean(0)
    return attention.o_proj(torch.cat(outputs, dim=1)), maps, mean_key


def _scores(method: TopK, maps, special: int, alive, patches, layer: int) -> list[float]:
    n = len(alive)
    if method.score == "attention":
        return [
            sum(float(m[row, special + i]) for m in maps for row in range(special, special + n)) / (len(maps) * n)
            for i in range(n)
        ]
    if method.score == "cls":
        return [sum(float(m[0, special + i]) for m in maps) / len(maps) for i in range(n)]
    if method.score == "random":
        return pseudo_random(torch.tensor([alive]), method.seed, layer)[0].tolist()
    statistic = {"intensity": lambda p: float(p.mean()), "variation": lambda p: float(p.std(correction=0))}
    every = [statistic[method.score](p) for p in patches]
    return [every[patch] if patch >= 0 else sum(every) / len(every) for patch in alive]


def _choose(method: TopK, rate: float, scores: list[float], alive: list[int], grid: list[int]) -> list[int]:
    n = len(scores)
    k = math.ceil(Fraction(str(rate)) * n)
    order = sorted(range(n), key=lambda i: (-scores[i], i))
    segments = method.spend_in()
    if segments is None:
        return sorted(order[:k])
    columns = grid[-1]
    segments = min(segments, k, columns)
    chosen: list[int] = []
    for segment in range(segments):
        mine = [i for i in order if alive[i] >= 0 and grid[alive[i]] * segments // columns == segment]
        chosen += mine[: k // segments]
    chosen += [i for i in order if i not in chosen][: k - len(chosen)]
    return sorted(chosen)


def _drop(method: TopK, keep, tokens, alive, sizes, scores, keys):
    dropped = [i for i in range(len(tokens)) if i not in keep]
    if method.dropped == "discard":
        return [tokens[i] for i in keep], [alive[i] for i in keep], [sizes[i] for i in keep]
    if method.dropped == "fuse":
        is_share = method.score in ("attention", "cls")
        fused = sum((scores[i] if is_share else 1 / len(dropped)) * tokens[i] for i in dropped)
        return [tokens[i] for i in keep] + [fused], [alive[i] for i in keep] + [-1], [1.0] * (len(keep) + 1)
    groups = {i: [i] for i in keep}
    for i in dropped:
        groups[max(keep, key=lambda j: (float(torch.cosine_similarity(keys[i], keys[j], dim=0)), -j))].append(i)
    merged = [sum(sizes[i] * tokens[i] for i in g) / sum(sizes[i] for i in g) for g in groups.values()]
    return merged, [alive[i] for i in keep], [sum(sizes[i] for i in g) for g in groups.values()]
