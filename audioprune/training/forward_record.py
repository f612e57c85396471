"""What a method's loss needs of a forward: caught as it passes, and forgotten afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from torch import Tensor, nn

from ..adapters import find_adapter
from ..adapters.blocks.token_pass import TokenPass
from ..adapters.observers import observing
from ..core.pruning import Pruned
from ..core.tokens import LossInputs


class ForwardRecord:
    """Of the latest forward: what left the encoder (batch, special + n, width), and the tokens' fate."""

    def __init__(self) -> None:
        self.hidden: Tensor | None = None
        self.token_pass: TokenPass | None = None


@contextmanager
def watching(model: nn.Module, pruned: Pruned | None = None) -> Iterator[ForwardRecord]:
    """Catch what leaves a model's encoder and, where it is pruned, its `TokenPass`."""
    caught = ForwardRecord()

    def catch_hidden(module: nn.Module, args: Any, output: Any) -> None:
        caught.hidden = output[0] if isinstance(output, tuple) else output.last_hidden_state

    def catch_pass(token_pass: TokenPass) -> None:
        caught.token_pass = token_pass

    adapter = find_adapter(model) if pruned is None else pruned.adapter
    hook = adapter.tower.register_forward_hook(catch_hidden)
    try:
        with nullcontext() if pruned is None else observing(pruned.attachment, catch_pass):
            yield caught
    finally:
        hook.remove()


def learning_of(
    pruned: Pruned,
    caught: ForwardRecord,
    logits: Tensor,
    labels: Tensor,
    teacher: ForwardRecord,
    teacher_logits: Tensor | None,
) -> LossInputs:
    """What `Method.loss` is given."""
    special = pruned.adapter.special
    assert caught.hidden is not None
    assert caught.token_pass is not None
    return LossInputs(
        depth=pruned.adapter.depth,
        notes=caught.token_pass.notes,
        rates=pruned.rates,
        logits=logits,
        labels=labels.float(),
        tokens=caught.hidden[:, special:],
        policy=caught.token_pass.final.policy,
        teacher_logits=teacher_logits,
        teacher_tokens=None if teacher.hidden is None else teacher.hidden[:, special:],
    )
