"""Whisper's window cut to the clip: a common habit, here as a baseline. It breaks transcripts; see `WindowCut`."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ..adapters.blocks.adapter import constant_tail
from ..adapters.replacement import Replacement


@dataclass(frozen=True)
class WindowCut:
    """Let the encoder compute on the clip and a margin only, and not on the rest of its 30 seconds.

    Whisper.cpp's `audio_ctx` does this. It needs no change of weights, but the model was never trained on short
    windows: the decoder may not find the end of the sound, and then repeats itself. So this is a baseline for tables,
    not a method to use; `PaddingMerge` saves as much, and the decoder sees the whole window.

    margin: encoder tokens after the clip (20 ms each).
    """

    margin: int = 0

    def __post_init__(self) -> None:
        if self.margin < 0:
            raise ValueError(f"the margin is {self.margin}; it is a number of tokens after the clip, 0 or more")

    def __str__(self) -> str:
        return f"cut+{self.margin}" if self.margin else "cut"

    @contextmanager
    def applied(self, model: Any) -> Iterator[None]:
        """Context in which the encoder of one Whisper is cut. The model is as before at its end.

        A batch has the window of its longest clip. In a long recording, only the last window is cut.
        """
        encoder = model.get_encoder()
        stride = encoder.conv1.stride[0] * encoder.conv2.stride[0]

        def run(own: Any, input_features: Tensor, attention_mask: Tensor | None = None, **kwargs: Any) -> Any:
            frames = clip_frames(input_features, attention_mask)
            tokens = min(encoder.config.max_source_positions, -(-frames // stride) + self.margin)
            with _shortened(encoder, tokens):
                return own(input_features[..., : stride * tokens], **kwargs)

        replacement = Replacement(encoder, "forward", run)
        try:
            yield
        finally:
            replacement.undo()


def clip_frames(features: Tensor, mask: Tensor | None = None) -> int:
    """Frames of the longest clip of a batch, without padding; at least 1.

    features: (batch, mels, frames). mask: (batch, frames), 1 for sound. Without a mask of this shape (a window of a
    long recording has none), padding is a constant end.
    """
    if mask is None or mask.shape != (features.shape[0], features.shape[2]):
        mask = ~constant_tail(features.transpose(1, 2))
    used = mask.bool().any(dim=0).nonzero()
    return int(used[-1]) + 1 if len(used) else 1


@contextmanager
def _shortened(encoder: Any, tokens: int) -> Iterator[None]:
    """Context in which an encoder takes windows of so many tokens: its config and its positions are shorter copies."""
    config, positions = encoder.config, encoder.embed_positions
    try:
        encoder.config = copy.copy(config)
        encoder.config.max_source_positions = tokens
        encoder.embed_positions = nn.Embedding.from_pretrained(positions.weight[:tokens])
        yield
    finally:
        encoder.config, encoder.embed_positions = config, positions
