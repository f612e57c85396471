"""Forward passes for training: every question about a clip at once."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import Qwen2AudioForConditionalGeneration

from .batches import IGNORED, Batch
from .model import SECONDS


def encode(model: Qwen2AudioForConditionalGeneration, batch: Batch, dtype: torch.dtype = torch.float32) -> Tensor:
    """(scenes, 250, width) audio tokens; `dtype` of the attention mask."""
    padding = torch.arange(SECONDS * 50) >= batch.lengths[:, None]
    mask = torch.zeros(padding.shape, dtype=dtype).masked_fill_(padding, torch.finfo(dtype).min)
    return model.model.audio_tower(batch.features, attention_mask=mask[:, None, None]).last_hidden_state


def encode_windows(model: Qwen2AudioForConditionalGeneration, batch: Batch, windows: int = 5) -> Tensor:
    """As `encode`, but no position attends beyond its window (2 s): half of the work, and digits are learnt sooner."""
    tower = model.model.audio_tower
    hidden = F.gelu(tower.conv2(F.gelu(tower.conv1(batch.features)))).transpose(1, 2) + tower.embed_positions.weight
    clips, positions, width = hidden.shape
    hidden = hidden.reshape(clips * windows, positions // windows, width)
    for layer in tower.layers:
        hidden = layer(hidden, None)
    return tower.layer_norm(hidden.reshape(clips, positions // 2, 2, width).mean(2))


def answer_logits(
    model: Qwen2AudioForConditionalGeneration, batch: Batch, tokens: Tensor, dtype: torch.dtype = torch.float32
) -> Tensor:
    """(answer words, vocabulary) where `batch.labels` has a word, from the tokens of `encode`."""
    return model.lm_head(read(model, batch, tokens, dtype)[batch.labels != IGNORED])


def read(
    model: Qwen2AudioForConditionalGeneration, batch: Batch, tokens: Tensor, dtype: torch.dtype = torch.float32
) -> Tensor:
    """(scenes, length, width) that the language model makes of `batch.ids` with the tokens of `encode`."""
    embedded = model.get_input_embeddings()(batch.ids)
    heard = batch.ids == model.config.audio_token_id
    real = torch.arange(tokens.shape[1]) < heard.sum(1, keepdim=True)
    audio = model.model.multi_modal_projector(tokens)[real].to(embedded.dtype)
    embedded = embedded.masked_scatter(heard[..., None], audio)
    question = batch.question
    order = torch.arange(question.shape[1])
    seen = (order[:, None] >= order) & ((question[:, :, None] == question[:, None]) | (question[:, None] == 0))
    if batch.read is not None:
        # Each still sees itself: a row without anything to see would be no numbers.
        seen = (seen & batch.read[:, None]) | torch.eye(len(order), dtype=torch.bool)
    mask = torch.zeros(seen.shape, dtype=dtype).masked_fill_(~seen, torch.finfo(dtype).min)
    out = model.model.language_model(
        inputs_embeds=embedded, attention_mask=mask[:, None], position_ids=batch.positions, use_cache=False
    )
    return out.last_hidden_state
