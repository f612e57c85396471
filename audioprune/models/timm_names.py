"""Names of a checkpoint's weights: from timm's to transformers'."""

from __future__ import annotations

import re

from .state import State

_BLOCK = re.compile(r"^blocks\.(\d+)\.(.+)\.(weight|bias)$")
_BLOCK_NAMES = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.proj": "attention.o_proj",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
_NAMES = {
    "v.norm": "audio_spectrogram_transformer.layernorm",
    "v.patch_embed.proj": "audio_spectrogram_transformer.embeddings.patch_embeddings.projection",
    "mlp_head.0": "classifier.layernorm",
    "mlp_head.1": "classifier.dense",
    "patch_embed.proj": "audiomae.embeddings.projection",
    "head": "classifier",
    "fc_norm": "fc_norm",
}
_TOKENS = {"cls_token": "cls_token", "dist_token": "distillation_token", "pos_embed": "position_embeddings"}


def without_head(state: State, head: str, labels: int) -> State:
    """The state without its head, if that is for another number of labels. head: name of its linear layer's weight."""
    if head in state and len(state[head]) != labels:
        prefix = head.split(".")[0] + "."
        return {key: tensor for key, tensor in state.items() if not key.startswith(prefix)}
    return state


def from_timm(state: State, prefix: str, encoder: str) -> State:
    """Rename timm's keys to those of transformers, and split the joint q/k/v projections.

    A key without a counterpart keeps its name, so that it is reported as unknown later.
    """
    renamed: State = {}
    for key, tensor in state.items():
        local = key.removeprefix(prefix)
        module, _, kind = key.rpartition(".")
        block = _BLOCK.match(local)
        if block and block[2] == "attn.qkv":
            for name, third in zip("qkv", tensor.chunk(3), strict=True):
                renamed[f"{encoder}layers.{block[1]}.attention.{name}_proj.{block[3]}"] = third
        elif block and block[2] in _BLOCK_NAMES:
            renamed[f"{encoder}layers.{block[1]}.{_BLOCK_NAMES[block[2]]}.{block[3]}"] = tensor
        elif key.startswith(prefix) and local in _TOKENS:
            renamed[f"{encoder}embeddings.{_TOKENS[local]}"] = tensor
        elif module in _NAMES:
            renamed[f"{_NAMES[module]}.{kind}"] = tensor
        else:
            renamed[key] = tensor
    return renamed
