"""Records of a forward that a method's loss needs. They are used once and not saved."""

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
    """Encoder output (batch, special + n, width) and token pass of the latest forward."""

    def __init__(self) -> None:
        self.hidden: Tensor | None = None
        self.token_pass: TokenPass | None = None


@contextmanager
def record_forward(model: nn.Module, pruned: Pruned | None = None) -> Iterator[ForwardRecord]:
    """Record the output of a model's encoder and, if the model is pruned, its `TokenPass`."""
    record = ForwardRecord()

    def record_hidden(module: nn.Module, args: Any, output: Any) -> None:
        record.hidden = output[0] if isinstance(output, tuple) else output.last_hidden_state

    def record_pass(token_pass: TokenPass) -> None:
        record.token_pass = token_pass

    adapter = find_adapter(model) if pruned is None else pruned.adapter
    hook = adapter.tower.register_forward_hook(record_hidden)
    try:
        with nullcontext() if pruned is None else observing(pruned.attachment, record_pass):
            yield record
    finally:
        hook.remove()


def loss_inputs(
    pruned: Pruned,
    record: ForwardRecord,
    logits: Tensor,
    labels: Tensor,
    teacher: ForwardRecord,
    teacher_logits: Tensor | None,
) -> LossInputs:
    """Build the inputs of `Method.loss`.

    Args:
        pruned: handle of the pruned model.
        record: record of the model's forward.
        logits: (batch, classes).
        labels: (batch, classes).
        teacher: record of the teacher's forward; empty without a teacher.
        teacher_logits: (batch, classes), or None.
    """
    special = pruned.adapter.special
    assert record.hidden is not None
    assert record.token_pass is not None
    return LossInputs(
        depth=pruned.adapter.depth,
        notes=record.token_pass.notes,
        rates=pruned.rates,
        logits=logits,
        labels=labels.float(),
        tokens=record.hidden[:, special:],
        policy=record.token_pass.final.policy,
        teacher_logits=teacher_logits,
        teacher_tokens=None if teacher.hidden is None else teacher.hidden[:, special:],
    )
