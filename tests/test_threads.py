"""A pruned model that is called by many at once, as a server does: each gets its own answer, and sees its own trace."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

import audioprune as ap

from . import audio_lms
from .families import FAMILIES

THREADS, FORWARDS = 8, 50


def spectrograms(number: int) -> dict[str, Tensor]:
    return {"input_values": torch.randn(2, 128, 128, generator=torch.Generator().manual_seed(number))}


def padded_waveforms(number: int) -> dict[str, Tensor]:
    x = torch.randn(3, 5120, generator=torch.Generator().manual_seed(number))
    mask = torch.arange(5120) < torch.tensor([5120, 5000 - 500 * (number % 4), 3000])[:, None]
    return {"input_values": x * mask, "attention_mask": mask.long()}


def prompts(number: int) -> dict[str, Tensor]:
    clips = str(80 - 4 * number), "47"
    return audio_lms.ask("qwen2_audio", [[10, clips[0], 12, clips[1], 13], [20 + number, clips[1]]])


@dataclass(frozen=True)
class Served:
    build: Callable[[], Any]
    inputs: Callable[[int], dict[str, Tensor]]
    method: ap.Method


SERVED = {
    "classifier": Served(FAMILIES["ast"], spectrograms, ap.TopK(0.5, dropped="merge")),
    "speech encoder": Served(FAMILIES["wav2vec2-stable"], padded_waveforms, ap.TopK(0.5, dropped="merge")),
    "audio-language model": Served(lambda: audio_lms.build("qwen2_audio"), prompts, ap.SegmentwiseTopK(0.5)),
    "classifier whose clips differ": Served(FAMILIES["audiomae"], spectrograms, ap.ATS(0.5)),
}


@torch.inference_mode()
def logits(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    return model(**inputs).logits


@torch.inference_mode()
def generated(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    return model.generate(**inputs, max_new_tokens=4, min_new_tokens=4)


@torch.inference_mode()
def traced(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    with ap.trace(model) as record:
        model(**inputs)
    return record.kept[-1]


def all_at_once(ask: Callable[[Any, dict[str, Tensor]], Tensor], model: Any, inputs: list[Any], times: int) -> None:
    expected = [ask(model, each) for each in inputs]
    together = threading.Barrier(THREADS)

    def serve(number: int) -> list[bool]:
        together.wait()
        order = [(number + i) % len(inputs) for i in range(times)]
        return [torch.equal(ask(model, inputs[i]), expected[i]) for i in order]

    with ThreadPoolExecutor(THREADS) as pool:
        right = [answer for answers in pool.map(serve, range(THREADS)) for answer in answers]
    assert len(right) == THREADS * times
    assert all(right), f"{right.count(False)} of {len(right)} answers are wrong"


@pytest.fixture(params=SERVED)
def served(request: pytest.FixtureRequest) -> tuple[Any, list[dict[str, Tensor]]]:
    what = SERVED[request.param]
    model = what.build().eval()
    ap.prune(model, what.method)
    return model, [what.inputs(number) for number in range(4)]


def test_answers_are_the_serial_ones_bit_for_bit(served) -> None:
    all_at_once(logits, *served, times=FORWARDS)


def test_a_trace_sees_its_own_threads_forward(served) -> None:
    all_at_once(traced, *served, times=10)


def test_generating_from_many_threads() -> None:
    what = SERVED["audio-language model"]
    model = what.build()
    ap.prune(model, what.method)
    all_at_once(generated, model, [what.inputs(number) for number in range(4)], times=5)


def test_a_model_is_packed_and_counted_while_it_is_served() -> None:
    model, inputs = FAMILIES["audiomae"]().eval(), [spectrograms(number) for number in range(4)]
    ap.prune(model, ap.TopK(0.5))
    expected, stop = ap.macs(model), threading.Event()
    counts: list[int] = []

    def count() -> None:
        while not stop.is_set():
            counts.append(ap.macs(model, inputs=inputs[0]))

    counting = threading.Thread(target=count)
    with ap.pack(model):
        counting.start()
        try:
            all_at_once(logits, model, inputs, times=10)
        finally:
            stop.set()
            counting.join()
    assert counts
    assert set(counts) == {expected}


def test_tasks_of_an_event_loop_see_their_own_forwards() -> None:
    """Each task traces, gives way to the others, and runs in a thread of the loop's pool."""
    model = FAMILIES["ast"]().eval()
    ap.prune(model, ap.TopK(0.5))
    expected = [traced(model, spectrograms(number)) for number in range(4)]

    async def task(number: int) -> bool:
        with ap.trace(model) as record:
            await asyncio.sleep(0)
            await asyncio.to_thread(logits, model, spectrograms(number))
            await asyncio.sleep(0)
        return torch.equal(record.kept[-1], expected[number])

    async def serve() -> list[bool]:
        return await asyncio.gather(*(task(i % 4) for i in range(12)))

    assert all(asyncio.run(serve()))


def test_a_trace_does_not_see_another_threads_forward() -> None:
    model = FAMILIES["ast"]().eval()
    ap.prune(model, ap.TopK(0.5))
    with ap.trace(model) as record:
        other = threading.Thread(target=logits, args=(model, spectrograms(0)))
        other.start()
        other.join()
        with pytest.raises(IndexError, match="nothing is traced yet"):
            _ = record.kept[0]
