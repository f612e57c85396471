"""Table of the supported audio-language models, and of those that are refused, with the reason."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

MEL_SECONDS = 0.01
"""Hop of the log-mel spectrograms of all these models, in seconds."""


@dataclass(frozen=True)
class AudioLMEntry:
    """Properties of a model with a language head.

    pool: frames per token.
    frames(model, inputs): (rows,), number of frames of the tower's last block in each row of features, without padding;
        None if the attention cannot be reached. Rows are clips, or windows of clips if `windows` is True.
    bounds(model, n): (n, 2), seconds in the clip at which each of n tokens begins and ends.
    packed: whether the tower has no padding and attends within chunks.
    masked: whether the tower masks padding.
    windows: whether rows of features are windows of clips.
    trims: whether padding has placeholders in the prompt and the inputs do not mark it. It is then detected in the
        features.
    features: name of the argument with the sounds.
    about: other arguments that have no use without the sounds.
    tower: path of the module whose `layers` attend; None if its attention cannot be reached. Then only methods that
        need features alone are supported.
    attention: name of the attention in a layer.
    language_model: path of the module that reads the merged embeddings.
    merger: path of the module that makes the merged embeddings, if the language model is not a separate module.
    blank(model): (width,), embedding of padding that has placeholders in the prompt.
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
    """Number of log-mel frames without padding, (rows,)."""
    for name in ("feature_attention_mask", "input_features_mask"):
        if inputs.get(name) is not None:
            return inputs[name].sum(-1).long()
    if inputs.get("audio_feature_lengths") is not None:
        return inputs["audio_feature_lengths"].long()
    raise ValueError(
        "feature_attention_mask is missing, so padding frames are unknown; pass everything that the processor returns"
    )


def _frames_halved(model: Any, inputs: Mapping[str, Any]) -> Tensor:
    """Frames after one convolution of stride 2."""
    return (_mel_frames(inputs) - 1) // 2 + 1


