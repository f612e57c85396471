"""Cases in which a model is compiled, copied, shared, and called in other ways."""

from __future__ import annotations

import copy
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import TextIteratorStreamer

import audioprune as ap

from .. import audio_lms
from .cases import case
from .subjects import LANGUAGE, SPECTROGRAM, SPEECH, Subject, UnservedError

COMPILED, CALLED, COPIES = "`torch.compile`", "Ways to call it", "Copies, files and processes"
SHARED = "Threads, streams and shared parts"
CLASSIFIERS = (SPECTROGRAM, SPEECH)
ONE = (0,)
"""Clips of one length: each other one would be compiled for."""


def compiled(function: Any) -> Any:
    torch._dynamo.reset()
    return torch.compile(function, backend="eager")


@case(COMPILED, "compiled and run before pruning", "The graph is made anew at the next call.", is_slow=True)
def compiled_before(subject: Subject) -> None:
    model = subject.model()
    fast = compiled(model)
    subject.check_unpruned(fast, subject.model(), atol=1e-5, numbers=ONE)
    handle = ap.prune(model, subject.method)
    subject.check(fast, subject.model(), numbers=ONE)
    handle.remove()
    subject.check_unpruned(fast, subject.model(), atol=1e-5, numbers=ONE)


@case(COMPILED, "compiled after pruning", "Each new keep rate is a new graph.", is_slow=True)
def compiled_after(subject: Subject) -> None:
    model = subject.model()
    handle = ap.prune(model, subject.method)
    fast = compiled(model)
    subject.check(fast, subject.model(), numbers=ONE)
    handle.keep_rate = 1.0
    subject.check_unpruned(fast, subject.model(), atol=1e-5, numbers=ONE)


@case(COMPILED, "`model.compile()`, before or after pruning", is_slow=True)
def compiled_in_place(subject: Subject) -> None:
    for first in (True, False):
        torch._dynamo.reset()
        model = subject.model()
        if first:
            model.compile(backend="eager")
            subject.answer(model)
        ap.prune(model, subject.method)
        if not first:
            model.compile(backend="eager")
        subject.check(model, subject.model(), numbers=ONE)


@case(COMPILED, "`model.forward = torch.compile(model.forward)` of a pruned model", is_slow=True)
def compiled_forward(subject: Subject) -> None:
    model = subject.model()
    handle = ap.prune(model, subject.method)
    model.forward = compiled(model.forward)
    subject.check(model, subject.model(), numbers=ONE)
    handle.remove()
    subject.check_unpruned(model, subject.model(), atol=1e-5, numbers=ONE)


@case(COMPILED, "`model.forward = torch.compile(model.forward)`, then pruned", is_slow=True)
def forward_compiled_before(subject: Subject) -> None:
    model = subject.model()
    model.forward = compiled(model.forward)
    subject.answer(model)
    ap.prune(model, subject.method)
    subject.check(model, subject.model(), numbers=ONE)


@case(COMPILED, "the compiled model itself is pruned", is_slow=True)
def compiled_pruned(subject: Subject) -> None:
    fast = compiled(subject.model())
    ap.prune(fast, subject.method)
    subject.check(fast, subject.model(), numbers=ONE)


@case(CALLED, "`model.forward(…)`")
def forward(subject: Subject) -> None:
    model = subject.model()
    ap.prune(model, subject.method)
    subject.check(model.forward, subject.model())


@case(CALLED, "`model.forward`, taken before pruning")
def kept_forward(subject: Subject) -> None:
    model = subject.model()
    own = model.forward
    with ap.prune(model, subject.method):
        subject.check(own, subject.model())
    subject.check_unpruned(own, subject.model())


@case(CALLED, "the same, with a method that merges tokens", kinds=CLASSIFIERS)
def kept_forward_merging(subject: Subject) -> None:
    model = subject.model()
    own = model.forward
    merging = replace(subject, method=ap.TopK(0.5, dropped="merge"))
    ap.prune(model, merging.method)
    merging.check(own, subject.model())


