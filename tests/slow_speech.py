"""Speech models, as plain as they can be: one clip, one token, one row of an attention map at a time.

With the package they share the model's own convolutions, linear layers and norms, and nothing else.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor


def slow_speech(model: Any, inputs: dict[str, Tensor]) -> SlowSpeech:
    """The slow form of a model with a classification head. inputs: of one clip, without padding."""
    if "decoder_input_ids" in inputs:
        return SlowTranscriber(model, inputs["input_features"], inputs["decoder_input_ids"])
    if "input_features" in inputs:
        return SlowWhisper(model, inputs["input_features"])
    return SlowWaveform(model, inputs["input_values"])


class SlowSpeech:
    """What they have in common: tokens in a row, one attention, a mean at the end.

    Subclasses set `blocks` and say what enters the first, what a block does beside its attention, and which norm
    comes last.
    """

    special, rows = 0, 1
    columns: int
    model: Any
    blocks: Any

    @property
    def depth(self) -> int:
        return len(self.blocks)

    def place(self, patch: int) -> tuple[int, int]:
        return patch, 0

    def statistic(self, name: str) -> list[float]:
        """Mean, or population standard deviation, of each token's `cells`."""
        found = []
        for patch in range(self.columns):
            cells = self.cells(patch)
            mean = sum(cells) / len(cells)
            spread = math.sqrt(sum((cell - mean) ** 2 for cell in cells) / len(cells))
            found.append(mean if name == "intensity" else spread)
        return found

    def padding(self) -> list[bool]:
        """Tokens that begin after the last sample, or frame, that differs from the end."""
        raise NotImplementedError

    def sinks(self) -> list[bool]:
        return [False] * self.columns

    def cells(self, patch: int) -> list[float]:
        raise NotImplementedError

    def tokens(self) -> list[Tensor]:
        raise NotImplementedError

    def attend(
        self, layer: int, tokens: list[Tensor], sizes: list[float]
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]]:
        attention = self.attention(layer)
        entering = [self.before(layer, token) for token in tokens]
        queries, keys, values = (
            [projection(token) for token in entering]
            for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        heads, width, n = attention.num_heads, attention.head_dim, len(tokens)
        parts = [slice(head * width, (head + 1) * width) for head in range(heads)]
        key, value, counts = torch.stack(keys), torch.stack(values), torch.tensor(sizes, dtype=tokens[0].dtype)
        maps, left = [torch.zeros(n, n, dtype=value.dtype) for _ in parts], []
        for i in range(n):
            for part, attended in zip(parts, maps, strict=True):
                logits = key[:, part] @ queries[i][part] / math.sqrt(width)
                weights = counts * torch.exp(logits - logits.max())
                attended[i] = weights / weights.sum()
            context = [attended[i] @ value[:, part] for part, attended in zip(parts, maps, strict=True)]
            left.append(tokens[i] + attention.out_proj(torch.cat(context)))
        return left, maps, [sum(k[part] for part in parts) / heads for k in keys], values

    def attention(self, layer: int) -> Any:
        return self.blocks[layer].attention

    def before(self, layer: int, token: Tensor) -> Tensor:
        """What a block's attention is given of a token."""
        raise NotImplementedError

    def feed(self, layer: int, tokens: list[Tensor]) -> list[Tensor]:
        return [self.feed_one(layer, token) for token in tokens]

    def feed_one(self, layer: int, token: Tensor) -> Tensor:
        raise NotImplementedError

    def read(self, tokens: list[Tensor], weights: list[float]) -> Tensor:
        mean = sum(w * self.model.projector(self.after(t)) for t, w in zip(tokens, weights, strict=True)) / sum(weights)
        return self.model.classifier(mean)

    def after(self, token: Tensor) -> Tensor:
        """The norm after the last block."""
        raise NotImplementedError


class SlowWaveform(SlowSpeech):
    """Wav2Vec2 and its like. waveform: (1, samples)."""

    def __init__(self, model: Any, waveform: Tensor) -> None:
        self.model, self.waveform = model, waveform
        self.base = model.base_model
        self.blocks = self.base.encoder.layers
        self.stable = getattr(model.config, "do_stable_layer_norm", False)
        self.columns = len(self.tokens())

    def tokens(self) -> list[Tensor]:
        features = self.base.feature_extractor(self.waveform).transpose(1, 2)
        projection = self.base.feature_projection
        x = projection.projection(projection.layer_norm(features))
        x = x + self.base.encoder.pos_conv_embed(x)
        return list((x if self.stable else self.base.encoder.layer_norm(x))[0])

    def padding(self) -> list[bool]:
        samples, hop = self.waveform[0].tolist(), math.prod(self.model.config.conv_stride)
        sound = max(i for i, sample in enumerate(samples) if sample != samples[-1])
        return [patch * hop > sound for patch in range(self.columns)]

    def cells(self, patch: int) -> list[float]:
        """Loudness of ten equal parts of a token's samples; where ten does not divide them, the first have one more."""
        config = self.model.config
        samples = 1
        for kernel, stride in reversed(list(zip(config.conv_kernel, config.conv_stride, strict=True))):
            samples = (samples - 1) * stride + kernel
        begin = patch * math.prod(config.conv_stride)
        short, longer = divmod(samples, 10)
        loudness = []
        for part in range(10):
            end = begin + short + (part < longer)
            loudness.append(math.log10(float(self.waveform[0, begin:end].square().mean()) + 1e-10))
            begin = end
        return loudness

    def before(self, layer: int, token: Tensor) -> Tensor:
        return self.blocks[layer].layer_norm(token) if self.stable else token

    def feed_one(self, layer: int, token: Tensor) -> Tensor:
        block = self.blocks[layer]
        if not self.stable:
            token = block.layer_norm(token)
            return block.final_layer_norm(token + block.feed_forward(token))
        token = token + block.feed_forward(block.final_layer_norm(token))
        return token if block.adapter_layer is None else token + block.adapter_layer(token)

    def after(self, token: Tensor) -> Tensor:
        return self.base.encoder.layer_norm(token) if self.stable else token


class SlowWhisper(SlowSpeech):
    """features: (1, mels, frames)."""

    def __init__(self, model: Any, features: Tensor) -> None:
        self.model, self.features = model, features
        self.encoder = model.encoder
        self.blocks = self.encoder.layers
        self.columns = features.shape[2] // 2

    def tokens(self) -> list[Tensor]:
        x = torch.nn.functional.gelu(self.encoder.conv1(self.features))
        x = torch.nn.functional.gelu(self.encoder.conv2(x))[0].T
        return [x[i] + self.encoder.embed_positions.weight[i] for i in range(self.columns)]

    def padding(self) -> list[bool]:
        frames = self.features[0].T.tolist()
        sound = max(i for i, frame in enumerate(frames) if frame != frames[-1])
        return [2 * patch > sound for patch in range(self.columns)]

    def sinks(self) -> list[bool]:
        """Tokens of silence that some block makes four times as long as the median."""
        silent = copy.copy(self)
        silent.features = torch.full_like(self.features, -1.5)
        tokens, found = silent.tokens(), [False] * self.columns
        for layer in range(self.depth):
            tokens = silent.feed(layer, silent.attend(layer, tokens, [1.0] * len(tokens))[0])
            lengths = [math.sqrt(sum(x * x for x in token.tolist())) for token in tokens]
            median = sorted(lengths)[(len(lengths) - 1) // 2]
            found = [before or length > 4 * median for before, length in zip(found, lengths, strict=True)]
        return found

    def cells(self, patch: int) -> list[float]:
        return self.features[0, :, 2 * patch : 2 * patch + 2].flatten().tolist()

    def attention(self, layer: int) -> Any:
        return self.blocks[layer].self_attn

    def before(self, layer: int, token: Tensor) -> Tensor:
        return self.blocks[layer].self_attn_layer_norm(token)

    def feed_one(self, layer: int, token: Tensor) -> Tensor:
        block = self.blocks[layer]
        return token + block.fc2(block.activation_fn(block.fc1(block.final_layer_norm(token))))

    def after(self, token: Tensor) -> Tensor:
        return self.encoder.layer_norm(token)


class SlowTranscriber(SlowWhisper):
    """With a decoder. words: (1, length), those that it reads."""

    def __init__(self, model: Any, features: Tensor, words: Tensor) -> None:
        super().__init__(model.model, features)
        self.head, self.words = model.proj_out, words

    def read(self, tokens: list[Tensor], weights: list[float]) -> Tensor:
        """The model's own decoder, which reads each token as often as it counts."""
        often = [self.after(token) for token, weight in zip(tokens, weights, strict=True) for _ in range(round(weight))]
        read = self.model.decoder(input_ids=self.words, encoder_hidden_states=torch.stack(often)[None])
        return self.head(read.last_hidden_state[0])
