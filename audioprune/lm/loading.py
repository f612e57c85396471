"""Audio-language models and their processors: loading, and one question about one sound as their inputs."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
import transformers
from jinja2 import TemplateError
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoConfig, AutoModelForMultimodalLM, AutoModelForSeq2SeqLM, AutoProcessor

from ..audio.files import SAMPLE_RATE
from ..models.loading import resolve
from ..models.weights import CheckpointError, check_keys

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
AUTO = "auto"
"""The dtype that the checkpoint was saved in."""

_UNREADABLE = (OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError, SafetensorError)


def load_lm(source: str | Path, device: str = "cpu", dtype: str = AUTO) -> tuple[Any, Any]:
    """An audio-language model in evaluation mode, and its processor.

    Args:
        source: a folder in transformers' format, or a hub id such as "Qwen/Qwen2-Audio-7B-Instruct".
        device: where it computes.
        dtype: one of `DTYPES`, or "auto".

    The class is transformers' own for audio-language models; of the omni models it is the thinker, which hears and
    writes. Raises `FileNotFoundError` for a folder that is not there, `ValueError` for an unknown dtype, and
    `CheckpointError` for what is no audio-language model, or cannot be read.
    """
    if dtype not in (AUTO, *DTYPES):
        raise ValueError(f"the dtype is {dtype!r}; there are {', '.join((AUTO, *DTYPES))}")
    path = resolve(source)
    if isinstance(path, Path) and not (path / "config.json").is_file():
        raise FileNotFoundError(
            f"{path}: no config.json; give the folder of a model in transformers' format, or a hub id"
        )
    config = listener(_read(path, "config", AutoConfig.from_pretrained))
    kind = _class_of(source, config)
    processor = _read(path, "processor", AutoProcessor.from_pretrained)
    _check_processor(path, processor)
    load = {"config": config, "dtype": DTYPES.get(dtype, AUTO), "output_loading_info": True}
    model, report = _read(path, "model", lambda place: kind.from_pretrained(place, **load))
    check_keys(str(path), sorted(report["missing_keys"]), [])
    return model.to(device).eval(), processor


def _read(path: str | Path, what: str, load: Any) -> Any:
    try:
        return load(path)
    except _UNREADABLE as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"{path}: its {what} cannot be loaded ({reason})") from error


def listener(config: Any) -> Any:
    """The part of a model's config that hears and writes: the whole, or an omni model's thinker."""
    return getattr(config, "thinker_config", config)


def _class_of(path: str | Path, config: Any) -> Any:
    """The class that answers in words. Raises `CheckpointError` where there is none."""
    for auto in (AutoModelForMultimodalLM, AutoModelForSeq2SeqLM):
        if type(config) in auto._model_mapping:
            return auto._model_mapping[type(config)]
    named = getattr(transformers, (config.architectures or [""])[0], None)
    if named is None or not callable(getattr(named, "generate", None)):
        raise CheckpointError(
            f"{path}: {config.model_type} is no audio-language model that transformers knows; such are listener "
            "(shipped), Qwen2-Audio, Audio Flamingo 3, Voxtral and Qwen2.5-Omni"
        )
    return named


def _check_processor(path: str | Path, processor: Any) -> None:
    """Raise `CheckpointError` where it takes no sound, or no text."""
    lacks = [what for what, part in (("sound", _ears(processor)), ("text", _tokenizer(processor))) if part is None]
    if lacks:
        raise CheckpointError(
            f"{path}: its processor ({type(processor).__name__}) takes no {' and no '.join(lacks)}; an audio-language "
            "model's takes both"
        )


def _ears(processor: Any) -> Any:
    return getattr(processor, "feature_extractor", None) or getattr(processor, "audio_processor", None)


def _tokenizer(processor: Any) -> Any:
    return getattr(processor, "tokenizer", None)


def sampling_rate(processor: Any) -> int:
    """Hertz at which a processor takes waveforms. All but a few say 16,000; VibeVoice says 24,000, for example."""
    return int(getattr(_ears(processor), "sampling_rate", SAMPLE_RATE))


def ask_inputs(processor: Any, model: Any, waveforms: Sequence[np.ndarray], questions: Sequence[str]) -> Any:
    """The model's inputs for one question about each of the sounds, padded on the left, on its device, in its dtype.

    Args:
        waveforms: (samples,) float32 each, mono at `sampling_rate(processor)`.
        questions: one each. One that holds the processor's own audio token is the whole prompt, as it stands. Another
            becomes a user's turn of the chat template, after the sound; where there is no template, the sound's token
            and the question follow one another.

    Raises `ValueError` where the processor tells of no way to put a sound into a prompt.
    """
    padding = {"padding": True, "padding_side": "left"}
    whole = any(is_whole(processor, question) for question in questions)
    if _is_voxtral(processor):
        # Its own template pads on the left by itself, and reads sounds as files.
        talks = [[_turn(question, _as_file(processor, sound))] for sound, question in zip(waveforms, questions)]
        inputs = processor.apply_chat_template(talks, processor_kwargs={"text_kwargs": {"padding": True}})
    elif not whole and _shows_sounds(processor):
        talks = [[_turn(question, {"audio": sound})] for sound, question in zip(waveforms, questions)]
        inputs = processor.apply_chat_template(
            talks,
            chat_template=_template(processor),
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"text_kwargs": padding},
        )
    else:
        inputs = processor(
            text=[_prompt(processor, question) for question in questions],
            audio=list(waveforms),
            text_kwargs=padding,
            audio_kwargs={"sampling_rate": sampling_rate(processor)},
            return_tensors="pt",
        )
    return inputs.to(model.device, model.dtype)


def is_whole(processor: Any, question: str) -> bool:
    """Whether a question is a whole prompt: it holds the sound's token itself."""
    token = getattr(processor, "audio_token", None)
    return token is not None and token in question


