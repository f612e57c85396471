"""AudioMAE's forward as the authors of TopK pruning compute it.

Their code computes the whole attention map in every block, takes scores as its mean, and sorts tokens by their scores.
These are facts about their code; this code is ours.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from audioprune.models.audiomae import AudioMAEForAudioClassification


class AuthorsWay(nn.Module):
    """An `AudioMAEForAudioClassification` with the same weights, and one product for queries, keys and values.

    keep_rate: share of the patches that stays after blocks 4, 7 and 10, counted from 1.
    """

    def __init__(self, model: AudioMAEForAudioClassification) -> None:
        super().__init__()
        self.embeddings, self.blocks = model.audiomae.embeddings, model.audiomae.layers
        self.norm, self.head = model.fc_norm, model.classifier
        self.heads = model.config.num_attention_heads
        self.keep_rate = 1.0
        self.joined = nn.ModuleList(_joined(block.attention) for block in self.blocks)

    def forward(self, spectrograms: Tensor) -> Tensor:
        """Compute logits (batch, labels) from (batch, frames, mels)."""
        x = self.embeddings(spectrograms)
        for index, block in enumerate(self.blocks):
            context, weights = self._attention(index, block.layernorm_before(x))
            x = x + context
            if index in (3, 6, 9) and self.keep_rate < 1:
                x = self._prune(x, weights)
            x = x + block.mlp(block.layernorm_after(x))
        return self.head(self.norm(x[:, 1:].mean(dim=1)))

    def _attention(self, index: int, x: Tensor) -> tuple[Tensor, Tensor]:
        batch, n, width = x.shape
        qkv = self.joined[index](x).reshape(batch, n, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        query, key, value = qkv.unbind(0)
        weights = (query @ key.transpose(-2, -1) * (width // self.heads) ** -0.5).softmax(dim=-1)
        context = (weights @ value).transpose(1, 2).reshape(batch, n, width)
        out: Any = self.blocks[index].attention.o_proj
        return functional.linear(context, out.weight, out.bias), weights

    def _prune(self, x: Tensor, weights: Tensor) -> Tensor:
        scores = weights[:, :, 1:, 1:].mean(dim=(1, 2))
        kept = scores.topk(math.ceil(self.keep_rate * scores.shape[1]), dim=1).indices
        patches = x[:, 1:].gather(1, kept[..., None].expand(-1, -1, x.shape[2]))
        return torch.cat((x[:, :1], patches), dim=1)


def _joined(attention: Any) -> nn.Linear:
    parts = (attention.q_proj, attention.k_proj, attention.v_proj)
    layer = nn.Linear(parts[0].in_features, 3 * parts[0].out_features)
    layer.weight.data = torch.cat([part.weight.data for part in parts])
    layer.bias.data = torch.cat([part.bias.data for part in parts])
    return layer
