"""A small model of Qwen2-Audio's class, and its processor with a vocabulary of words."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerFast,
    Qwen2AudioConfig,
    Qwen2AudioForConditionalGeneration,
    Qwen2AudioProcessor,
    WhisperFeatureExtractor,
)

from audioprune.audio.files import SAMPLE_RATE

from .scenes import DIGITS, MOST_DIGITS, SOUNDS

SECONDS = 10
"""The longest clip."""
HEARD = list(SOUNDS.values())
"""Words for the sounds of scenes."""

_SPECIAL = ("<|pad|>", "<|eos|>", "<|unk|>", "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>")
_WORDS = ("which", "digits", ",", "in", "order", "?", "what", "was", "heard", "first", "the", "or", "how", "many")
_CHAT = (
    "{% for message in messages %}{% for part in message['content'] %}{% if part['type'] == 'audio' %}"
    "<|audio_bos|><|AUDIO|><|audio_eos|> {% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endfor %}"
)


def prompt(question: str) -> str:
    """What the processor takes as `text` for a question about one clip."""
    return f"<|audio_bos|><|AUDIO|><|audio_eos|> {question}"


def make_processor(
    mels: int = 64, seconds: int = SECONDS, words: Iterable[str] = (*_WORDS, *DIGITS, *HEARD)
) -> Qwen2AudioProcessor:
    """Words to ids, and 16 kHz clips of up to `seconds` to (mels, 100 · seconds) log-mel features."""
    words = dict.fromkeys((*_SPECIAL, *words))
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<|unk|>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<|pad|>",
        eos_token="<|eos|>",
        unk_token="<|unk|>",
        additional_special_tokens=list(_SPECIAL[3:]),
        padding_side="left",
        model_input_names=["input_ids", "attention_mask"],
    )
    extractor = WhisperFeatureExtractor(
        feature_size=mels, chunk_length=seconds, sampling_rate=SAMPLE_RATE, return_attention_mask=True
    )
    return Qwen2AudioProcessor(extractor, tokenizer, chat_template=_CHAT)


def make_model(
    processor: Qwen2AudioProcessor,
    *,
    width: int = 128,
    audio_heads: int = 4,
    text_heads: int = 4,
    audio_layers: int = 4,
    text_layers: int = 3,
    dropout: float = 0.0,
    seed: int = 0,
) -> Qwen2AudioForConditionalGeneration:
    """An untrained listener.

    width: of both halves. dropout: in the encoder, while it trains.
    """
    audio = {
        "model_type": "qwen2_audio_encoder",
        "d_model": width,
        "encoder_layers": audio_layers,
        "encoder_attention_heads": audio_heads,
        "encoder_ffn_dim": 4 * width,
        "num_mel_bins": processor.feature_extractor.feature_size,
        "max_source_positions": SECONDS * 50,
        "initializer_range": _scale(width),
        "dropout": dropout,
    }
    model = assemble(processor, audio, width=width, heads=text_heads, layers=text_layers, seed=seed)
    _prepare(model.model.audio_tower)
    return model


def assemble(
    processor: Qwen2AudioProcessor, audio: dict[str, Any], *, width: int, heads: int, layers: int, seed: int,
    longest: int = 512,
) -> Qwen2AudioForConditionalGeneration:  # fmt: skip
    """An encoder of the config `audio`, an adapter, and a language model; all untrained.

    width, heads, layers: of the language model. longest: positions of a prompt with its answer.
    """
    tokenizer = processor.tokenizer
    ids = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    text = {
        "model_type": "qwen2",
        "hidden_size": width,
        "intermediate_size": 3 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": longest,
        "initializer_range": _scale(width),
        "tie_word_embeddings": False,
        "bos_token_id": None,
        **ids,
    }
    torch.manual_seed(seed)
    config = Qwen2AudioConfig(
        audio_config=audio, text_config=text, audio_token_index=tokenizer.convert_tokens_to_ids("<|AUDIO|>")
    )
    model = Qwen2AudioForConditionalGeneration(config)
    model.generation_config = GenerationConfig(do_sample=False, max_new_tokens=MOST_DIGITS + 4, **ids)
    return model


def _scale(width: int) -> float:
    # transformers' own 0.02 is for widths in the thousands: at these it leaves hardly any signal to begin with.
    return 0.9 / math.sqrt(width)


@torch.no_grad()
def _prepare(tower: Any) -> None:
    """Have an encoder begin as a dilated convolution: from random weights it needs far longer to hear digits.

    Sinusoids fill the first dimensions only, as many as a head has, and nothing else is written there. A rotation of
    them is a shift in time: queries turned by a head's shift, and keys as they are, attend to what was so many
    positions ago. All but the last layer begin so, with shifts of 1, 3, … positions (20 ms), doubled by each layer. All
    weights are free to become something else.
    """
    size = tower.layers[0].self_attn.head_dim
    rates = torch.exp(-math.log(160) / (size // 2 - 1) * torch.arange(size // 2))
    angles = torch.arange(tower.max_source_positions)[:, None] * rates
    tower.embed_positions.weight.zero_()
    tower.embed_positions.weight[:, :size] = 2 * torch.cat((angles.sin(), angles.cos()), dim=1)
    tower.conv1.weight.mul_(3)
    tower.conv2.weight.mul_(1.5)
    for written in (tower.conv2, *(part for layer in tower.layers for part in (layer.self_attn.out_proj, layer.fc2))):
        written.weight[:size] = 0
    for i, layer in enumerate(tower.layers[:-1]):
        attention = layer.self_attn
        for projection in (attention.q_proj, attention.k_proj):
            projection.weight.mul_(0.2)
        for head in range(attention.num_heads):
            rows = slice(head * size, (head + 1) * size)
            shift = (2 * head + 1 - attention.num_heads) * 2**i
            attention.k_proj.weight[rows, :size] = 2.5 * torch.eye(size)
            attention.q_proj.weight[rows, :size] = 2.5 * _rotation(rates * shift)


def _rotation(angles: Tensor) -> Tensor:
    """(2n, 2n) that takes the sines and cosines of n angles to those of the angles plus `angles`, (n,)."""
    sin, cos = angles.sin().diag(), angles.cos().diag()
    return torch.cat((torch.cat((cos, sin), dim=1), torch.cat((-sin, cos), dim=1)))
