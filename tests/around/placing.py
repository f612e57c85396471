"""Cases in which accelerate or several processes place a model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

import audioprune as ap

from .cases import case
from .subjects import Subject, UnservedError

PLACED = "accelerate and DDP"


@case(PLACED, "`Accelerator().prepare` after pruning, mixed precision or not", needs=("accelerate",))
def prepared_after(subject: Subject) -> None:
    from accelerate import Accelerator

    for precision, atol in (("no", 2e-5), ("bf16", 0.1)):
        model = subject.model()
        ap.prune(model, subject.method)
        prepared = accelerator(Accelerator, precision).prepare_model(model, evaluation_mode=True)
        for number in (0, 1):
            found, expected = subject.answer(prepared, number), subject.expected(subject.model(), number)
            assert found.shape == expected.shape
            if precision == "no":
                assert torch.allclose(found, expected, atol=atol)
            else:  # rounding may keep other tokens
                with torch.autocast("cpu", torch.bfloat16):
                    assert torch.allclose(found, subject.expected(subject.model(), number).float(), atol=atol)


@case(PLACED, "`Accelerator(mixed_precision=…).prepare` before pruning", needs=("accelerate",))
def prepared_before(subject: Subject) -> None:
    from accelerate import Accelerator

    model = accelerator(Accelerator, "bf16").prepare_model(subject.model(), evaluation_mode=True)
    ap.prune(model, subject.method)
    found = subject.answer(model)
    with torch.autocast("cpu", torch.bfloat16):
        expected, whole = subject.expected(subject.model()).float(), subject.answer(subject.model()).float()
    assert found.shape == expected.shape
    assert torch.allclose(found, expected, atol=0.1)
    assert whole.shape != found.shape or not torch.allclose(found, whole, atol=0.1)


def accelerator(cls: Any, precision: str) -> Any:
    cls._instances = {}
    from accelerate.state import AcceleratorState, GradientState

    AcceleratorState._reset_state(True)
    GradientState._reset_state()
    return cls(cpu=True, mixed_precision=precision)


@case(PLACED, "offloaded (`cpu_offload`, `device_map`) before pruning", needs=("accelerate",))
def offloaded_before(subject: Subject) -> None:
    model = offloaded(subject.model())
    try:
        subject.answer(model)
    except (RuntimeError, NotImplementedError) as error:
        raise UnservedError from error
    ap.prune(model, subject.method)
    subject.check(model, subject.model())


@case(PLACED, "offloaded after pruning", needs=("accelerate",))
def offloaded_after(subject: Subject) -> None:
    model = subject.model()
    try:
        subject.answer(offloaded(subject.model()))
    except (RuntimeError, NotImplementedError) as error:
        raise UnservedError from error
    ap.prune(model, subject.method)
    subject.check(offloaded(model), subject.model())


def offloaded(model: Any) -> Any:
    from accelerate import cpu_offload

    return cpu_offload(model, execution_device=torch.device("cpu"))


@contextmanager
def one_process() -> Iterator[None]:
    with TemporaryDirectory() as folder:
        torch.distributed.init_process_group(
            "gloo", init_method=f"file://{Path(folder) / 'group'}", rank=0, world_size=1
        )
        try:
            yield
        finally:
            torch.distributed.destroy_process_group()


@case(PLACED, "`DistributedDataParallel` of a pruned model")
def ddp_after(subject: Subject) -> None:
    model = subject.model()
    ap.prune(model, subject.method)
    with one_process():
        subject.check(nn.parallel.DistributedDataParallel(model), subject.model())


@case(PLACED, "a `DistributedDataParallel` model is pruned")
def ddp_before(subject: Subject) -> None:
    with one_process():
        model = nn.parallel.DistributedDataParallel(subject.model())
        ap.prune(model, subject.method)
        subject.check(model, subject.model())
