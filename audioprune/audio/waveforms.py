"""Conversion of sounds in memory, in any common form, to 16 kHz mono float32.

For files, use `audioprune.audio.files.load_audio`. The checks are the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .files import SAMPLE_RATE, AudioError, Clip, check_sound, to_mono

MOST_CHANNELS = 8
"""Most channels of a sound: a longer axis is time."""

FULL_SCALE = {torch.int8: 2.0**7, torch.int16: 2.0**15, torch.int32: 2.0**31, torch.uint8: 2.0**7}
"""Type of whole numbers → the number that stands for 1.0. The zero of unsigned bytes is 128."""

Sound = Any
"""A `Clip`; an array or tensor of (samples,), (samples, channels) or (channels, samples); a list of numbers; the dict
`{"array": …, "sampling_rate": …}` of `datasets` and of transformers' pipelines ("raw"); or torchcodec's decoder."""


def waveform_of(sound: Sound, *, sampling_rate: int | None = None, name: str = "the sound") -> Tensor:
    """Convert one sound to (samples,) float32 at 16 kHz, mono, in [-1, 1]. Gradients flow through a tensor.

    Whole numbers are divided by their full scale, channels (at most `MOST_CHANNELS`) are averaged, and other rates are
    converted. A `Clip`, a dict and a decoder contain their rate.

    Args:
        sound: the sound.
        sampling_rate: hertz of an array; 16,000 by default.
        name: name of the sound in messages.

    Raises `AudioError` if there are no samples or less than 25 ms, if samples are NaN, infinite or far outside [-1, 1],
    or if their type or shape is ambiguous. Raises `TypeError` for a path.
    """
    samples, rate = _samples_and_rate(sound, sampling_rate, name)
    samples = _mono(_in_full_scale(_as_tensor(samples, name), name), name)
    check_sound(name, len(samples), rate, _peak(samples))
    return samples if rate == SAMPLE_RATE else _resampled(samples, rate, name)


def block_of(samples: Any, name: str = "the samples") -> Tensor:
    """Convert a part of a sound that goes on: (samples,) float32 on the CPU, mono, in [-1, 1], of any length.

    samples: (samples,) or (samples, channels); as for `waveform_of`, but at their own rate. Raises `AudioError` as that
    does, but not for a short part.
    """
    block = _in_full_scale(_as_tensor(samples, name), name).detach().cpu()
    if block.ndim == 2 and 1 <= block.shape[1] <= MOST_CHANNELS:
        block = block.mean(1)
    if block.ndim != 1:
        raise AudioError(
            f"{name}: has shape {tuple(block.shape)}; give (samples,), or (samples, channels) with at most "
            f"{MOST_CHANNELS} channels"
        )
    check_sound(name, max(len(block), SAMPLE_RATE), SAMPLE_RATE, _peak(block))
    return block


def batch_of(
    sounds: Tensor | np.ndarray | Iterable[Sound] | Sound,
    lengths: Tensor | None = None,
    *,
    sampling_rate: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Convert several sounds to one batch, (batch, samples) float32 at 16 kHz, and their lengths, (batch,).

    Shorter sounds have zeros at the end.

    sounds: (batch, samples), (samples,), one sound, or a sequence of sounds (`waveform_of`). A shape (2, samples) could
        be two clips or two channels; it is taken as two clips.
    lengths: (batch,), true samples of each row of (batch, samples).
    sampling_rate: hertz of arrays; 16,000 by default.
    """
    if isinstance(sounds, np.ndarray | Tensor):
        batch = _as_tensor(sounds, "the batch")
        if batch.ndim not in (1, 2):
            raise AudioError(
                f"the waveforms have shape {tuple(batch.shape)}; give (batch, samples) or (samples,); channels are "
                "averaged in a list of sounds, or by waveforms.mean(1)"
            )
        if (
            batch.ndim == 2 and batch.shape[1] <= MOST_CHANNELS < batch.shape[0]
        ):  # too short for clips, so they are channels
            return batch_of([batch], lengths, sampling_rate=sampling_rate)
        batch = _in_full_scale(batch if batch.ndim == 2 else batch[None], "the batch")
        if sampling_rate in (None, SAMPLE_RATE):
            return _check_batch(batch, lengths)
        known = [batch.shape[1]] * len(batch) if lengths is None else lengths.tolist()
        sounds = [row[:length] for row, length in zip(batch, known, strict=True)]
    elif is_one(sounds):
        sounds = [sounds]
    listed = list(sounds)
    if not listed:
        raise AudioError("there are no sounds; give at least one")
    rows = [waveform_of(row, sampling_rate=sampling_rate, name=f"sound {i}") for i, row in enumerate(listed)]
    row_lengths = torch.tensor([len(row) for row in rows], device=rows[0].device)
    return nn.utils.rnn.pad_sequence(rows, batch_first=True), row_lengths


def is_one(sounds: Any) -> bool:
    """Whether the input is one sound, not a sequence of sounds. A list of numbers is one sound."""
    if isinstance(sounds, Clip | Mapping | str | Path) or hasattr(sounds, "get_all_samples"):
        return True
    return isinstance(sounds, Sequence) and len(sounds) > 0 and isinstance(sounds[0], int | float | np.number)


