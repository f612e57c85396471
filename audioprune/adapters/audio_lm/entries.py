"""The audio-language models that are entered, one small entry each, and those that are not, with the reason."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

MEL_SECONDS = 0.01
"""Hop of every one of these models' log-mel spectrograms."""


@dataclass(frozen=True)
class AudioLMEntry:
    """What has to be known of a model with a language head.

    frames(model, inputs): (rows,), frames of the tower's last block that each row of features has, padding aside; None
        where attention cannot be reached. Rows are clips, or windows of clips where `windows`.
    pool: such frames a token. packed: the tower has no padding, and attends within chunks. masked: it masks padding.
    trims: padding cannot be told from the inputs, and has its placeholders in the prompt; it is found in the features.
    bounds(model, n): (n, 2) seconds within its clip at which each of n tokens begins and ends.
    features: the argument that holds the sounds. about: other arguments that are of no use without it.
    tower: path of the module whose `layers` attend; None where attention cannot be reached, so that only methods that
        look at features alone are served. attention: name of the attention in a layer.
    language_model: path of the module that reads the merged embeddings; merger: of the one that makes them, where the
        language model is no module of its own.
    blank(model): (width,), what the language model reads of padding that has placeholders of its own.
    """

    pool: int = 1
    frames: Callable[[Any, Mapping[str, Any]], Tensor] | None = None
    bounds: Callable[[Any, int], Tensor] | None = None
    packed: bool = False
    masked: bool = True
    windows: bool = False
    trims: bool = False
    features: str = "input_features"
    about: tuple[str, ...] = ("feature_attention_mask", "input_features_mask", "audio_feature_lengths")
    tower: str | None = "model.audio_tower"
    attention: str = "self_attn"
    language_model: str = "model.language_model"
    merger: str | None = None
    blank: Callable[[Any], Tensor] | None = None


def _mel_frames(inputs: Mapping[str, Any]) -> Tensor:
    """(rows,), frames of the log-mel that are no padding."""
    for name in ("feature_attention_mask", "input_features_mask"):
        if inputs.get(name) is not None:
            return inputs[name].sum(-1).long()
    if inputs.get("audio_feature_lengths") is not None:
        return inputs["audio_feature_lengths"].long()
    raise ValueError(
        "feature_attention_mask is missing: which frames are padding cannot be told; pass what the processor returns"
    )


def _halved(model: Any, inputs: Mapping[str, Any]) -> Tensor:
    """After one convolution of stride 2."""
    return (_mel_frames(inputs) - 1) // 2 + 1


