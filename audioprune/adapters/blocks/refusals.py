"""Speech models that would give wrong outputs if they were pruned, with the reasons."""

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
        f"it labels every frame, and dropped frames would have no label; {_POOLED}",
    ),
    (
        ("Wav2Vec2ForXVector", "Data2VecAudioForXVector", "UniSpeechSatForXVector"),
        f"its head convolves over neighbouring frames, and the kept frames are not neighbours; {_POOLED}",
    ),
    (
        ("Wav2Vec2ForPreTraining", "UniSpeechForPreTraining", "UniSpeechSatForPreTraining"),
        f"pre-training compares every frame with its target; {_POOLED}",
    ),
    (
        ("SEWModel", "SEWDModel"),
        "its encoder upsamples all tokens back to full length, but some are dropped; use a Wav2Vec2 or a HuBERT",
    ),
    (
        ("WavLMModel",),
        "its gated relative position bias needs all pairs of tokens; use a HuBERT or a UniSpeech-SAT",
    ),
    (
        ("Wav2Vec2BertModel", "Wav2Vec2ConformerModel"),
        "each of its blocks convolves over neighbouring tokens, and the kept tokens are not neighbours; use a Wav2Vec2",
    ),
    (("SpeechEncoderDecoderModel",), "its decoder attends to every frame; use the encoder by itself"),
)
REFUSED = {name: reason for names, reason in _REASONS for name in names}
"""Class name → the reason why a model that is one, or contains one, is refused, with a remedy."""


def check_layerdrop(name: str, rate: float, reducer: Reducer) -> None:
    """Raise `ValueError` if layer drop would skip a block that a learning method needs.

    A skipped block reduces nothing in that step, as layer drop intends. But what a method learns in a block, or passes
    from block to block, would be missing.
    """
    if rate > 0 and reducer.learns:
        raise ValueError(
            f"{name} is {rate}: training would skip blocks in which the method learns; set {name} = 0 while the model "
            "is pruned, or use a method that does not learn"
        )


def find_encoders(model: nn.Module, heads: tuple[type, ...], towers: tuple[type, ...]) -> list[Any]:
    """Classification heads in a model, and towers that are not part of such a head.

    Raises `UnsupportedModelError` if the model is one of `REFUSED`, if it passes a tower's output to a module that may
    need every frame, or if an option makes its output depend on more than the last block's tokens.
    """
    _check_classes(model)
    encoders: list[nn.Module] = []
    for module in model.modules():
        if isinstance(module, (*heads, *towers)) and not any(_contains(other, module) for other in encoders):
            encoders.append(module)
    for module in encoders:
        _check_config(module, isinstance(module, heads))
        if isinstance(module, towers):
            _check_owners(model, module)
    return encoders


def _contains(owner: nn.Module, module: nn.Module) -> bool:
    return any(part is module for part in owner.modules())


def _check_classes(model: nn.Module) -> None:
    # By name: most of these classes are never imported.
    for module in model.modules():
        for kind in type(module).__mro__:
            if kind.__name__ in REFUSED:
                raise UnsupportedModelError(f"{kind.__name__} cannot be pruned: {REFUSED[kind.__name__]}")


def _check_owners(model: nn.Module, tower: nn.Module) -> None:
    for owner in model.modules():
        if isinstance(owner, PreTrainedModel) and owner is not tower and _contains(owner, tower):
            raise UnsupportedModelError(
                f"{type(owner).__name__} contains a {type(tower).__name__} and may need every frame of it; "
                "if it only averages them, prune that module by itself"
            )


def _check_config(encoder: Any, is_head: bool) -> None:
    name, config = type(encoder).__name__, encoder.config
    if is_head and config.use_weighted_layer_sum:
        raise UnsupportedModelError(
            f"{name} with config.use_weighted_layer_sum adds the states of all blocks, which differ in length if it is "
            "pruned; use a head without it, or the bare model"
        )
    if getattr(config, "add_adapter", False):
        raise UnsupportedModelError(
            f"{name} with config.add_adapter ends in convolutions over neighbouring tokens, and the kept tokens are "
            "not neighbours; use a model without it"
        )