def _samples_and_rate(sound: Any, sampling_rate: int | None, name: str) -> tuple[Any, int]:
    own: Any = None
    if isinstance(sound, str | Path):
        raise TypeError(f"expected waveforms, got the path {str(sound)!r}; read it first: audioprune.load_audio(path)")
    if isinstance(sound, Clip):
        sound, own = sound.waveform, sound.sample_rate
    elif hasattr(sound, "get_all_samples"):  # torchcodec's, which `datasets` gives
        decoded = sound.get_all_samples()
        sound, own = decoded.data, decoded.sample_rate
    elif isinstance(sound, Mapping):
        key = next((key for key in ("array", "raw") if sound.get(key) is not None), None)
        if key is None or sound.get("sampling_rate") is None:
            raise AudioError(
                f'{name}: is a dict of {", ".join(map(str, sound)) or "nothing"}; a sound has "array" and '
                '"sampling_rate" (of `datasets`, after decoding)'
            )
        sound, own = sound[key], sound["sampling_rate"]
    if own is not None and sampling_rate is not None and own != sampling_rate:
        raise AudioError(f"{name}: has {own} Hz, but sampling_rate says {sampling_rate}; leave sampling_rate out")
    rate = SAMPLE_RATE if own is None and sampling_rate is None else own if sampling_rate is None else sampling_rate
    if not math.isfinite(rate) or rate <= 0:
        raise AudioError(f"{name}: the sampling rate is {rate}; it must be a number of hertz, such as 16000")
    return sound, rate


def _as_tensor(samples: Any, name: str) -> Tensor:
    if isinstance(samples, Tensor):
        return samples
    try:
        array = np.asarray(samples)
    except ValueError as error:  # rows of different lengths
        raise AudioError(f"{name}: is not an array ({error}); give (samples,)") from error
    if isinstance(samples, list | tuple) and array.dtype.kind in "iu":
        array = array.astype(np.float32)  # Python's own numbers have no full scale
    if array.dtype.kind not in "iuf":
        raise _wrong_type(str(array.dtype), name)
    if array.dtype == np.longdouble:
        array = array.astype(np.float64)
    # PyTorch accepts only this machine's byte order, and no negative strides.
    return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("="), order="C"))


def _in_full_scale(samples: Tensor, name: str) -> Tensor:
    """Samples as float32; whole numbers are divided by their full scale."""
    if samples.is_floating_point():
        return samples.float()
    if samples.dtype not in FULL_SCALE:
        raise _wrong_type(str(samples.dtype).removeprefix("torch."), name)
    values = samples.double() - (128 if samples.dtype == torch.uint8 else 0)
    return (values / FULL_SCALE[samples.dtype]).float()


def _wrong_type(dtype: str, name: str) -> AudioError:
    return AudioError(
        f"{name}: has the type {dtype}, whose full scale is unknown; give floats in [-1, 1], or int16, int32, int8 or "
        "uint8 in full scale"
    )


def _mono(samples: Tensor, name: str) -> Tensor:
    """Mean over channels, (samples,), of (samples,), (samples, channels) or (channels, samples)."""
    if samples.ndim == 1:
        return samples
    shape = tuple(samples.shape)
    if samples.ndim == 2:
        if shape[1] <= MOST_CHANNELS < shape[0]:
            return samples.mean(1)
        if shape[0] <= MOST_CHANNELS < shape[1]:
            return samples.mean(0)
    raise AudioError(
        f"{name}: has shape {shape}; give (samples,), or at most {MOST_CHANNELS} channels as (samples, channels) or "
        "(channels, samples)"
    )


def _peak(samples: Tensor) -> float:
    """Greatest absolute value, NaN if there is one; 0 if the values cannot be read."""
    if torch.compiler.is_compiling() or samples.is_meta or not samples.numel():
        return 0.0
    return float(samples.detach().abs().amax())


def _resampled(samples: Tensor, rate: int, name: str) -> Tensor:
    if samples.requires_grad:
        raise AudioError(
            f"{name}: has {rate} Hz and needs a gradient, but the conversion to {SAMPLE_RATE} Hz has none; convert it "
            "first (torchaudio.functional.resample)"
        )
    return torch.from_numpy(to_mono(samples.cpu().numpy(), rate, name=name)).to(samples.device)


def _check_batch(batch: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
    """Check a batch, (batch, samples); returns it and its lengths, (batch,). Raises as `waveform_of` does."""
    if not batch.shape[0]:
        raise AudioError("there are no sounds; give at least one")
    audible, shortest = batch, batch.shape[1]
    if lengths is not None:
        if lengths.shape != batch.shape[:1]:
            raise ValueError(f"lengths have shape {tuple(lengths.shape)}; expected ({len(batch)},), one per clip")
        if int(lengths.max()) > shortest:
            raise ValueError(f"the longest length is {int(lengths.max())}, but the rows have {shortest} samples")
        shortest, lengths = int(lengths.min()), lengths.to(batch.device)
        # Values after the end of a sound are not used, so any value is allowed there.
        audible = batch.detach().masked_fill(torch.arange(batch.shape[1], device=batch.device) >= lengths[:, None], 0.0)
    check_sound("the shortest clip", shortest, SAMPLE_RATE, _peak(audible))
    if lengths is None:
        lengths = torch.full_like(batch[:, 0], shortest, dtype=torch.long)
    return batch, lengths
