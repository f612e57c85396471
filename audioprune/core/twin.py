"""A second model of the same weights, to run, count and export without a mark on the first.

A model that is served, trained or watched meanwhile must not be switched to evaluation under its callers' hands.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedConfig

from ..attention.scoring import NAME

Place = Callable[[Tensor], Tensor]
"""What a copy has in place of a parameter or a buffer."""

# Where torch.compile keeps a model, and a function, as it was.
_UNCOMPILED, _UNCOMPILED_FORWARD = "_orig_mod", "_torchdynamo_orig_callable"
# accelerate keeps these of a module whose weights it brings from elsewhere for each call.
_OFFLOADING, _OWN_FORWARD = "_hf_hook", "_old_forward"


def twin(model: nn.Module, device: str | None = None) -> nn.Module:
    """A copy that shares its weights with the model: pruned as it is, in evaluation mode, with SDPA for attention.

    device: "meta" gives it shapes alone instead, which costs no memory, also where the weights are offloaded.
    Raises `ValueError` if the model cannot be copied.
    """
    model = getattr(model, _UNCOMPILED, model)
    place: Place = _shapes if device == "meta" else lambda tensor: tensor
    memo: dict[int, Any] = {id(tensor): place(tensor) for module in model.modules() for tensor in _tensors_of(module)}
    memo |= {id(shared): shared for module in model.modules() for shared in _shared(module)}
    try:
        made = copy.deepcopy(model, memo)
    except (TypeError, RuntimeError, NotImplementedError) as error:
        raise ValueError(f"{type(model).__name__} cannot be copied (copy.deepcopy): {error}") from error
    for module, own in zip(list(made.modules()), model.modules(), strict=True):
        _uncompile(module, own, memo)
        if device == "meta":
            _bring_back(module)
    _attend_by_sdpa(made)
    return made.eval()


def is_offloaded(model: nn.Module) -> bool:
    """Whether accelerate brings weights of a model from elsewhere for each call."""
    return any(_OFFLOADING in vars(module) for module in model.modules())


def _uncompile(made: nn.Module, own: nn.Module, memo: dict[int, Any]) -> None:
    """Take torch.compile off: a graph would hide what runs, and a compiled `forward` runs the model itself."""
    compiled = vars(own).get("forward")
    if hasattr(compiled, _UNCOMPILED_FORWARD):
        setattr(made, "forward", copy.deepcopy(getattr(compiled, _UNCOMPILED_FORWARD), memo))  # noqa: B010
    for name, part in list(made.named_children()):
        if hasattr(part, _UNCOMPILED):
            setattr(made, name, getattr(part, _UNCOMPILED))


def _shapes(tensor: Tensor) -> Tensor:
    made = tensor.detach().to("meta")
    return nn.Parameter(made, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else made


def _tensors_of(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters(recurse=False)
    yield from module.buffers(recurse=False)
    # A parametrized weight may stand there as the result of the last forward, which PyTorch does not copy.
    yield from (value for value in vars(module).values() if isinstance(value, Tensor))


def _shared(module: nn.Module) -> Iterator[Any]:
    """What a copy has in common with the model: who offloads it, and hooks that other people put there."""
    if _OFFLOADING in vars(module):
        yield vars(module)[_OFFLOADING]
    for hook in (*module._forward_pre_hooks.values(), *module._forward_hooks.values()):
        if not type(getattr(hook, "__self__", None)).__module__.startswith(__name__.partition(".")[0]):
            yield hook


def _bring_back(module: nn.Module) -> None:
    """Take accelerate's hooks off, which would bring the weights after all."""
    if vars(module).pop(_OFFLOADING, None) is None or _OWN_FORWARD not in vars(module):
        return
    module.forward = vars(module).pop(_OWN_FORWARD)
    if getattr(module.forward, "__func__", None) is type(module).forward:
        del module.forward


def _attend_by_sdpa(model: nn.Module) -> None:
    """Choose SDPA, except for pruned blocks, whose own config names one of audioprune's attentions: what these fall
    back to, the encoder's config tells."""
    configs = {id(c): c for m in model.modules() if isinstance(c := getattr(m, "config", None), PreTrainedConfig)}
    for config in configs.values():
        if not (config._attn_implementation or "").startswith(NAME):
            config._attn_implementation = "sdpa"
