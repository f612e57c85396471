"""Reading of weight files in the authors' layouts: AST, AudioMAE (pre-trained, fine-tuned, timm), TopK.

The files of both papers use timm's ViT names. Pruning adds no parameters, so the TopK authors' files are read the same
way.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import ASTConfig, PreTrainedModel

from .ast import AST_CLASSES
from .audiomae import AudioMAEConfig, AudioMAEForAudioClassification
from .state import CheckpointError, State, check_keys, check_overrides, read_state
from .timm_names import from_timm, without_head

HEAD_EPS = 1e-5
"""LayerNorm epsilon of AST's head, PyTorch's default. Its encoder has timm's 1e-6, but transformers' class has only one
epsilon. So the config contains this one, and `load` sets it. With the Auto classes alone, logits differ by about
1e-6."""


def load_weights(path: Path, *, pooling: str | None = None, **config: Any) -> PreTrainedModel:
    """Load a model from a file in an authors' layout.

    Family, depth, width, labels and length come from the tensors. config: values that replace them, such as
    num_attention_heads, max_length, num_labels (if it differs from the file's, the head is initialised again),
    frequency_stride. Raises `CheckpointError` for a file of another layout, with the unknown and missing keys.
    """
    state = read_state(path)
    check_overrides(str(path), config, ASTConfig() if "v.cls_token" in state else AudioMAEConfig())
    if "v.cls_token" in state:
        return _load_ast(path, state, pooling, config)
    if "cls_token" in state and "patch_embed.proj.weight" in state:
        if "dist_token" in state:
            raise CheckpointError(f"{path}: a distilled ViT without an AST head; expected AST's 'v.*' and 'mlp_head.*'")
        if pooling not in (None, "mean"):
            raise CheckpointError(f"{path}: an AudioMAE is mean-pooled, but pooling={pooling!r} is for an AST")
        return _load_audiomae(path, state, config)
    known = ", ".join(sorted(state)[:5])
    raise CheckpointError(
        f"{path}: neither AST ('v.cls_token' …) nor AudioMAE ('cls_token', 'patch_embed.proj.weight' …); "
        f"it has {known} …; give a file in one of the authors' layouts, or a folder in transformers' format"
    )


def _load_ast(path: Path, state: State, pooling: str | None, config: dict[str, Any]) -> PreTrainedModel:
    # Every AST file contains unused heads for ImageNet.
    state = {k: v for k, v in state.items() if not k.startswith(("v.head.", "v.head_dist."))}
    shape = _Shape.of(path, state, "v.", special=2)
    labels = _num_labels(path, state.get("mlp_head.1.weight"), config)
    state = without_head(state, "mlp_head.1.weight", labels)
    stride = config.pop("time_stride", None), config.pop("frequency_stride", None)
    time_stride, frequency_stride, length = _ast_geometry(path, shape, config, stride)
    values = {
        "num_labels": labels,
        "time_stride": time_stride,
        "frequency_stride": frequency_stride,
        "layer_norm_eps": 1e-6,
        "max_length": length,
        "classifier_layer_norm_eps": HEAD_EPS,
    }
    settings = ASTConfig(**{**shape.config(config), **values, **config})
    model = AST_CLASSES[pooling or "cls"](settings)
    model.classifier.layernorm.eps = HEAD_EPS
    frequency, time = model.audio_spectrogram_transformer.embeddings.get_shape(settings)
    grid = from_timm(state, "v.", "audio_spectrogram_transformer.")
    positions = grid.pop("audio_spectrogram_transformer.embeddings.position_embeddings")
    grid["audio_spectrogram_transformer.embeddings.position_embeddings"] = _crop_centre(
        path, positions, frequency, time
    )
    return _fill(path, model, grid, optional=("classifier.",) if "mlp_head.1.weight" not in state else ())


def _load_audiomae(path: Path, state: State, config: dict[str, Any]) -> PreTrainedModel:
    fine_tuned = "head.weight" in state
    # Remains of pre-training: the decoder, and the norm that a fine-tuned model replaces with `fc_norm`. In a file with
    # a head, `norm` would mean another architecture (normalised before pooling), so it is reported as unknown.
    leftovers = ("mask_token", "decoder_") if fine_tuned else ("mask_token", "decoder_", "norm.")
    state = {k: v for k, v in state.items() if not k.startswith(leftovers)}
    shape = _Shape.of(path, state, "", special=1)
    labels = _num_labels(path, state.get("head.weight"), config)
    state = without_head(state, "head.weight", labels)
    rows = config.get("num_mel_bins", 128) // shape.patch
    if shape.patches % rows:
        raise CheckpointError(f"{path}: {shape.patches} positions do not fill {rows} rows of patches")
    own_length = shape.patches // rows * shape.patch
    length = config.pop("max_length", own_length)
    values = {"num_labels": labels, "max_length": length}
    settings = AudioMAEConfig(**{**shape.config(config), **values, **config})
    model = AudioMAEForAudioClassification(settings)
    renamed = from_timm(state, "", "audiomae.")
    key = "audiomae.embeddings.position_embeddings"
    renamed[key] = _crop_as_the_authors(path, renamed[key], rows, length // shape.patch)
    headless = () if "head.weight" in state else ("classifier.",)
    return _fill(path, model, renamed, optional=headless if fine_tuned else ("classifier.", "fc_norm."))


@dataclass(frozen=True)
class _Shape:
    """Shape of a ViT, from its tensors."""

    width: int
    depth: int
    mlp: int
    patch: int
    patches: int

    @classmethod
    def of(cls, path: Path, state: State, prefix: str, special: int) -> _Shape:
        """Shape from the tensors of a file. Raises `CheckpointError` if a necessary tensor is missing.

        Args:
            path: path of the file, for errors.
            state: its tensors.
            prefix: prefix of the encoder's names.
            special: number of special tokens.
        """
        needed = [prefix + name for name in ("patch_embed.proj.weight", "pos_embed", "blocks.0.mlp.fc1.bias")]
        check_keys(str(path), [name for name in needed if name not in state], [])
        blocks = [int(m[1]) for k in state if (m := re.match(rf"{re.escape(prefix)}blocks\.(\d+)\.", k))]
        projection = state[f"{prefix}patch_embed.proj.weight"]
        return cls(
            width=projection.shape[0],
            depth=1 + max(blocks),
            mlp=len(state[f"{prefix}blocks.0.mlp.fc1.bias"]),
            patch=projection.shape[-1],
            patches=state[f"{prefix}pos_embed"].shape[1] - special,
        )

    def config(self, overrides: dict[str, Any]) -> dict[str, Any]:
        """Config fields. No file contains the number of heads, so it is width / 64, or the caller's."""
        heads = overrides.pop("num_attention_heads", None) or max(1, self.width // 64)
        if self.width % heads:
            raise ValueError(
                f"num_attention_heads is {heads}, which does not divide the width {self.width}; give a divisor of it"
            )
        return {
            "hidden_size": self.width,
            "num_hidden_layers": self.depth,
            "intermediate_size": self.mlp,
            "patch_size": self.patch,
            "num_attention_heads": heads,
        }


def _num_labels(path: Path, head: Tensor | None, config: dict[str, Any]) -> int:
    requested = config.pop("num_labels", None)
    if head is None:
        if requested is None:
            raise CheckpointError(
                f"{path}: a pre-trained file without a head, which cannot classify yet; load it with num_labels=… "
                "(convert: --num-labels) for a new head, and train that"
            )
        return requested
    return len(head) if requested is None else requested


def _ast_geometry(path: Path, shape: _Shape, config: dict[str, Any], stride: tuple) -> tuple[int, int, int]:
    """Strides and length in frames. A file determines them only together: its number of positions is F·T.

    Args:
        path: path of the file, for errors.
        shape: shape from the tensors.
        config: the caller's config values; max_length is removed.
        stride: the caller's strides in time and frequency, None if not given.
    """
    mels, length = config.get("num_mel_bins", 128), config.pop("max_length", None)
    candidates, exact = [], []
    for step in dict.fromkeys((stride[1] or stride[0],) if any(stride) else (16, 10)):
        time_step, frequency_step = stride[0] or step, stride[1] or step
        rows = (mels - shape.patch) // frequency_step + 1
        if shape.patches % rows == 0:
            columns = shape.patches // rows
            frames = (columns - 1) * time_step + shape.patch
            # With overlapping patches, several lengths give the same columns; the published one is a power of two.
            round_frames = 1 << (frames - 1).bit_length()
            if (round_frames - shape.patch) // time_step + 1 == columns:
                frames = round_frames
            candidates.append((time_step, frequency_step, frames))
            if length is not None and (length - shape.patch) // time_step + 1 == columns:
                exact.append(candidates[-1])
    if not candidates:
        raise CheckpointError(
            f"{path}: {shape.patches} positions fit neither stride 16 nor 10; pass time_stride=… and frequency_stride=…"
        )
    likely = exact or [c for c in candidates if c[2] & (c[2] - 1) == 0] or candidates
    if len(likely) > 1:
        options = " or ".join(f"stride {time_step} and {frames} frames" for time_step, _, frames in likely)
        raise CheckpointError(
            f"{path}: {shape.patches} positions may be {options}; pass time_stride and frequency_stride"
        )
    return (*likely[0][:2], length or likely[0][2])


def _crop_centre(path: Path, positions: Tensor, frequency: int, time: int) -> Tensor:
    """Positions for clips shorter than the file's, by AST's rule: the middle time columns.

    Args:
        path: path of the file, for errors.
        positions: (1, 2 + F·T', width).
        frequency: number of rows F.
        time: number of columns T.

    Returns (1, 2 + F·T, width).
    """
    special, patches = positions[:, :2], positions[:, 2:]
    if patches.shape[1] == frequency * time:
        return positions
    grid = _as_grid(path, patches, frequency)
    start = _room(path, grid, time) // 2
    return torch.cat((special, grid[:, :, start : start + time].flatten(1, 2)), dim=1)


def _crop_as_the_authors(path: Path, positions: Tensor, frequency: int, time: int) -> Tensor:
    """AudioMAE's positions for shorter clips, cut exactly as its authors do.

    The tokens are time-major, but the table is cut as if it were frequency-major: it is reshaped to (F, T'), and the
    first T of each row are taken. So ESC-50 gets the original times 0–3, 8–11, 16–19 … The published fine-tuned weights
    were trained like this, and a "correct" cut would change the model.

    Args:
        path: path of the file, for errors.
        positions: (1, 1 + F·T', width).
        frequency: number of rows F.
        time: number of columns T.
    """
    special, patches = positions[:, :1], positions[:, 1:]
    if patches.shape[1] == frequency * time:
        return positions
    grid = _as_grid(path, patches, frequency)
    _room(path, grid, time)
    return torch.cat((special, grid[:, :, :time].flatten(1, 2)), dim=1)


def _as_grid(path: Path, patches: Tensor, frequency: int) -> Tensor:
    if patches.shape[1] % frequency:
        raise CheckpointError(f"{path}: {patches.shape[1]} positions do not fill {frequency} rows of patches")
    return patches.unflatten(1, (frequency, -1))


def _room(path: Path, grid: Tensor, time: int) -> int:
    room = grid.shape[2] - time
    if room < 0:
        raise CheckpointError(
            f"{path}: has positions for {grid.shape[2]} time columns, but max_length needs {time}: positions can be "
            "cut, but not added; choose a shorter max_length"
        )
    return room


def _fill(path: Path, model: PreTrainedModel, state: State, optional: tuple[str, ...]) -> PreTrainedModel:
    """Load the tensors into the model. Raises `CheckpointError` with all missing and unknown keys.

    Args:
        path: path of the file, for errors.
        model: the model.
        state: the tensors.
        optional: prefixes of keys that may be missing.
    """
    try:
        missing, unknown = model.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise CheckpointError(f"{path}: {error}") from error
    missing = [key for key in missing if not key.startswith(optional or ("\0",))]
    check_keys(str(path), missing, unknown)
    return model.eval()
