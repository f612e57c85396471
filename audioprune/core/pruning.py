"""prune(model, method): where methods and adapters meet."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from safetensors.torch import save_file
from torch import nn

from ..adapters import Adapter, find_adapter
from ..adapters.audio_lm.adapter import PromptAdapter
from ..adapters.audio_lm.attachment import PromptAttachment
from ..adapters.base import Attachment
from ..files import write_json
from ..methods import Method
from ..methods.chain import Chain
from .bias import Batch, LogitBias
from .checks import check_listed, check_needs, set_positions
from .save import save_model
from .scheduled import ScheduledMethod
from .settings import POSITIONS, SETTINGS, WEIGHTS, file_settings, read_settings
from .sinks import find_sinks

_HANDLE = "_audioprune_handle"


class AlreadyPrunedError(RuntimeError):
    """The model is pruned; its handle must be removed first."""


class Pruned:
    """Handle of a pruned model. Usable as a context manager: the model is restored at its end.

    `keep_rate` may be set while attached. `remove()` restores the model bit for bit. Under `torch.compile` each new
    rate is a new graph: a schedule with many rates needs `torch._dynamo.config.recompile_limit` raised to match.
    """

    def __init__(self, model: nn.Module, adapter: Adapter, method: Method) -> None:
        self.model, self._adapter = model, adapter
        # The config of an encoder without a head has a number of labels all the same.
        headless = model is adapter.tower
        labels = None if headless else getattr(getattr(model, "config", None), "num_labels", None)
        shape = dataclasses.replace(adapter.shape, labels=labels)
        with torch.inference_mode(False):  # what a method learns can be trained, wherever the model is pruned
            self._reducer = ScheduledMethod(method, shape.depth, method.build(shape))
            if self.learned is not None:
                parameter = next(p for p in adapter.encoder.parameters() if p.is_floating_point())
                self.learned.to(parameter.device, parameter.dtype).train(adapter.encoder.training)
            if "sinks" in method.needs:
                adapter.sinks = find_sinks(adapter)
        self._bias = LogitBias(model, adapter, labels)
        self._bias.check(method.bias)
        self._attachment: Attachment | None = adapter.attach(self._reducer)
        self._bias.set(method.bias)
        for module in (adapter.encoder, adapter.tower):
            setattr(module, _HANDLE, self)

    @property
    def method(self) -> Method:
        return self._reducer.method

    @property
    def learned(self) -> nn.Module | None:
        """What the method learns, a part of the model while it is pruned; None where it learns nothing."""
        return self._reducer.learned

    @property
    def rates(self) -> dict[int, float]:
        """Keep rate of each layer that prunes now; those at 1.0 do not."""
        return self._reducer.rates

    @property
    def adapter(self) -> Adapter:
        """How the model is entered."""
        return self._adapter

    @property
    def layers(self) -> tuple[int, ...]:
        """0-based blocks at which the method acts."""
        return tuple(self.method.schedule(self._adapter.depth))

    @property
    def tokens(self) -> tuple[int, ...]:
        """Droppable tokens of one clip: in the input, and after each of `layers`. The most there can be where the
        method lets the sound decide.

        Raises `ValueError` where clips differ in length; `tokens_of` tells for a given number.
        """
        if self._adapter.grid is None:
            raise ValueError(
                f"{type(self.model).__name__} takes clips of any length: tokens_of(n) tells what stays of n tokens"
            )
        return self.tokens_of(self._adapter.grid.patches)

    def tokens_of(self, patches: int) -> tuple[int, ...]:
        """As `tokens`, for a clip of so many."""
        return tuple(self.method.counts(patches, self._adapter.depth))

    @property
    def keep_rate(self) -> float | Sequence[float]:
        return self.method.keep_rate

    @keep_rate.setter
    def keep_rate(self, keep_rate: float | Sequence[float]) -> None:
        self._become(self.method.with_keep_rate(keep_rate))

    def _become(self, method: Method) -> None:
        """Go on with other settings."""
        attachment = self.attachment  # a removed handle has none
        self._reducer = attachment.reducer = self._reducer.with_method(method)
        self._bias.set(method.bias)

    @torch.no_grad()
    def correct_bias(self, inputs: Batch | Iterable[Batch]) -> Sequence[float]:
        """Take off a classifier's logits, from now on, what pruning adds to all clips alike.

            ap.prune(model, ap.recommended(model, macs=0.125)).correct_bias(features)

        Clips run pruned and unpruned, and the mean difference of their logits is what is taken off. They need no
        labels; 16 sounds like those to come, of like lengths, are enough. It pays where many tokens go whose part in
        the mean is much the same in all clips, such as padding (docs/methods/recommended.md). It does not repair what
        differs from clip to clip.

        The correction is `method.bias`. It is saved with the method, and forgotten when `keep_rate` changes.

        Args:
            inputs: what the model takes, a batch or several: features, or a dictionary of what goes with them.

        Returns the bias, a number for each label. No other thread may run the model meanwhile.

        Raises:
            ValueError: the model gives no logits by a linear layer, it is in training, or there are no clips.
            RuntimeError: the handle was removed.
        """
        _ = self.attachment  # a removed handle prunes nothing
        self._bias.check_layer()
        if self.model.training:
            raise ValueError("the model is in training, where dropout changes its logits; call model.eval() first")
        self._bias.set(None)
        try:
            bias = self._bias.found(self.model, inputs, self._unpruned)
        finally:
            self._bias.set(self.method.bias)
        self._become(dataclasses.replace(self.method, bias=bias))
        return bias

    @contextmanager
    def _unpruned(self) -> Iterator[None]:
        """Within it, the model computes what it always did."""
        attachment, pruned = self.attachment, self._reducer
        attachment.reducer = pruned.without_stages()
        try:
            yield
        finally:
            attachment.reducer = pruned

    @property
    def attached(self) -> bool:
        return self._attachment is not None

    @property
    def attachment(self) -> Attachment:
        """What was changed in the model. Raises `RuntimeError` after `remove()`."""
        if self._attachment is None:
            raise RuntimeError("this handle was removed: the model is not pruned any more")
        return self._attachment

    def shorten(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """An audio-language model's inputs with fewer audio tokens, `inputs_embeds` and no sounds any more:
        `model.generate(**handle.shorten(inputs))`, while the model is pruned.

        Gradients flow unless the call is under `torch.no_grad()`. What is generated then begins with the shortened
        prompt. Raises `TypeError` for other models, and `ValueError` as `forward` and `generate` do.
        """
        attachment = self.attachment
        if not isinstance(attachment, PromptAttachment):
            raise TypeError(f"{type(self.model).__name__} is no audio-language model: it has no prompt to shorten")
        return attachment.shorten(inputs)

    def save(self, folder: str | Path) -> Path:
        """Write the setting, and what the method has learnt, to a folder: `prune(model, folder)` reads them again.

        Raises `ValueError` for a method of somebody's own that is not listed in `audioprune.methods.METHODS`.
        """
        for one in self.method.methods:
            check_listed(one)
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        settings = file_settings(self.method)
        if isinstance(self._adapter, PromptAdapter):
            settings[POSITIONS] = self._adapter.positions
        if "weights" in settings and self.learned is not None:
            save_file({name: t.contiguous() for name, t in self.learned.state_dict().items()}, folder / WEIGHTS)
            settings["weights"] = WEIGHTS
        write_json(folder / SETTINGS, settings)
        return folder / SETTINGS

    def save_pretrained(self, folder: str | Path, extractor: Any = None) -> Path:
        """Write the model in transformers' format and its pruning beside it: `audioprune.load(folder)` brings it back
        pruned, and without audioprune it is the unpruned model.

        extractor: the feature extractor that goes with it; by default the one that the model was loaded with, if any.
        Raises `TypeError` where what was pruned is no model of transformers'.
        """
        _ = self.attachment  # after `remove` there is nothing to bring back
        settings = self.save(folder)  # first, since it may be refused
        save_model(self.model, folder, extractor)
        return settings

    def remove(self) -> None:
        """Restore the model exactly. Doing it twice does nothing the second time."""
        if self._attachment is not None:
            self._attachment.detach()
            self._attachment = None
            self._bias.set(None)
            for module in {self._adapter.encoder, self._adapter.tower}:
                delattr(module, _HANDLE)

    def __enter__(self) -> Self:
        _ = self.attachment  # entering a removed handle would run the model unpruned
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.remove()

    def __repr__(self) -> str:
        if not self.attached:
            state = "removed"
        elif self._adapter.grid is None:
            state = "attached"
        else:
            state = ("" if self.method.static else "at most ") + " → ".join(map(str, self.tokens)) + " tokens"
        return f"Pruned({type(self.model).__name__}, {self.method}: {state})"


def prune(model: nn.Module, method: Method | Sequence[Method] | str | Path, *, positions: str | None = None) -> Pruned:
    """Let a model forget tokens as it runs, from now on and until `handle.remove()`.

    The model is changed in place: instances only, no weights, and state-dict keys stay.

    Args:
        model: an AST, an AudioMAE or a speech encoder, with or without a head, an audio-language model, or a module
            that holds one.
        method: what to keep, such as `TopK(keep_rate=0.7)`; a list of methods, which are applied in order; the path
            of a JSON file that `read_method` reads, or a folder with a `pruning.json`.
        positions: for an audio-language model, "renumber" (default) closes the gaps that dropped tokens leave in the
            positions that the language model sees; "keep" leaves each kept token at its time.

    Raises:
        AlreadyPrunedError: the model is pruned already.
        UnsupportedModelError: no adapter enters the model.
        ValueError: a layer does not exist in this model, or the setting is invalid.
    """
    if isinstance(method, str | Path):
        read, saved = read_settings(method)
        try:
            return prune(model, read, positions=positions or saved)
        except ValueError as error:  # what does not fit this model stands in that file
            raise ValueError(f"{method}: {error}") from error
    if isinstance(method, list | tuple):
        method = Chain.of(method)
    if isinstance(model, Method) or (isinstance(model, type) and issubclass(model, Method)):
        raise TypeError("the model comes first: prune(model, TopK(keep_rate=0.7))")
    if not isinstance(method, Method):
        hint = f"; did you mean {method.__name__}(keep_rate=0.7)?" if isinstance(method, type) else ""
        raise TypeError(f"expected a method such as TopK(keep_rate=0.7), got {method!r}{hint}")
    existing = handle(model) if isinstance(model, nn.Module) else None
    if existing is not None:
        raise AlreadyPrunedError(
            f"this model is pruned already with {existing.method}; call remove() on its handle first "
            "(audioprune.handle(model) finds it), or set handle.keep_rate to change the rate"
        )
    adapter = find_adapter(model)
    # Settings are checked against the model before anything is touched.
    check_needs(method)
    adapter.check_method(method)
    method.schedule(adapter.depth)
    if positions is not None:
        set_positions(adapter, positions)
    return Pruned(model, adapter, method)


def handle(model: nn.Module) -> Pruned | None:
    """The handle of a pruned model, or None where the model is not pruned."""
    for module in model.modules():
        found = module.__dict__.get(_HANDLE)
        if found is not None:
            return found
    return None
