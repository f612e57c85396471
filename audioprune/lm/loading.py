"""Loading of audio-language models and their processors, and model inputs for a question about a sound."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
import transformers
from jinja2 import TemplateError
from torch import Tensor
from transformers import AutoConfig, AutoModelForMultimodalLM, AutoModelForSeq2SeqLM, AutoProcessor

from ..audio.files import SAMPLE_RATE
from ..models.sources import resolve
from ..models.state import CheckpointError, check_keys, reading

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
AUTO = "auto"
"""The dtype of the saved checkpoint."""


def load_lm(source: str | Path, device: str = "cpu", dtype: str = AUTO) -> tuple[Any, Any]:
    """Load an audio-language model in evaluation mode, and its processor.

    Args:
        source: a folder in transformers' format, or a hub id such as "Qwen/Qwen2-Audio-7B-Instruct".
        device: device to run on.
        dtype: one of `DTYPES`, or "auto".

    The class is transformers' own for audio-language models; for omni models it is the thinker, the part that takes
    sounds and writes text. Raises `FileNotFoundError` if the folder does not exist, `ValueError` for an unknown dtype,
    and `CheckpointError` if the source is not an audio-language model or cannot be read.
    """
    if dtype not in (AUTO, *DTYPES):
        raise ValueError(f"the dtype is {dtype!r}; it must be one of {', '.join((AUTO, *DTYPES))}")
    path = resolve(source)
    if isinstance(path, Path) and not (path / "config.json").is_file():
        raise FileNotFoundError(
            f"{path}: no config.json; give the folder of a model in transformers' format, or a hub id"
        )
    config = main_config(_read(path, "config", partial(AutoConfig.from_pretrained, trust_remote_code=False)))
    kind = _class_of(source, config)
    processor = _read(path, "processor", partial(AutoProcessor.from_pretrained, trust_remote_code=False))
    _check_processor(path, processor)
    load = {"config": config, "dtype": DTYPES.get(dtype, AUTO), "output_loading_info": True}
    model, report = _read(path, "model", lambda place: kind.from_pretrained(place, **load))
    check_keys(str(path), sorted(report["missing_keys"]), [])
    return model.to(device).eval(), processor


def _read(path: str | Path, what: str, load: Any) -> Any:
    with reading(path, what=f"its {what} "):
        return load(path)


def main_config(config: Any) -> Any:
    """Config of the part that takes sounds and writes text: the whole model, or the thinker of an omni model."""
    return getattr(config, "thinker_config", config)


def _class_of(path: str | Path, config: Any) -> Any:
    """Model class that generates text. Raises `CheckpointError` if there is none."""
    for auto in (AutoModelForMultimodalLM, AutoModelForSeq2SeqLM):
        if type(config) in auto._model_mapping:
            return auto._model_mapping[type(config)]
    model_class = getattr(transformers, str((config.architectures or [""])[0]), None)
    if model_class is None or not callable(getattr(model_class, "generate", None)):
        raise CheckpointError(
            f"{path}: {config.model_type} is not an audio-language model of transformers; examples are listener "
            "(shipped), Qwen2-Audio, Audio Flamingo 3, Voxtral and Qwen2.5-Omni"
        )
    return model_class


def _check_processor(path: str | Path, processor: Any) -> None:
    """Raise `CheckpointError` if a processor takes no sound or no text."""
    lacks = [
        what for what, part in (("sound", _audio_part(processor)), ("text", _tokenizer(processor))) if part is None
    ]
    if lacks:
        raise CheckpointError(
            f"{path}: its processor ({type(processor).__name__}) takes no {' and no '.join(lacks)}; that of an "
            "audio-language model takes both"
        )


def _audio_part(processor: Any) -> Any:
    return getattr(processor, "feature_extractor", None) or getattr(processor, "audio_processor", None)


def _tokenizer(processor: Any) -> Any:
    return getattr(processor, "tokenizer", None)


def sampling_rate(processor: Any) -> int:
    """Sampling rate of a processor in hertz. Most have 16,000; VibeVoice, for example, has 24,000."""
    return int(getattr(_audio_part(processor), "sampling_rate", SAMPLE_RATE))


def ask_inputs(processor: Any, model: Any, waveforms: Sequence[np.ndarray], questions: Sequence[str]) -> Any:
    """Model inputs for one question about each sound, padded on the left, on the model's device, in its dtype.

    Args:
        processor: the model's processor.
        model: the audio-language model.
        waveforms: (samples,) float32 each, mono at `sampling_rate(processor)`.
        questions: one for each sound. A question that contains the processor's audio token is used as the whole prompt.
            Any other becomes a user's turn of the chat template, after the sound. If there is no template, the prompt
            is the sound's token and then the question.

    Raises `ValueError` if the processor has no way to put a sound into a prompt.
    """
    padding = {"padding": True, "padding_side": "left"}
    whole = any(is_whole(processor, question) for question in questions)
    if _is_voxtral(processor):
        # Voxtral's template pads on the left by itself, and reads sounds as files.
        talks = [[_turn(question, _as_file(processor, sound))] for sound, question in zip(waveforms, questions)]
        inputs = processor.apply_chat_template(talks, processor_kwargs={"text_kwargs": {"padding": True}})
    elif not whole and _has_sound_template(processor):
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
    """Whether a question is a whole prompt, that is, contains the sound's token."""
    token = getattr(processor, "audio_token", None)
    return token is not None and token in question


