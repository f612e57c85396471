"""Cases in which weights, or the layers that hold them, change."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import audioprune as ap

from .cases import case
from .subjects import Subject

LORA, AVERAGES, QUANTISED = "LoRA (peft)", "Averages and merges of weights", "Quantisation"
TARGETS = ["q_proj", "v_proj", "fc1", "fc2", "intermediate_dense", "output_dense", "up_proj", "down_proj"]


def adapted(model: Any) -> Any:
    """With LoRA on attention and MLP, the same each time."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(1)
    made = get_peft_model(model, LoraConfig(r=4, target_modules=TARGETS, init_lora_weights=False))
    return made.eval()


def merged(subject: Subject) -> Any:
    """A plain model with the same adapters merged into its weights."""
    return adapted(subject.model()).merge_and_unload()


@case(LORA, "put on before pruning", "Prune the model that `get_peft_model` gave, or the one it holds.", ("peft",))
def lora_before(subject: Subject) -> None:
    model = adapted(subject.model())
    ap.prune(model, subject.method)
    subject.check(model, merged(subject), atol=1e-4)


@case(LORA, "put on after pruning", "`handle.remove()` leaves the adapters in place.", ("peft",))
def lora_after(subject: Subject) -> None:
    inner = subject.model()
    handle = ap.prune(inner, subject.method)
    model = adapted(inner)
    subject.check(model, merged(subject), atol=1e-4)
    handle.remove()
    subject.check_unpruned(model, merged(subject), atol=1e-4)


@case(LORA, "trained while pruned", needs=("peft",))
def lora_trained(subject: Subject) -> None:
    inner = subject.model()
    ap.prune(inner, subject.method)
    model = adapted(inner)
    model(**subject.inputs(0)).logits.square().mean().backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    other = adapted(subject.model())
    ap.prune(other, subject.method)
    other(**subject.inputs(0)).logits.square().mean().backward()
    assert gradients
    for name, p in other.named_parameters():
        if p.requires_grad and p.grad is not None:
            assert torch.allclose(gradients[name], p.grad, atol=1e-6), name
    assert sum(float(g.abs().sum()) for g in gradients.values() if g is not None) > 0


@case(LORA, "merged, taken out again and merged for good while pruned", needs=("peft",))
def lora_merged(subject: Subject) -> None:
    model = adapted(subject.model())
    ap.prune(model, subject.method)
    expected = merged(subject)
    for change in (model.merge_adapter, model.unmerge_adapter):
        change()
        subject.check(model, expected, atol=1e-4)
    subject.check(model.merge_and_unload(), expected, atol=1e-4)


@case(LORA, "put on, and merged, in a packed model", needs=("peft",))
def lora_packed(subject: Subject) -> None:
    inner = subject.model()
    ap.prune(inner, subject.method)
    ap.pack(inner)
    subject.answer(inner)
    model = adapted(inner)
    subject.check(model, merged(subject), atol=1e-4)
    subject.check(model.merge_and_unload(), merged(subject), atol=1e-4)


@case(AVERAGES, "an exponential moving average (`AveragedModel`) of a pruned model", "The average is pruned too.")
def moving_average(subject: Subject) -> None:
    model = subject.model()
    ap.prune(model, subject.method)
    average = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.5))
    average.update_parameters(model)
    scaled(model, 1.2)
    average.update_parameters(model)
    subject.check(average, scaled(subject.model(), 1.1))


@case(AVERAGES, "the average's weights put in by `.data`, and out again, pruned and packed")
def swapped(subject: Subject) -> None:
    model = subject.model()
    ap.prune(model, subject.method)
    ap.pack(model)
    subject.check(model, subject.model())
    kept = [p.data for p in model.parameters()]
    for p, own in zip(model.parameters(), kept, strict=True):
        p.data = own * 1.1
    subject.check(model, scaled(subject.model(), 1.1))
    for p, own in zip(model.parameters(), kept, strict=True):
        p.data = own
    subject.check(model, subject.model())


