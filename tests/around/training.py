"""Cases of training a pruned model."""

from __future__ import annotations

from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import IterableDataset
from transformers import Trainer, TrainingArguments

import audioprune as ap
from audioprune.training import ShrinkSchedule

from .cases import case
from .subjects import SPECTROGRAM, SPEECH, Subject

TRAINED = "Training"
CLASSIFIERS = (SPECTROGRAM, SPEECH)


def gradients(subject: Subject, method: ap.Method, reentrant: bool | None) -> dict[str, Tensor]:
    model = subject.model()
    torch.manual_seed(0)
    ap.prune(model, method)
    model.train()
    if reentrant is not None:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
        model.enable_input_require_grads()
    torch.manual_seed(1)
    model(**subject.inputs(0)).logits.square().mean().backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def check_gradients(subject: Subject, method: ap.Method, reentrant: bool) -> None:
    expected, found = gradients(subject, method, None), gradients(subject, method, reentrant)
    assert found.keys() >= expected.keys()
    for name, gradient in expected.items():
        assert torch.allclose(found[name], gradient, atol=1e-6), name


@case(TRAINED, "gradient checkpointing")
def checkpointed(subject: Subject) -> None:
    check_gradients(subject, subject.method, reentrant=False)


@case(TRAINED, "reentrant checkpointing, a method that learns nothing")
def reentrant(subject: Subject) -> None:
    check_gradients(subject, subject.method, reentrant=True)


@case(TRAINED, "checkpointing, a method that learns", kinds=CLASSIFIERS)
def learning(subject: Subject) -> None:
    check_gradients(subject, ap.DynamicViT(0.5), reentrant=False)


@case(TRAINED, "reentrant checkpointing, a method that learns", kinds=CLASSIFIERS)
def learning_reentrant(subject: Subject) -> None:
    check_gradients(subject, ap.DynamicViT(0.5), reentrant=True)


def first_step(subject: Subject, labels: list[Any], accumulate: int, **config: Any) -> tuple[float, float]:
    """Loss and norm of the gradient of one step of a Trainer over all clips."""
    model = subject.model()
    for name, value in config.items():
        setattr(model.config, name, value)
    ap.prune(model, subject.method)
    (name,) = subject.inputs(0)
    clips = [subject.inputs(number)[name][0] for number in range(len(labels))]
    rows = [{name: clip, "labels": label} for clip, label in zip(clips, labels, strict=True)]
    with TemporaryDirectory() as folder:
        arguments = settings(
            folder,
            per_device_train_batch_size=len(rows) // accumulate,
            gradient_accumulation_steps=accumulate,
            max_steps=1,
            max_grad_norm=1.0,
            logging_steps=1,
        )
        trainer = Trainer(model, arguments, train_dataset=rows)
        trainer.train()
    return trainer.state.log_history[0]["loss"], trainer.state.log_history[0]["grad_norm"]


def settings(folder: str, **given: Any) -> TrainingArguments:
    quiet = {"report_to": [], "use_cpu": True, "disable_tqdm": True, "save_strategy": "no", "dataloader_num_workers": 0}
    return TrainingArguments(folder, **{**quiet, **given})


@case(
    TRAINED,
    "gradient accumulation in a Trainer",
    "transformers' own heads over waveforms, and AST's with several labels a clip, make the gradient as many times as "
    "large, pruned or not: set `trainer.model_accepts_loss_kwargs = False`.",
    kinds=(SPECTROGRAM,),
)
def accumulated(subject: Subject) -> None:
    one_label, several = [0, 1, 2, 3], [torch.eye(11)[i] + torch.eye(11)[i + 1] for i in range(4)]
    check_accumulated(subject, one_label)
    if subject.name == "audiomae":
        check_accumulated(subject, several, problem_type="multi_label_classification")


def check_accumulated(subject: Subject, labels: list[Any], **config: Any) -> None:
    whole, parts = first_step(subject, labels, 1, **config), first_step(subject, labels, 4, **config)
    assert torch.allclose(torch.tensor(parts), torch.tensor(whole), rtol=1e-3), f"{parts} is not {whole}"


class Stream(IterableDataset[dict[str, Any]]):
    """A data set whose length nobody knows."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject

    def __iter__(self) -> Any:
        for number in range(8):
            yield {name: x[0] for name, x in self.subject.inputs(number).items()} | {"labels": number % 3}


def stream_rates(subject: Subject, **schedule: Any) -> list[Any]:
    model, rates = subject.model(), []
    handle = ap.prune(model, subject.method)
    model.register_forward_pre_hook(lambda module, args: rates.append(handle.keep_rate))
    with TemporaryDirectory() as folder:
        trainer = Trainer(
            model, settings(folder, max_steps=3, per_device_train_batch_size=2), train_dataset=Stream(subject)
        )
        trainer.add_callback(ShrinkSchedule(handle, start=0, **schedule))
        trainer.train()
    return rates


@case(TRAINED, "`ShrinkSchedule(…, epochs=…)` with a streamed data set", kinds=CLASSIFIERS)
def stream_by_epochs(subject: Subject) -> None:
    stream_rates(subject, epochs=1)


@case(TRAINED, "`ShrinkSchedule(…, steps=…)` with a streamed data set", kinds=CLASSIFIERS)
def stream_by_steps(subject: Subject) -> None:
    assert stream_rates(subject, steps=2) == [1.0, 0.75, 0.5]