@case(
    CALLED,
    "the model without its head (`model.wav2vec2(…)`, `model.model(…)`)",
    "What comes out is as short as inside.",
)
def inner(subject: Subject) -> None:
    model = subject.model()
    plain = subject.model()
    with torch.no_grad():
        ap.prune(model, subject.method)
        states = model(**subject.inputs(0), output_hidden_states=True).hidden_states
        found, whole = (base_of(subject, each)(**subject.inputs(0)).last_hidden_state for each in (model, plain))
        assert found.shape[1] == states[-1].shape[1] < whole.shape[1]


def base_of(subject: Subject, model: Any) -> Any:
    """A model without its head."""
    return model.encoder if subject.name == "whisper" else getattr(model, model.base_model_prefix)


@case(CALLED, "`output_hidden_states`, `output_attentions`, `return_dict=False`")
def outputs(subject: Subject) -> None:
    model = subject.model()
    model.set_attn_implementation("eager")
    with ap.prune(model, subject.method):
        logits = subject.answer(model)
        more = model(**subject.inputs(0), output_hidden_states=True, output_attentions=True)
        assert torch.equal(more.logits, logits)
        assert len(more.hidden_states) == 1 + len(more.attentions)
        assert torch.equal(model(**subject.inputs(0), return_dict=False)[0], logits)


@case(CALLED, "another attention implementation, set while it is pruned")
def attention(subject: Subject) -> None:
    model = subject.model()
    ap.prune(model, subject.method)
    for name in ("eager", "sdpa"):
        model.set_attn_implementation(name)
        subject.check(model, subject.model())


@case(CALLED, "keep rate 1.0", "The model's own forward runs: the same numbers, bit for bit, of whatever it takes.")
def at_one(subject: Subject) -> None:
    model = subject.model()
    handle = ap.prune(model, subject.method)
    handle.keep_rate = 1.0
    subject.check_unpruned(model, subject.model())


@case(COPIES, "`copy.deepcopy`", "A copy is pruned by itself: `ap.handle(copy)`.")
def deepcopy(subject: Subject) -> None:
    model = subject.model()
    handle = ap.prune(model, subject.method)
    other = copy.deepcopy(model)
    handle.remove()
    subject.check_unpruned(model, subject.model())
    subject.check(other, subject.model())
    ap.handle(other).remove()
    subject.check_unpruned(other, subject.model())


@case(
    COPIES,
    "`pickle`, and workers that are spawned",
    "PyTorch pickles no model with weight norm (Wav2Vec2, HuBERT), pruned or not: send its `state_dict`.",
)
def pickled(subject: Subject) -> None:
    model = subject.model()
    try:
        pickle.dumps(model)
    except RuntimeError as error:
        raise UnservedError from error
    ap.prune(model, subject.method)
    other = pickle.loads(pickle.dumps(model))
    subject.check(other, subject.model())
    ap.handle(other).remove()
    subject.check_unpruned(other, subject.model())


@case(
    COPIES,
    "`save_pretrained`, `state_dict`",
    "The files and keys are the unpruned model's. `handle.save_pretrained` writes the setting beside them.",
)
def saved(subject: Subject) -> None:
    model = subject.model()
    ap.prune(model, subject.method)
    with TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        subject.check_unpruned(type(subject.model()).from_pretrained(folder).eval(), subject.model())
    other = subject.model()
    other.load_state_dict(model.state_dict())
    subject.check(model, other)


@case(
    COPIES,
    "`torch.export` of a pruned model",
    "For ONNX there is [an export of its own](onnx.md).",
    kinds=(SPECTROGRAM,),
)
def exported(subject: Subject) -> None:
    model = subject.model()
    ap.prune(model, subject.method)
    (example,) = subject.inputs(0).values()
    program = torch.export.export(model, (example,), strict=False).module()
    subject.check(lambda input_values: program(input_values), subject.model())


