"""prune(model, method): where methods and adapters meet."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ..adapters import Adapter, find_adapter
from ..adapters.audio_lm.adapter import PromptAdapter
from ..adapters.audio_lm.attachment import PromptAttachment
from ..adapters.base import Attachment
from ..files import write_json
from ..methods import METHODS, Method
from ..methods.chain import Chain
from .save import save_model
from .settings import POSITIONS, SETTINGS, WEIGHTS, file_settings, read_settings
from .sinks import find_sinks
from .tokens import Evidence, Finish, Place, Reduction, Tokens, needs_from

_HANDLE = "_audioprune_handle"


class AlreadyPrunedError(RuntimeError):
    """The model is pruned; its handle must be removed first."""


class _ScheduledMethod:
    """A method with its keep rates laid out over one model's layers: the adapter's `Reducer`.

    It never changes: a forward that runs as another keep rate is set ends as it began.
    """

    def __init__(self, method: Method, depth: int, learned: nn.Module | None) -> None:
        # A keep rate of 1.0 skips the stage: nothing is scored, the model computes what it always did.
        self._stages = {place: stage for place, stage in method.stages(depth).items() if stage[1] < 1}
        self.rates = {layer: rate for layer, rate in method.schedule(depth).items() if rate < 1}
        self.reduces = bool(self._stages)
        self.depth, self.method, self.learned = depth, method, learned
        self.needs_gradient = method.needs_gradient
        self.proportional = method.proportional
        self.learns = method.learns

    def with_method(self, method: Method) -> _ScheduledMethod:
        """The same for other settings, with what was learnt."""
        return _ScheduledMethod(method, self.depth, self.learned)

    def prunes(self, place: Place) -> bool:
        return place in self._stages

    def before(self, layer: int) -> list[Place]:
        return [place for place in self._stages if place.layer == layer and not place.after]

    def needs(self, place: Place) -> frozenset[str]:
        return self._stages[place][0].needs if place in self._stages else frozenset()

    def reduce(self, tokens: Tokens, evidence: Evidence) -> Reduction:
        method, rate = self._stages[evidence.place]
        return method.reduce(tokens, evidence, rate)

    def finish(self, tokens: Tokens, special: Tensor) -> Finish | None:
        return self.method.finish(tokens, special) if self.reduces else None


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
            self._reducer = _ScheduledMethod(method, shape.depth, method.build(shape))
            if self.learned is not None:
                parameter = next(p for p in adapter.encoder.parameters() if p.is_floating_point())
                self.learned.to(parameter.device, parameter.dtype).train(adapter.encoder.training)
            if "sinks" in method.needs:
                adapter.sinks = find_sinks(adapter)
        self._attachment: Attachment | None = adapter.attach(self._reducer)
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
        attachment = self.attachment  # a removed handle has no rate to set
        self._reducer = attachment.reducer = self._reducer.with_method(self.method.with_keep_rate(keep_rate))

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
            _check_listed(one)
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


def _check_listed(method: Method) -> None:
    """Raise `ValueError` for a method that could not be read again."""
    name = type(method).__name__
    if METHODS.get(name) is not type(method):
        raise ValueError(
            f"{name} is none of audioprune's methods, by whose names settings are read again; add it first, here "
            f'and where it is read: audioprune.methods.METHODS["{name}"] = {name}'
        )


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
    _check_needs(method)
    adapter.check_method(method)
    method.schedule(adapter.depth)
    if positions is not None:
        _set_positions(adapter, positions)
    return Pruned(model, adapter, method)


def _check_needs(method: Method) -> None:
    """Raise `ValueError` where a method asks for what there is not."""
    known = (*needs_from("attention"), *needs_from("input"))
    unknown = sorted(set(method.needs) - set(known))
    if unknown:
        raise ValueError(f"{type(method).__name__}.needs names {', '.join(unknown)}; there are {', '.join(known)}")


def _set_positions(adapter: Adapter, positions: str) -> None:
    if not isinstance(adapter, PromptAdapter):
        raise ValueError(f"positions is {positions!r}, but only an audio-language model's tokens are numbered anew")
    if positions not in ("renumber", "keep"):
        raise ValueError(f'positions is {positions!r}; it is "renumber" or "keep"')
    adapter.positions = positions


def handle(model: nn.Module) -> Pruned | None:
    """The handle of a pruned model, or None where the model is not pruned."""
    for module in model.modules():
        found = module.__dict__.get(_HANDLE)
        if found is not None:
            return found
    return None
