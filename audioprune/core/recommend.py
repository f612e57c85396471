"""recommended(model): the training-free setting that measured best, at the size that is asked for."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from ..adapters import find_adapter
from ..adapters.audio_lm.adapter import PromptAdapter
from ..adapters.blocks.adapter import BlockAdapter
from ..audio.files import SAMPLE_RATE
from ..methods import AToMe, Method, PaddingMerge, ToMe
from ..methods.base import block_at
from ..methods.chain import Chain
from ..methods.names import RECOMMENDED, named
from .cost import macs as count
from .fitting import TooMuchWorkError, fit
from .pruning import AlreadyPrunedError, handle, prune
from .recommend_speed import fast_enough

PASSES = (1, 2, 3)
"""Passes of pairs in a block that are tried, if fewer cannot take the model far enough."""
EVERY_BLOCK: list[Method] = [ToMe(1.0, layers="all", metric="hidden", passes=passes) for passes in PASSES]
"""Similar tokens merged in every block."""
FIRST = (0, 1)
"""Blocks before which an encoder that pads merges."""
HALF = 0.88
"""Keep rate at which twelve blocks over 64 to 512 tokens compute about half of what they did."""
FOUR = (1, 3, 5, 7)
"""Blocks that merge, in twelfths of the depth, where about half of the work or more is left: there they agreed as well
as every block, and merging takes about half of the time (docs/results.md)."""
MILD = 0.45
"""Least share of the work that four blocks are asked for."""
NEIGHBOURS = AToMe(1.0, layers="all", metric="keys")
"""What merges the sound itself in a Whisper with its decoder."""


def decoded_at(keep_rate: float | Sequence[float] | None) -> Method:
    """The recommended method for a Whisper with its decoder.

    keep_rate: of neighbours in the sound, at each block, in short clips too; None leaves the sound alone. The padding
    has its own rate.
    """
    inside = [] if keep_rate is None else [NEIGHBOURS.with_keep_rate(keep_rate)]
    return Chain.of([PaddingMerge(), *inside])


def padded_at(keep_rate: float) -> Method:
    """The recommended method for an encoder that pads its clips and is read by their mean, at a keep rate.

    Before the first two blocks the padding is merged, as far as the clip's budget needs it, and then the most similar
    tokens: every clip is left with the same number. Later blocks merge nothing: on Whisper base that changed the mean
    far more (docs/methods/recommended.md).
    """
    padding = PaddingMerge(keep_rate, layers=FIRST, budget="clip")
    return Chain.of([padding, _sound_at(keep_rate)])


def _sound_at(keep_rate: float) -> ToMe:
    return ToMe(keep_rate, layers=FIRST, metric="hidden", passes=PASSES[-1], budget="clip", before=True)


def recommended_at(keep_rate: float = HALF) -> Method:
    """The recommended method at a keep rate for every block, which a command line may give: in each the most similar
    pairs of tokens become one, compared by their hidden states (`ToMe`)."""
    return named(RECOMMENDED).at(keep_rate)


def recommended_before(model: nn.Module, inputs: Tensor | Mapping[str, Tensor] | None = None) -> Method:
    """What version 0.1 recommended for half of the work, merging in every block: runs that it began go on with it.

    Raises `ValueError` as `recommended`.
    """
    return _fitted(model, EVERY_BLOCK, 0.5, inputs)


def _similar(depth: int, macs: float) -> list[Method]:
    """Settings that merge similar tokens, the first of which that leaves at most `macs` of the work is recommended: in
    four blocks where that is enough, else in every block with ever more passes."""
    if macs < MILD:
        return EVERY_BLOCK
    blocks = sorted({block_at(depth, part, 12) for part in FOUR})
    four = ToMe(1.0, layers=tuple(block for block in blocks if block < depth), metric="hidden")
    return [four, *EVERY_BLOCK]


def recommended(
    model: nn.Module,
    macs: float | None = None,
    *,
    speed_up: float | None = None,
    inputs: Tensor | Mapping[str, Tensor] | None = None,
) -> Method:
    """The training-free method that agreed best with the unpruned model in our measurements (docs/results.md), with
    the greatest keep rate at which the model computes at most `macs` of its multiply-accumulates, its own cost
    included.

        ap.prune(model, ap.recommended(model, macs=0.25))

    The most similar tokens become one (`ToMe`, compared by hidden states): in four blocks if about half of the work or
    more is to be left, else in every block, which agrees better there and takes more time.

    In an encoder that pads every clip, such as that of a Whisper that classifies, the padding is merged, and similar
    tokens only in clips whose padding is not enough (`padded_at`). No clip costs more than `macs`, one that fills the
    window included; with `inputs`, it is such clips that cost as much.

    For a Whisper with its decoder it is `PaddingMerge()`, which leaves the sound itself alone (docs/whisper.md). With
    `macs`, neighbours in time are merged too, as far as a clip needs it; this changes words (docs/whisper-measured.md),
    and `calibrate` finds how much may be merged.

    With `speed_up`, it is chosen by time, measured now on this machine: the mildest merging, in as many blocks as pay,
    that is so many times as fast as the model. What is returned depends on the machine and on the batch, and is never
    slower than the model:

        ap.prune(model, ap.recommended(model, speed_up=2.0, inputs=batch))

    Args:
        macs: share of the unpruned model's multiply-accumulates, in (0, 1]; a half by default.
        speed_up: in place of `macs`: how many times as fast as unpruned, more than 1.
        inputs: a typical batch, for models that take clips of any length; others need none. With `speed_up` its size
            matters; one clip of noise by default.

    Raises:
        ValueError: `macs` is no share, or so small that merging pairs in every block would cost more.
        TooFastError: a `ValueError`: no setting was measured to be so fast.
        UnsupportedModelError, AlreadyPrunedError: as `prune`.
    """
    if macs is not None and not 0 < macs <= 1:
        raise ValueError(f"macs is {macs!r}; it is a share of the unpruned model's multiply-accumulates, in (0, 1]")
    if speed_up is not None:
        return _timed(model, macs, speed_up, inputs)
    adapter = find_adapter(model)
    if isinstance(adapter, PromptAdapter):
        raise ValueError(
            f"{type(model).__name__} is an audio-language model, for which nothing is recommended by its work: "
            "take SegmentwiseTopK(keep_rate=0.25), see docs/audio-language-models.md"
        )
    if not isinstance(adapter, BlockAdapter) or not adapter.pads:
        macs = 0.5 if macs is None else macs
        return _fitted(model, _similar(adapter.depth, macs), macs, inputs)
    if adapter.is_decoded:
        padding = PaddingMerge()
        return padding if macs is None else _decoded(padding, model, macs, inputs)
    macs, least = 0.5 if macs is None else macs, _sound_at(1.0).least_rate
    if inputs is not None:
        return fit(model, padded_at, macs, partial(count, inputs=inputs), least)
    # What a clip costs that fills the window; others cost less, since no convolution hears their padding.
    sound = fit(model, _sound_at, macs, count, least)
    assert isinstance(sound.keep_rate, float)
    return padded_at(sound.keep_rate)


def _timed(
    model: nn.Module, macs: float | None, speed_up: float, inputs: Tensor | Mapping[str, Tensor] | None
) -> Method:
    """`recommended` by time."""
    if macs is not None:
        raise ValueError("give macs, a share of the work, or speed_up, which is measured, and not both")
    if not 1 < speed_up < math.inf:
        raise ValueError(f"speed_up is {speed_up!r}; it is how many times as fast as unpruned, more than 1")
    adapter = find_adapter(model)
    if not isinstance(adapter, BlockAdapter) or adapter.pads:
        raise ValueError(
            f"speed_up is for classifiers and encoders that do not pad, and {type(model).__name__} is none: choose by "
            "macs=, and measure with audioprune bench"
        )
    pruned = handle(model)
    if pruned is not None:
        raise AlreadyPrunedError(f"this model is pruned with {pruned.method}; call remove() on its handle first")
    if inputs is None:
        if adapter.frames is None:
            raise ValueError(f"{type(model).__name__} takes clips of any length; pass a typical batch as inputs=…")
        weight = next(parameter for parameter in model.parameters() if parameter.is_floating_point())
        inputs = torch.randn(1, *adapter.clip_shape(None), device=weight.device, dtype=weight.dtype)
    return fast_enough(model, adapter.depth, speed_up, inputs)


def shape_of_clip(model: nn.Module, seconds: float) -> Tensor | None:
    """Input of one clip on the meta device, for a model that takes clips of any length; None for others."""
    adapter = find_adapter(model)
    if not isinstance(adapter, BlockAdapter) or adapter.frames is not None:
        return None
    return torch.empty(1, *adapter.clip_shape(round(seconds * SAMPLE_RATE)), device="meta")


def _decoded(padding: Method, model: nn.Module, macs: float, inputs: Tensor | Mapping[str, Tensor] | None) -> Method:
    """The padding merged, and then neighbours. Without `inputs`, a clip may fill the window, and merging its padding
    saves nothing."""
    neighbours = [replace(NEIGHBOURS, budget="clip")]
    if inputs is None:
        return Chain.of([padding, _fitted(model, neighbours, macs, None)])
    unpruned = count(model, inputs=inputs)
    with prune(model, padding):
        if count(model, inputs=inputs) / unpruned <= macs:
            return padding
    return _fitted(model, neighbours, macs, inputs, after=[padding])


def _fitted(
    model: nn.Module,
    settings: Sequence[Method],
    macs: float,
    inputs: Tensor | Mapping[str, Tensor] | None,
    after: Sequence[Method] = (),
) -> Method:
    """The first of some settings that can leave at most this share of the work, at the greatest keep rate that does.

    after: methods that act before it. Raises `TooMuchWorkError` if no setting can.
    """

    def fitted(method: Method) -> Method:
        def at(keep_rate: float) -> Method:
            return Chain.of([*after, method.with_keep_rate(keep_rate)])

        return fit(model, at, macs, partial(count, inputs=inputs), method.least_rate)

    for method in settings[:-1]:
        with suppress(TooMuchWorkError):
            return fitted(method)
    return fitted(settings[-1])
