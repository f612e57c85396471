"""One step of a training by hand: the labels' loss and what the method adds to it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from audioprune.adapters.observers import observing
from audioprune.core.pruning import Pruned
from audioprune.core.tokens import LossInputs

LABELS = torch.tensor([1, 2, 3])


def labels_of(inputs: dict[str, Tensor]) -> Tensor:
    """One class for each clip, or one word for each that the decoder reads."""
    return inputs.get("decoder_input_ids", LABELS)


def pruned_loss(model: nn.Module, handle: Pruned, inputs: dict[str, Tensor], seed: int = 0) -> Tensor:
    """Of three clips. seed: of the draws by which learned methods choose while they train."""
    torch.manual_seed(seed)
    out, hidden, passes = _watched(model, handle, inputs)
    targets = torch.nn.functional.one_hot(LABELS, out.logits.shape[1]).float()
    width = handle.adapter.encoder.config.hidden_size
    teacher = torch.Generator().manual_seed(3)
    added = handle.method.loss(
        LossInputs(
            depth=handle.adapter.depth,
            notes=passes[-1].notes,
            rates=handle.method.schedule(handle.adapter.depth),
            logits=out.logits,
            labels=targets,
            tokens=hidden[-1][:, handle.adapter.special :],
            policy=passes[-1].final.policy,
            teacher_logits=torch.randn(out.logits.shape, generator=teacher),
            teacher_tokens=torch.randn(3, passes[-1].grid.patches, width, generator=teacher),
        )
    )
    return out.loss if added is None else out.loss + added


def _watched(model: nn.Module, handle: Pruned, inputs: dict[str, Tensor]) -> tuple:
    """The model's answer, what left its encoder, and the forward's book-keeping."""
    hidden, passes = [], []
    hook = handle.adapter.tower.register_forward_hook(lambda m, a, output: hidden.append(output[0]))
    try:
        with observing(handle.attachment, passes.append):
            return model(**inputs, labels=labels_of(inputs)), hidden, passes
    finally:
        hook.remove()