@case(AVERAGES, "two pruned models' weights averaged (`load_state_dict`), pruned and packed")
def averaged(subject: Subject) -> None:
    model, other = subject.model(), scaled(subject.model(), 1.2)
    for each in (model, other):
        ap.prune(each, subject.method)
    ap.pack(model)
    subject.answer(model)
    theirs = other.state_dict()
    model.load_state_dict({name: (x + theirs[name]) / 2 for name, x in model.state_dict().items()})
    subject.check(model, scaled(subject.model(), 1.1))


@case(AVERAGES, "a fused optimiser's step, then evaluation, pruned and packed")
def stepped(subject: Subject) -> None:
    model, plain = subject.model(), subject.model()
    ap.prune(model, subject.method)
    ap.pack(model)
    subject.answer(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.01, fused=True)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    with torch.no_grad():
        for p in plain.parameters():
            p.sub_(0.01)
    subject.check(model, plain, atol=1e-4)


@case(AVERAGES, "`torch.func.functional_call` with other weights, pruned and packed")
def functional(subject: Subject) -> None:
    model = subject.model()
    ap.prune(model, subject.method)
    ap.pack(model)
    subject.answer(model)
    weights = {name: p.detach() * 1.1 for name, p in model.named_parameters()}

    def called(**inputs: Any) -> Any:
        return torch.func.functional_call(model, weights, (), inputs)

    subject.check(called, scaled(subject.model(), 1.1))


@case(QUANTISED, "`quantize_dynamic` before pruning")
def quantised_before(subject: Subject) -> None:
    model = quantised(subject.model())
    plain = quantised(subject.model())
    ap.prune(model, subject.method)
    subject.check(model, plain)


@case(QUANTISED, "`quantize_dynamic` of a pruned model", "It gives a copy, which is pruned too.")
def quantised_after(subject: Subject) -> None:
    model = subject.model()
    ap.prune(model, subject.method)
    subject.check(quantised(model), quantised(subject.model()))


@case(QUANTISED, "`quantize_dynamic` of a packed and pruned model", "What is quantised is not packed any more.")
def quantised_packed(subject: Subject) -> None:
    model = subject.model()
    ap.prune(model, subject.method)
    ap.pack(model)
    subject.answer(model)
    subject.check(quantised(model), quantised(subject.model()))


@case(QUANTISED, "torchao's `quantize_` before and after pruning and packing", needs=("torchao",))
def torchao(subject: Subject) -> None:
    for order in ("before", "after", "packed"):
        model, plain = subject.model(), weight_only(subject.model())
        if order == "before":
            weight_only(model)
        ap.prune(model, subject.method)
        if order == "packed":
            ap.pack(model)
            subject.answer(model)
        if order != "before":
            weight_only(model)
        # torchao's tensors are copied with their scales, and another order of sums is all that differs.
        subject.check(model, plain, atol=1e-4)


@case(QUANTISED, "cast to bfloat16 while pruned")
def cast(subject: Subject) -> None:
    model = subject.model()
    handle = ap.prune(model, subject.method)
    model.to(torch.bfloat16)
    plain = subject.model().to(torch.bfloat16)
    subject = Rounded(subject).subject
    subject.check(model, plain)
    handle.remove()
    subject.check_unpruned(model, plain)


class Rounded:
    """A subject whose sounds are in bfloat16."""

    def __init__(self, subject: Subject) -> None:
        self.subject = copy.copy(subject)
        object.__setattr__(self.subject, "inputs", self._of(subject.inputs))

    @staticmethod
    def _of(inputs: Callable[[int], dict[str, Any]]) -> Callable[[int], dict[str, Any]]:
        return lambda number: {
            name: x.to(torch.bfloat16) if x.is_floating_point() else x for name, x in inputs(number).items()
        }


@torch.no_grad()
def scaled(model: Any, factor: float) -> Any:
    for p in model.parameters():
        p.mul_(factor)
    return model


def quantised(model: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.ao.quantization.quantize_dynamic(model, {nn.Linear})


def weight_only(model: Any) -> Any:
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    quantize_(model, Int8WeightOnlyConfig())
    return model