def _frames_halved_thrice(model: Any, inputs: Mapping[str, Any]) -> Tensor:
    """Frames after three convolutions of stride 2 over separate chunks of 2 · n_window frames."""
    window = 2 * _tower(model).n_window
    return (_mel_frames(inputs) // window) * _after_three(window) + _after_three(_mel_frames(inputs) % window)


def _after_three(length: Any) -> Any:
    for _ in range(3):
        length = (length + 1) // 2
    return length


def _frames_of_windows(model: Any, inputs: Mapping[str, Any]) -> Tensor:
    """The encoder's frames of each window, with padding."""
    rows, _, mels = inputs["input_features"].shape
    return torch.full((rows,), mels // 2)


def _tower(model: Any) -> Any:
    return model.get_submodule("model.audio_tower")


def even_bounds(seconds: float) -> Callable[[Any, int], Tensor]:
    """Bounds of tokens of equal length."""
    return functools.partial(_even_bounds, seconds)  # not a lambda, which cannot be pickled with a pruned model


def _even_bounds(seconds: float, model: Any, n: int) -> Tensor:
    edges = seconds * torch.arange(n + 1)
    return torch.stack((edges[:-1], edges[1:]), dim=1)


def _chunk_bounds(model: Any, n: int) -> Tensor:
    """Bounds of tokens in chunks of 2 · n_window frames; the last token of a chunk is shorter."""
    window = 2 * _tower(model).n_window
    a_chunk = _after_three(window)
    token = torch.arange(n)
    start = (token // a_chunk) * window + (token % a_chunk) * 8
    end = torch.minimum(start + 8, (token // a_chunk + 1) * window)
    return MEL_SECONDS * torch.stack((start, end), dim=1)


def _granite_bounds(model: Any, n: int) -> Tensor:
    """Bounds of Granite's tokens: each covers `downsample_rate` encoder frames of 20 ms."""
    return even_bounds(2 * MEL_SECONDS * model.config.downsample_rate)(model, n)


def _vibevoice_bounds(model: Any, n: int) -> Tensor:
    return even_bounds(model.config.acoustic_tokenizer_encoder_config.hop_length / 24000)(model, n)


def _phi_bounds(model: Any, n: int) -> Tensor:
    return even_bounds(MEL_SECONDS * model.config.audio_config.time_reduction)(model, n)


def _gemma3n_padding(model: Any) -> Tensor:
    """Embedding of Gemma's padding: clips are padded to 188 tokens with the last token of the audio vocabulary."""
    inner = model.model
    last = torch.tensor([[inner.vocab_size - 1]], device=model.device)
    return inner.embed_audio(input_ids=last)[0, 0]


_WHISPER_LIKE = AudioLMEntry(pool=2, frames=_frames_halved, bounds=even_bounds(4 * MEL_SECONDS))
_FLAMINGO = AudioLMEntry(pool=2, frames=_frames_halved, bounds=even_bounds(4 * MEL_SECONDS), windows=True)
_PACKED_BY_THREE = AudioLMEntry(frames=_frames_halved_thrice, bounds=_chunk_bounds, packed=True)

ENTRIES: dict[str, AudioLMEntry] = {
    "Qwen2AudioForConditionalGeneration": _WHISPER_LIKE,
    "AudioFlamingo3ForConditionalGeneration": _FLAMINGO,
    "MusicFlamingoForConditionalGeneration": _FLAMINGO,
    "VoxtralForConditionalGeneration": AudioLMEntry(
        pool=4, frames=_frames_of_windows, bounds=even_bounds(8 * MEL_SECONDS), masked=False, windows=True, trims=True
    ),
    "GlmAsrForConditionalGeneration": AudioLMEntry(
        pool=4, frames=_frames_halved, bounds=even_bounds(8 * MEL_SECONDS), masked=False, windows=True
    ),
    "Qwen2_5OmniThinkerForConditionalGeneration": AudioLMEntry(
        pool=2, frames=_frames_halved, bounds=even_bounds(4 * MEL_SECONDS), packed=True
    ),
    "Qwen3OmniMoeThinkerForConditionalGeneration": _PACKED_BY_THREE,
    "Qwen3ASRForConditionalGeneration": _PACKED_BY_THREE,
    "GraniteSpeechForConditionalGeneration": AudioLMEntry(tower=None, bounds=_granite_bounds),
    "Phi4MultimodalForCausalLM": AudioLMEntry(
        tower=None,
        bounds=_phi_bounds,
        features="audio_input_features",
        about=("audio_embed_sizes", "audio_attention_mask"),
        merger="model.embed_tokens_extend",
    ),
    "Gemma3nForConditionalGeneration": AudioLMEntry(tower=None, bounds=even_bounds(0.16), blank=_gemma3n_padding),
    "Gemma4ForConditionalGeneration": AudioLMEntry(tower=None, bounds=even_bounds(0.04)),
    "VibeVoiceAsrForConditionalGeneration": AudioLMEntry(
        tower=None, bounds=_vibevoice_bounds, features="input_values", about=("padding_mask", "sample")
    ),
}
"""Class name of a model → its entry."""

_THINKER = (
    "its talker reads the thinker's states by their positions in the prompt; prune model.thinker, and generate with it"
)
INNER = "prune the model with its language head, which contains it"
REFUSED_LMS: dict[str, str] = {
    "Qwen2_5OmniForConditionalGeneration": _THINKER,
    "Qwen3OmniMoeForConditionalGeneration": _THINKER,
    "VoxtralRealtimeForConditionalGeneration": "sound and text are added frame by frame, so there are no audio tokens "
    "in its prompt that can be dropped; use Voxtral",
    "KyutaiSpeechToTextForConditionalGeneration": "sound and text are added frame by frame, so there are no audio "
    "tokens in its prompt that can be dropped; use an audio-language model with placeholders, such as Qwen3-ASR",
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
"""Class name → the reason why a model that is one, or contains one outside of `ENTRIES`, is refused, with a remedy."""