def _thrice_halved(model: Any, inputs: Mapping[str, Any]) -> Tensor:
    """After three convolutions of stride 2 over chunks of 2 · n_window frames, each by itself."""
    window = 2 * _tower(model).n_window
    return (_mel_frames(inputs) // window) * _after_three(window) + _after_three(_mel_frames(inputs) % window)


def _after_three(length: Any) -> Any:
    for _ in range(3):
        length = (length + 1) // 2
    return length


def _whole_windows(model: Any, inputs: Mapping[str, Any]) -> Tensor:
    """The encoder's frames of each window, padding and all."""
    rows, _, mels = inputs["input_features"].shape
    return torch.full((rows,), mels // 2)


def _tower(model: Any) -> Any:
    return model.get_submodule("model.audio_tower")


def evenly(seconds: float) -> Callable[[Any, int], Tensor]:
    """Tokens that are all as long."""
    return functools.partial(_even, seconds)  # no lambda, which could not be pickled with a pruned model


def _even(seconds: float, model: Any, n: int) -> Tensor:
    edges = seconds * torch.arange(n + 1)
    return torch.stack((edges[:-1], edges[1:]), dim=1)


def _chunked(model: Any, n: int) -> Tensor:
    """Chunks of 2 · n_window frames, whose last token is cut short."""
    window = 2 * _tower(model).n_window
    a_chunk = _after_three(window)
    token = torch.arange(n)
    start = (token // a_chunk) * window + (token % a_chunk) * 8
    end = torch.minimum(start + 8, (token // a_chunk + 1) * window)
    return MEL_SECONDS * torch.stack((start, end), dim=1)


def _granite(model: Any, n: int) -> Tensor:
    """The projector asks `downsample_rate` times fewer queries than a window of the encoder has frames of 20 ms."""
    return evenly(2 * MEL_SECONDS * model.config.downsample_rate)(model, n)


def _vibevoice(model: Any, n: int) -> Tensor:
    return evenly(model.config.acoustic_tokenizer_encoder_config.hop_length / 24000)(model, n)


def _phi(model: Any, n: int) -> Tensor:
    return evenly(MEL_SECONDS * model.config.audio_config.time_reduction)(model, n)


def _gemma3n_padding(model: Any) -> Tensor:
    """Clips are padded to 188 tokens with the last of the audio vocabulary."""
    inner = model.model
    last = torch.tensor([[inner.vocab_size - 1]], device=model.device)
    return inner.embed_audio(input_ids=last)[0, 0]


_WHISPER_LIKE = AudioLMEntry(pool=2, frames=_halved, bounds=evenly(4 * MEL_SECONDS))
_FLAMINGO = AudioLMEntry(pool=2, frames=_halved, bounds=evenly(4 * MEL_SECONDS), windows=True)
_PACKED_BY_THREE = AudioLMEntry(frames=_thrice_halved, bounds=_chunked, packed=True)

ENTRIES: dict[str, AudioLMEntry] = {
    "Qwen2AudioForConditionalGeneration": _WHISPER_LIKE,
    "AudioFlamingo3ForConditionalGeneration": _FLAMINGO,
    "MusicFlamingoForConditionalGeneration": _FLAMINGO,
    "VoxtralForConditionalGeneration": AudioLMEntry(
        pool=4, frames=_whole_windows, bounds=evenly(8 * MEL_SECONDS), masked=False, windows=True, trims=True
    ),
    "GlmAsrForConditionalGeneration": AudioLMEntry(
        pool=4, frames=_halved, bounds=evenly(8 * MEL_SECONDS), masked=False, windows=True
    ),
    "Qwen2_5OmniThinkerForConditionalGeneration": AudioLMEntry(
        pool=2, frames=_halved, bounds=evenly(4 * MEL_SECONDS), packed=True
    ),
    "Qwen3OmniMoeThinkerForConditionalGeneration": _PACKED_BY_THREE,
    "Qwen3ASRForConditionalGeneration": _PACKED_BY_THREE,
    "GraniteSpeechForConditionalGeneration": AudioLMEntry(tower=None, bounds=_granite),
    "Phi4MultimodalForCausalLM": AudioLMEntry(
        tower=None,
        bounds=_phi,
        features="audio_input_features",
        about=("audio_embed_sizes", "audio_attention_mask"),
        merger="model.embed_tokens_extend",
    ),
    "Gemma3nForConditionalGeneration": AudioLMEntry(tower=None, bounds=evenly(0.16), blank=_gemma3n_padding),
    "Gemma4ForConditionalGeneration": AudioLMEntry(tower=None, bounds=evenly(0.04)),
    "VibeVoiceAsrForConditionalGeneration": AudioLMEntry(
        tower=None, bounds=_vibevoice, features="input_values", about=("padding_mask", "sample")
    ),
}
"""Class of a model → how it is entered."""

_THINKER = (
    "its talker reads the thinker's states by their places in the prompt; prune model.thinker, and generate by it"
)
INNER = "prune the model with its language head, which holds it"
REFUSED_LMS: dict[str, str] = {
    "Qwen2_5OmniForConditionalGeneration": _THINKER,
    "Qwen3OmniMoeForConditionalGeneration": _THINKER,
    "VoxtralRealtimeForConditionalGeneration": "sound and text are added up frame by frame: there are no audio tokens "
    "in its prompt that could be left out; use Voxtral",
    "KyutaiSpeechToTextForConditionalGeneration": "sound and text are added up frame by frame: there are no audio "
    "tokens in its prompt that could be left out; use an audio-language model with placeholders, such as Qwen3-ASR",
    "Qwen2AudioModel": INNER,
    "AudioFlamingo3Model": INNER,
    "MusicFlamingoModel": INNER,
    "VoxtralModel": INNER,
    "GlmAsrModel": INNER,
    "Qwen2_5OmniThinkerModel": INNER,
    "Qwen3OmniMoeThinkerModel": INNER,
    "Qwen3ASRModel": INNER,
    "GraniteSpeechModel": INNER,
    "VibeVoiceAsrModel": INNER,
    "Phi4MultimodalModel": INNER,
    "Gemma3nModel": INNER,
    "Gemma4Model": INNER,
}
"""Class → why a model that is one, or holds one outside of `ENTRIES`, is not pruned, and what to do instead."""
