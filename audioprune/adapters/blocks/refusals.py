"""Speech models that would give wrong answers if they were pruned, and why."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import PreTrainedModel

from ...core.tokens import Reducer
from ..base import UnsupportedModelError

_POOLED = "use the model with a sequence classification head, or the bare model"
_REASONS: tuple[tuple[tuple[str, ...], str], ...] = (
    (
        ("Wav2Vec2ForCTC", "HubertForCTC", "Data2VecAudioForCTC", "UniSpeechForCTC", "UniSpeechSatForCTC"),
        f"CTC reads every frame, in time order; {_POOLED}",
    ),
    (
        (
            "Wav2Vec2ForAudioFrameClassification",
            "Data2VecAudioForAudioFrameClassification",
            "UniSpeechSatForAudioFrameClassification",
        ),
        f"it labels every frame, and dropped ones would have no label; {_POOLED}",
    ),
    (
        ("Wav2Vec2ForXVector", "Data2VecAudioForXVector", "UniSpeechSatForXVector"),
        f"its head convolves over neighbouring frames, which those that are left are not; {_POOLED}",
    ),
    (
        ("Wav2Vec2ForPreTraining", "UniSpeechForPreTraining", "UniSpeechSatForPreTraining"),
        f"pre-training compares every frame with its target; {_POOLED}",
    ),
    (
        ("SEWModel", "SEWDModel"),
        "its encoder upsamples its tokens back to full length, which those that are left do not have; "
        "use a Wav2Vec2 or a HuBERT",
    ),
    (
        ("WavLMModel",),
        "its gated relative position bias is laid out over all pairs of tokens; use a HuBERT or a UniSpeech-SAT",
    ),
    (
        ("Wav2Vec2BertModel", "Wav2Vec2ConformerModel"),
        "each of its blocks convolves over neighbouring tokens, which those that are left are not; use a Wav2Vec2",
    ),
    (
        ("WhisperModel",),
        "its decoder attends to every frame, and tells time by their places; use WhisperForAudioClassification, "
        "or the encoder by itself",
    ),
    (("SpeechEncoderDecoderModel",), "its decoder attends to every frame; use the encoder by itself"),
)
REFUSED = {name: reason for names, reason in _REASONS for name in names}
"""Class → why a model that is one, or holds one, is not pruned, and what to use instead."""


def check_layerdrop(name: str, rate: float, reducer: Reducer) -> None:
    """Raise `ValueError` if blocks that are skipped in training would be missed.

    A block that is skipped reduces nothing in that step, which is what layer drop means; but what a method learns, or
    hands from block to block, must be there.
    """
    if rate > 0 and reducer.learns:
        raise ValueError(
            f"{name} is {rate}: blocks that are skipped in training would leave out what the method learns there; set "
            f"{name} = 0 while the model is pruned, or take a method that learns nothing"
        )


def find_encoders(model: nn.Module, heads: tuple[type, ...], towers: tuple[type, ...]) -> list[Any]:
    """Classification heads in a model, and bare towers that stand in no such head.

    Raises `UnsupportedModelError` where the model is one of `REFUSED`, or gives a tower's output to something that
    may need every frame, or is set to an option under which its answer needs more than the last block's tokens.
    """
    _check_classes(model)
    found: list[nn.Module] = []
    for module in model.modules():
        if isinstance(module, (*heads, *towers)) and not any(_holds(other, module) for other in found):
            found.append(module)
    for module in found:
        _check_config(module, isinstance(module, heads))
        if isinstance(module, towers):
            _check_owners(model, module)
    return found


def _holds(owner: nn.Module, module: nn.Module) -> bool:
    return any(part is module for part in owner.modules())


def _check_classes(model: nn.Module) -> None:
    # By name: most of these classes are never imported.
    for module in model.modules():
        for kind in type(module).__mro__:
            if kind.__name__ in REFUSED:
                raise UnsupportedModelError(f"{kind.__name__} cannot be pruned: {REFUSED[kind.__name__]}")


def _check_owners(model: nn.Module, tower: nn.Module) -> None:
    for owner in model.modules():
        if isinstance(owner, PreTrainedModel) and owner is not tower and _holds(owner, tower):
            raise UnsupportedModelError(
                f"{type(owner).__name__} holds a {type(tower).__name__} and may need every frame of it; "
                "where it only averages them, prune that module by itself"
            )


def _check_config(encoder: Any, is_head: bool) -> None:
    name, config = type(encoder).__name__, encoder.config
    if is_head and config.use_weighted_layer_sum:
        raise UnsupportedModelError(
            f"{name} with config.use_weighted_layer_sum adds up the states of all blocks, which differ in length when "
            "it is pruned; use a head without it, or the bare model"
        )
    if getattr(config, "add_adapter", False):
        raise UnsupportedModelError(
            f"{name} with config.add_adapter ends in convolutions over neighbouring tokens, which those that are left "
            "are not; use a model without it"
        )