def _is_voxtral(processor: Any) -> bool:
    return type(processor).__name__ == "VoxtralProcessor"


def _template(processor: Any) -> Any:
    """Chat template of the processor or of its tokenizer; None if there is none."""
    return getattr(processor, "chat_template", None) or getattr(_tokenizer(processor), "chat_template", None)


def _turn(question: str, sound: dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": [{"type": "audio", **sound}, {"type": "text", "text": question}]}


def _as_file(processor: Any, waveform: np.ndarray) -> dict[str, str]:
    file = io.BytesIO()
    soundfile.write(file, waveform, sampling_rate(processor), format="WAV", subtype="FLOAT")
    return {"base64": base64.b64encode(file.getvalue()).decode()}


def _has_sound_template(processor: Any) -> bool:
    """Whether the chat template has a place for a sound. Those of Granite and Phi-4 take only text."""
    template = _template(processor)
    if template is None:
        return False
    try:
        text = processor.apply_chat_template([_turn("", {})], chat_template=template)
    except (TypeError, ValueError, TemplateError):  # this template accepts only text as content, not a list
        return False
    return is_whole(processor, text)


def _prompt(processor: Any, question: str) -> str:
    """Prompt that contains the sound's token."""
    if is_whole(processor, question):
        return question
    token = getattr(processor, "audio_token", None)
    if not token:
        raise ValueError(
            f"{type(processor).__name__} has neither a place for sounds in its chat template nor an audio token"
        )
    marks = [getattr(processor, name, None) or "" for name in ("audio_bos_token", "audio_eos_token")]
    text = marks[0] + token + marks[1] + question
    template = _template(processor)
    if template is None:
        return text
    messages = [{"role": "user", "content": text}]
    return processor.apply_chat_template(messages, chat_template=template, add_generation_prompt=True)


def decode(processor: Any, answers: Tensor) -> list[str]:
    """Texts of (clips, tokens) ids, without special tokens."""
    return [text.strip() for text in _tokenizer(processor).batch_decode(answers, skip_special_tokens=True)]


def unknown_words(processor: Any, question: str) -> list[str]:
    """Words of a question that the model's tokenizer has no token for."""
    tokenizer = _tokenizer(processor)
    unknown = getattr(tokenizer, "unk_token_id", None)
    # If padding has the same id as unknown words, the model has no unknown words.
    if unknown is None or unknown == tokenizer.pad_token_id:
        return []
    words = dict.fromkeys(question.split())
    return [word for word in words if unknown in tokenizer(word, add_special_tokens=False)["input_ids"]]


def end_tokens(processor: Any, model: Any) -> dict[str, Any]:
    """`pad_token_id` and `eos_token_id` for `generate`; the tokenizer's, if the model's settings have none."""
    tokenizer, own = _tokenizer(processor), model.generation_config
    end = tokenizer.eos_token_id if own.eos_token_id is None else own.eos_token_id
    first = end[0] if isinstance(end, list | tuple) else end
    pad = first if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    return {"eos_token_id": end, "pad_token_id": pad}


def audio_tokens(processor: Any, model: Any, input_ids: Tensor) -> list[int]:
    """Number of audio tokens in each row of (rows, tokens) ids, before pruning."""
    token = getattr(processor, "audio_token_id", None)
    if token is None:
        word = getattr(processor, "audio_token", None)
        known = getattr(model.config, "audio_token_id", getattr(model.config, "audio_token_index", None))
        token = known if known is not None or word is None else _tokenizer(processor).convert_tokens_to_ids(word)
    return [0] * len(input_ids) if token is None else (input_ids == token).sum(dim=1).tolist()