@case(SHARED, "threads", "8 threads × 50 forwards are the serial answers bit for bit (`tests/test_threads.py`).")
def threads(subject: Subject) -> None:
    model = subject.model()
    ap.prune(model, subject.method)
    right = [subject.answer(model, number) for number in range(4)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda i: subject.answer(model, i % 4), range(16)))
    assert all(torch.equal(answer, right[i % 4]) for i, answer in enumerate(found))


@case(SHARED, "a keep rate that is set while others call", "A forward ends at the rate at which it began.")
def rates(subject: Subject) -> None:
    model = subject.model()
    handle = ap.prune(model, subject.method)
    right = []
    for rate in (0.5, 0.75):
        handle.keep_rate = rate
        right.append(subject.answer(model))
    stop = threading.Event()

    def change() -> None:
        while not stop.wait(0.001):
            handle.keep_rate = 1.25 - handle.keep_rate

    setting = threading.Thread(target=change)
    setting.start()
    try:
        found = [subject.answer(model) for _ in range(20)]
    finally:
        stop.set()
        setting.join()
    assert all(any(answer.shape == r.shape and torch.equal(answer, r) for r in right) for answer in found)


@case(SHARED, "a streamer of `generate`", kinds=(LANGUAGE,))
def streamed(subject: Subject) -> None:
    model = subject.model()
    ap.prune(model, subject.method)
    inputs = audio_lms.ask(subject.name, [[10, "47", 11, 12]])
    expected = model.generate(**inputs, max_new_tokens=5)[0, inputs["input_ids"].shape[1] :].tolist()
    streamer = TextIteratorStreamer(_Numbers(), skip_prompt=True)
    asking = threading.Thread(
        target=model.generate, kwargs={**inputs, "max_new_tokens": 5, "streamer": streamer}, daemon=True
    )
    asking.start()
    said = "".join(streamer).split()
    asking.join()
    assert [int(word) for word in said] == expected


class _Numbers:
    """A tokenizer whose words are numbers."""

    def decode(self, tokens: Any, **_: Any) -> str:
        return "".join(f"{int(token)} " for token in tokens)


@case(SHARED, "stopping criteria, logits processors and prefix functions of `generate`", kinds=(LANGUAGE,))
def callbacks(subject: Subject) -> None:
    model = subject.model()
    ap.prune(model, subject.method)
    inputs = audio_lms.ask(subject.name, [[10, "47", 11, 12]])
    seen = []

    def look(ids: torch.Tensor, scores: torch.Tensor, **_: Any) -> torch.Tensor:
        seen.append(ids.shape[1])
        return torch.tensor([False])

    model.generate(**inputs, max_new_tokens=3, min_new_tokens=3, stopping_criteria=[look])
    whole = inputs["input_ids"].shape[1]
    assert seen == [whole + 1, whole + 2, whole + 3], seen


@case(SHARED, "one block used several times", kinds=CLASSIFIERS)
def repeated_blocks(subject: Subject) -> None:
    model = subject.model()
    layers = model.get_submodule(_layers(subject))
    for i in range(1, len(layers)):
        layers[i] = layers[0]
    plain = copy.deepcopy(model)
    try:
        ap.prune(model, subject.method)
    finally:
        subject.check_unpruned(model, plain)


@case(SHARED, "two models with the same encoder, both pruned", "Either may be pruned alone.")
def two_heads(subject: Subject) -> None:
    one, two = subject.model(), subject.model()
    (name,) = (name for name, module in one.named_children() if module is base_of(subject, one))
    setattr(two, name, base_of(subject, one))
    ap.prune(one, subject.method)
    ap.prune(two, subject.method)


def _layers(subject: Subject) -> str:
    return {
        "ast": "audio_spectrogram_transformer.layers",
        "audiomae": "audiomae.layers",
        "wav2vec2-stable": "wav2vec2.encoder.layers",
        "hubert": "hubert.encoder.layers",
        "whisper": "encoder.layers",
    }[subject.name]