def _is_voxtral(processor: Any) -> bool:
    return type(processor).__name__ == "VoxtralProcessor"


def _template(processor: Any) -> Any:
    """The chat template, which some models keep with the tokenizer; None where there is none."""
    return getattr(processor, "chat_template", None) or getattr(_tokenizer(processor), "chat_template", None)


def _turn(question: str, sound: dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": [{"type": "audio", **sound}, {"type": "text", "text": question}]}


def _as_file(processor: Any, waveform: np.ndarray) -> dict[str, str]:
    file = io.BytesIO()
    soundfile.write(file, waveform, sampling_rate(processor), format="WAV", subtype="FLOAT")
    return {"base64": base64.b64encode(file.getvalue()).decode()}


def _shows_sounds(processor: Any) -> bool:
    """Whether the chat template has a place for a sound; those of Granite and Phi-4 know text only."""
    template = _template(processor)
    if template is None:
        return False
    try:
        text = processor.apply_chat_template([_turn("", {})], chat_template=template)
    except (TypeError, ValueError, TemplateError):  # it takes text for what may be a list
        return False
    return is_whole(processor, text)


def _prompt(processor: Any, question: str) -> str:
    """A prompt with the sound's token in it."""
    if is_whole(processor, question):
        return question
    token = getattr(processor, "audio_token", None)
    if not token:
        raise ValueError(f"{type(processor).__name__} has neither a place for sounds in its chat template nor a token")
    around = [getattr(processor, name, None) or "" for name in ("audio_bos_token", "audio_eos_token")]
    text = around[0] + token + around[1] + question
    template = _template(processor)
    if template is None:
        return text
    said = [{"role": "user", "content": text}]
    return processor.apply_chat_template(said, chat_template=template, add_generation_prompt=True)


def decoded(processor: Any, answers: Tensor) -> list[str]:
    """(clips, tokens) ids → what they say, without special tokens."""
    return [text.strip() for text in _tokenizer(processor).batch_decode(answers, skip_special_tokens=True)]


def unknown_words(processor: Any, question: str) -> list[str]:
    """Words of a question that the model's tokenizer has no token for."""
    tokenizer = _tokenizer(processor)
    unknown = getattr(tokenizer, "unk_token_id", None)
    # Some models' fillers have the same number, and no word of theirs is unknown.
    if unknown is None or unknown == tokenizer.pad_token_id:
        return []
    words = dict.fromkeys(question.split())
    return [word for word in words if unknown in tokenizer(word, add_special_tokens=False)["input_ids"]]


def end_tokens(processor: Any, model: Any) -> dict[str, Any]:
    """`pad_token_id`, and `eos_token_id` where the model's own generation settings lack it, for `generate`."""
    tokenizer, own = _tokenizer(processor), model.generation_config
    end = tokenizer.eos_token_id if own.eos_token_id is None else own.eos_token_id
    first = end[0] if isinstance(end, list | tuple) else end
    pad = first if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    return {"eos_token_id": end, "pad_token_id": pad}


def audio_tokens(processor: Any, model: Any, input_ids: Tensor) -> list[int]:
    """How many tokens of sound are in each row of (rows, tokens) ids, before anything is pruned."""
    token = getattr(processor, "audio_token_id", None)
    if token is None:
        word = getattr(processor, "audio_token", None)
        known = getattr(model.config, "audio_token_id", getattr(model.config, "audio_token_index", None))
        token = known if known is not None or word is None else _tokenizer(processor).convert_tokens_to_ids(word)
    return [0] * len(input_ids) if token is None else (input_ids == token).sum(dim=1).tolist()
