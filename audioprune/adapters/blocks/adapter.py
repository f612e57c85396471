"""Adapters of models whose tokens are reduced inside their transformer blocks."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from ...attention import scoring as attention
from ...core.tokens import Grid, MethodTraits, ModelShape, Reducer
from ..base import Adapter, UnsupportedModelError, find_adapter
from .attachment import BlockAttachment
from .entering import ATTACHMENT, Entering, entering_subclass


class BlockAdapter(Adapter):
    """Connects pruning to a model whose blocks drop tokens between their attention and their MLP.

    A subclass sets `encoder` (the module whose forward runs the blocks and hands unknown keyword arguments on to
    them), `layers` (the blocks) and `special`. It names the classes that it swaps: those of the blocks, and those in
    which a pass begins (`Entering`).
    """

    swaps: ClassVar[dict[type[nn.Module], type[nn.Module]]]
    """Class of a module in the model → the subclass that it becomes while pruned."""

    layers: Any
    frames: int | None = None
    """Frames of every clip's spectrogram; None if clips differ in length."""
    reads_cls: bool = False
    """Whether the head reads the CLS token, and not a mean over all tokens."""
    is_decoded: bool = False
    """Whether a decoder reads every position of the output, and not a head a few."""
    pads: bool = False
    """Whether every clip is padded to one length, which is long, and the model does not mask the padding."""

    @abstractmethod
    def patch_statistics(self, kwargs: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each input patch, (batch, patches) each, from the encoder's arguments."""

    @abstractmethod
    def padding(self, kwargs: dict[str, Any]) -> Tensor:
        """Which patches are padding that the model does not mask, (batch, patches) booleans, from the encoder's
        arguments."""

    @abstractmethod
    def check_input(self, kwargs: dict[str, Any], reducer: Reducer) -> None:
        """Raise `ValueError` for arguments that the encoder does not support while tokens are dropped."""

    @abstractmethod
    def clip_shape(self, samples: int | None) -> tuple[int, ...]:
        """Shape of one clip as input of the encoder: (frames, mels), (mels, frames), or (samples,) of a waveform.

        Raises `ValueError` if `samples` is missing, or given but not needed.
        """

    @property
    @abstractmethod
    def embeddings(self) -> Sequence[nn.Module]:
        """The modules before the first block that have weights."""

    def silence(self) -> dict[str, Tensor] | None:
        """Arguments of the tower for one silent clip, by which attention sinks are found; None if none are looked for
        in this family."""
        return None

    def further_inputs(self, batch: int) -> dict[str, Tensor]:
        """What the model's forward needs beside the clips, so that its work can be counted."""
        return {}

    def check_method(self, method: MethodTraits) -> None:
        if not self.has_cls and method.needs & {"cls", "cls_heads"}:
            raise ValueError(
                f"this model ({self.family}) has no CLS token whose attention could rank tokens; "
                'use score="attention", the attention that each token receives from all others'
            )

    def grid_of(self, tokens: int) -> Grid:
        """Grid of the patches in a forward that begins with `tokens` droppable tokens."""
        return self.grid or Grid(tokens, 1, frequency_major=False)

    def patches_of(self, clip: tuple[int, ...]) -> int:
        """Number of patches of a clip whose input has this shape."""
        assert self.grid is not None
        return self.grid.patches

    def lengths(self, kwargs: dict[str, Any]) -> Tensor | None:
        """Number of droppable tokens of each clip without padding, (batch,); None if there is no padding.

        Padding comes after the clip, and the model must mask it too."""
        return None

    @property
    def root(self) -> nn.Module:
        """The module in which classes are swapped."""
        return self.encoder

    @property
    def shape(self) -> ModelShape:
        config = self.encoder.config
        return ModelShape(config.hidden_size, config.num_attention_heads, len(self.layers), self.special, None)

    @property
    def mlp_width(self) -> int:
        """Width of the hidden layer in a block's MLP."""
        return self.encoder.config.intermediate_size

    @property
    def implementation(self) -> str:
        """Name of the attention of the unpruned model."""
        return self.encoder.config._attn_implementation or "eager"

    @property
    def pooled_by(self) -> nn.Module | None:
        """Layer of a head that comes before a mean over tokens; None if no such head was swapped."""
        return None

    @property
    def eager(self) -> Callable[..., Any]:
        """Eager attention function of the model's own module."""
        return attention.eager_of(self.attention_of(self.layers[0]))

    def attention_of(self, layer: Any) -> Any:
        """Attention module of a block; its `config` names the attention to run."""
        return layer.attention

    def swap_of(self, module: nn.Module) -> type[nn.Module] | None:
        """Class of a module while the model is pruned; None if it does not change, or must not be pruned.

        A block must be of a known class, because its forward is written again. A head or an encoder may be of a
        subclass.
        """
        if type(module) in self.swaps:
            return self.swaps[type(module)]
        pruned = (self.swaps[base] for base in type(module).__mro__ if base in self.swaps)
        nearest: Any = next(pruned, None)
        own: Any = type(module)
        return entering_subclass(nearest, own) if nearest is not None and issubclass(nearest, Entering) else None

    def attach(self, reducer: Reducer) -> BlockAttachment:
        """Swap classes and attention. The returned object undoes this."""
        self._check_classes()
        attention.register()
        return BlockAttachment(self, reducer)

    def _check_classes(self) -> None:
        """Raise `UnsupportedModelError` if a module would silently run unpruned, or if a block is shared."""
        times = Counter(id(layer) for layer in self.layers)
        if max(times.values()) > 1:
            raise UnsupportedModelError(
                f"one block is used {max(times.values())} times among the {len(self.layers)} of this model, and tokens "
                "that it drops in one place would be missing in the others; give each place its own block "
                "(copy.deepcopy), or do not prune the model"
            )
        parts: list[tuple[str, nn.Module]] = list(self.root.named_modules())
        for path, module in parts:
            name = path or type(module).__name__
            if hasattr(module, ATTACHMENT) or type(module) in self.swaps.values():
                raise UnsupportedModelError(
                    f"{name} is pruned already, with another model that shares it; "
                    "remove() that model's handle first, or give this model its own copy (copy.deepcopy)"
                )
            if not isinstance(module, tuple(self.swaps)):
                continue
            if self.swap_of(module) is None:
                raise UnsupportedModelError(
                    f"{name} is a {type(module).__name__}, a subclass that audioprune cannot replace; prune the model "
                    "before it is wrapped (by FSDP and similar), or add an adapter for the subclass"
                )
            if "forward" in module.__dict__:
                raise UnsupportedModelError(
                    f"{name}.forward was replaced on the instance (offloading hooks and "
                    "accelerate do so), which would hide the pruned one; prune the model first"
                )


def constant_tail(frames: Tensor) -> Tensor:
    """Frames at the end of each clip that are all alike, (batch, frames) booleans: padding, or silence just like it.

    frames: (batch, frames, …), a spectrogram or samples.
    """
    alike = (frames == frames[:, -1:]).flatten(2).all(dim=2) if frames.ndim > 2 else frames == frames[:, -1:]
    return alike.int().flip(1).cumprod(dim=1).flip(1).bool()


def refuse_samples(adapter: BlockAdapter, samples: int | None) -> None:
    """Raise `ValueError` if a length is given although all clips of the model have one length."""
    if samples is not None:
        raise ValueError(
            f"samples is {samples}, but {type(adapter.encoder).__name__} takes spectrograms of one length; leave it out"
        )


def find_blocks(model: nn.Module) -> BlockAdapter:
    """Adapter of a model whose blocks reduce tokens. Raises `UnsupportedModelError` for other models."""
    adapter = find_adapter(model)
    if not isinstance(adapter, BlockAdapter):
        raise UnsupportedModelError(
            f"{type(model).__name__} is an audio-language model: its prompt is shortened, but not inside its blocks; "
            "use a classifier or an encoder here"
        )
    return adapter
